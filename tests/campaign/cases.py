"""What a case of hostile files is, how bytes are damaged, and the sound files that are damaged."""

import functools
import io
import json
import random
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from models import GREY, extractor_file, onnx_file, scale_model, tiny_spec

TESTS_GOLDEN = Path(__file__).parents[1] / "golden"
REFUSED = frozenset({2, 3, 4, 5, 6})  # docs/architecture.md's exit codes of what is told in one line
BAD = frozenset({3})
ANY = REFUSED | {0}  # of damage that a sound reader may not notice, such as a bit of a weight


class Case(NamedTuple):
    """One command over files, by their names below the case's folder; contents are bytes or a function of the path.

    codes: the exit codes that are right. apart: started as a user does, since it may hang or crash its process.
    """

    name: str
    files: dict[str, Any]
    arguments: tuple[str, ...]
    codes: frozenset = BAD
    apart: bool = False


FAMILIES: dict[str, Any] = {}


def family(name: str) -> Any:
    """Register a function that yields the cases of a family; it is given numbers that follow from the seed."""

    def register(function: Any) -> Any:
        assert name not in FAMILIES
        FAMILIES[name] = function
        return function

    return register


EDITING = ("--steps", "2", "--seed", "0", "--out", "out/a.npy")


def run(*options: str, model: str = "m.onnx") -> tuple[str, ...]:
    return ("run", model, "--n", "1", "--steps", "2", "--seed", "0", "--out", "out/a.npy", *options)


def vary(picture: str) -> tuple[str, ...]:
    return ("edit", "vary", "m.onnx", picture, "--strength", "0.5", *EDITING)


def fill(picture: str, mask: str) -> tuple[str, ...]:
    return ("edit", "fill", "m.onnx", picture, "--mask", mask, *EDITING)


def check(*options: str, model: str = "m.onnx") -> tuple[str, ...]:
    return ("check", model, *options)


def evaluate(data: str, *options: str) -> tuple[str, ...]:
    return (
        "eval",
        "m.onnx",
        "--data",
        data,
        "--samples",
        "s.npy",
        "--extractor",
        "e.onnx",
        "--metrics",
        "fid",
        "--cache",
        "cache",
        *options,
    )


def export(source: str, *options: str) -> tuple[str, ...]:
    return ("export", source, "--out", "out/unet.onnx", *options)


def against(source: str) -> tuple[str, ...]:
    """Read a checkpoint whole and refuse it as another than a model's: an export that succeeds takes seconds."""
    return ("check", "m.onnx", "--against", source)


def truncations(content: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    for length in sorted({len(content) * k // count for k in range(count)}):
        yield f"{length} of {len(content)} bytes", content[:length]


def flips(content: bytes, count: int, noise: random.Random, within: int | None = None) -> Iterator[tuple[str, bytes]]:
    for _ in range(count):
        at, bit = noise.randrange(within or len(content)), noise.randrange(8)
        yield f"bit {bit} of byte {at}", content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def later(make: Any) -> Any:
    """Return what writes a file once its case is played, for what takes long to make."""
    return lambda path: path.write_bytes(make())


@functools.cache
def packed_zeros() -> bytes:
    """Return 256 MiB of zeros, as zlib packs them."""
    return zlib.compress(bytes(2**28))


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def png(shape: tuple[int, ...], kind: str = "PNG") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def files_of_eval(image_shape: tuple[int, int, int] = GREY) -> dict[str, bytes]:
    """Return what `evaluate` names besides its data: a model, an extractor, samples."""
    channels, height, width = image_shape
    samples = np.random.default_rng(1).integers(0, 256, (12, height, width, channels), dtype=np.uint8)
    model = scale_model(tiny_spec(image_shape))
    return {"m.onnx": model, "e.onnx": extractor_file(image_shape), "s.npy": npy(samples)}


@functools.cache
def checkpoint() -> bytes:
    """Return the bytes of a checkpoint of ours, of the smallest network with every kind of layer."""
    return contents_of(sound_checkpoint())


def contents_of(values: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(values, file)
    return file.getvalue()


@functools.cache
def sound_checkpoint() -> dict[str, Any]:
    import dataclasses

    import torch

    from ddpm_export.importers.checkpoint import CHECKPOINT_FORMAT
    from ddpm_export.importers.unet import UNet, UNetConfig
    from ddpm_export.model.spec_json import json_from_spec

    torch.manual_seed(0)
    config = UNetConfig((1, 8, 8), 8, (1,), 1, (), groups=4)
    state = UNet(config).state_dict()
    for value in state.values():
        if not value.any():
            value.copy_(torch.randn_like(value) * 0.1)
    values = {"format": CHECKPOINT_FORMAT, "ema": state, "network": state, "optimizer": {}, "step": 3}
    values["config"] = {"network": json.loads(json.dumps(dataclasses.asdict(config)))}
    return values | {"spec": json_from_spec(tiny_spec((1, 8, 8)))}


@functools.cache
def one_call(kind: str = "sampler") -> bytes:
    """Return a one-call file of a small hand-made denoiser."""
    from ddpm_export.exporting.export import export as write

    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "m.onnx"), Path(folder, f"m.{kind}.onnx")
        source.write_bytes(scale_model(tiny_spec()))
        write(source, made, format=kind, opens="all")
        return made.read_bytes()


def graph(nodes: Any, values: Any = (), **changes: Any) -> bytes:
    return onnx_file(nodes, values, tiny_spec(), **changes)
