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

from ddpm_export.errors import NonFiniteError
from ddpm_export.process.elementwise import clip, sqrt
from ddpm_export.process.rows import Row

VARIANCES = ("fixed_small", "fixed_large", "learned")
VARIANCE_FRACTION = "variance_fraction"  # the second output of a network that learned its variances

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
