"""Read pictures and arrays from files that may hold anything."""

import io
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError, first_line
from ddpm_export.process.pixels import Pixels
from ddpm_export.system.files import open_plain

if TYPE_CHECKING:
    from PIL.Image import Image

READABLE = (
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)  # Pillow's other readers run programs or are rarely used
OPENING = threading.Lock()  # warning filters belong to the process, and images are read in threads


def read_array(path: Path) -> NDArray[Any]:
    """Return the array of an .npy file, mapped, since a header may claim more than fits into memory.

    Raises BadFileError for any other file.
    """
    try:
        if not path.is_file():  # opening a pipe would block
            raise OSError("no such file")
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as exc:  # a hostile header raises nearly anything
        raise BadFileError(f"{path} is not an array that can be read: {first_line(exc)}.") from exc


def read_image(
    source: str | Path | bytes, channels: int, *, size: tuple[int, int] | None = None, where: str | None = None
) -> Pixels:
    """Read an image as (H, W, channels), channels 1 (grey) or 3 (RGB); `size` (H, W) crops and resizes it to that.

    source: a path, or the bytes of an encoded image, which errors call `where`. The picture is turned as its EXIF says,
    transparency is laid over white, 16 bits become the upper 8. `size` takes the largest centred part of that shape and
    resamples it with Lanczos' filter, widened when it shrinks: without that, shrinking aliases (Parmar et al. 2022).

    Raises BadFileError for what Pillow cannot read, or what claims more pixels than Pillow takes to be safe.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open_plain(source) as file:
            with OPENING, warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                opened = Image.open(file, formats=READABLE)
            image = _opaque(ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB")
        if size is not None and image.size != size[::-1]:
            image = ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS)
        pixels = np.asarray(image, dtype=np.uint8)
    except Exception as exc:  # a decoder given a broken file raises nearly anything
        name = source if where is None and not isinstance(source, bytes) else where
        # whose message shows where in memory the bytes lie
        reason = "its format is unknown" if isinstance(exc, UnidentifiedImageError) else first_line(exc)
        raise BadFileError(f"{name} is not a picture that can be read: {reason}.") from exc
    return pixels.reshape(*pixels.shape[:2], channels)


def _opaque(image: "Image", mode: str) -> "Image":
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip at 255
        image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
