"""Golden vectors of a stage: what it gave when it was exported, and their replay. NumPy only; knows no runtime."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError, NonFiniteError
from ddpm_export.model.codec import array, integer, number, record
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.golden import FINITE, NUM_POSITIONS, SEED, Promised, cases_of, golden_vectors, places_form
from ddpm_export.model.inputs import Input
from ddpm_export.process.equations import Array

STAGE_TOLERANCE = 1e-3  # promised, relative to the largest value


@dataclass(frozen=True)
class StageResult(Promised):
    """The result of one case; error is relative to the largest value promised, absolute where that is 0."""

    stage: str
    image: int
    error: float
    tolerance: float

    @property
    def place(self) -> str:
        """Return which case it was."""
        return f"{self.stage}, image {self.image}"


def stage_examples(inputs: Mapping[str, Any], own: Sequence[Input], images: Sequence[int]) -> dict[str, Array]:
    """Return values for a stage's inputs, for images of seed 0, as golden vectors and the proof use them.

    own: the Inputs of `before`. Others are noise of the domain INPUTS, pictures clipped to [-1, 1].
    """
    if own:
        return example_of_inputs(own, SEED, images)
    ((name, (_, shape)),) = inputs.items()
    values = example_of_inputs([Input(name, "image", tuple(shape))], SEED, images)[name]
    return {name: np.clip(values, -1.0, 1.0) if name == "images" else values}


def golden_from_stage(outputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return what a stage gave for images 0 and 1 of seed 0, as JSON: some values of each image, all outputs in a row.

    Raises NonFiniteError where it gives no numbers.
    """
    cases = []
    for image in range(2):
        out = _flat(outputs, image)
        if not np.isfinite(out).all():
            raise NonFiniteError("A stage gives NaN or infinity for noise. Export an earlier checkpoint.")
        positions = np.unique(np.linspace(0, out.size - 1, min(out.size, NUM_POSITIONS)).round().astype(np.int64))
        values = {"positions": positions.tolist(), "values": out[positions].tolist()}
        cases.append({"image": image, **values, "mean": float(out.mean()), "max_abs": float(np.abs(out).max())})
    return {"cases": cases, "tolerance": STAGE_TOLERANCE}


def replay_stage(golden: Any, outputs: Mapping[str, Array], where: str) -> list[StageResult]:
    """Return one result for each golden case of a stage, given what it gives for images 0 and 1 of seed 0.

    Raises BadFileError for golden vectors that are not valid.
    """
    size = _flat(outputs, 0).size
    case_form = record(
        {
            "image": integer(0, 1),
            "positions": places_form(size),
            "values": array(FINITE),
            "mean": FINITE,
            "max_abs": number(0, 1e30),
        }
    )
    with golden_vectors():
        tolerance = float(record({"tolerance": number(0, STAGE_TOLERANCE)})(golden, "")["tolerance"])
        cases = cases_of(golden, case_form)
    results = []
    for case in cases:
        out, positions = _flat(outputs, case["image"]), case["positions"]
        if len(positions) != len(case["values"]) or max(map(abs, case["values"])) > case["max_abs"] * (1.0 + 1e-6):
            raise BadFileError(f"{where}: its golden vectors contradict themselves. Copy the file again.")
        off = float(np.abs(out[positions] - np.array(case["values"])).max())
        off = max(off, abs(float(out.mean()) - case["mean"]), abs(float(np.abs(out).max()) - case["max_abs"]))
        error = off / (case["max_abs"] or 1.0) if np.isfinite(out).all() else math.inf
        results.append(StageResult(where, case["image"], error, tolerance))
    return results


def _flat(outputs: Mapping[str, Array], image: int) -> Array:
    return np.concatenate([np.asarray(values[image], dtype=np.float64).reshape(-1) for values in outputs.values()])
