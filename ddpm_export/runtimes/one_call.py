"""One-call files: a whole trajectory, or slices of one, in a session of a runtime that this file does not name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.diffusion import Array, OneCall
from ddpm_export.errors import BadFileError, NonFiniteError, UsageError
from ddpm_export.spec import ModelSpec

__all__ = ["NOT_FINITE", "one_call_from_session"]

NOT_FINITE = "the network gave NaN or infinity"  # the name of the node that fails then, as the exporter writes it
Signature = dict[str, tuple[str, list[int]]]
NUMBER: tuple[str, list[int]] = ("tensor(int64)", [])
REAL: tuple[str, list[int]] = ("tensor(float)", [])
INPUTS: dict[str, Signature] = {
    "sampler": {"seed": NUMBER, "first": NUMBER, "n": NUMBER, "steps": NUMBER, "eta": REAL},
    "slice": {"seed": NUMBER, "first": NUMBER, "steps": NUMBER, "eta": REAL, "begin": NUMBER, "end": NUMBER},
}
OUTPUTS = {"sampler": ["images", "x_0"], "slice": ["x_after", "x_0", "images"]}


def one_call_from_session(path: Path, session: Any, spec: ModelSpec) -> OneCall:
    """Return the sampler of a session whose spec names a graph; a slice runs step by step, a sampler all at once.

    Its calls raise UsageError for what the graph refuses, NonFiniteError where the network gave NaN or infinity, and
    BadFileError where the graph does not run.
    """
    graph = str(spec.graph)
    _check_signature(path, session, spec, graph)

    def run(numbers: range, **inputs: Array | float) -> list[Array]:
        feeds: dict[str, Array] = {name: np.asarray(given, _dtype(name)) for name, given in inputs.items()}
        try:
            results: list[Array] = session.run(OUTPUTS[graph], feeds)
        except Exception as exc:  # a graph may load and yet not run
            raise _told(path, numbers, exc) from exc
        return results

    def sampler(seed: int, numbers: range, num_steps: int, eta: float) -> Iterator[tuple[int, Array, Array]]:
        images, x_0 = run(numbers, seed=seed, first=numbers.start, n=len(numbers), steps=num_steps, eta=eta)
        yield num_steps, x_0, images

    def slices(seed: int, numbers: range, num_steps: int, eta: float) -> Iterator[tuple[int, Array, Array]]:
        x = np.zeros((len(numbers), *spec.image_shape), np.float32)  # only its shape counts: noise takes its place
        for i in range(num_steps):
            x, _, images = run(
                numbers, seed=seed, first=numbers.start, steps=num_steps, eta=eta, x=x, begin=i, end=i + 1
            )
            yield i + 1, x, images

    return sampler if graph == "sampler" else slices


def _dtype(name: str) -> type:
    return np.float32 if name in ("eta", "x") else np.int64


def _check_signature(path: Path, session: Any, spec: ModelSpec, graph: str) -> None:
    inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    if graph == "slice" and "x" in inputs:  # its first dimension has a name, or none
        kind, shape = inputs.pop("x")
        inputs["x"] = (kind, shape[1:])
    expected = dict(INPUTS[graph])
    if graph == "slice":
        expected["x"] = ("tensor(float)", list(spec.image_shape))
    if inputs != expected or not outputs.issuperset(OUTPUTS[graph]):
        raise BadFileError(
            f"{path}: graph and spec disagree. got inputs {inputs!r} and outputs {sorted(outputs)!r}, expected "
            f"{expected!r} and {', '.join(OUTPUTS[graph])}. Do export the model again."
        )


def _told(path: Path, numbers: range, exc: Exception) -> BadFileError | NonFiniteError | UsageError:
    """Return the error for a run that failed: checks in the graph are nodes called by what they ask for."""
    reason = (str(exc).splitlines() or [type(exc).__name__])[0][:200]
    node = re.search(r"Name:'([^']*)'", reason)
    sentence = node[1] if node else ""
    if sentence == NOT_FINITE:
        return NonFiniteError(
            f"{path}: a number is not finite. got NaN or infinity among images {numbers[0]} to {numbers[-1]}, expected "
            "finite values. Do run ddpm-check on the model."
        )
    if " must be " in sentence:
        return UsageError(
            f"{path}: cannot be run so. got another value, expected: {sentence}. Do pick one in its range."
        )
    return BadFileError(
        f"{path}: the graph does not run. got {reason!r}, expected {len(numbers)} images. Do export the model again."
    )
