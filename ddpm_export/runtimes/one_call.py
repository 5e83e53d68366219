"""One-call files: a whole trajectory, or slices of one, in a session of a runtime that this file does not name.

What such a graph takes and gives (docs/format.md, section 5) is said once, here, for its writer and its reader.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError, DdpmExportError, NonFiniteError, UsageError, first_line
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import bound_inputs
from ddpm_export.model.spec import GUIDANCE, OPEN, PLAN, TIMES, ModelSpec, guidance_for
from ddpm_export.process.equations import Array
from ddpm_export.runtimes.opened import OneCall

Run = Callable[[list[str], dict[str, Array]], list[Array]]  # (names of outputs, inputs by name) -> the outputs
NOT_FINITE = "the network gave NaN or infinity"  # the name of the node that fails then, as the exporter writes it
TAKEN = ("seed", "first", "n", "steps", "eta", "times", "plan", "guidance_interval", "x", "begin", "end", "history")
GIVEN = ("image", "mask", "strength")  # what an edit is given besides
RESULTS = ("images", "values")  # what a user wants: one of them, by what the model makes
OWN_NAMES = frozenset((*TAKEN, *RESULTS, "x_0", "x_after", "history_after", "num_steps"))
Signature = dict[str, tuple[str, list[int | str]]]  # dtype and shape by name; a text is a size that a call decides
NUMBER: tuple[str, list[int | str]] = ("int64", [])
DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32", "tensor(uint8)": "uint8"}


def history_size(spec: ModelSpec) -> int:
    """Return how many arrays found before, x_0 and eps in turn, rows of plans read: 0 where all are first order."""
    deepest = max((row.reach for plan in spec.plans.values() for row in plan.rows), default=1)
    return 2 * (deepest - 1) if PLAN in spec.requires else 0


def names_of(graph: str) -> frozenset[str]:
    """Return the names that no input of a network in such a graph can have."""
    return OWN_NAMES.union(GIVEN if graph == "edit" else ())


def inputs_of(spec: ModelSpec) -> Signature:
    """Return the inputs of the graph that a one-call file's spec describes, in their order."""
    images: list[int | str] = ["n", *spec.state_shape]
    inputs: Signature = dict.fromkeys(("seed", "first", *(["n"] if spec.graph == "sampler" else [])), NUMBER)
    choices: Signature = {"steps": NUMBER, "eta": ("float32", []), TIMES: ("int64", ["m"]), PLAN: NUMBER}
    choices[GUIDANCE] = ("float32", [])
    inputs |= {name: choices[name] for name in spec.open_choices}
    if GUIDANCE in inputs:
        inputs["guidance_interval"] = ("float32", [2])
    before, size = images, history_size(spec)
    if OPEN in spec.requires:  # at step 0 an app need not know what it has no use for
        before = ["n", *("chw" if spec.is_picture else (f"size_{k}" for k in range(len(spec.state_shape))))]
    if spec.graph == "slice":
        inputs |= {"x": ("float32", before), "begin": NUMBER, "end": NUMBER}
        if size:
            inputs["history"] = ("float32", [size if before is images else "k", *before])
    if spec.graph == "edit":
        inputs |= {"image": ("float32", images), "mask": ("float32", images), "strength": ("float32", [])}
    given = [
        entry for entry in spec.asked_inputs if entry.is_given or (entry.kind == "previous" and spec.graph == "slice")
    ]
    return inputs | {
        entry.name: (entry.dtype, before if entry.kind == "previous" else ["n", *entry.shape]) for entry in given
    }


def outputs_of(spec: ModelSpec) -> Signature:
    """Return the outputs of the graph that a one-call file's spec describes, in their order."""
    images: list[int | str] = ["n", *spec.state_shape]
    x_0: Signature = {"x_0": ("float32", images)}
    results: Signature = {"values": ("float32", ["n", *spec.result_shape])}
    if spec.is_picture:
        channels, height, width = spec.picture_shape
        results = {"images": ("uint8", ["n", height, width, channels])}
    if spec.graph != "slice":
        return results | x_0
    history: Signature = {"history_after": ("float32", [history_size(spec), *images])} if history_size(spec) else {}
    count: Signature = {"num_steps": NUMBER} if OPEN in spec.requires else {}
    return {"x_after": ("float32", images)} | x_0 | results | history | count


def is_fixed(name: str, spec: ModelSpec, opened: str | None = None) -> str:
    """Return the sentence that refuses a choice which a one-call file's graph does not take.

    opened: the choice of OPENABLE that would let it be made, where that has another name.
    """
    return f"{name} is fixed in this one-call {spec.graph}. Export the model again with {opened or name} open."


def one_call_from_session(path: Path, session: Any, spec: ModelSpec, run_graph: Run) -> OneCall:
    """Return the sampler of a session whose spec names a graph; a slice runs step by step, a sampler all at once.

    run_graph: runs the session. The sampler's calls raise what it raises of this package's errors, UsageError for what
    the graph refuses, NonFiniteError where the network gave NaN or infinity, and BadFileError where the graph does not
    run or gives something else than it should. Those of an edit take image, mask and strength by name, as its inputs;
    without them pictures are made from noise.
    """
    _check_signature(path, session, spec)
    taken, given_back = inputs_of(spec), outputs_of(spec)
    result = next(name for name in RESULTS if name in given_back)

    def run(numbers: range, **given: Any) -> dict[str, Array]:
        feeds = {name: np.asarray(value, taken[name][0]) for name, value in given.items() if name in taken}
        try:
            results = dict(zip(given_back, run_graph(list(given_back), feeds), strict=True))
        except DdpmExportError:
            raise
        except Exception as exc:  # a graph may load and yet not run
            raise _told(path, numbers, exc) from exc
        _check_outputs(path, numbers, given_back, results)
        return results

    def one_call(
        seed: int,
        numbers: range,
        num_steps: int,
        eta: float,
        times: Sequence[int] | None = None,
        plan: str | None = None,
        guidance: Guidance | float | None = None,
        **inputs: Any,
    ) -> Iterator[tuple[int, Array, Array]]:
        guided = guidance_for(spec, guidance)
        times = None if times is None else tuple(times)
        _refuse_other_choices(path, spec, num_steps, eta, times, plan, guided)
        shape = (len(numbers), *spec.state_shape)
        given: dict[str, Any] = {}
        if spec.graph == "edit":
            nothing = {"image": np.zeros(shape, np.float32), "mask": np.ones(shape, np.float32), "strength": 0.0}
            given = {name: inputs.pop(name, usual) for name, usual in nothing.items()}
        given |= bound_inputs(spec.asked_inputs, inputs, len(numbers)) | {
            "seed": seed,
            "first": numbers.start,
            "n": len(numbers),
            "steps": num_steps,
            "eta": eta,
            "times": () if times is None else times,
            "plan": 0 if plan is None else sorted(spec.plans).index(plan) + 1,
            "guidance": guided.scale,
            "guidance_interval": guided.interval or (0, spec.num_train_timesteps - 1),
        }
        if spec.graph != "slice":
            results = run(numbers, **given)
            yield num_steps, results["x_0"], results[result]
            return
        x = np.zeros(shape, np.float32)  # only its shape counts: noise takes its place
        given |= {"x": x, "history": np.zeros((history_size(spec), *x.shape), np.float32)}
        for i in range(num_steps):
            results = run(numbers, **given, begin=i, end=i + 1)
            given |= {"x": results["x_after"], "x_0_prev": results["x_0"], "history": results.get("history_after")}
            yield i + 1, results["x_after"], results[result]

    return one_call


def _refuse_other_choices(
    path: Path, spec: ModelSpec, num_steps: int, eta: float, times: Any, plan: str | None, guidance: Guidance
) -> None:
    """Raise UsageError for a plan that there is not, and for another value than that of a fixed choice."""
    fixed, chosen = spec.fixed_choices, dict[str, Any]({TIMES: times, PLAN: plan, GUIDANCE: guidance})
    if plan is None:  # beside one neither eta nor times count
        chosen["eta"] = np.float32(eta)
    else:
        del chosen[TIMES]
    fixed = {**fixed, **({"eta": np.float32(fixed["eta"])} if "eta" in fixed else {})}
    other = [name for name, value in chosen.items() if name in fixed and value != fixed[name]]
    if not other and plan is not None and plan not in spec.plans:
        raise UsageError(f"{path}: plan must be one of {', '.join(spec.plans)}, got {plan!r}.")
    if not other and spec.steps_of(plan, times, num_steps) != num_steps:
        other.append("steps")
    if other:
        raise UsageError(f"{path}: {is_fixed(other[0], spec)}")


def _check_signature(path: Path, session: Any, spec: ModelSpec) -> None:
    """Raise BadFileError unless the inputs are those of the spec and its outputs are there, by name and type."""
    inputs, outputs = (
        {value.name: (DTYPES.get(value.type, value.type), _sizes(value.shape)) for value in values}
        for values in (session.get_inputs(), session.get_outputs())
    )
    wanted = {name: (kind, _sizes(shape)) for name, (kind, shape) in inputs_of(spec).items()}
    if inputs != wanted:
        raise _other(path, "inputs", inputs, wanted)
    given = {name: kind for name, (kind, _) in outputs.items()}
    wanted_kinds = {name: kind for name, (kind, _) in outputs_of(spec).items()}
    if not wanted_kinds.items() <= given.items():
        raise _other(path, "outputs", given, wanted_kinds)


def _sizes(shape: Sequence[Any]) -> list[int | None]:
    return [size if type(size) is int else None for size in shape]


def _other(path: Path, what: str, found: object, wanted: object) -> BadFileError:
    return BadFileError(f"{path}: graph and spec disagree. The {what} are {found!r} and should be {wanted!r}.")


def _check_outputs(path: Path, numbers: range, expected: Signature, results: dict[str, Any]) -> None:
    """Raise BadFileError for an output of another dtype or shape than it must have, NonFiniteError for NaN."""
    for name, (kind, shape) in expected.items():
        found = results[name]
        wanted = tuple(len(numbers) if size == "n" else size for size in shape)
        if (found.dtype, found.shape) != (kind, wanted):
            raise BadFileError(
                f"{path}: the graph gave {name} as {found.dtype} {found.shape} instead of {kind} {wanted}. Export the "
                "model again."
            )
        if not np.isfinite(found).all():
            raise _not_finite(path, numbers)


def _not_finite(path: Path, numbers: range) -> NonFiniteError:
    return NonFiniteError(
        f"{path}: NaN or infinity among images {numbers[0]} to {numbers[-1]}. Run ddpm-check on the model."
    )


def _told(path: Path, numbers: range, exc: Exception) -> BadFileError | NonFiniteError | UsageError:
    """Return the error for a run that failed: checks in the graph are nodes called by what they ask for."""
    reason = first_line(exc)
    node = re.search(r"Name:'([^']*)'", reason)
    sentence = node[1] if node else ""
    if sentence == NOT_FINITE:
        return _not_finite(path, numbers)
    if " must be " in sentence:
        return UsageError(f"{path}: {sentence}.")
    return BadFileError(f"{path}: the graph does not run: {reason}. Export the model again.")
