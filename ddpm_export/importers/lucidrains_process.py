"""The diffusion around the network in denoising-diffusion-pytorch: schedules, their buffers, objectives."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_export.importers import choices
from ddpm_export.importers.layout import misfit
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name

Float64 = NDArray[np.float64]

OBJECTIVES = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}
SCHEDULES: dict[str, dict[str, choices.Option]] = {  # name -> the package's parameters
    "linear": {},
    "cosine": {"s": choices.like(0.008)},
    # clamp_min has no effect in the package either
    "sigmoid": {
        name: choices.like(value) for name, value in {"start": -3.0, "end": 3.0, "tau": 1.0, "clamp_min": 1e-5}.items()
    },
}
OPTIONS = {
    "image_size": choices.like(None, 64),
    "objective": choices.one_of(OBJECTIVES, "pred_v"),
    "beta_schedule": choices.one_of(SCHEDULES, "sigmoid"),
    "timesteps": choices.within(1, choices.MAX_TIMESTEPS, example=1000),
    "schedule_fn_kwargs": choices.Option("an object, such as {}", lambda value: isinstance(value, Mapping)),
    "sampling_timesteps": choices.within(1, choices.MAX_TIMESTEPS),
    # only of training; min_snr_gamma helps to find the objective
    "min_snr_loss_weight": choices.like(False),
    "min_snr_gamma": choices.like(5.0),
    "offset_noise_strength": choices.like(0.0),
}


class Process(NamedTuple):
    """Hold what the diffusion's buffers say: alphas_cumprod (T,) and the weight of each t in the loss (T,)."""

    alphas_cumprod: Float64
    loss_weight: Float64


def process_from_buffers(buffers: Mapping[str, Any], where: str) -> Process:
    """Return the numbers that a diffusion's buffers were rounded from, as nearly as float32 allows.

    Raises BadFileError for buffers that are missing, left over, or do not follow from the same betas.
    """
    known = {*_buffers_from_alphas_cumprod(np.array([0.5])), "loss_weight"}
    wrong = sorted(known ^ set(buffers))
    if wrong:
        got = "a buffer of that name" if wrong[0] in buffers else "nothing"
        raise misfit(f"{where}.{wrong[0]}", got, f"exactly {', '.join(sorted(known))}")
    T = len(buffers["betas"]) if isinstance(buffers["betas"], Tensor) and buffers["betas"].dim() == 1 else 0
    values: dict[str, Float64] = {}
    for name, value in buffers.items():
        if not isinstance(value, Tensor) or value.shape != (T,) or not 1 <= T <= choices.MAX_TIMESTEPS:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise misfit(f"{where}.{name}", shape, f"one number for each of 1 to {choices.MAX_TIMESTEPS} times")
        if value.dtype not in (torch.float32, torch.float64):
            raise misfit(f"{where}.{name}", str(value.dtype), "float32, in which the package keeps it")
        values[name] = value.double().numpy()
    a, betas = values["alphas_cumprod"], values["betas"]
    with np.errstate(all="ignore"):  # whatever else these numbers are, they do not fit, below
        # 1 - beta keeps the digits of a small beta; at a large one alphas_cumprod has more of them
        alphas = np.where(betas < 0.5, 1.0 - betas, a / np.append(1.0, a[:-1]))
        alphas_cumprod = np.cumprod(alphas, dtype=np.float64)
        for name, expected in _buffers_from_alphas_cumprod(alphas_cumprod).items():
            if not np.allclose(values[name], expected, rtol=1e-4, atol=1e-8):
                raise misfit(f"{where}.{name}", f"{values[name][:3].tolist()}...", "what follows from betas")
    return Process(alphas_cumprod, values["loss_weight"])


def _buffers_from_alphas_cumprod(a: Float64) -> dict[str, Float64]:
    """Return the package's buffers by name (Ho et al. 2020, eq. 4 and 7), each (T,)."""
    a_prev = np.append(1.0, a[:-1])
    betas = 1.0 - a / a_prev
    variance = betas * (1.0 - a_prev) / (1.0 - a)
    return {
        "betas": betas,
        "alphas_cumprod": a,
        "alphas_cumprod_prev": a_prev,
        "sqrt_alphas_cumprod": np.sqrt(a),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - a),
        "log_one_minus_alphas_cumprod": np.log(1.0 - a),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / a),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / a - 1.0),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(a_prev) / (1.0 - a),
        "posterior_mean_coef2": (1.0 - a_prev) * np.sqrt(a / a_prev) / (1.0 - a),
    }


def objective_from_process(process: Process | None, chosen: Mapping[str, Any]) -> str | None:
    """Return what the network was trained to predict, by the loss's weights or the option; None if unknown.

    Raises UsageError where the two contradict each other.
    """
    stated: str | None = chosen["objective"]
    if process is None:
        return stated
    snr = process.alphas_cumprod / (1.0 - process.alphas_cumprod)
    fitting = set()
    for weight in (snr, np.minimum(snr, chosen["min_snr_gamma"])):  # the latter: Hang et al. 2023, min-SNR
        by_objective = {"pred_noise": weight / snr, "pred_x0": weight, "pred_v": weight / (snr + 1.0)}
        fitting |= {n for n, w in by_objective.items() if np.allclose(process.loss_weight, w, rtol=1e-5, atol=0.0)}
    if len(fitting) != 1:
        return stated
    (derived,) = fitting
    choices.check_agrees(chosen, {"objective": derived})
    return derived


def alphas_cumprod_from_options(process: Process | None, chosen: Mapping[str, Any]) -> Float64:
    """Return alphas_cumprod, (T,): those of the file, which options may repeat, or those of the options.

    Raises UsageError where they contradict the file or make no schedule.
    """
    name, T, kwargs = chosen["beta_schedule"], chosen["timesteps"], chosen["schedule_fn_kwargs"]
    if process is not None:
        T = len(process.alphas_cumprod)
        choices.check_agrees(chosen, {"timesteps": T})
    if name is None:
        if kwargs is not None:
            raise choices.ask_for({"beta_schedule": OPTIONS["beta_schedule"].example})
        assert process is not None  # without one the schedule was asked for
        return process.alphas_cumprod
    parameters = choices.read_options(kwargs or {}, SCHEDULES[name], f"beta_schedule {name}")
    stated = alphas_cumprod_from_betas(_betas(name, T, parameters))
    if process is None:
        return stated
    if not np.allclose(stated, process.alphas_cumprod, rtol=1e-4, atol=1e-8):
        raise choices.contradiction("beta_schedule", "the one of its betas", name)
    return process.alphas_cumprod


def _betas(name: str, T: Any, parameters: Mapping[str, float]) -> Float64:
    """Return a schedule's betas as the package means them, (T,); raises UsageError where one leaves (0, 1)."""
    if name == "linear":  # Ho et al. 2020, stretched to T
        return betas_from_name("linear", T, beta_start=0.1 / T, beta_end=20.0 / T)
    if name == "cosine":
        return betas_from_name("cosine", T, offset=parameters["s"])
    start, end, tau = (parameters[k] for k in ("start", "end", "tau"))
    with np.errstate(all="ignore"):  # what goes wrong shows in the betas
        # Chen 2023, alphas_cumprod along a falling logistic curve; the package has its two ends in float32
        first, last = torch.sigmoid(torch.tensor([start, end], dtype=torch.float64).div(tau).float()).double().numpy()
        logits = (start + (end - start) * np.arange(T + 1) / T) / np.float64(tau)
        a = (last - 1.0 / (1.0 + np.exp(-logits))) / (last - first)
        betas: Float64 = np.clip(1.0 - a[1:] / a[:-1], 0.0, 0.999)
    if not ((betas > 0.0) & (betas < 1.0)).all():
        raise choices.misused("schedule_fn_kwargs", "numbers by which each beta is within (0, 1)", dict(parameters))
    return betas
