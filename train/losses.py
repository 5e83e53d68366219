"""The training objective: at which times the network is asked, what it is to predict, and how far off it was."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}  # smooth_l1's beta is 1: huber with delta 1

TIMES = {"uniform": {}, "log_normal": {"mean": -1.2, "std": 1.2}}  # distributions of t, and their parameters' defaults


def shares_of_times(name: str, parameters: Mapping[str, float], alphas_cumprod: Tensor) -> Tensor | None:
    """Return how often each of T times is to be drawn (T,) float64, or None where all are drawn alike.

    log_normal: the logarithm of sigma = sqrt((1 - a) / a) is normal with this mean and std (Karras et al. 2022, section
    5, whose P_mean is -1.2 and P_std 1.2). A time stands for the sigmas that are nearest to its own.
    """
    if name == "uniform":
        return None
    options = {**TIMES[name], **parameters}
    a = alphas_cumprod.double()
    log_sigma = 0.5 * (torch.log1p(-a) - torch.log(a))
    width = torch.gradient(log_sigma)[0]
    return torch.exp(-0.5 * ((log_sigma - options["mean"]) / options["std"]) ** 2) * width


def noised(x_0: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al. 2020, eq. 4); a is (B, 1, 1, 1)."""
    return torch.sqrt(a) * x_0 + torch.sqrt(1 - a) * eps


def target(prediction: str, x_0: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """Return what the network should say: eps, x_0, or v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and Ho 2022)."""
    if prediction == "eps":
        return eps
    if prediction == "x_0":
        return x_0
    return torch.sqrt(a) * eps - torch.sqrt(1 - a) * x_0
