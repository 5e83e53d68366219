"""A network of another Gaussian path as one of this file's form: scales and time in the graph, by one closed form."""

from dataclasses import asdict, replace
from functools import cache
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.paths import ANGLES, Path
from ddpm_export.model.spec import FRACTIONAL_T, ModelSpec


class PathNetwork(nn.Module):
    """Call a network at the level that t means on its path; what it says becomes the path's prediction.

    names: those of the network's inputs other than x_t and t.
    """

    def __init__(self, network: nn.Module, path: Path, T: int, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.network, self.path, self.T = network, path, T
        if names:
            self.__class__ = _taking(names)

    def forward(self, x_t: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        """Predict: x_t (B, *shape) float32, t (B,) float32, any number from 0 to T - 1 -> the shape of x_t."""
        # in float32 a time of 0 to 999 is 1e-4 off, by one runtime's power and logarithm and another's
        number = self.path.number_at(t.to(torch.float32 if self.path.name in ANGLES else torch.float64), self.T)
        alpha, sigma, _ = self.path.level_of(number, torch)
        told, scale, skip, out = (each.to(torch.float32) for each in self.path.numbers(alpha, sigma, torch))
        one_each = (-1, *(1,) * (x_t.dim() - 1))
        said: Tensor = self.network(x_t * scale.reshape(one_each), told, **inputs)
        predicted: Tensor = skip.reshape(one_each) * x_t + out.reshape(one_each) * said
        return predicted


@cache
def _taking(names: tuple[str, ...]) -> type[PathNetwork]:
    """Return a PathNetwork whose signature names these inputs: torch.export does not trace **inputs."""

    def forward(self: PathNetwork, x_t: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        return PathNetwork.forward(self, x_t, t, **inputs)

    places = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", "x_t", "t")]
    named = [Parameter(name, Parameter.KEYWORD_ONLY) for name in names]
    forward.__signature__ = Signature([*places, *named])  # type: ignore[attr-defined]
    return type("PathNetwork", (PathNetwork,), {"forward": forward})


def wrapped(network: nn.Module, spec: ModelSpec, path: Path | None) -> tuple[nn.Module, ModelSpec]:
    """Return a network of a path, and its spec, in this file's form: t may be any number. Both as they are for None."""
    if path is None:
        return network, spec
    names = tuple(entry.name for entry in spec.inputs)
    requires = tuple(dict.fromkeys((*spec.requires, FRACTIONAL_T)))
    return PathNetwork(network, path, spec.num_train_timesteps, names).eval(), replace(spec, requires=requires)


def on_path(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Return a checkpoint whose network is one of a path, with the prediction and the levels that the path decides."""
    spec = replace(
        checkpoint.spec,
        prediction=path.form.prediction,
        alphas_cumprod=path.alphas_cumprod(checkpoint.spec.num_train_timesteps),
        source={**checkpoint.spec.source, "path": asdict(path)},
    )
    network, spec = wrapped(checkpoint.network, spec, path)
    return replace(checkpoint, network=network, spec=spec)
