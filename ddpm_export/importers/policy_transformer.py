"""The transformer of diffusion_policy's plans, under the names of its state dict.

Actions are tokens that look at one another and at tokens of t and of what was observed (Chi et al. 2023, section 3.1);
without those tokens t is one more of the plan's own.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_export.importers.lerobot_network import Embedding


class Transformer1d(nn.Module):
    """A plan (B, horizon, actions) at noise level t, and observations, to what is predicted of the plan.

    shapes: of its weights by name, which decide all else: sizes, how many layers, masks.
    """

    pos_emb: Any  # a parameter, or None; so are the modules
    cond_pos_emb: Any
    cond_obs_emb: Any
    encoder: Any
    decoder: Any

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], heads: int) -> None:
        super().__init__()
        size, actions = shapes["input_emb.weight"]

        def layers(name: str, kind: type[nn.Module]) -> nn.ModuleDict:
            numbers = {found[1] for key in shapes if (found := re.match(rf"{name}\.layers\.(\d+)\.", key))}
            how = {"activation": "gelu", "batch_first": True, "norm_first": True}
            return nn.ModuleDict({"layers": nn.ModuleList(kind(size, heads, 4 * size, **how) for _ in numbers)})

        def parameter(name: str) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(shapes[name])) if name in shapes else None

        self.input_emb, self.time_emb = nn.Linear(actions, size), Embedding(size)
        self.pos_emb, self.cond_pos_emb = parameter("pos_emb"), parameter("cond_pos_emb")
        seen = shapes.get("cond_obs_emb.weight")
        self.cond_obs_emb = None if seen is None else nn.Linear(seen[1], size)
        self.encoder = (
            nn.Sequential(nn.Linear(size, 4 * size), nn.Mish(), nn.Linear(4 * size, size))
            if "encoder.0.weight" in shapes
            else layers("encoder", nn.TransformerEncoderLayer)
        )
        self.decoder = layers("decoder", nn.TransformerDecoderLayer)
        for name in ("mask", "memory_mask"):
            self.register_buffer(name, torch.empty(shapes[name]) if name in shapes else None)
        self.ln_f, self.head = nn.LayerNorm(size), nn.Linear(size, actions)

    def forward(self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None) -> Tensor:
        """Predict: x_t (B, horizon, actions) float32, t (B,), cond (B, S, E) -> the shape of x_t."""
        memory, x = self.time_emb(t)[:, None], self.input_emb(x_t)  # (B, 1, size), (B, horizon, size)
        if self.cond_pos_emb is None:
            x = torch.cat([memory, x], dim=1) + self.pos_emb
            for layer in self.encoder["layers"]:
                x = layer(x, self.mask)
            x = x[:, 1:]
        else:
            x = x + self.pos_emb
            memory = (
                memory if cond is None else torch.cat([memory, self.cond_obs_emb(cond)], dim=1)
            ) + self.cond_pos_emb
            for layer in [self.encoder] if isinstance(self.encoder, nn.Sequential) else self.encoder["layers"]:
                memory = layer(memory)
            for layer in self.decoder["layers"]:
                x = layer(x, memory, self.mask, self.memory_mask)
        out: Tensor = self.head(self.ln_f(x))
        return out
