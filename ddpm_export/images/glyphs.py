"""Glyphs of a colour font as pictures. Pillow shapes them, with Raqm, and scales them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddpm_export.errors import EnvironmentProblem
from ddpm_export.process.pixels import Pixels


def glyphs_of(path: Path, bitmap_size: int, side: int) -> Callable[[str], Pixels]:
    """Return what draws a text's glyph in the middle of a white square: uint8 (side, side, 3).

    bitmap_size: the size that selects a font's own bitmaps. Raises EnvironmentProblem where Pillow cannot shape
    sequences, OSError where the font cannot be read.
    """
    from PIL import Image, ImageDraw, ImageFont, features

    if not features.check("raqm"):
        raise EnvironmentProblem("Pillow has no Raqm, which joins the parts of an emoji. Install its binary wheel.")
    font = ImageFont.truetype(str(path), bitmap_size, layout_engine=ImageFont.Layout.RAQM)

    def drawn(text: str) -> Pixels:
        canvas = Image.new("RGB", (side, side), "white")
        left, top, right, bottom = font.getbbox(text)
        origin = ((side - right - left) / 2, (side - bottom - top) / 2)
        ImageDraw.Draw(canvas).text(origin, text, font=font, embedded_color=True)
        return np.asarray(canvas)

    return drawn


def resized(pixels: Pixels, height: int, width: int, *, smooth: bool = True) -> Pixels:
    """Return a picture (H, W, 3) at another size: by Lanczos' filter, or else bicubic, as for thumbnails."""
    from PIL import Image

    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))
