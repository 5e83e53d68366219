"""`python -m train.extractor`: a small classifier whose features and logits score samples (docs/scoring.md).

Heusel et al. 2017 and Salimans et al. 2016 take features and class probabilities from a network trained on ImageNet;
grey 28x28 clothes and emoji are far from its world. This one is trained on the data set itself and says so in its file.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.options import Debug
from ddpm_export.errors import ModelRefusedError, UsageError
from ddpm_export.exporting.onnx import model_from_network
from ddpm_export.importers.checkpoint import load_torch_file, save_checkpoint
from ddpm_export.process.noise import noise_stream
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.readers import open_dataset
from ddpm_export.system.files import replacing, sha256_of

from .pages import write_text

WIDTHS = (32, 64, 128)
BATCH = 128
PEAK_LEARNING_RATE = 0.1
MAX_RELATIVE_ERROR = 1e-5
CARD = """# The extractor

`extractor.onnx` scores images of {shape} (channels, height, width) in the range [-1, 1]: input `images` (B, C, H, W)
float32, outputs `features` (B, 128) and `logits` (B, {classes}). It is a small residual network (He et al. 2016; widths
32, 64, 128), trained by `python -m train.extractor --dataset {name} --epochs {epochs}` on the training images of
{name} (licence {license}), and names {accuracy:.2%} of the test images correctly.

SHA-256 {sha256}

Its scores compare with those of the same extractor, the same number of images and the same reference set, and with
nothing else: not with Inception's on ImageNet.
"""
SHAPES = {"fashion-mnist": (1, 28, 28), "noto-font": (3, 64, 64)}
SHIFT = 2  # pixels by which an image is moved, at most, in training


class Residual(nn.Module):
    """Two convolutions around a shortcut, each after its batch norm (He et al. 2016, identity mappings)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm_1 = nn.BatchNorm2d(channels_in)
        self.conv_1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(channels_out)
        self.conv_2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        h = F.relu(self.norm_1(x))
        out: Tensor = self.shortcut(h) + self.conv_2(F.relu(self.norm_2(self.conv_1(h))))
        return out


class Classifier(nn.Module):
    """Give features (B, 128) and logits (B, classes) of images (B, channels, H, W) in [-1, 1].

    is_large: of 64x64, which the first convolution halves.
    """

    def __init__(self, channels: int = 1, classes: int = 10, *, is_large: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, WIDTHS[0], 3, 2 if is_large else 1, 1, bias=False)
        self.outside = 1.0 if is_large else -1.0  # around the image: emoji lie on white
        blocks, width = [], WIDTHS[0]
        for level, wider in enumerate(WIDTHS):
            blocks.append(Residual(width, wider, 1 if level == 0 else 2))
            width = wider
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to (features, logits)."""
        h = F.relu(self.norm(self.blocks(self.stem(images))))
        features = h.mean(dim=(2, 3))
        return features, self.head(features)


def train(network: Classifier, data: Dataset, path: Path, epochs: int, *, test: Dataset | None = None) -> None:
    """Train with shifted images along one rise and fall of the rate, going on from `path` epoch by epoch.

    Every random number follows from the step. The same number of epochs gives the same weights, killed or not.
    """
    images = torch.from_numpy(data.images.transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(np.asarray(data.labels).copy())
    per_epoch = len(images) // BATCH
    total = per_epoch * epochs
    optimizer = torch.optim.SGD(
        network.parameters(), lr=PEAK_LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    first = 0
    if path.exists():
        contents = load_torch_file(path)
        network.load_state_dict(contents["network"])
        optimizer.load_state_dict(contents["optimizer"])
        first = int(contents["epoch"])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for epoch in range(first, epochs):
        network.train()
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(images), generator=generator)
        losses = []
        for place in range(per_epoch):
            step = epoch * per_epoch + place
            chosen = order[place * BATCH : (place + 1) * BATCH]
            x = _shifted(images[chosen].float() / 127.5 - 1.0, generator, network.outside)
            _, logits = network(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LEARNING_RATE * min(step / (0.25 * total) + 1e-3, (total - step) / (0.75 * total))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        save_checkpoint(path, network=network.state_dict(), optimizer=optimizer.state_dict(), epoch=epoch + 1)
        inputs = "" if test is None else f", test accuracy {accuracy(network, test):.2%}"
        print(
            f"epoch {epoch + 1} of {epochs}: loss {torch.stack(losses).mean():.4f}{inputs}", file=sys.stderr, flush=True
        )


def _shifted(x: Tensor, generator: torch.Generator, outside: float) -> Tensor:
    """Move each image of a batch by up to SHIFT pixels each way, with one value from outside."""
    size = x.shape[-1]
    padded = F.pad(x, (SHIFT,) * 4, value=outside)
    offsets = torch.randint(0, 2 * SHIFT + 1, (2, len(x)), generator=generator)
    pixels = torch.arange(size)
    rows, columns = (offset[:, None] + pixels for offset in offsets)  # (B, size) each
    return padded[torch.arange(len(x))[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def accuracy(network: Classifier, data: Dataset) -> float:
    """Return the share of images that the network names correctly."""
    network.eval()
    images = torch.from_numpy(data.images.transpose(0, 3, 1, 2).copy())
    right = 0
    with torch.no_grad():
        for place in range(0, len(images), 500):
            _, logits = network(images[place : place + 500].float() / 127.5 - 1.0)
            right += int((logits.argmax(dim=1).numpy() == np.asarray(data.labels)[place : place + 500]).sum())
    return right / len(images)


def write_extractor(
    network: nn.Module, image_shape: tuple[int, int, int], facts: dict[str, Any], path: Path, max_relative_error: float
) -> None:
    """Write a network from images (B, C, H, W) to features and logits as ONNX, with facts as its metadata.

    Raises ModelRefusedError where ONNX Runtime gives other features or logits; then nothing is left at the path.
    """
    metadata = {"ddpm_export_extractor": json.dumps(facts, sort_keys=True)}
    example = torch.zeros(2, *image_shape)
    model = model_from_network(network, (example,), ["images"], ["features", "logits"], "extractor", metadata)
    with replacing(path) as beside:
        beside.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        extract = open_extractor(beside, image_shape, "cpu", None)
        images = torch.from_numpy(noise_stream(0, range(7), image_shape)(0)).clamp(-1.0, 1.0)
        with torch.no_grad():
            expected = network(images)
        for got, wanted in zip(extract(images.numpy()), expected, strict=True):
            error = float(np.abs(got - wanted.numpy()).max() / np.abs(wanted.numpy()).max())
            if not error <= max_relative_error:
                raise ModelRefusedError(
                    f"{path} must reproduce its network within {max_relative_error}, got a relative error of "
                    f"{error:.3g}."
                )


def ship(network: Classifier, data: Dataset, folder: Path, test_accuracy: float, epochs: int) -> Path:
    """Write the classifier as `extractor.onnx`, checked against torch, with a card; return its path.

    Input `images` (B, C, H, W) float32 in [-1, 1]; outputs `features` (B, 128) and `logits` (B, classes).
    """
    network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    height, width, channels = data.images.shape[1:]
    shape = (channels, height, width)
    facts = {"name": f"{data.name} classifier", "test_accuracy": test_accuracy, "epochs": epochs, "license": "MIT"}
    path = folder / "extractor.onnx"
    write_extractor(network, shape, facts, path, MAX_RELATIVE_ERROR)
    card = CARD.format(
        shape=shape,
        classes=network.head.out_features,
        name=data.name,
        license=data.license,
        accuracy=test_accuracy,
        epochs=epochs,
        sha256=sha256_of(path),
    )
    write_text(folder / "extractor.md", card)
    return path


def command(
    dataset: Annotated[str, typer.Option(help=f"What it learns to name: {' or '.join(SHAPES)}.")] = "fashion-mnist",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 12,
    run: Annotated[Path, typer.Option(help="The folder for its checkpoint.")] = Path("runs/extractor"),
    out: Annotated[Path, typer.Option(help="The folder for extractor.onnx and its card.")] = Path("exported"),
    data: Annotated[Path | None, typer.Option(help="The data set's files.")] = None,
    debug: Debug = False,
) -> None:
    """Train the classifier on a data set, export it, and print its accuracy on the test images."""
    if dataset not in SHAPES:
        raise UsageError(f"dataset must be one of {', '.join(SHAPES)}, got {dataset!r}.")
    torch.manual_seed(0)
    shape = SHAPES[dataset]
    images, test = (open_dataset(dataset, data, image_shape=shape, train=side) for side in (True, False))
    network = Classifier(shape[0], int(np.max(images.labels)) + 1, is_large=shape[1] > 32)
    train(network, images, run / "checkpoint.pt", epochs, test=test)
    reached = accuracy(network, test)
    path = ship(network, images, out, reached, epochs)
    print(json.dumps({"extractor": str(path), "sha256": sha256_of(path), "test_accuracy": reached, "epochs": epochs}))


main = entry_point(command)

if __name__ == "__main__":
    main()
