import dataclasses
import json
import os
import zipfile

import pytest

from ddpm_export.errors import BadFileError
from ddpm_export.importers.load import load_checkpoint

from .conftest import CONFIGS, network_of, save, spec_of

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
CONFIG = CONFIGS["grey"]


def network_config(**changes):
    return {"network": json.loads(json.dumps({**dataclasses.asdict(CONFIG), **changes}))}


def with_weights(**changes):
    return {**network_of(CONFIG).state_dict(), **changes}


def huge():
    return torch.zeros(1).expand(2**31, 2**8)  # a terabyte of 4 bytes


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("/tmp/ddpm-export-was-here",)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": {"network": network_config(base_channels=2**31)["network"]}},
        {"config": network_config(blocks_per_level=10**9)},
        {"config": network_config(base_channels="8")},
        {"config": network_config(channel_multipliers=[])},
        {"config": network_config(image_shape=[1, 27, 28])},
        {"config": network_config(base_channels=16)},
        {"config": network_config(surprise=1)},
        {"spec": "{}"},
        {"spec": 7},
        {"step": "many"},
        {"ema": [1, 2]},
        {"ema": with_weights(**{"stem.bias": "text"})},
        {"ema": with_weights(**{"stem.bias": torch.zeros(9)})},
        {"ema": with_weights(**{"stem.bias": torch.zeros(8, dtype=torch.int64)})},
        {"ema": with_weights(**{"stem.bias": huge()})},
        {"ema": with_weights(**{"stem.bias": torch.zeros(1).expand(8)})},  # as in a config that claims huge layers
        {"ema": with_weights(**{"stem.bias": torch.zeros(8).to_sparse()})},
        {"ema": with_weights(**{"stem.bias": torch.zeros(8, device="meta")})},
        {"ema": with_weights(more=torch.zeros(1))},
        {"ema": {}},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_contents_that_do_not_fit_are_told_in_one_line(tmp_path, changes):
    path = save(tmp_path / "c.pt", CONFIG, **changes)
    with pytest.raises(BadFileError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_spec_of_another_shape_is_refused(tmp_path):
    path = save(tmp_path / "c.pt", CONFIG, model_spec=spec_of(CONFIG, state_shape=(1, 32, 32)))
    with pytest.raises(BadFileError, match=r"image_shape does not fit"):
        load_checkpoint(path)


@pytest.mark.parametrize("contents", [{"format": "ddpm-export-checkpoint/2"}, {"state_dict": {}}, [1, 2], 7])
def test_an_unknown_layout_is_refused(tmp_path, contents):
    path = tmp_path / "c.pt"
    torch.save(contents, path)
    with pytest.raises(BadFileError, match="an unknown checkpoint layout"):
        load_checkpoint(path)


@pytest.mark.parametrize("fault", ["missing", "empty", "text", "truncated", "flipped", "hostile"])
def test_a_broken_or_hostile_checkpoint_is_told_in_one_line(checkpoint_path, tmp_path, fault):
    path = tmp_path / "c.pt"
    content = bytearray(checkpoint_path.read_bytes())
    if fault == "hostile":
        torch.save({"format": Hostile()}, path)
    elif fault == "flipped":
        with zipfile.ZipFile(checkpoint_path) as archive:
            entry = next(entry for entry in archive.infolist() if entry.filename.endswith("/data/9"))
        content[entry.header_offset + 200] ^= 1
        path.write_bytes(content)
    elif fault != "missing":
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": content[: len(content) // 2]}[fault])
    with pytest.raises(BadFileError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not os.path.exists("/tmp/ddpm-export-was-here")
