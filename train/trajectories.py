"""A teacher's trajectories for a student: noise, the states where the student's steps end, and the picture."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.steps import plan
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.schedules import times_from_grid
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opening import open_model
from ddpm_export.system.files import replacing

Float16 = NDArray[np.float16]

CHUNK = 256  # trajectories in a file


@dataclass(frozen=True)
class Recipe:
    """Hold everything that trajectories and student follow from; a folder is resumed with the same one, or not at all.

    times: those of each plan of the student, longest plan first. model, checkpoint: SHA-256.
    """

    model: str
    checkpoint: str
    times: tuple[tuple[int, ...], ...]
    teacher_steps: int
    sampler: str
    grid: str
    seed: int
    batch: int

    @property
    def stops(self) -> tuple[int, ...]:
        """Return all times at which a state is stored, besides the noise and the picture, falling."""
        return tuple(sorted({t for times in self.times for t in times[1:]}, reverse=True))


def teacher_times(spec: ModelSpec, stops: Sequence[int], num_steps: int, grid: str) -> list[int]:
    """Return the teacher's times: a grid's, in which the nearest to each of the student's stops gives way to it."""
    times = [int(t) for t in times_from_grid(grid, np.array(spec.alphas_cumprod), num_steps)]
    for stop in stops:
        free = [i for i, t in enumerate(times) if i and t not in stops]
        if stop not in times and free:
            times[min(free, key=lambda i: abs(times[i] - stop))] = stop
    return sorted({*times, *stops}, reverse=True)


@dataclass(frozen=True)
class Trajectories:
    """Make and keep the teacher's trajectories in a folder, as files of CHUNK trajectories by number.

    Trajectory k follows from the seed and k alone: image k of the seed, of class k mod (K + 1), the last being "none".
    A file holds the noise, the state at each of the stops and the picture: (2 + stops, CHUNK, C, H, W) float16.
    """

    folder: Path
    recipe: Recipe

    def missing(self, count: int) -> list[int]:
        """Return the numbers of the files that `count` trajectories still need."""
        return [k for k in range(-(-count // CHUNK)) if not self._path(k).exists()]

    def make(self, path: Path, count: int, batch: int, report: Callable[[int, float], None]) -> None:
        """Make what is missing of `count` trajectories with one thread of ONNX Runtime; a killed run loses one file."""
        missing = self.missing(count)
        model, spec = open_model(path, threads=1) if missing else (None, None)
        for number in missing:
            assert model is not None
            assert spec is not None
            since = time.perf_counter()
            stops = self.recipe.stops
            times = teacher_times(spec, stops, self.recipe.teacher_steps, self.recipe.grid)
            rows = plan(spec, sampler=self.recipe.sampler, times=times)
            before = [times.index(t) - 1 for t in stops] + [len(times) - 1]  # the rows that end there
            parts = []
            for first in range(number * CHUNK, (number + 1) * CHUNK, batch):
                images = range(first, min(first + batch, (number + 1) * CHUNK))
                x = noise_stream(self.recipe.seed, images, spec.state_shape)(0)
                inputs = {} if spec.label is None else {spec.label.name: classes_of(images, spec)}
                states = [state.x for state in walk(denoiser(model, spec, **inputs), _no_noise, rows, x=x)]
                parts.append(np.stack([x, *(states[k] for k in before)]).astype(np.float16))
            with replacing(self._path(number)) as beside, beside.open("wb") as file:
                np.save(file, np.concatenate(parts, axis=1))
            report(number, CHUNK / (time.perf_counter() - since))

    def load(self, count: int) -> Float16:
        """Return `count` trajectories, (2 + stops, count, C, H, W). Raises BadFileError for files of another shape."""
        chunks = []
        for number in range(-(-count // CHUNK)):
            try:
                chunks.append(np.load(self._path(number), allow_pickle=False))
                if chunks[-1].shape != (len(self.recipe.stops) + 2, CHUNK, *chunks[0].shape[2:]):
                    raise ValueError(f"an array of {chunks[-1].shape}")
            except (OSError, ValueError, EOFError) as exc:
                raise BadFileError(f"{self._path(number)} does not hold trajectories: {exc}. Delete it.") from exc
        return np.concatenate(chunks, axis=1)[:, :count]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.npy"


def classes_of(images: Sequence[int] | NDArray[np.int64], spec: ModelSpec) -> NDArray[np.int64]:
    """Return the class of each trajectory (B,) int64: all in turn, and "none" where the network knows it."""
    assert spec.label is not None
    classes = [*range(len(spec.label.classes)), *(() if spec.label.none is None else (spec.label.none,))]
    return np.array(classes, dtype=np.int64)[np.asarray(images) % len(classes)]


def _no_noise(draw: int) -> Any:
    raise UsageError(f"The teacher's sampler must add no noise, but it asks for draw {draw}. Choose another --sampler.")
