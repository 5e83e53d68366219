"""The training objective: what the network is asked to predict, and how far off it was."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LOSSES", "noised", "target"]

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}  # smooth_l1's beta is 1: huber with delta 1


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
