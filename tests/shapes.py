"""Networks whose states are no pictures, of ten lines each, as a user would write them."""

import torch
from torch import nn

SHAPES = {"vector": (5,), "points": (2,), "sequence": (16, 2), "volume": (1, 4, 5, 6)}


class Mixing(nn.Module):
    """Predict eps of states of any shape: a layer over all numbers, and one of time."""

    def __init__(self, shape):
        super().__init__()
        size = torch.Size(shape).numel()
        self.mix, self.of_time = nn.Linear(size, size), nn.Linear(1, size)

    def forward(self, x_t, t):
        flat = x_t.flatten(1)
        return (flat + torch.tanh(self.mix(flat) + self.of_time(t[:, None] / 50.0))).reshape(x_t.shape) / 2.0


class Vector(Mixing):
    def __init__(self):
        super().__init__(SHAPES["vector"])


class Points(Mixing):
    def __init__(self):
        super().__init__(SHAPES["points"])


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.of_time = nn.Conv1d(2, 2, 5, padding=2), nn.Linear(1, 2)

    def forward(self, x_t, t):
        mixed = self.convolution(x_t.transpose(1, 2)).transpose(1, 2)
        return x_t / 2.0 + torch.tanh(mixed + self.of_time(t[:, None] / 50.0)[:, None])


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.of_time = nn.Conv3d(1, 1, 3, padding=1), nn.Linear(1, 1)

    def forward(self, x_t, t):
        return x_t / 2.0 + torch.tanh(self.convolution(x_t) + self.of_time(t[:, None] / 50.0)[:, :, None, None, None])


NETWORKS = {"vector": Vector, "points": Points, "sequence": Sequence, "volume": Volume}
