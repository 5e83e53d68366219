"""OpenAI's guided- and improved-diffusion: recorded outputs of their own code (tests/oracles), nothing to install."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.importing import Case, Original
from tests.oracles.weights import ORACLES, save

__all__ = ["cases"]


def cases() -> list[Case]:
    """Return the recorded cases of both projects."""
    folders = sorted([*ORACLES.glob("guided-*"), *ORACLES.glob("improved-*")])
    return [_case(folder) for folder in folders]


def _case(recorded: Path) -> Case:
    project = recorded.name.split("-")[0] + "-diffusion"
    flags = json.loads((recorded / "config.json").read_text())
    # the evaluation was recorded of the network alone, behind the sampler's rescaling: its t counts to 1000
    factor = flags["diffusion_steps"] // 1000 if flags["rescale_timesteps"] else 1

    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        return save(recorded.name, folder / "model.pt"), flags

    def original() -> Original:
        with np.load(recorded / "expected.npz") as values:
            return Original(
                values["x_t"],
                values["t"] * factor,
                values["out"],
                values["ddpm_noise"],
                tuple(values["ddpm_timesteps"][::-1].tolist()),
                values["ddpm_final"],
                tuple(values["ddim_timesteps"][::-1].tolist()),
                values["ddim_final"],
                _told(values, 4),
                _told(values, 2),
            )

    return Case(project, recorded.name, write, original)


def _told(values: Any, batch: int) -> dict[str, Any]:
    """Return what a network was told in a batch of that size, by the names of its inputs."""
    return {name: values[f"{name}_{batch}"] for name in ("y", "low_res") if f"{name}_{batch}" in values}
