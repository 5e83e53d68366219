"""From a network and its spec to (x_0, eps): predict, combine (guidance), convert and clip. NumPy only."""

from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import OWN_GUIDANCE, bound_inputs
from ddpm_export.model.spec import ModelSpec, guidance_for
from ddpm_export.process.equations import (
    VARIANCE_FRACTION,
    Array,
    Denoised,
    Denoiser,
    Level,
    Model,
    clean_and_noise,
    combine,
    refuse_non_finite,
)
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.rows import Row


def denoiser(model: Model, spec: ModelSpec, /, *, guidance: Guidance | float | None = None, **inputs: Any) -> Denoiser:
    """Bind a model, its prediction, clipping, guidance and inputs: (x_t, row, x_0 before) -> Denoised.

    guidance: None is the file's own, a number a scale for all times. inputs: by the names of spec.inputs, a value for
    all images or one for each; a label's may be a class's name, or none. One network evaluation a call, at times with
    a scale other than 0 and 1 of two rows an image: with its label and without. Raises UsageError for inputs that are
    unknown, missing or do not fit, at once where no batch is needed to see it, and for guidance that does not apply;
    calls raise NonFiniteError where the network gives NaN or infinity.
    """
    guided = guidance_for(spec, guidance)
    if not any(np.ndim(value) for value in inputs.values()):  # what fits any batch is checked before the first
        bound_inputs(spec.inputs, inputs, 1)

    def denoise(x_t: Array, row: Row, x_0_before: Array | None = None) -> Denoised:
        asked = bound_inputs(spec.inputs, inputs, len(x_t), x_0_before) if spec.inputs or inputs else {}
        scale = guided.at(row.t)
        predictions = _predictions(model, spec, x_t, row, asked, scale)
        return denoised(combine(predictions, scale), spec, x_t, row)

    return denoise


def _predictions(
    model: Model, spec: ModelSpec, x_t: Array, row: Row, asked: dict[str, Array], scale: float
) -> list[dict[str, Array]]:
    """Return the predictions that a scale needs: one, or with the label and without it."""
    if spec.guides_itself:
        return [predict(model, spec, x_t, row, {**asked, OWN_GUIDANCE: np.full((len(x_t), 1), scale, np.float32)})]
    label = spec.label
    if scale == 1.0 or label is None:
        return [predict(model, spec, x_t, row, asked)]
    without = {**asked, label.name: np.full_like(asked[label.name], label.none)}
    if scale == 0.0 or np.array_equal(asked[label.name], without[label.name]):
        return [predict(model, spec, x_t, row, without)]
    return predict_twice(model, spec, x_t, row, asked, without)


def predict(model: Model, spec: ModelSpec, x_t: Array, row: Row, inputs: dict[str, Array]) -> dict[str, Array]:
    """Return the network's outputs for x_t in a row, by the names of the spec's outputs, each in the shape of x_t.

    Raises BadFileError where an output is missing, NonFiniteError where one is not finite: clipping would hide it.
    """
    outputs = _evaluated(model, spec, x_t, row, inputs)
    for values in outputs.values():
        refuse_non_finite(values, row)
    return outputs


def predict_twice(
    model: Model, spec: ModelSpec, x_t: Array, row: Row, inputs: dict[str, Array], others: dict[str, Array]
) -> list[dict[str, Array]]:
    """Return the predictions with these inputs and with others: one evaluation of a batch twice as long."""
    both = {name: np.concatenate([values, others[name]]) for name, values in inputs.items()}
    outputs = _evaluated(model, spec, np.concatenate([x_t, x_t]), row, both)
    B = len(x_t)
    halves = [{name: values[part] for name, values in outputs.items()} for part in (slice(B), slice(B, None))]
    for values in (values for half in halves for values in half.values()):
        refuse_non_finite(values, row)
    return halves


def _evaluated(model: Model, spec: ModelSpec, x_t: Array, row: Row, inputs: dict[str, Array]) -> dict[str, Array]:
    outputs = model(x_t, np.full(len(x_t), row.t, dtype=spec.t_dtype), **inputs)
    missing = [name for name in spec.outputs if name not in outputs]
    if missing:
        raise BadFileError(f"The model has no output {missing[0]!r}, which its spec names; it has {sorted(outputs)!r}.")
    return {name: outputs[name] for name in spec.outputs}


def denoised(outputs: dict[str, Array], spec: ModelSpec, x_t: Array, row: Row) -> Denoised:
    """Convert a prediction into the clean image and the noise, and clip, once; copies, which no buffer overwrites."""
    predicted = outputs[spec.prediction]
    x_0, eps = clean_and_noise(predicted, x_t, Level(row.a), spec.prediction, spec.clip_x_0, raw_eps=row.raw_eps)
    fraction = outputs[VARIANCE_FRACTION].copy() if VARIANCE_FRACTION in spec.outputs else None
    x_0, eps = (array.copy() if array is outputs[spec.prediction] else array for array in (x_0, eps))
    return Denoised(x_0, eps, fraction)


def network_inputs(model: Model, inputs: dict[str, Array]) -> dict[str, Array]:
    """Return the network's inputs for a batch, of those that a user gives: the model's `prepare`, where it has one."""
    prepare = getattr(model, "prepare", dict)
    return dict(prepare(inputs))


def results_of(model: object, spec: ModelSpec, x: Array) -> Array:
    """Return states (B, *shape) as a user gets them: pictures uint8 (B, H, W, C), or numbers float32 (B, *shape).

    The model's `decode` makes them where it has one, as opened files do; a plain function's states are the result.
    """
    decode = getattr(model, "decode", np.asarray)
    return to_uint8(decode(x)) if spec.is_picture else np.asarray(decode(x), dtype=np.float32)
