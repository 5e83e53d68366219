"""Golden vectors of a one-call file: pixels that it promises, and their replay. NumPy alone; knows no runtime.

docs/format.md section 5 is the contract. golden.py has those of a denoiser, whose outputs can be seen.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_export.diffusion import Array, OneCall
from ddpm_export.golden import MAX_CASES, checked_positions, unusable
from ddpm_export.spec import ModelSpec

__all__ = ["Draw", "PictureResult", "golden_from_pictures", "replay_golden_pictures"]

LEVELS = 1.0  # promised of a pixel: other kernels sum in another order, and a level may round to its neighbour
# promised of the mean over all pixels, of which a few per mille may be off by one: a wrong weight that happens to leave
# the chosen pixels as they are moves it
MEAN_LEVELS = 0.1
NUM_POSITIONS = 64
MAX_IMAGES, MAX_EVALUATIONS = 64, 4096  # a file must not keep its reader busy for hours


@dataclass(frozen=True)
class Draw:
    """Name pictures: images first to first + n - 1 of a seed, by num_steps steps of ddim with eta."""

    seed: int
    first: int
    n: int
    num_steps: int
    eta: float

    @property
    def numbers(self) -> range:
        """Return the numbers of the images."""
        return range(self.first, self.first + self.n)

    def __str__(self) -> str:
        return f"seed {self.seed}, images {self.first} to {self.numbers[-1]}, {self.num_steps} steps, eta {self.eta:g}"


CASES = (Draw(0, 0, 1, 1, 0.0), Draw(0, 0, 2, 10, 0.0), Draw(1, 5, 1, 7, 1.0))  # cut to T steps where T is less


@dataclass(frozen=True)
class PictureResult:
    """Tell how one case came out: error is the largest difference in levels, or ten times that of the means."""

    draw: Draw
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Return whether the error keeps the promise; no number never does."""
        return self.error <= self.tolerance

    @property
    def place(self) -> str:
        """Return which case it was."""
        return str(self.draw)


def golden_from_pictures(pictures: Callable[[Draw], Array], spec: ModelSpec) -> dict[str, Any]:
    """Return golden vectors as JSON values, to be put into `spec.golden` of a one-call file.

    pictures: what the file shall reproduce, uint8 (n, H, W, C) of a draw. Three cases: one step, ten, and seven with
    noise; 64 pixels of each, evenly spread, and the mean of all. Costs 28 evaluations of one image.
    """
    cases = []
    for case in CASES:
        draw = Draw(case.seed, case.first, case.n, min(case.num_steps, spec.num_train_timesteps), case.eta)
        levels = pictures(draw).reshape(-1)
        positions = np.unique(np.linspace(0, levels.size - 1, min(levels.size, NUM_POSITIONS)).round().astype(np.int64))
        values = {"positions": positions.tolist(), "levels": levels[positions].tolist(), "mean": float(levels.mean())}
        cases.append({**vars(draw), **values})
    return {"cases": cases, "tolerance": {"levels": LEVELS}}


def replay_golden_pictures(one_call: OneCall, spec: ModelSpec) -> list[PictureResult]:
    """Return one result for each golden case of the spec, in the file's order; none where the file carries none.

    Raises BadFileError for golden vectors that cannot be meant, and what the one-call file raises.
    """
    if spec.golden is None:
        return []
    tolerance = _tolerance(spec.golden)
    results = []
    for draw, case in _checked_cases(spec):
        _, _, images = deque(one_call(draw.seed, draw.numbers, draw.num_steps, draw.eta), maxlen=1).pop()
        levels = images.reshape(-1).astype(np.float64)
        off = float(np.abs(levels[case["positions"]] - np.array(case["levels"])).max())
        off_mean = abs(float(levels.mean()) - case["mean"])
        results.append(PictureResult(draw, max(off, off_mean * LEVELS / MEAN_LEVELS), tolerance))
    return results


def _tolerance(golden: dict[str, Any]) -> float:
    promised = golden.get("tolerance")
    value: Any = promised.get("levels") if isinstance(promised, dict) else None
    # a file may promise more than this version does, never less: or a broken file could vouch for itself
    if not _is_number(value) or not 0 <= value <= LEVELS:
        raise unusable("tolerance.levels", value, f"a number from 0 to {LEVELS:g}")
    return float(value)


def _checked_cases(spec: ModelSpec) -> list[tuple[Draw, dict[str, Any]]]:
    """Return the cases once nothing in them can surprise: they come from a file."""
    cases = (spec.golden or {}).get("cases")
    if not isinstance(cases, list) or not 1 <= len(cases) <= MAX_CASES:
        raise unusable("cases", cases, f"a list of 1 to {MAX_CASES} objects")
    checked = []
    for case in cases:
        if not isinstance(case, dict):
            raise unusable("cases", case, "objects")
        T = spec.num_train_timesteps
        limits = {"seed": (0, 2**63 - 1), "first": (0, 2**32 - MAX_IMAGES), "n": (1, MAX_IMAGES), "num_steps": (1, T)}
        for name, (low, high) in limits.items():
            if type(case.get(name)) is not int or not low <= case[name] <= high:
                raise unusable(name, case.get(name), f"an integer from {low} to {high}")
        if not _is_number(case.get("eta")) or not 0 <= case["eta"] <= 1:
            raise unusable("eta", case.get("eta"), "a number from 0 to 1")
        if case["n"] * case["num_steps"] > MAX_EVALUATIONS:
            raise unusable("n and num_steps", (case["n"], case["num_steps"]), f"a product of at most {MAX_EVALUATIONS}")
        size = case["n"] * math.prod(spec.image_shape)
        positions, levels = checked_positions(case, size), case.get("levels")
        if not isinstance(levels, list) or len(levels) != len(positions) or not all(map(_is_level, levels)):
            raise unusable("levels", levels, f"{len(positions)} integers from 0 to 255, one a position")
        if not _is_number(case.get("mean")) or not 0 <= case["mean"] <= 255:
            raise unusable("mean", case.get("mean"), "a number from 0 to 255")
        checked.append((Draw(*(case[name] for name in ("seed", "first", "n", "num_steps", "eta"))), case))
    return checked


def _is_level(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
