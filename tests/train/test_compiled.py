"""What torch.compile is given: the same network, and what a training of it promises."""

import shutil

import pytest
import torch
from torch import nn

from ddpm_export.files import sha256_of
from train.compiled import ChannelwiseNorm
from train.loop import train

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_norm_by_channels_is_group_norm_with_its_gradients(offset):
    torch.manual_seed(0)
    theirs, ours = nn.GroupNorm(4, 12), ChannelwiseNorm(4, 12)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 12, 5, 4) * torch.arange(1, 13)[:, None, None] + offset  # no two channels alike
    towards = torch.randn(3, 12, 5, 4)
    found = []
    for norm in (theirs, ours):
        image = x.clone().requires_grad_()
        y = norm(image)
        found.append([y, *torch.autograd.grad((y * towards).sum(), [image, norm.weight, norm.bias])])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_norm_computes_in_float32_under_autocast_and_returns_what_it_got():
    norm = ChannelwiseNorm(2, 8)
    x = torch.randn(2, 8, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, norm(x.float()).bfloat16(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch.compile's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_training_goes_on_bit_for_bit_also_from_one_that_was_not(
    toy_config, toy_dataset, tmp_path, monkeypatch
):
    # the user's cache may hold what a compiler that was killed left
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    small = {"network__channel_multipliers": "[1]", "network__attention_levels": "[]", "compile": "true"}
    digests, starts = [], []

    def silent(progress):
        starts.append(progress.step)

    plain = train(toy_config(**small | {"compile": "false"}, steps=2), toy_dataset, tmp_path / "a", "cpu", silent)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = torch.load(plain)["network"]
    for folder, parts in (("a", (6,)), ("b", (4, 6))):
        for steps in parts:
            torch._dynamo.reset()
            starts.clear()
            path = train(toy_config(**small, steps=steps), toy_dataset, tmp_path / folder, "cpu", silent)
            assert starts[0] > 0
        digests.append(sha256_of(path))
    assert digests[0] == digests[1]
    assert all(not torch.equal(value, before[name]) for name, value in torch.load(path)["network"].items())
