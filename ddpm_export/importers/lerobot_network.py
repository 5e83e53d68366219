"""The network of lerobot's diffusion policies, and what is before and after it, under the names of its state dict.

The network is a UNet over time whose features observations and t scale and shift (Chi et al. 2023; FiLM, Perez et al.
2018); cameras become points that a ResNet looks at (spatial softmax, Levine et al. 2016).
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.errors import not_installed


class Scaling(NamedTuple):
    """Say how numbers are normalised: (x - low) / width + base; back with a width of its own, each (*shape) float32."""

    low: Tensor
    width: Tensor
    base: float
    width_back: Tensor


class Convolved(nn.Module):
    """Convolve over time, normalise in groups, Mish."""

    def __init__(self, ins: int, outs: int, kernel: int, groups: int) -> None:
        super().__init__()
        convolution = nn.Conv1d(ins, outs, kernel, padding=kernel // 2)
        self.block = nn.Sequential(convolution, nn.GroupNorm(groups, outs), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ins, L) to (B, outs, L)."""
        out: Tensor = self.block(x)
        return out


class Residual(nn.Module):
    """Two convolutions, between which the condition shifts each channel, and scales it where `scales`."""

    def __init__(self, ins: int, outs: int, condition: int, kernel: int, groups: int, scales: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = Convolved(ins, outs, kernel, groups), Convolved(outs, outs, kernel, groups)
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, outs * (2 if scales else 1)))
        self.residual_conv = nn.Conv1d(ins, outs, 1) if ins != outs else nn.Identity()
        self.scales = scales

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, ins, L) and (B, condition) to (B, outs, L)."""
        weights = self.cond_encoder(condition)[:, :, None].chunk(2 if self.scales else 1, dim=1)
        h = self.conv1(x)
        h = weights[0] * h + weights[1] if self.scales else h + weights[0]
        out: Tensor = self.conv2(h) + self.residual_conv(x)
        return out


class Embedding(nn.Module):
    """Embed t in sines and cosines of `size` numbers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.count = size // 2

    def forward(self, t: Tensor) -> Tensor:
        """Map (B,) to (B, size)."""
        rates = torch.exp(torch.arange(self.count, device=t.device) * (-math.log(10000) / (self.count - 1)))
        angles = t.to(torch.float32)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class UNet1d(nn.Module):
    """A plan (B, horizon, actions) at noise level t, and conditions, to what is predicted of the plan.

    local: how many numbers of a condition there are for each moment of the plan.
    """

    def __init__(
        self,
        actions: int,
        condition: int,
        widths: Sequence[int],
        size: int,
        kernel: int,
        groups: int,
        scales: bool,
        local: int = 0,
    ) -> None:
        super().__init__()

        def residual(ins: int, outs: int) -> Residual:
            return Residual(ins, outs, size + condition, kernel, groups, scales)

        self.diffusion_step_encoder = nn.Sequential(
            Embedding(size), nn.Linear(size, 4 * size), nn.Mish(), nn.Linear(4 * size, size)
        )
        self.local_cond_encoder = nn.ModuleList([residual(local, widths[0])] if local else [])
        last = widths[-1]
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for ins, outs in zip([actions, *widths[:-1]], widths, strict=True):
            resize = nn.Identity() if len(down) == len(widths) - 1 else nn.Conv1d(outs, outs, 3, 2, 1)
            down.append(nn.ModuleList([residual(ins, outs), residual(outs, outs), resize]))
        for outs, ins in zip(widths[-2::-1], widths[:0:-1], strict=True):
            double = nn.ConvTranspose1d(outs, outs, 4, 2, 1)
            up.append(nn.ModuleList([residual(2 * ins, outs), residual(outs, outs), double]))
        self.down_modules, self.up_modules = nn.ModuleList(down), nn.ModuleList(up)
        self.mid_modules = nn.ModuleList([residual(last, last), residual(last, last)])
        # whatever the groups elsewhere, here there are eight
        self.final_conv = nn.Sequential(Convolved(widths[0], widths[0], kernel, 8), nn.Conv1d(widths[0], actions, 1))

    def forward(
        self, x_t: Tensor, t: Tensor, *, global_cond: Tensor | None = None, local_cond: Tensor | None = None
    ) -> Tensor:
        """Predict: x_t (B, horizon, actions) float32, t (B,), global_cond (B, D), local_cond (B, horizon, E)."""
        condition = self.diffusion_step_encoder(t)
        if global_cond is not None:
            condition = torch.cat([condition, global_cond], dim=-1)
        x = x_t.transpose(1, 2)
        skips: list[Tensor] = []
        for level in self.down_modules:
            first, second, resize = level.children()
            x = first(x, condition)
            if local_cond is not None and not skips:
                x = x + self.local_cond_encoder[0](local_cond.transpose(1, 2), condition)
            x = second(x, condition)
            skips.append(x)
            x = resize(x)
        for residual in self.mid_modules:
            x = residual(x, condition)
        for level in self.up_modules:
            first, second, resize = level.children()
            x = torch.cat([x, skips.pop()], dim=1)
            x = resize(second(first(x, condition), condition))
        out: Tensor = self.final_conv(x)
        return out.transpose(1, 2)


class Points(nn.Module):
    """Say where in a picture each of `count` maps is largest: the mean place under its softmax, -1 to 1."""

    def __init__(self, channels: int, height: int, width: int, count: int) -> None:
        super().__init__()
        self.nets = nn.Conv2d(channels, count, 1)
        self.register_buffer("pos_grid", torch.empty(height * width, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, count, 2), x before y."""
        shares = self.nets(x).flatten(2).softmax(dim=-1)
        places: Tensor = shares @ self.pos_grid
        return places


class Camera(nn.Module):
    """See pictures (B, C, H, W): resize, cut out the middle, ResNet, points, and one linear layer to (B, 2 count).

    count: 0 for the mean of the ResNet's features instead. size: how many numbers come out.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        resize: tuple[int, int] | None,
        crop: tuple[int, int] | None,
        network: str,
        group_norm: bool,
        count: int,
    ) -> None:
        super().__init__()
        try:
            models = importlib.import_module("torchvision").models
        except ModuleNotFoundError as exc:
            raise not_installed("torchvision", "lerobot") from exc
        norm = _in_groups if group_norm else _Norm
        self.backbone = nn.Sequential(*list(getattr(models, network)(norm_layer=norm).children())[:-2])
        self.resizes = resize is not None and resize != shape[1:]
        sides = resize or shape[1:]
        if self.resizes:  # a product with a matrix: the same in any runtime
            for name, before, after in zip(("rows", "columns"), shape[1:], sides, strict=True):
                self.register_buffer(name, _resizing(before, after), persistent=False)
        window = crop or sides
        self.window = [
            slice(first := round((side - size) / 2), first + size) for side, size in zip(sides, window, strict=True)
        ]
        channels, height, width = self.backbone(torch.empty(1, shape[0], *window, device="meta")).shape[1:]
        self.size = 2 * count or channels
        self.pool = Points(channels, height, width, count) if count else None
        self.out = nn.Linear(self.size, self.size) if count else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), normalised, to (B, size)."""
        if self.resizes:
            x = self.rows @ x @ self.columns.T  # type: ignore[operator]
        x = self.backbone(x[:, :, self.window[0], self.window[1]])
        if self.pool is None or self.out is None:
            return x.mean((2, 3))
        return F.relu(self.out(self.pool(x).flatten(1)))


class Known(nn.Module):
    """A network whose state has observations after the actions: those that are known are set before it looks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, *, known: Tensor) -> Tensor:
        """Predict: x_t (B, horizon, actions + E) float32, t (B,), known (B, S, E) -> the shape of x_t."""
        steps, width = known.shape[1:]
        begin = torch.cat([x_t[:, :steps, :-width], known], dim=-1)
        out: Tensor = self.network(torch.cat([begin, x_t[:, steps:]], dim=1), t)
        return out


class _Norm(nn.Module):
    """A batch norm as it is after training, without its count of batches, which is no weight."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def _in_groups(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 16, channels)


def _resizing(before: int, after: int) -> Tensor:
    """Return the matrix (after, before) of a linear interpolation that smooths where it makes smaller."""
    with torch.device("cpu"):
        eye = torch.eye(before)[None, None]
        return F.interpolate(eye, (after, before), mode="bilinear", antialias=True)[0, 0]


class Before(nn.Module):
    """Turn observations, each (B, S, ...), into the network's condition: normalised, seen, and in a row.

    cameras: one for all, or one for each. The observations are in the order of `scalings`. length: of a condition that
    has a row for each moment, with zeros after those observed; 0 for one row of all.
    """

    def __init__(self, scalings: Mapping[str, Scaling], cameras: Sequence[nn.Module], length: int = 0) -> None:
        super().__init__()
        self.length = length
        self.bases = [scaling.base for scaling in scalings.values()]
        for k, scaling in enumerate(scalings.values()):
            self.register_buffer(f"low_{k}", scaling.low)
            self.register_buffer(f"width_{k}", scaling.width)
        self.cameras = nn.ModuleList(cameras)

    def forward(self, *observations: Tensor) -> Tensor:
        """Map observations to (B, S numbers of all), or (B, length, numbers of all)."""
        parts, seen = [], 0
        for k, x in enumerate(observations):
            x = (x - self.get_buffer(f"low_{k}")) / self.get_buffer(f"width_{k}") + self.bases[k]
            if x.dim() == 5:
                x = self.cameras[seen % len(self.cameras)](x.flatten(0, 1)).unflatten(0, (-1, x.shape[1]))
                seen += 1
            parts.append(x)
        x = torch.cat(parts, dim=-1)
        return F.pad(x, (0, 0, 0, self.length - x.shape[1])) if self.length else x.flatten(1)


class After(nn.Module):
    """Cut the actions to be taken out of a plan (B, horizon, actions and more), in the robot's units."""

    def __init__(self, scaling: Scaling, first: int, count: int, actions: int) -> None:
        super().__init__()
        self.register_buffer("low", scaling.low)
        self.register_buffer("width", scaling.width_back)
        self.base, self.first, self.end, self.actions = scaling.base, first, first + count, actions

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, horizon, actions and more) to (B, count, actions)."""
        taken = x[:, self.first : self.end, : self.actions]
        actions: Tensor = (taken - self.base) * self.width + self.low  # type: ignore[operator]
        return actions


def parts_of(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights of the network and those of its cameras, of a policy's state dict; counts are left out."""
    plain = {key.replace("_orig_mod.", ""): value for key, value in state.items()}  # that of torch.compile
    plain = {key: value for key, value in plain.items() if not key.endswith(".num_batches_tracked")}
    unet = {key: value for key, value in plain.items() if not key.startswith("diffusion.rgb_encoder.")}
    return unet, {key: value for key, value in plain.items() if key not in unet}
