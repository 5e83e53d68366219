"""Between pixels, uint8, and images in [-1, 1]. NumPy only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
LEVELS_PER_UNIT = 127.5


def to_uint8(x_0: NDArray[Any]) -> Pixels:
    """Return pixels (N, H, W, C) of images (N, C, H, W) in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up."""
    levels = np.clip(np.float32(127.5) * x_0 + np.float32(127.5), 0.0, 255.0)
    pixels: Pixels = np.floor(levels + np.float32(0.5)).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def from_uint8(images: Pixels) -> NDArray[np.float64]:
    """Return images (N, C, H, W) of pixels (N, H, W, C): pixel k is k / 127.5 - 1 (Ho et al. 2020, section 3.3)."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) / 127.5 - 1.0
