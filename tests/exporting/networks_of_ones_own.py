"""Networks as a user might write them: one that can be exported, one with two outputs, and some that cannot."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, way="plain"):
        super().__init__()
        self.way = way

    def forward(self, x):
        if self.way == "fixed batch":
            return x.view(2, 1, 8, 8) * 1.0
        if self.way == "branch" and x.mean() > 0:
            return x
        if self.way == "loop":
            return torch.stack([x[k] * 2.0 for k in range(len(x))])
        return x


class Net(nn.Module):
    """Any nn.Module that takes (x_t, t); dropout shows whether it is in evaluation mode."""

    def __init__(self, width=4, way="plain"):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.middle = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(width, 1, 3, padding=1), Block(way))

    def forward(self, x_t, t):
        return self.middle(torch.tanh(self.conv(x_t))) + t[:, None, None, None] / 100


class Learned(Net):
    def forward(self, x_t, t):
        out = super().forward(x_t, t)
        return out, torch.sigmoid(out * 3.0)


class Broken:
    def __init__(self, **_):
        raise RuntimeError("first line\nsecond line")


def not_a_network():
    return 7
