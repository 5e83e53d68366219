import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ddpm_export.errors import ConfigError
from ddpm_export.importers.unet import Attention, UNet, UNetConfig, time_embedding
from train.config import load_config

pytestmark = pytest.mark.torch
SMALL = {"base_channels": 8, "blocks_per_level": 1, "groups": 4, "head_channels": 8}


def awake(network):
    """Give the layers that start at zero something to do."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize(
    ("image_shape", "multipliers"),
    [
        ((1, 28, 28), (1, 2, 2)),
        ((3, 20, 12), (1, 2, 2)),
        ((1, 7, 5), (1,)),
        ((3, 64, 32), (1, 1, 2, 2)),
        ((2, 6, 10), (2, 1)),
    ],
)
def test_the_output_has_the_shape_of_the_input(image_shape, multipliers):
    network = awake(UNet(UNetConfig(image_shape, channel_multipliers=multipliers, attention_levels=(0,), **SMALL)))
    x_t = torch.randn(2, *image_shape)
    out = network(x_t, torch.tensor([0, 999]))
    assert out.shape == x_t.shape
    for i, t in enumerate((0, 999)):  # an image does not see its batch
        torch.testing.assert_close(network(x_t[i : i + 1], torch.tensor([t]))[0], out[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [27, 30, 1, 2, 3, 333])
def test_a_size_that_does_not_halve_is_refused_with_one_that_does(size):
    with pytest.raises(ConfigError, match=f"must be a multiple of 4, .* got {size}") as refused:
        UNetConfig((1, 28, size))
    named = int(re.search(r"Use (\d+)", str(refused.value)).group(1))
    assert UNetConfig((1, 28, named)).image_shape[2] == named
    assert abs(named - size) < 4


def test_an_untrained_network_says_zero():
    network = UNet(UNetConfig((1, 8, 8), channel_multipliers=(1, 2), attention_levels=(1,), **SMALL))
    assert not network(torch.randn(2, 1, 8, 8), torch.tensor([1, 2])).any()


def test_every_parameter_has_a_part_in_the_output():
    network = awake(UNet(UNetConfig((1, 8, 8), channel_multipliers=(1, 2), attention_levels=(1,), **SMALL)))
    network(torch.randn(2, 1, 8, 8), torch.tensor([1, 2])).square().sum().backward()
    # a constant added to the keys changes no softmax, so that part of the bias alone may have none
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
    assert idle == []


def with_classes(num_classes, seed=0):
    torch.manual_seed(seed)
    sizes = {"image_shape": (1, 8, 8), "channel_multipliers": (1, 2), "attention_levels": (1,)}
    return UNet(UNetConfig(**sizes, **SMALL, num_classes=num_classes))


def test_each_class_and_none_has_its_own_output():
    network = awake(with_classes(3))
    x_t, t = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1), torch.full((4,), 5)
    out = network(x_t, t, torch.arange(4))
    for i in range(4):
        for j in range(i):
            assert float((out[i] - out[j]).detach().abs().max()) > 1e-3
    assert torch.equal(network(x_t, t)[3], out[3])  # no class at all is "none"
    torch.testing.assert_close(network(x_t, t)[0], out[3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(x_t, t, torch.tensor([2, 0, 0, 0]))[0], out[2], rtol=1e-4, atol=1e-5)


def test_classes_add_an_embedding_and_leave_every_other_weight_as_it_begins():
    plain, conditional = (with_classes(k).state_dict() for k in (0, 3))
    assert conditional.keys() - plain.keys() == {"label.weight"}
    assert conditional.pop("label.weight").shape == (3 + 1, 4 * 8)
    assert all(torch.equal(conditional[name], value) for name, value in plain.items())
    assert list(plain) == list(conditional)


def test_a_network_without_classes_takes_none():
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="no classes"):
        with_classes(0)(x_t, t, torch.tensor([0, 1]))
    assert with_classes(0)(x_t, t, None).shape == x_t.shape


@pytest.mark.parametrize(("channels", "head_channels"), [(16, 8), (16, 16), (8, 64)])
def test_attention_is_torchs_on_the_same_weights(channels, head_channels):
    attention = awake(Attention(channels, head_channels, groups=4))
    x = torch.randn(3, channels, 4, 6)
    heads = max(1, channels // head_channels)
    normed = attention.norm(x).flatten(2)  # (B, C, HW)
    qkv = F.conv1d(normed, attention.qkv.weight[..., 0], attention.qkv.bias)
    q, k, v = (part.unflatten(1, (heads, -1)).transpose(2, 3) for part in qkv.chunk(3, dim=1))  # (B, heads, HW, d)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)  # (B, C, HW)
    expected = x + F.conv1d(mixed, attention.out.weight[..., 0], attention.out.bias).view_as(x)
    assert not torch.allclose(expected, x, atol=1e-3)
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 8, 64])
def test_time_embedding_is_the_formula(channels):
    times = [0, 1, 17, 999]
    half = channels // 2
    angles = [[t * 10000.0 ** (-i / half) for i in range(half)] for t in times]
    expected = [[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in angles]
    # float32 angles up to 999 are exact to 3e-5
    np.testing.assert_allclose(time_embedding(torch.tensor(times), channels).numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fashion-mnist-small", 1_623_169),
        ("fashion-mnist", 4_634_305),
        ("fashion-mnist-classes", 1_624_577),
        ("fashion-mnist-conditional", 3_832_897),
        ("emoji", 4_437_699),
        ("stanford-cars", 74_051_331),
        ("stanford-cars-latent", 64_145_924),
        ("emoji-64-latent", 2_614_708),
        ("cifar10", 35_746_307),  # Ho et al. 2020, appendix B: 35.7 million
        ("lsun-256", 113_673_219),  # the same: 114 million
        ("celeba-hq-256", 113_673_219),
    ],
)
def test_parameter_counts(name, count):
    with torch.device("meta"):  # nothing is allocated
        network = UNet(load_config(name).network)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(("name", "sizes"), [("cifar10", {16, 4}), ("lsun-256", {16, 8}), ("celeba-hq-256", {16, 8})])
def test_hos_networks_attend_with_one_head_at_16x16_and_in_the_middle(name, sizes):
    config = load_config(name).network
    seen = set()
    with torch.device("meta"):
        network = UNet(config)
        for module in network.modules():
            if isinstance(module, Attention):
                assert module.heads == 1
                module.register_forward_hook(lambda _module, _inputs, out: seen.add(out.shape[-1]))
        network(torch.empty(1, *config.image_shape), torch.zeros(1, dtype=torch.int64))
    assert seen == sizes
