"""Images as uint8, grids and files. The only file that names Pillow; knows no model and no sampler."""

import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import EnvironmentProblem, UsageError
from ddpm_export.images.draw import drawing
from ddpm_export.process.pixels import Pixels
from ddpm_export.system.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

ANIMATIONS = (".gif", ".webp")
MAX_FRAMES = 60
FRAME_MS, LAST_FRAME_MS, LINE_MS = 50, 1500, 200
TEXT_KEY = "ddpm_export"
LONGEST_NAME, MARGIN = 24, 4  # of the names beside rows: letters, pixels


def grid(images: Pixels, names: Sequence[str] = (), columns: int | None = None) -> Pixels:
    """Lay images (N, H, W, C) out row by row: (H', W', C), as near to a square as possible unless `columns` says else.

    names: one for each row, shown at its left; N is a multiple of their number.
    """
    count, height, width, channels = images.shape
    if columns is None:
        columns = count // len(names) if names else math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    page = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    page[:count] = images
    page = page.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    page = page.reshape(rows * height, columns * width, channels)
    return np.concatenate([_named(names, height, channels), page], axis=1) if names else page


def _named(names: Sequence[str], height: int, channels: int) -> Pixels:
    """Return the column of names beside rows of that height, white on black: (N * height, W', channels)."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(min(max(10, height // 8), height))
    plain = ["".join(c if c.isprintable() else "?" for c in name) for name in names]
    shown = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..." for name in plain]
    width = math.ceil(max(map(font.getlength, shown))) + 2 * MARGIN
    column = Image.new("L", (width, len(names) * height))
    draw = ImageDraw.Draw(column)
    for row, name in enumerate(shown):
        draw.text((width - MARGIN, (row + 0.5) * height), name, fill=255, font=font, anchor="rm")
    return np.repeat(np.asarray(column, dtype=np.uint8)[..., None], channels, axis=2)


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write an .npy file, whole or not at all; raises EnvironmentProblem where it cannot be written.

    The bytes are those of `numpy.save`, which ignores errors of the C buffer it writes through, such as a full disk.
    """
    values = np.ascontiguousarray(values)
    with replacing(path) as beside, beside.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(values.data)


def save_images(
    path: str | Path,
    images: Pixels,
    text: dict[str, Any] | None = None,
    names: Sequence[str] = (),
    columns: int | None = None,
) -> None:
    """Write images (N, H, W, C), C 1 or 3, as one PNG: their `grid`, with `text` as JSON in its `ddpm_export` chunk."""
    _write(path, png_bytes(grid(images, names, columns), text))


def _write(path: str | Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(content)


def png_bytes(pixels: Pixels, text: dict[str, Any] | None = None) -> bytes:
    """Return one image (H, W, C), C 1 or 3, as the bytes of a PNG, with `text` as `save_images` has it."""
    from PIL.PngImagePlugin import PngInfo

    encoded, info = io.BytesIO(), PngInfo()
    if text:
        info.add_text(TEXT_KEY, json.dumps(text, sort_keys=True))
    _image(pixels).save(encoded, format="PNG", pnginfo=info)
    return encoded.getvalue()


def _image(pixels: Pixels) -> "Image":
    from PIL import Image

    channels = pixels.shape[2]
    if channels not in (1, 3):
        raise UsageError(f"Images must have 1 or 3 channels to be shown, got {channels}. Write .npy instead.")
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


class Output:
    """A destination for pictures while they are made: `add` takes those after the steps that it `wants`."""

    def __init__(self, wanted: set[int], add: Callable[[range, int, Pixels], None]) -> None:
        self.wanted = wanted
        self.add = add

    def wants(self, step: int) -> bool:
        """Return whether to add the pictures after this step (1 to num_steps)."""
        return step in self.wanted


@contextmanager
def open_output(
    path: str | Path,
    numbers: range,
    image_shape: tuple[int, ...],
    num_steps: int,
    text: dict[str, Any],
    labels: Sequence[str] = (),
    *,
    is_picture: bool = True,
    in_rows: bool = False,
    in_line: bool = False,
) -> Iterator[Output]:
    """Yield the output for a path: .png (grid), .gif or .webp (the denoising), .npy, or a folder (no ending).

    Numbers that are no pictures, float32 (B, *image_shape), are written as they are to .npy and to a folder's .npy, and
    drawn elsewhere.

    labels: image k has the (k mod K)-th; each picture of a folder records its own. in_rows: a grid has a row for each
    label. in_line: the images lead from one to another: a grid is one row, an animation goes along it and back.

    A folder and .npy are written batch by batch, the others at the end. A file, or each picture of a folder, gets its
    name once it is whole. Raises UsageError for another ending, EnvironmentProblem where nothing can be written.
    """
    path = Path(path)
    makers = {".png": _grid_output, ".npy": _npy_output, "": _folder_output}
    makers |= dict.fromkeys(ANIMATIONS, _animation_output)
    suffix = "" if os.path.isdir(path) else path.suffix.lower()
    if suffix not in makers:
        raise UsageError(f"`out` must end in .png, .gif, .webp or .npy, or name a folder, got {path.name!r}.")
    if is_picture and suffix != ".npy" and image_shape[0] not in (1, 3):
        raise UsageError(f"`out` must end in .npy for images of {image_shape[0]} channels, got {path.name!r}.")
    _check_writable(path if suffix == "" else path.parent)
    with makers[suffix](
        path, _Content(numbers, image_shape, num_steps, text, labels, is_picture, in_rows, in_line)
    ) as output:
        yield output


class _Content(NamedTuple):
    """The arguments of `open_output`."""

    numbers: range
    image_shape: tuple[int, ...]
    num_steps: int
    text: dict[str, Any]
    labels: Sequence[str]
    is_picture: bool
    in_rows: bool
    in_line: bool

    def page(self, batches: Sequence[NDArray[Any]]) -> Pixels:
        """Return one picture of all: a grid, in the order of its rows' labels, or a drawing of numbers."""
        images = np.concatenate(batches)
        if not self.is_picture:
            return drawing(images)
        if not self.in_rows:
            return grid(images, (), len(images) if self.in_line else None)
        order = np.argsort([number % len(self.labels) for number in self.numbers], kind="stable")
        return grid(images[order], self.labels)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise EnvironmentProblem(f"{folder} cannot be written: {exc.strerror or exc}. Choose another `out`.") from exc


@contextmanager
def _grid_output(path: Path, content: _Content) -> Iterator[Output]:
    batches: list[Pixels] = []
    yield Output({content.num_steps}, lambda _numbers, _step, pixels: batches.append(pixels))
    text = {"first": content.numbers.start, "n": len(content.numbers), **content.text}
    _write(path, png_bytes(content.page(batches), text))


@contextmanager
def _folder_output(path: Path, content: _Content) -> Iterator[Output]:
    labels = content.labels

    def add(batch: range, _step: int, pixels: Pixels) -> None:
        for number, image in zip(batch, pixels, strict=True):
            if not content.is_picture:
                save_array(path / f"{number:06d}.npy", image)
                continue
            own = {"label": labels[number % len(labels)]} if labels else {}
            save_images(path / f"{number:06d}.png", image[None], {"image": number, **content.text, **own})

    yield Output({content.num_steps}, add)


@contextmanager
def _npy_output(path: Path, content: _Content) -> Iterator[Output]:
    shape, kind = (*content.image_shape[1:], content.image_shape[0]), "|u1"
    if not content.is_picture:
        shape, kind = content.image_shape, "<f4"
    with replacing(path) as beside, beside.open("wb") as file:
        header = {"descr": kind, "fortran_order": False, "shape": (len(content.numbers), *shape)}
        np.lib.format.write_array_header_1_0(file, header)

        def add(_numbers: range, _step: int, pixels: Pixels) -> None:
            file.write(np.ascontiguousarray(pixels).data)

        yield Output({content.num_steps}, add)


@contextmanager
def _animation_output(path: Path, content: _Content) -> Iterator[Output]:
    frames: dict[int, list[Pixels]] = {}
    shown = {round(1 + k * (content.num_steps - 1) / (MAX_FRAMES - 1)) for k in range(MAX_FRAMES)}
    if content.in_line:
        shown = {content.num_steps}
    yield Output(shown, lambda _numbers, step, pixels: frames.setdefault(step, []).append(pixels))
    if content.in_line and content.is_picture:
        line = [_image(image) for image in np.concatenate(frames[content.num_steps])]
        pages = line + line[-2:0:-1]
        durations = [LINE_MS] * len(pages)
    else:
        pages = [_image(content.page(frames[step])) for step in sorted(frames)]
        durations = [FRAME_MS] * (len(pages) - 1) + [LAST_FRAME_MS]
    with replacing(path) as beside:
        pages[0].save(beside, save_all=True, append_images=pages[1:], duration=durations, loop=0, lossless=True)
