"""A network of another Gaussian path as one of this file's form: scales and time in the graph, by one closed form."""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.paths import Path
from ddpm_export.model.spec import FRACTIONAL_T


class PathNetwork(nn.Module):
    """Call a network at the level that t means on its path; what it says becomes the path's prediction."""

    def __init__(self, network: nn.Module, path: Path, T: int) -> None:
        super().__init__()
        self.network, self.path, self.T = network, path, T

    def forward(self, x_t: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        """Predict: x_t (B, *shape) float32, t (B,) float32, any number from 0 to T - 1 -> the shape of x_t."""
        alpha, sigma, _ = self.path.level_of(self.path.number_at(t.to(torch.float32), self.T), torch)
        told, scale, skip, out = self.path.numbers(alpha, sigma, torch)
        one_each = (-1, *(1,) * (x_t.dim() - 1))
        said: Tensor = self.network(x_t * scale.reshape(one_each), told, **inputs)
        predicted: Tensor = skip.reshape(one_each) * x_t + out.reshape(one_each) * said
        return predicted


def on_path(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Return a checkpoint whose network is one of a path, with the prediction and the levels that the path decides."""
    T = checkpoint.spec.num_train_timesteps
    spec = replace(
        checkpoint.spec,
        prediction=path.form.prediction,
        alphas_cumprod=path.alphas_cumprod(T),
        requires=tuple(dict.fromkeys((*checkpoint.spec.requires, FRACTIONAL_T))),
        source={**checkpoint.spec.source, "path": asdict(path)},
    )
    return replace(checkpoint, network=PathNetwork(checkpoint.network, path, T).eval(), spec=spec)
