"""Noto's emoji from the colour font, a drawing each, with Unicode's groups as classes. Knows no network."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError
from ddpm_export.images.glyphs import glyphs_of, resized
from ddpm_export.scoring.datasets.dataset import Dataset, Pixels

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # Debian's fonts-noto-color-emoji
LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")  # Debian's unicode-data
CLASSES = {
    "Smileys & Emotion": "faces",
    "People & Body": "people",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
    "Flags": "flags",
}
SKIN_TONES = {f"{code:X}" for code in range(0x1F3FB, 0x1F400)}
BITMAP_SIZE, SIDE = 109, 136  # the size that selects the font's bitmaps, and their longer side in pixels
THUMBNAIL, ALIKE = 16, 6.0  # drawings whose thumbnails differ by fewer levels, on average, are kept on one side
HELD_OUT = 10  # one drawing in so many is for testing


def noto_font(place: str | Path | None, image_shape: tuple[int, int, int], *, train: bool = True) -> Dataset:
    """Read the emoji of Noto's colour font without skin tones, one of each drawing, over white, as (N, H, W, 3) uint8.

    place: the folder of NotoColorEmoji.ttf and emoji-test.txt; without one, where Debian's packages put them. A tenth
    of the drawings is held out for train=False; drawings that look alike are on the same side. Raises BadFileError
    where a file is missing or holds something else, EnvironmentProblem where Pillow cannot shape the sequences.
    """
    font_path, list_path = (FONT, LIST) if place is None else (Path(place) / FONT.name, Path(place) / LIST.name)
    try:
        drawn = glyphs_of(font_path, BITMAP_SIZE, SIDE)
        entries = list(_entries(list_path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise BadFileError(
            f"{font_path.name} and {list_path.name} must be in {font_path.parent} and {list_path.parent}: {exc}. "
            "Install fonts-noto-color-emoji and unicode-data, or name their folder."
        ) from exc
    names = tuple(CLASSES.values())
    drawings = [drawn(text) for text, _ in entries]
    labels = np.array([names.index(CLASSES[group]) for _, group in entries], dtype=np.int64)
    thumbnails = [resized(drawing, THUMBNAIL, THUMBNAIL, smooth=False) for drawing in drawings]
    kept = (_sides(thumbnails) > 0) == train
    chosen = np.flatnonzero(kept)
    pixels: Pixels = np.stack([resized(drawings[k], *image_shape[1:]) for k in chosen])
    return Dataset("noto-font", pixels, labels[chosen], "OFL-1.1", classes=names)


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the characters and the group of each fully qualified emoji without a skin tone."""
    group = ""
    for line in text.splitlines():
        if found := re.match(r"# group: (.+)", line):
            group = found[1]
        elif found := re.match(r"([0-9A-F ]+?) +; fully-qualified", line):
            codes = found[1].split()
            if group in CLASSES and not SKIN_TONES.intersection(codes):
                yield "".join(chr(int(code, 16)) for code in codes), group


def _sides(thumbnails: list[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Return each drawing's number in its part of HELD_OUT, 0 being held out; drawings that look alike have one number.

    The parts are those that chains of alike drawings connect, numbered in the order of their first drawing.
    """
    flat = np.stack(thumbnails).reshape(len(thumbnails), -1).astype(np.float32)
    part = np.arange(len(flat))
    for k in range(1, len(flat)):
        alike = np.flatnonzero(np.abs(flat[:k] - flat[k]).mean(axis=1) < ALIKE)
        for other in alike:
            part[part == part[other]] = part[k]
    _, first, inverse = np.unique(part, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return np.asarray(order[inverse] % HELD_OUT, dtype=np.int64)
