"""The proof that an exported file is its network. NumPy alone: it compares two Models, whatever runs them."""

import dataclasses
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_export.diffusion import Array, Model, denoiser, noised, trajectory
from ddpm_export.errors import ModelRefusedError, NonFiniteError
from ddpm_export.images import to_uint8
from ddpm_export.noise import noise_stream
from ddpm_export.samplers import ddim, ddpm
from ddpm_export.spec import ModelSpec

__all__ = ["Proof", "prove"]

BATCHES = (1, 2, 3, 5)
NUM_TIMES = 12
# a 1000-step trajectory under a good denoiser multiplies an error a step by at most a few: 1e-5 keeps every 8-bit pixel
# within one level
MAX_RELATIVE_ERROR = 1e-5
NUM_STEPS = 10
NUM_IMAGES = 4
MIN_EQUAL_SHARE = 0.995
SEED = 0


@dataclass(frozen=True)
class Proof:
    """Tell how well two models agree.

    error is max |a - b| / max |b| of one image's output, the worst of all; where the reference gives only zeros (an
    untrained network does: its last layer starts at 0) it is max |a - b|, and relative is False. t, batch and value are
    where it was worst: value is that of the candidate, expected that of the reference. equal_share and
    max_level_difference compare uint8 images of a short trajectory on the same noise: ddim, or ddpm where the variance
    is learned, so that every output has its part in it.
    """

    error: float
    relative: bool
    t: int
    batch: int
    value: float
    expected: float
    batches: tuple[int, ...]
    times: tuple[int, ...]
    num_steps: int
    equal_share: float
    max_level_difference: int

    def to_json(self) -> dict[str, Any]:
        """Return the proof as JSON values."""
        return {**dataclasses.asdict(self), "batches": list(self.batches), "times": list(self.times)}


def prove(candidate: Model, reference: Model, spec: ModelSpec, *, where: str = "model") -> Proof:
    """Compare a model with the one it was made from, at every t of a grid in every batch size, and along a trajectory.

    Inputs are at the noise level of their time, from our own noise; the images of a batch have different times.
    Evaluates each model on 48 batches, and on a batch of 4 at each of 10 steps. where: what an error is about.
    Raises ModelRefusedError with the worst place where they differ by more than 1e-5 or fewer than 99.5 % of the
    trajectory's pixels are equal; NonFiniteError where the reference itself gives no numbers.
    """
    T = spec.num_train_timesteps
    times = sorted({round(t) for t in np.linspace(0, T - 1, min(T, NUM_TIMES)).tolist()})
    places = []
    for batch in BATCHES:
        # neighbours in the batch get other times, so that a graph that reads t[0] for all is found out
        inputs = [
            _input(spec, [times[(first + 5 * k) % len(times)] for k in range(batch)]) for first in range(len(times))
        ]
        # one model after the other: taking turns, their thread pools would wait for each other
        expected_outputs = [_reference_output(reference, spec, x_t, t) for x_t, t in inputs]
        for (x_t, t), b in zip(inputs, expected_outputs, strict=True):
            outputs = candidate(x_t, t)
            places += [_worst_of(outputs[name], b[name], t, where) for name in spec.outputs]
    worst = max(places, key=lambda place: place[0])
    error, relative, at, batch, value, expected = worst
    if not error <= MAX_RELATIVE_ERROR:
        raise ModelRefusedError(
            f"{where}: does not reproduce its network. got {value!r} at t={at}, batch {batch} "
            f"({'relative' if relative else 'absolute'} error {error:.3g}), expected {expected!r} within "
            f"{MAX_RELATIVE_ERROR}. Do export it again, with another version of torch if it stays."
        )
    num_steps = min(NUM_STEPS, T)
    equal_share, difference = _trajectories(candidate, reference, spec, num_steps)
    if not equal_share >= MIN_EQUAL_SHARE:
        raise ModelRefusedError(
            f"{where}: images differ from those of its network. got {equal_share:.3%} equal values after "
            f"{num_steps} steps, the largest difference {difference} levels, expected at least "
            f"{MIN_EQUAL_SHARE:.1%}. Do export it again."
        )
    return Proof(error, relative, at, batch, value, expected, BATCHES, tuple(times), num_steps, equal_share, difference)


def _input(spec: ModelSpec, times: list[int]) -> tuple[Array, Array]:
    """Return x_t (B, C, H, W) float32 and t (B,) int64, image k at the noise level of times[k]."""
    noise = noise_stream(SEED, range(len(times)), spec.image_shape)
    eps, x_0 = noise(0), np.clip(noise(1), -1.0, 1.0)  # an image's range, if not an image's content
    x_t = np.stack([noised(x_0[k], eps[k], spec.alphas_cumprod[t]) for k, t in enumerate(times)])
    return x_t, np.array(times, dtype=np.int64)


def _reference_output(reference: Model, spec: ModelSpec, x_t: Array, t: Array) -> dict[str, Array]:
    outputs = reference(x_t, t)
    b = {name: np.array(outputs[name]) for name in spec.outputs}  # copies: an output may alias a buffer
    if not all(np.isfinite(values).all() for values in b.values()):
        raise NonFiniteError(
            f"network: gives no numbers. got NaN or infinity at t in {t.tolist()}, expected finite values. Do export "
            "an earlier checkpoint."
        )
    return b


def _worst_of(a: Array, b: Array, t: Array, where: str) -> tuple[float, bool, int, int, float, float]:
    """Return (error, relative, t, batch, value, expected) of the image of `a` that is farthest from that of `b`."""
    if a.shape != b.shape:
        raise ModelRefusedError(
            f"{where}: gives another shape. got {a.shape} at batch {len(t)}, expected {b.shape}. Do export it again."
        )
    a, b = (out.astype(np.float64).reshape(len(t), -1) for out in (a, b))
    difference = np.abs(a - b)
    difference[np.isnan(difference)] = math.inf
    scale = np.abs(b).max(axis=1)
    errors = difference.max(axis=1) / np.where(scale > 0, scale, 1.0)  # image by image: stricter than over the batch
    image = int(errors.argmax())
    position = int(difference[image].argmax())
    return (
        float(errors[image]),
        bool(scale[image] > 0),
        int(t[image]),
        len(t),
        float(a[image, position]),
        float(b[image, position]),
    )


def _trajectories(candidate: Model, reference: Model, spec: ModelSpec, num_steps: int) -> tuple[float, int]:
    noise = noise_stream(SEED, range(NUM_IMAGES), spec.image_shape)
    images = []
    for model in (candidate, reference):
        denoise, steps = denoiser(model, spec), trajectory(spec, num_steps)
        is_learned = spec.variance == "learned"
        states = ddpm(denoise, noise, steps, variance="learned") if is_learned else ddim(denoise, noise, steps)
        last = deque(states, maxlen=1).pop()
        images.append(to_uint8(last.x).astype(np.int64))
    difference = np.abs(images[0] - images[1])
    return float((difference == 0).mean()), int(difference.max())
