"""Numbers that are no pictures, drawn for people: points, lines, and slices of volumes. Knows no model and no file."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ddpm_export.process.pixels import Pixels

SIZE, MARGIN = 240, 12  # of a panel, in pixels
ACROSS = 4  # panels, or volumes, in a row
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))


def drawing(values: NDArray[np.float32]) -> Pixels:
    """Return one page (H, W, 3) that shows all of n entries, (n, *shape).

    Pairs of numbers, (n, 2) or (n, length, 2), are points or paths in a plane, y upwards. Other vectors are one line
    each. A sequence, (n, a, b), has a panel for each number of its shorter axis, with a line for each entry. Each
    volume, (n, C, D, H, W), is a row of its first channel's middle slices, across each axis.
    """
    if values.ndim == 5:
        return _slices(values)
    if values.ndim == 2:
        values = values[:, None, :] if values.shape[1] == 2 else values[:, :, None]
    elif values.shape[1] < values.shape[2]:
        values = values.transpose(0, 2, 1)  # (n, length, numbers)
    if values.shape[2] == 2:
        return _page([_panel(values)])
    places = np.broadcast_to(np.arange(values.shape[1]), values.shape[:2])
    return _page([_panel(np.stack([places, values[:, :, k]], axis=-1)) for k in range(values.shape[2])])


def _panel(lines: NDArray[np.floating]) -> Pixels:
    """Return one panel of lines (n, length, 2), scaled to fill it, with the ends of both axes written at its edge."""
    from PIL import Image, ImageDraw

    low, high = lines.min(axis=(0, 1)), lines.max(axis=(0, 1))
    span = np.where(high > low, high - low, 1.0)
    places = MARGIN + (lines - low) / span * (SIZE - 2 * MARGIN)
    places[:, :, 1] = SIZE - places[:, :, 1]  # y upwards
    image = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, SIZE - 1, SIZE - 1), outline=(200, 200, 200))
    for k, line in enumerate(places.tolist()):
        colour = COLOURS[k % len(COLOURS)]
        for begin, end in pairwise(line):
            draw.line((*begin, *end), fill=colour)
        if len(line) == 1:
            x, y = line[0]
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    draw.text((MARGIN, SIZE - 11), f"{low[0]:.3g} to {high[0]:.3g}", fill=(90, 90, 90))
    draw.text((MARGIN, 1), f"{low[1]:.3g} to {high[1]:.3g}", fill=(90, 90, 90))
    return np.asarray(image)


def _slices(volumes: NDArray[np.float32]) -> Pixels:
    first = volumes[:, 0]  # (n, D, H, W)
    low, high = float(first.min()), float(first.max())
    grey = np.round((first - low) / ((high - low) or 1.0) * 255.0).astype(np.uint8)
    side = max(grey.shape[1:])
    scale = max(1, SIZE // 3 // side)
    rows = []
    for volume in grey:
        middle = [volume.take(size // 2, axis=axis) for axis, size in enumerate(volume.shape)]
        tiles = [np.pad(tile, [(0, side - size) for size in tile.shape]) for tile in middle]
        rows.append(np.concatenate(tiles, axis=1).repeat(scale, axis=0).repeat(scale, axis=1))
    return _page([np.repeat(row[..., None], 3, axis=2) for row in rows])


def _page(panels: list[Pixels]) -> Pixels:
    height, width, _ = panels[0].shape
    across = min(ACROSS, len(panels))
    page = np.full((-(-len(panels) // across) * height, across * width, 3), 255, np.uint8)
    for k, panel in enumerate(panels):
        row, column = divmod(k, across)
        page[row * height : (row + 1) * height, column * width : (column + 1) * width] = panel
    return page
