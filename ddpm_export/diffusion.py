"""The equations of one reverse step, in the letters of Ho et al. 2020 and Song et al. 2020. NumPy only.

From network to (x_0, eps) in three steps: predict, combine (which guides), denoised. Coefficients are Python floats,
computed in float64 and rounded once when they meet a float32 array; what takes `Any` also takes the values of a graph.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.elementwise import clip, sqrt
from ddpm_export.errors import BadFileError, NonFiniteError, UsageError
from ddpm_export.guidance import Guidance, check_guidance
from ddpm_export.inputs import OWN_GUIDANCE, bound_inputs
from ddpm_export.plans import Row
from ddpm_export.spec import VARIANCE_FRACTION, ModelSpec

__all__ = [
    "Array",
    "Denoised",
    "Denoiser",
    "Level",
    "Model",
    "clean_and_noise",
    "combine",
    "decode",
    "denoised",
    "denoiser",
    "guidance_for",
    "noised",
    "numbered",
    "predict",
    "predict_twice",
    "refuse_non_finite",
]

Array = NDArray[Any]
Model = Callable[..., dict[str, Array]]  # (x_t (B, C, H, W), t (B,), **inputs of the spec) -> outputs by name


class Denoised(NamedTuple):
    """What a network's output says of a noisy image, each (B, C, H, W): the clean image and the noise in it.

    variance_fraction, where the network learned it, says where between the logarithms of the step's small and large
    variance its own lies (Nichol and Dhariwal 2021, eq. 15): 0 small, 1 large, and beyond where the network says so.
    """

    x_0: Array
    eps: Array
    variance_fraction: Array | None = None


Denoiser = Callable[[Array, Row, Array | None], Denoised]  # (x_t, row, the x_0 found before, None at first)


def noised(x_0: Any, eps: Any, a: Any) -> Any:
    """Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al. 2020, eq. 4), in the shape and dtype of its arguments."""
    return sqrt(a) * x_0 + sqrt(1.0 - a) * eps


def denoiser(model: Model, spec: ModelSpec, /, *, guidance: Guidance | float | None = None, **inputs: Any) -> Denoiser:
    """Bind a model, what it predicts, its clipping, guidance and inputs: (x_t, row, x_0 before) -> Denoised.

    guidance: None is the file's own, a number a scale for all times. inputs: by the names of spec.inputs, a value for
    all images or one for each; a label's may be a class's name, or none. One network evaluation a call, at times with
    a scale other than 0 and 1 of two rows an image: with its label and without. Raises UsageError for inputs that are
    unknown, missing or do not fit, here where it can be seen without a batch, and for guidance that does not apply; its
    calls raise NonFiniteError where the network gives NaN or infinity.
    """
    guided = guidance_for(spec, guidance)
    if not any(np.ndim(value) for value in inputs.values()):  # what fits any batch is checked before the first
        bound_inputs(spec.inputs, inputs, 1)

    def denoise(x_t: Array, row: Row, x_0_before: Array | None = None) -> Denoised:
        told = bound_inputs(spec.inputs, inputs, len(x_t), x_0_before) if spec.inputs or inputs else {}
        scale = guided.at(row.t)
        predictions = _predictions(model, spec, x_t, row, told, scale)
        return denoised(combine(predictions, scale), spec, x_t, row)

    return denoise


def guidance_for(spec: ModelSpec, given: Guidance | float | None = None) -> Guidance:
    """Return the guidance that is meant: what is given, a number being a scale for all times, or else the file's.

    Raises UsageError for what is out of its range, and for any scale but 1 of a network that takes none.
    """
    if given is None:
        return spec.defaults.guidance or Guidance()
    guidance = given if isinstance(given, Guidance) else Guidance(given)
    try:
        check_guidance(guidance)
    except ValueError as exc:
        raise UsageError(f"{exc}.") from exc
    if guidance.scale != 1 and not spec.takes_guidance:
        raise UsageError(
            f"guidance must be 1 for a network that has not learned to do without a class, got {guidance.scale:g}."
        )
    return guidance


def _predictions(
    model: Model, spec: ModelSpec, x_t: Array, row: Row, told: dict[str, Array], scale: float
) -> list[dict[str, Array]]:
    """Return the predictions that a scale needs: one, or with the label and without it."""
    if spec.guides_itself:
        return [predict(model, spec, x_t, row, {**told, OWN_GUIDANCE: np.full((len(x_t), 1), scale, np.float32)})]
    label = spec.label
    if scale == 1.0 or label is None:
        return [predict(model, spec, x_t, row, told)]
    without = {**told, label.name: np.full_like(told[label.name], label.none)}
    if scale == 0.0 or np.array_equal(told[label.name], without[label.name]):
        return [predict(model, spec, x_t, row, without)]
    return predict_twice(model, spec, x_t, row, told, without)


def predict(model: Model, spec: ModelSpec, x_t: Array, row: Row, inputs: dict[str, Array]) -> dict[str, Array]:
    """Return what the network says of x_t in a row, by the names of the spec's outputs, each (B, C, H, W).

    Raises BadFileError where an output is missing, NonFiniteError where one is not finite: clipping would hide it.
    """
    outputs = _evaluated(model, spec, x_t, row, inputs)
    for values in outputs.values():
        refuse_non_finite(values, row)
    return outputs


def predict_twice(
    model: Model, spec: ModelSpec, x_t: Array, row: Row, inputs: dict[str, Array], others: dict[str, Array]
) -> list[dict[str, Array]]:
    """Return what `predict` says with these inputs and with others: one evaluation of a batch twice as long."""
    both = {name: np.concatenate([values, others[name]]) for name, values in inputs.items()}
    outputs = _evaluated(model, spec, np.concatenate([x_t, x_t]), row, both)
    halves = [
        {name: values[part] for name, values in outputs.items()} for part in (slice(len(x_t)), slice(len(x_t), None))
    ]
    for half in halves:
        for values in half.values():
            refuse_non_finite(values, row)
    return halves


def _evaluated(model: Model, spec: ModelSpec, x_t: Array, row: Row, inputs: dict[str, Array]) -> dict[str, Array]:
    outputs = model(x_t, np.full(len(x_t), row.t, dtype=spec.t_dtype), **inputs)
    missing = [name for name in spec.outputs if name not in outputs]
    if missing:
        raise BadFileError(f"The model has no output {missing[0]!r}, which its spec names; it has {sorted(outputs)!r}.")
    return {name: outputs[name] for name in spec.outputs}


def combine(predictions: Sequence[dict[str, Any]], scale: Any = 1.0) -> dict[str, Any]:
    """Return what predictions of one x_t make, before anything is converted or clipped: of one, itself.

    Of two, c with a label and u without, u + scale (c - u), scale = 1 + w of Ho and Salimans 2022 (eq. 6); a learned
    variance is that of c.
    """
    given, *without = predictions
    if not without:
        return given
    guided = {name: u + scale * (given[name] - u) for name, u in without[0].items() if name != VARIANCE_FRACTION}
    return {**given, **guided}


def denoised(outputs: dict[str, Array], spec: ModelSpec, x_t: Array, row: Row) -> Denoised:
    """Convert a prediction into the clean image and the noise, and clip, once; copies, which no buffer overwrites."""
    predicted = outputs[spec.prediction]
    x_0, eps = clean_and_noise(predicted, x_t, Level(row.a), spec.prediction, spec.clip_x_0, raw_eps=row.raw_eps)
    fraction = outputs[VARIANCE_FRACTION].copy() if VARIANCE_FRACTION in spec.outputs else None
    x_0, eps = (array.copy() if array is outputs[spec.prediction] else array for array in (x_0, eps))
    return Denoised(x_0, eps, fraction)


@dataclass(frozen=True)
class Level:
    """Give the coefficients that follow from a = alphas_cumprod; `carry` brings them from float64 to the images."""

    a: Any
    carry: Callable[[Any], Any] = lambda coefficient: coefficient

    @property
    def signal(self) -> Any:
        """Return sqrt(a), the share of the clean image."""
        return self.carry(sqrt(self.a))

    @property
    def noise(self) -> Any:
        """Return sqrt(1 - a), the share of the noise."""
        return self.carry(sqrt(1.0 - self.a))

    @property
    def one_over_signal(self) -> Any:
        """Return 1 / sqrt(a)."""
        return self.carry(1.0 / sqrt(self.a))

    @property
    def one_over_noise(self) -> Any:
        """Return 1 / sqrt(1 - a)."""
        return self.carry(1.0 / sqrt(1.0 - self.a))


def clean_and_noise(
    predicted: Any, x_t: Any, at: Level, prediction: str, clip_x_0: float | None, *, raw_eps: bool = False
) -> tuple[Any, Any]:
    """Return (x_0, eps) of a prediction, each in the shape of x_t.

    x_0 follows from eps (Ho et al. 2020, eq. 4), v (Salimans and Ho 2022, section 4) or itself; where clip_x_0 is a
    number, x_0 is clipped to it and eps is what then leads from it to x_t, or with raw_eps what it was before.
    """
    if prediction == "eps":
        x_0, eps = (x_t - at.noise * predicted) * at.one_over_signal, predicted
    elif prediction == "v":
        x_0, eps = at.signal * x_t - at.noise * predicted, at.noise * x_t + at.signal * predicted
    else:
        x_0, eps = predicted, (x_t - at.signal * predicted) * at.one_over_noise
    if clip_x_0 is not None:
        x_0 = clip(x_0, clip_x_0)
        eps = eps if raw_eps else (x_t - at.signal * x_0) * at.one_over_noise
    return x_0, eps


def decode(x: Array) -> Array:
    """Return the picture of a state, (B, C, H, W) in [-1, 1]: the state itself, of models that work on pixels."""
    return x


def refuse_non_finite(values: Array, row: Row) -> None:
    """Raise NonFiniteError, which names the row and the image's place in the batch, unless all values are finite."""
    finite = np.isfinite(values)
    if not finite.all():
        index = int(np.argmin(finite.reshape(len(values), -1).all(axis=1)))
        raise NonFiniteError.at(f"step {row.i} (t = {row.t:g})", index)


@contextmanager
def numbered(numbers: Sequence[int]) -> Iterator[None]:
    """Let an error about an image of a batch say its number, numbers[k] of the k-th."""
    try:
        yield
    except NonFiniteError as exc:
        if exc.index is None:
            raise
        raise NonFiniteError.at(exc.where, exc.index, f"image {numbers[exc.index]}") from exc
