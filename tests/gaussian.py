"""The best denoiser there is for Gaussian data, in closed form, and the exact end of its probability-flow ODE."""

import math

import numpy as np

from ddpm_export.model.spec import Defaults, ModelSpec


def gaussian_model(alphas_cumprod, mean, std, prediction="eps", *, jumps=False):
    """Return a Model for pixels that are each N(mean, std^2): (x_t, t) -> {prediction: its expectation given x_t}.

    jumps: of x_0, where the probability-flow ODE ends instead, as a consistency model says it.

    Coefficients are computed in float64 and rounded once to the dtype of x_t.
    """
    a = np.asarray(alphas_cumprod, dtype=np.float64)
    variance_t = a * std**2 + 1.0 - a
    shift = np.sqrt(a) * mean
    slope = {
        "eps": np.sqrt(1.0 - a) / variance_t,
        "x_0": std / np.sqrt(variance_t) if jumps else np.sqrt(a) * std**2 / variance_t,
        "v": np.sqrt(a * (1.0 - a)) * (1.0 - std**2) / variance_t,
    }[prediction]
    offset = {"eps": 0.0 * a, "x_0": mean + 0.0 * a, "v": -np.sqrt(1.0 - a) * mean}[prediction]

    def model(x_t, t):
        shift_t, slope_t, offset_t = (
            number[t].astype(x_t.dtype).reshape(-1, 1, 1, 1) for number in (shift, slope, offset)
        )
        return {prediction: slope_t * (x_t - shift_t) + offset_t}

    return model


def classes_model(alphas_cumprod, means, std, prediction="eps", fractions=None):
    """Return a Model for pixels that are N(means[y], std^2) in images of label y: (x_t, t, y) -> its expectation.

    fractions: the variance_fraction that it says besides, one for each label. Told a scale of guidance, (B, 1), it
    combines by itself what it says with y and with the last label.
    """
    models = [gaussian_model(alphas_cumprod, mean, std, prediction) for mean in means]

    def says(x_t, t, labels):
        rows = [models[label](x_t[k : k + 1], t[k : k + 1])[prediction] for k, label in enumerate(labels)]
        return np.concatenate(rows)

    def model(x_t, t, y, guidance=None):
        outputs = {prediction: says(x_t, t, y)}
        if guidance is not None:
            u = says(x_t, t, np.full_like(y, len(means) - 1))
            outputs = {prediction: u + guidance.reshape(-1, 1, 1, 1) * (outputs[prediction] - u)}
        if fractions is not None:
            each = np.array([fractions[label] for label in y], x_t.dtype)
            outputs["variance_fraction"] = np.broadcast_to(each.reshape(-1, 1, 1, 1), x_t.shape)
        return outputs

    return model


def gaussian_spec(alphas_cumprod, prediction="eps", clip_x_0=None, image_shape=(1, 2, 3), **changes):
    """Return a spec that a Gaussian model fits; it does not clip unless told to. `changes` replace any field."""
    fields = {
        "name": "gaussian",
        "prediction": prediction,
        "state_shape": image_shape,
        "alphas_cumprod": tuple(float(a) for a in alphas_cumprod),
        "clip_x_0": clip_x_0,
        "defaults": Defaults(num_steps=min(50, len(alphas_cumprod))),
    }
    return ModelSpec(**{**fields, **changes})


def flow(x_t, a, mean, std):
    """Return where the probability-flow ODE (Song et al. 2021) carries x_t, at alphas_cumprod = a, once a = 1."""
    return mean + std * (x_t - math.sqrt(a) * mean) / math.sqrt(a * std**2 + 1.0 - a)
