"""The shipped model's one-call files and its half-size one, made once for every language."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shipped_exports(made_once):
    """Return a folder with unet.sampler.onnx, unet.slice.onnx and, of half the size, unet.float16.onnx."""
    unet = ROOT / "exported" / "unet.onnx"

    def make(folder):
        from ddpm_export.exporting.export import export

        for kind in ("sampler", "slice"):
            export(unet, folder / f"unet.{kind}.onnx", format=kind, opens="all")
        export(unet, folder / "unet.float16.onnx", format="onnx", storage="float16")

    return made_once("shipped-exports", make, unet, ROOT / "ddpm_export")
