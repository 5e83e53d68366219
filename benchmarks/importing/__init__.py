"""Foreign checkpoints beside their own projects: one evaluation, an ancestral and a DDIM chain on the same noise."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.exporting.export import eager_model, export
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.steps import plan
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.rows import Plan
from ddpm_export.process.walk import State, walk
from ddpm_export.runtimes.opening import open_model

__all__ = ["Case", "Original", "Row", "compare"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Original:
    """Hold what a project's own code gave.

    x_t (B, C, H, W), t (B,) and out: one evaluation; out has 2C channels where the variance is learned, raw as the
    project's network gives it. noise (steps + 1, B, C, H, W): item 0 is where both trajectories start, item i is what
    ancestral step i drew. Times fall; a final is x after the last step, None where the project has no such sampler.
    told, told_on_the_way: what the network was told by the names of its inputs, in the evaluation, and in both
    trajectories. keeps_noise: whether its DDIM goes on with the noise from before x_0 was clipped.
    """

    x_t: Array
    t: Array
    out: Array
    noise: Array
    ddpm_times: tuple[int, ...]
    ddpm_final: Array | None
    ddim_times: tuple[int, ...]
    ddim_final: Array | None
    inputs: Mapping[str, Array] = field(default_factory=dict)
    told_on_the_way: Mapping[str, Array] = field(default_factory=dict)
    keeps_noise: bool = False


@dataclass(frozen=True)
class Case:
    """One configuration of a project: how its checkpoint is written, and what its own code gives.

    write: folder -> (path for load_checkpoint, options for it). original: what is to be reproduced.
    """

    project: str
    name: str
    write: Callable[[Path], tuple[Path, dict[str, Any]]]
    original: Callable[[], Original]


@dataclass(frozen=True)
class Row:
    """Tell how well a case is reproduced: relative error of one evaluation; share of equal pixels, largest difference.

    The trajectories' figures are None where the project has no such sampler.
    """

    project: str
    name: str
    error: float
    ddpm_equal: float | None
    ddpm_levels: int | None
    ddim_equal: float | None
    ddim_levels: int | None


def compare(case: Case, folder: Path, *, exported: bool = True) -> Row:
    """Import a case, export it (or take the network in eager torch) and compare it with the original."""
    path, options = case.write(folder)
    # both samplers at the original's times: its own steps are compared by benchmarks.importing.stepping
    checkpoint, original = load_checkpoint(path, options=options, steps=()), case.original()
    if exported:
        model, spec = open_model(export(checkpoint, folder / "unet.onnx").path)
    else:
        model, spec = eager_model(checkpoint), checkpoint.spec
    outputs = model(original.x_t, original.t, **original.inputs)
    channels = spec.state_shape[0]
    expected = dict(zip(spec.outputs, (original.out[:, :channels], (original.out[:, channels:] + 1.0) / 2.0)))  # noqa: B905
    error = max(float(np.abs(outputs[name] - b).max() / np.abs(b).max()) for name, b in expected.items())
    denoise = denoiser(model, spec, **original.told_on_the_way)

    def noise(draw: int) -> Array:
        return original.noise[draw]

    ddpm_states = walk(denoise, noise, plan(spec, sampler="ddpm", times=original.ddpm_times))
    ddim = plan(spec, sampler="ddim", times=original.ddim_times, eta=0.0).rows
    rows = tuple(row._replace(raw_eps=original.keeps_noise) for row in ddim)
    ddim_states = walk(denoise, noise, Plan(rows))
    return Row(
        case.project,
        case.name,
        error,
        *_pixels(ddpm_states, original.ddpm_final),
        *_pixels(ddim_states, original.ddim_final),
    )


def _pixels(states: Iterable[State], final: Array | None) -> tuple[float | None, int | None]:
    if final is None:
        return None, None
    x = deque(states, maxlen=1).pop().x
    difference = np.abs(to_uint8(x).astype(np.int64) - to_uint8(final).astype(np.int64))
    return float((difference == 0).mean()), int(difference.max())
