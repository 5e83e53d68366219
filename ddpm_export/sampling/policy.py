"""A policy: from what a robot observes, step by step, to what it does. The queue of the receding horizon, and no more.

A plan is a chunk of actions (Chi et al. 2023, section 4.2): it is made of the last few observations, all of its actions
are taken, and then the next one is made. Plan k of a seed is image k of that seed: the same on any machine.
"""

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.errors import EnvironmentProblem, ModelRefusedError, UsageError, several
from ddpm_export.process.equations import Array
from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile
from ddpm_export.sampling.generate import generate, opened_file


class Policy:
    """Call it with one observation to get one action, both in the robot's units.

    Holds the last observations and the actions that are left; all else is in the file. plans: how many were made since
    the reset.
    """

    def __init__(self, opened: DenoiserFile | OneCallFile, how: Mapping[str, Any], deadline_s: float | None) -> None:
        self.spec, self._opened, self._how, self._deadline_s = opened.spec, opened, dict(how), deadline_s
        self._entries = {entry.name: entry for entry in self.spec.asked_inputs if entry.kind != "label"}
        shapes = {name: entry.shape for name, entry in self._entries.items()}
        lengths = {shape[0] for shape in shapes.values() if len(shape) > 1}
        if len(self.spec.result_shape) != 2 or len(lengths) != 1 or any(len(s) < 2 for s in shapes.values()):
            raise ModelRefusedError(
                f"A policy takes observations of [steps, ...] and gives actions [steps, actions], got "
                f"{several(f'{name} {list(shape)}' for name, shape in shapes.items()) or 'no inputs'} and "
                f"{list(self.spec.result_shape)}. Use `generate` for this model."
            )
        self._observed: deque[dict[str, Array]] = deque(maxlen=lengths.pop())
        self._actions: deque[Array] = deque()
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Forget what was observed and planned: an episode begins, whose plans follow from the seed."""
        self.seed, self.plans = seed, 0
        self._observed.clear()
        self._actions.clear()

    def __call__(self, observation: Mapping[str, Any]) -> Array:
        """Return the next action, float32 (actions,), of an observation: numbers by the names of `spec.asked_inputs`.

        Costs a plan where no action is left, else nothing. The first observation stands for those before it. A camera's
        picture is (C, H, W) from 0 to 1, or uint8 (H, W, C). Raises UsageError for names and shapes other than the
        file's, for NaN, and for numbers far from what training saw; EnvironmentProblem for a plan that took longer than
        the deadline. Then nothing has changed.
        """
        wrong = sorted({*observation} ^ {*self._entries})
        if wrong:
            kind = "lacks" if wrong[0] in self._entries else "has"
            raise UsageError(f"The observation {kind} {wrong[0]!r}. The policy takes {several(self._entries)}.")
        own = {name: self._checked(name, values) for name, values in observation.items()}
        before = list(self._observed) or [own] * (self._observed.maxlen or 1)
        window = [*before, own][-len(before) :]
        if not self._actions:
            self._actions.extend(self._plan(window))
            self.plans += 1
        self._observed.extend(window)
        return self._actions.popleft()

    def _checked(self, name: str, values: Any) -> Array:
        entry, got = self._entries[name], np.asarray(values)
        steps, *shape = entry.shape
        picture = (*shape[1:], shape[0]) if len(shape) == 3 else None
        if got.dtype == np.uint8 and got.shape == picture:
            got = got.transpose(2, 0, 1) / np.float32(255)
        if got.shape != tuple(shape):
            other = "" if picture is None else f" or, as uint8, {picture}"
            raise UsageError(
                f"Observation {name!r} must have shape {tuple(shape)}{other}, got {got.dtype} {got.shape}."
            )
        entry.check_limits(entry.cycle_of(np.stack([got] * steps)))
        return got.astype(np.float32)

    def _plan(self, window: list[dict[str, Array]]) -> Array:
        """Return a chunk of actions, float32 (steps, actions)."""
        inputs = {name: np.stack([observed[name] for observed in window]) for name in self._entries}
        begun = time.perf_counter()
        chunk: Array = generate(self._opened, n=1, seed=self.seed, first=self.plans, inputs=inputs, **self._how)[0]
        taken = time.perf_counter() - begun
        if self._deadline_s is not None and taken > self._deadline_s:
            raise EnvironmentProblem(
                f"Plan {self.plans} took {taken:.3f} s, longer than `deadline_s={self._deadline_s:g}`. Take fewer "
                "steps, or a larger deadline."
            )
        return chunk


def open_policy(
    path: str | Path,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    deadline_s: float | None = None,
    **how: Any,
) -> Policy:
    """Open an exported policy, a denoiser or a one-call file: `action = policy({"observation.state": state})`.

    deadline_s: how long a plan may take, None for any time. how: steps, sampler or plan, as of `generate`; a fixed
    number of evaluations. Raises what `open_file` raises, and ModelRefusedError for a model that is no policy.
    """
    return Policy(opened_file(path, provider, threads), how, deadline_s)
