"""Golden vectors: outputs of the network that travel in its file, and their replay. NumPy only; knows no runtime.

docs/format.md section 4 is the contract: whoever holds the file can verify it where it lands, without torch.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError, ModelRefusedError, NonFiniteError, UsageError, shown
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.noise import noise_stream

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


@dataclass(frozen=True)
class GoldenResult:
    """Tell how one case came out; error is relative to the largest value promised, absolute where that is 0."""

    seed: int
    image: int
    t: int
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Return whether the error keeps the promise; no number never does."""
        return self.error <= self.tolerance

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
    size = math.prod(spec.image_shape) * len(spec.outputs)
    positions = np.unique(np.linspace(0, size - 1, min(size, NUM_POSITIONS)).round().astype(np.int64))
    T = spec.num_train_timesteps
    cases = []
    last_image = max((2, *(entry.num_labels - 1 for entry in spec.inputs)))
    for image, t in zip((0, 1, last_image), sorted({0, T // 2, T - 1}), strict=False):
        out = _evaluate(model, spec, SEED, image, t)
        if not np.isfinite(out).all():
            raise NonFiniteError(f"network: gives NaN or infinity at t={t}. Export an earlier checkpoint.")
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
    """Return one result for each golden case of the spec, in the file's order; none where the file carries none.

    The network is evaluated then, too, once: a file that does not run is not sound.
    Raises ModelRefusedError then where it gives NaN or infinity.
    precision: what the model computes in, float32, float16 or bfloat16. One network evaluation a case.
    Raises BadFileError for golden vectors that cannot be meant, UsageError for an unknown precision.
    """
    if precision not in TOLERANCES:
        raise UsageError(f"precision must be one of {', '.join(TOLERANCES)}, got {precision!r}.")
    if spec.golden is None:
        if not np.isfinite(_evaluate(model, spec, 0, 0, spec.num_train_timesteps - 1)).all():
            raise ModelRefusedError("The network gives NaN or infinity for plain noise. Export the model again.")
        return []
    _, tolerance = promised_tolerance(spec.golden, precision)
    results = []
    for case in _checked_cases(spec):
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

    The spec's inputs are those of `example_of_inputs`.
    Several outputs follow one another in the spec's order.
    """
    x_t = noise_stream(seed, [image], spec.image_shape)(0) * math.sqrt(1.0 - spec.alphas_cumprod[t])
    outputs = model(x_t, np.array([t], dtype=spec.t_dtype), **example_of_inputs(spec.inputs, seed, [image]))
    for name in spec.outputs:
        if name not in outputs or outputs[name].shape != x_t.shape:
            raise BadFileError(
                f"model: must give {name!r} of shape {x_t.shape}, as its spec says, got {sorted(outputs)!r}. Export "
                "the model again."
            )
    return np.concatenate([np.asarray(outputs[name], dtype=np.float64).reshape(-1) for name in spec.outputs])


def promised_tolerance(golden: dict[str, Any] | None, precision: str) -> tuple[str, float]:
    """Return what a file computes in on a device of that precision, and the relative error that it promises there.

    A file of 8-bit integers computes in int8 wherever it runs; one without golden vectors promises what this version
    does. Raises BadFileError for a promise that cannot be meant.
    """
    if golden is None:
        return precision, TOLERANCES[precision]
    promised, most = golden.get("tolerance"), TOLERANCES[precision]
    if isinstance(promised, dict) and set(promised) == {INT8}:
        precision, most = INT8, INT8_TOLERANCE
    value: Any = promised.get(precision) if isinstance(promised, dict) else None
    # a file may promise more than this version does, never less: or a broken file could vouch for itself
    if not _is_finite(value) or not 0 < value <= most:
        raise unusable(f"tolerance.{precision}", value, f"a number above 0, at most {most}")
    return precision, float(value)


def _checked_cases(spec: ModelSpec) -> list[dict[str, Any]]:
    """Return the cases once nothing in them can surprise: they come from a file."""
    cases = (spec.golden or {}).get("cases")
    if not isinstance(cases, list) or not 1 <= len(cases) <= MAX_CASES:
        raise unusable("cases", cases, f"a list of 1 to {MAX_CASES} objects")
    size = math.prod(spec.image_shape) * len(spec.outputs)
    for case in cases:
        if not isinstance(case, dict):
            raise unusable("cases", case, "objects")
        for name, limit in (("seed", 2**63), ("image", 2**32), ("t", spec.num_train_timesteps)):
            if type(case.get(name)) is not int or not 0 <= case[name] < limit:
                raise unusable(name, case.get(name), f"an integer from 0 to {limit - 1}")
        positions, values = checked_positions(case, size), case.get("values")
        if not isinstance(values, list) or len(values) != len(positions) or not all(map(_is_finite, values)):
            raise unusable("values", values, f"{len(positions)} finite numbers, one a position")
        for name in ("mean", "norm", "max_abs"):
            if not _is_finite(case.get(name)):
                raise unusable(name, case.get(name), "a finite number")
        # errors are measured against max_abs: one that fits no value would make every error look small
        largest = max(abs(value) for value in values)
        if not largest <= case["max_abs"] or not case["max_abs"] <= case["norm"] * (1.0 + 1e-6):
            raise unusable(
                "max_abs", case["max_abs"], f"a number from {largest!r} (its values) to {case['norm']!r} (its norm)"
            )
    return cases


def _is_finite(value: Any) -> bool:
    # an integer beyond float64 is no number here: math.isfinite would raise
    return type(value) in (int, float) and abs(value) < 1e30


def checked_positions(case: dict[str, Any], size: int) -> list[int]:
    """Return the positions of a case, once they are known to lie in an output of that size."""
    positions = case.get("positions")
    if not isinstance(positions, list) or not 1 <= len(positions) <= MAX_POSITIONS:
        raise unusable("positions", positions, f"1 to {MAX_POSITIONS} integers")
    if not all(type(position) is int and 0 <= position < size for position in positions):
        raise unusable("positions", positions, f"integers from 0 to {size - 1}")
    return positions


def unusable(where: str, got: Any, expected: str) -> BadFileError:
    """Return the error for a part of golden vectors that cannot be meant."""
    return BadFileError(f"In the golden vectors, {where} must be {expected}, got {shown(got)}.")
