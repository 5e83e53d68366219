"""tqch's ddpm-torch: recorded outputs of its own code (tests/oracles), nothing to install."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.importing import Array, Case, Original
from tests.oracles.weights import ORACLES, save

__all__ = ["cases"]

OPTIONS = {"tqch-c": {"image_size": 28}}  # recorded on digits as they are; the project itself scales them to 32


def cases() -> list[Case]:
    """Return the recorded cases.

    Of a mean only the evaluation: with random weights a difference of 1e-7 at the start of the recorded chain is one of
    4 at its end, and the project's DDIM takes the mean of one step for that of a longer one.
    """
    return [_case(folder) for folder in sorted(ORACLES.glob("tqch-*"))]


def _case(recorded: Path) -> Case:
    config = json.loads((recorded / "config.json").read_text(encoding="utf-8"))

    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        return save(recorded.name, folder / "model.pt"), {**config, **OPTIONS.get(recorded.name, {})}

    def original() -> Original:
        with np.load(recorded / "expected.npz") as values:
            x_t, t, out = values["x_t"], values["t"], values["out"]
            is_mean = config["diffusion"]["model_mean_type"] == "mean"
            if is_mean:
                out = _x_0_from_mean(out, x_t, t, values["betas"])
            return Original(
                x_t,
                t,
                out,
                values["ddpm_noise"],
                tuple(values["ddpm_timesteps"][::-1].tolist()),
                None if is_mean else values["ddpm_final"],
                tuple(values["ddim_timesteps"][::-1].tolist()),
                None if is_mean else values["ddim_final"],
            )

    return Case("ddpm-torch", recorded.name, write, original)


def _x_0_from_mean(mean: Array, x_t: Array, t: Array, betas: Array) -> Array:
    """Solve Ho et al. 2020, eq. 7, for x_0, in float64."""
    a = np.cumprod(1.0 - betas)[t]
    beta = betas[t]
    a_prev = np.where(t > 0, a / (1.0 - beta), 1.0)
    c_1, c_2 = np.sqrt(a_prev) * beta / (1.0 - a), np.sqrt(1.0 - beta) * (1.0 - a_prev) / (1.0 - a)
    c_1, c_2 = (c[:, None, None, None] for c in (c_1, c_2))
    return (mean - c_2 * x_t) / c_1
