"""Golden vectors: outputs of the network that travel in its file, and their replay. NumPy only; knows no runtime.

docs/format.md section 4 is the contract: whoever holds the file can verify it where it lands, without torch.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError, ModelRefusedError, NonFiniteError, UsageError
from ddpm_export.model.codec import OBJECT, Form, MisfitError, array, bad_file, integer, number, record, rule
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.rows import is_number

# Promised relative errors. float32: other kernels sum in another order and stay below 1e-5 on the exporting machine
# (the proof sees to that), so ten times as much is left to other devices; a wrong weight or time shows as 1e-2 or more.
# float16 and bfloat16: 1.3e-3 and 1.0e-2 measured on the default UNet under autocast, and some five times that allowed.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
INT8 = "int8"  # a file of 8-bit integers promises this only, on every provider
INT8_TOLERANCE = 0.25
SEED = 0
NUM_POSITIONS = 16
MAX_CASES = 64  # a file must not keep its reader busy for hours
MAX_POSITIONS = 4096
FINITE = number(-1e30, 1e30)


class Promised:
    """What the results of all golden cases have: an error, and the tolerance that was promised."""

    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Return whether the error keeps the promise; no number never does."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class GoldenResult(Promised):
    """The result of one case; error is relative to the largest value promised, absolute where that is 0."""

    seed: int
    image: int
    t: int
    error: float
    tolerance: float

    @property
    def place(self) -> str:
        """Return which case it was."""
        return f"t={self.t}, image {self.image}, seed {self.seed}"


def golden_from_model(model: Model, spec: ModelSpec) -> dict[str, Any]:
    """Return the golden vectors of a model as JSON values, to be put into `spec.golden`.

    Three cases, at the first, middle and last time, each for an image of its own, the last of "no class" where there
    are labels; 16 values of each output, evenly spread. One network evaluation a case. Raises NonFiniteError where the
    model gives no numbers.
    """
    size = math.prod(spec.state_shape) * len(spec.outputs)
    positions = np.unique(np.linspace(0, size - 1, min(size, NUM_POSITIONS)).round().astype(np.int64))
    T = spec.num_train_timesteps
    cases = []
    last_image = max((2, *(entry.num_labels - 1 for entry in spec.inputs)))
    for image, t in zip((0, 1, last_image), sorted({0, T // 2, T - 1}), strict=False):
        out = _evaluate(model, spec, SEED, image, t)
        if not np.isfinite(out).all():
            raise NonFiniteError(f"The network gives NaN or infinity at t={t}. Export an earlier checkpoint.")
        cases.append(
            {
                "seed": SEED,
                "image": image,
                "t": t,
                "positions": positions.tolist(),
                "values": out[positions].tolist(),
                "mean": float(out.mean()),
                "norm": float(np.sqrt(np.sum(out * out))),
                "max_abs": float(np.abs(out).max()),
            }
        )
    return {"cases": cases, "tolerance": dict(TOLERANCES)}


def golden_of_int8(golden: dict[str, Any]) -> dict[str, Any]:
    """Return the golden vectors of a network for the file that computes it in 8-bit integers."""
    return {**golden, "tolerance": {INT8: INT8_TOLERANCE}}


def replay_golden(model: Model, spec: ModelSpec, *, precision: str = "float32") -> list[GoldenResult]:
    """Return one result for each golden case of the spec, in the file's order; none for a file without golden vectors.

    Then the network is evaluated once all the same: a file that does not run is not sound, and ModelRefusedError is
    raised where it gives NaN or infinity. precision: float32, float16 or bfloat16, of the computation. One network
    evaluation a case. Raises BadFileError for golden vectors that are not valid, UsageError for an unknown precision.
    """
    if precision not in TOLERANCES:
        raise UsageError(f"precision must be one of {', '.join(TOLERANCES)}, got {precision!r}.")
    if spec.golden is None:
        if not np.isfinite(_evaluate(model, spec, 0, 0, spec.num_train_timesteps - 1)).all():
            raise ModelRefusedError("The network gives NaN or infinity for plain noise. Export the model again.")
        return []
    _, tolerance = promised_tolerance(spec.golden, precision)
    with golden_vectors():
        cases = cases_of(spec.golden, _case_form(spec))
    results = []
    for case in cases:
        out = _evaluate(model, spec, case["seed"], case["image"], case["t"])
        difference = max(
            float(np.abs(out[case["positions"]] - np.array(case["values"], dtype=np.float64)).max()),
            abs(float(out.mean()) - case["mean"]),
            abs(float(np.abs(out).max()) - case["max_abs"]),
            # a norm sums over the whole output: per root of its size it is on the scale of one value
            abs(float(np.sqrt(np.sum(out * out))) - case["norm"]) / math.sqrt(out.size),
        )
        error = difference / (case["max_abs"] or 1.0) if np.isfinite(out).all() else math.inf
        results.append(GoldenResult(case["seed"], case["image"], case["t"], error, tolerance))
    return results


def _evaluate(model: Model, spec: ModelSpec, seed: int, image: int, t: int) -> Array:
    """Return the flat float64 outputs at x_t = sqrt(1 - alphas_cumprod[t]) * draw 0: noise at its level, no image.

    The spec's inputs are those of `example_of_inputs`. Several outputs follow one another in the spec's order.
    """
    x_t = noise_stream(seed, [image], spec.state_shape)(0) * math.sqrt(1.0 - spec.alphas_cumprod[t])
    outputs = model(x_t, np.array([t], dtype=spec.t_dtype), **example_of_inputs(spec.inputs, seed, [image]))
    for name in spec.outputs:
        if name not in outputs or outputs[name].shape != x_t.shape:
            raise BadFileError(
                f"The model must give {name!r} of shape {x_t.shape}, as its spec says, got {sorted(outputs)!r}. "
                "Export it again."
            )
    return np.concatenate([np.asarray(outputs[name], dtype=np.float64).reshape(-1) for name in spec.outputs])


def promised_tolerance(golden: dict[str, Any] | None, precision: str) -> tuple[str, float]:
    """Return the precision that a file computes in on a device of that precision, and the relative error it promises.

    A file of 8-bit integers computes in int8 wherever it runs; one without golden vectors promises what this version
    does. Raises BadFileError for a promise that is missing or too weak.
    """
    if golden is None:
        return precision, TOLERANCES[precision]
    with golden_vectors():
        promised = record({"tolerance": OBJECT})(golden, "")["tolerance"]
        if set(promised) == {INT8}:
            precision = INT8
        # a file may promise more than this version does, never less: a broken file could vouch for itself
        most = {**TOLERANCES, INT8: INT8_TOLERANCE}[precision]
        tolerance = rule(lambda value: is_number(value) and 0 < value <= most, f"a number above 0, at most {most}")
        return precision, float(record({precision: tolerance})(promised, "tolerance")[precision])


def golden_vectors() -> AbstractContextManager[None]:
    """Raise a misfit inside as BadFileError."""
    return bad_file("The golden vectors of the model")


def cases_of(golden: dict[str, Any], case: Form) -> list[Any]:
    """Return the cases of golden vectors, each read by a form: they come from a file."""
    cases: list[Any] = record({"cases": array(case, 1, MAX_CASES)})(golden, "")["cases"]
    return cases


def places_form(size: int) -> Form:
    """Return the form of positions in an output of that size."""
    return array(integer(0, size - 1), 1, MAX_POSITIONS)


def _case_form(spec: ModelSpec) -> Form:
    entries = {
        "seed": integer(0, 2**63 - 1),
        "image": integer(0, 2**32 - 1),
        "t": integer(0, spec.num_train_timesteps - 1),
        "positions": places_form(math.prod(spec.state_shape) * len(spec.outputs)),
        "values": array(FINITE),
        "mean": FINITE,
        "norm": FINITE,
        "max_abs": FINITE,
    }

    def read(value: Any, place: str) -> dict[str, Any]:
        case: dict[str, Any] = record(entries)(value, place)
        values, max_abs, norm = case["values"], case["max_abs"], case["norm"]
        if len(values) != len(case["positions"]):
            raise MisfitError(f"{place}.values", "as many numbers as positions", values)
        # errors are measured against max_abs: too large a value would make every error look small
        largest = max(map(abs, values))
        if not largest <= max_abs <= norm * (1.0 + 1e-6):
            raise MisfitError(f"{place}.max_abs", f"from {largest!r}, of its values, to {norm!r}, its norm", max_abs)
        return case

    return read
