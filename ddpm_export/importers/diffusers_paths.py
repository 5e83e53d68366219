"""Which Gaussian path a scheduler of diffusers goes by, where it is not one of discrete betas."""

from collections.abc import Callable, Mapping
from typing import Any

from ddpm_export.importers.paths import Path

# how many steps the pipelines of such networks take by default
USUAL_STEPS = {"CMStochasticIterativeScheduler": 1, "LCMScheduler": 4, "TCDScheduler": 4}
NOT_ROWS = {
    "ScoreSdeVeScheduler": "its corrector depends on the norms of states; use EDMEulerScheduler or a ddim on a grid",
    "KarrasVeScheduler": "diffusers has deprecated it; EDMEulerScheduler with s_churn takes the same steps",
    "CosineDPMSolverMultistepScheduler": "its noise comes from a Brownian tree; use EDMDPMSolverMultistepScheduler",
    "SCMScheduler": "it is for Sana's transformer; adopt another network by preconditioner=trigflow",
    "FlowMatchLCMScheduler": "it resizes states; use FlowMatchEulerDiscreteScheduler with stochastic_sampling",
}


def _flow(values: Mapping[str, Any]) -> Path:
    return Path("flow", time_scale=float(values["num_train_timesteps"]))


def _edm(values: Mapping[str, Any]) -> Path:
    return Path("edm", **_sigmas(values), reverse=values["prediction_type"] == "v_prediction")


def _sigmas(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float(values[key]) for key in ("sigma_data", "sigma_min", "sigma_max", "rho")}


PATHS: dict[str, Callable[[Mapping[str, Any]], Path]] = {
    "FlowMatchEulerDiscreteScheduler": _flow,
    "FlowMatchHeunDiscreteScheduler": _flow,
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
    "CMStochasticIterativeScheduler": lambda values: Path("consistency", **_sigmas(values), time_scale=1000.0),
}


def path_of(name: str, values: Mapping[str, Any]) -> Path | None:
    """Return the path of a scheduler's class with the values of its parameters; None for one of discrete betas."""
    return PATHS[name](values) if name in PATHS else None
