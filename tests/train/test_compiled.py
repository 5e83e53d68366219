"""What `compile` makes of a network on a CPU: the same function and gradients, and what a training promises of it."""

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddpm_export.errors import ConfigError, EnvironmentProblem
from ddpm_export.importers.unet import UNet, UNetConfig
from ddpm_export.system.files import cache_folder, sha256_of
from train import compiled as module
from train.compiled import LANES, compiled, fused_norm
from train.loop import train

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(shutil.which("c++") is None, reason="compile needs a C++ compiler on a CPU"),
]


def in_float64(norm, x, added, silu, towards):
    """The result and the gradients of x, weight, bias and added, by torch in float64."""
    theirs = nn.GroupNorm(norm.num_groups, norm.num_channels).double()
    theirs.load_state_dict(norm.state_dict())
    x = x.detach().double().requires_grad_()
    added = None if added is None else added.detach().double().requires_grad_()
    y = theirs(x if added is None else x + added[:, :, None, None])
    y = F.silu(y) if silu else y
    of = [x, theirs.weight, theirs.bias, *([] if added is None else [added])]
    return [y.detach(), *torch.autograd.grad((y * towards.double()).sum(), of)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("with_time", [False, True])
@pytest.mark.parametrize(
    ("channels", "offset", "threads"), [(48, 0.0, 1), (16, 30.0, 2), (32, -200.0, 1), (12, 3.0, 1)]
)
def test_the_fused_norm_is_group_norm_with_its_gradients(dtype, silu, with_time, channels, offset, threads):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    norm = nn.GroupNorm(4, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(5, channels, 5, 4) * (1 + torch.arange(channels) % 7)[:, None, None] + offset
    x = x.to(dtype).requires_grad_()
    added = torch.randn(5, channels).to(dtype).requires_grad_() if with_time else None
    towards = torch.randn(5, channels, 5, 4).to(dtype)

    y = fused_norm(norm, x, added, silu)
    of = [x, norm.weight, norm.bias, *([] if added is None else [added])]
    got = [y.detach(), *torch.autograd.grad((y * towards).sum(), of)]

    assert y.dtype == dtype
    # bfloat16 keeps 8 bits of what is returned in it, float32 loses digits to the offset
    bounds = {torch.float32: 3e-6 if abs(offset) < 100 else 3e-5, torch.bfloat16: 4e-3}
    for name, value, expected in zip(
        ("y", "x", "weight", "bias", "added"), got, in_float64(norm, x, added, silu, towards), strict=False
    ):
        error = float((value.double() - expected).norm() / expected.norm())
        assert error < bounds[value.dtype], (name, error)


def test_silu_far_from_zero_is_0_or_what_it_is_given_and_no_number_stays_none():
    norm = nn.GroupNorm(1, LANES)
    nn.init.constant_(norm.weight, 400.0)
    x = torch.linspace(-1, 1, LANES).reshape(1, LANES, 1, 1).expand(1, LANES, 2, 2)
    torch.testing.assert_close(fused_norm(norm, x, silu=True), F.silu(norm(x)), rtol=1e-5, atol=1e-30)
    broken = x.clone()
    broken[0, 3, 0, 0] = torch.nan
    for dtype in (torch.float32, torch.bfloat16):
        assert fused_norm(norm, broken.to(dtype), silu=True).isnan().all()


def test_a_share_of_a_batch_has_the_same_bits_alone():
    torch.manual_seed(0)
    norm, x = nn.GroupNorm(4, 32), torch.randn(7, 32, 6, 6)
    torch.set_num_threads(3)
    together = fused_norm(norm, x, silu=True)
    torch.set_num_threads(1)
    assert torch.equal(together, torch.cat([fused_norm(norm, image[None], silu=True) for image in x]))


@pytest.mark.parametrize("bf16", [False, True])
def test_a_compiled_network_has_the_gradients_of_the_same_network(bf16):
    config = UNetConfig(image_shape=(1, 8, 8), base_channels=16, channel_multipliers=(1, 2), attention_levels=(1,),
                        head_channels=16, groups=4, dropout=0.0, num_classes=3)  # fmt: skip
    torch.manual_seed(0)
    network = UNet(config).to(memory_format=torch.channels_last)
    for weight in network.parameters():  # those that begin at 0 would hide what comes before them
        nn.init.normal_(weight, std=0.1) if not weight.any() else None
    x, t, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 500, 999]), torch.tensor([0, 1, 2, 3])
    found = []
    for _ in range(2):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            predicted = network(x, t, y).float()
        predicted.square().mean().backward()
        found.append([predicted.detach(), *[p.grad.clone() for p in network.parameters()]])
        assert compiled(network, channels_last=True) is network
    assert all(not type(m).__module__.startswith("torch") for m in network.modules() if isinstance(m, nn.GroupNorm))
    whole = [torch.cat([value.flatten() for value in values]) for values in found]
    assert float((whole[1] - whole[0]).norm() / whole[0].norm()) < (0.02 if bf16 else 1e-5)


def test_a_compiled_training_goes_on_bit_for_bit_also_from_one_that_was_not(toy_config, toy_dataset, tmp_path):
    small = {"network__base_channels": 16, "network__dropout": 0.1, "compile": "true"}
    digests, starts = [], []

    def silent(progress):
        starts.append(progress.step)

    plain = train(toy_config(**small | {"compile": "false"}, steps=2), toy_dataset, tmp_path / "a", "cpu", silent)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = torch.load(plain)["network"]
    for folder, parts in (("a", (6,)), ("b", (4, 6))):
        for steps in parts:
            starts.clear()
            path = train(toy_config(**small, steps=steps), toy_dataset, tmp_path / folder, "cpu", silent)
            assert starts[0] > 0
        digests.append(sha256_of(path))
    assert digests[0] == digests[1]
    assert all(not torch.equal(value, before[name]) for name, value in torch.load(path)["network"].items())
    assert torch.load(path)["optimizer"]["param_groups"][0]["fused"] is True

    train(toy_config(**small | {"compile": "false"}, steps=7), toy_dataset, tmp_path / "b", "cpu", silent)
    assert torch.load(path)["optimizer"]["param_groups"][0]["fused"] is None  # as if there had been no such training


def test_on_a_cpu_compile_needs_channels_last_and_a_compiler(monkeypatch, tmp_path):
    network = UNet(UNetConfig(image_shape=(1, 8, 8), channel_multipliers=(1, 2), attention_levels=()))
    with pytest.raises(ConfigError, match="channels_last=true"):
        compiled(network, channels_last=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for compiler, inputs in (("no-such-compiler", "no-such-compiler failed"), ("false", "Install g")):
        monkeypatch.setenv("CXX", compiler)
        module._library.cache_clear()
        with pytest.raises(EnvironmentProblem, match=inputs):
            compiled(network, channels_last=True)
    monkeypatch.delenv("CXX")
    compiled(network, channels_last=True)
    (made,) = (cache_folder() / "fused").iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    damaged = cache_folder() / "fused" / made.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(made.read_bytes()[:100])
    module._library.cache_clear()
    with pytest.raises(EnvironmentProblem, match=f"{made.name} cannot be loaded.*Delete it"):
        compiled(network, channels_last=True)
    module._library.cache_clear()
