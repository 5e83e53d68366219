"""Every format that a network can be written in: how its files end, and what writes them.

To add one, write a function (Original, path) -> proof, and name it here. torch and onnx are imported once a file is
written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddpm_export.exporting.original import Original
from ddpm_export.exporting.proof import PictureProof, Proof
from ddpm_export.importers.packages import installed


@dataclass(frozen=True)
class Format:
    """Say how a format's files end, and what writes one and proves it before it takes its name.

    path_in: of a format that is a folder of files, the one of them that has the graph.
    """

    ending: str
    write: Callable[[Original, Path], Proof | PictureProof]
    path_in: Callable[[Original, Path], Path] = lambda _, path: path


def _onnx(original: Original, path: Path) -> Proof:
    with installed("onnx"):
        from ddpm_export.exporting.from_denoiser import write_denoiser
    return write_denoiser(original, path)


def _torchscript(original: Original, path: Path) -> Proof:
    with installed("export"):
        from ddpm_export.exporting.torchscript import write_torchscript
    return write_torchscript(original, path)


def _pt2(original: Original, path: Path) -> Proof:
    with installed("export"):
        from ddpm_export.exporting.pt2 import write_pt2
    return write_pt2(original, path)


def _one_call(graph: str) -> Callable[[Original, Path], PictureProof]:
    def write(original: Original, path: Path) -> PictureProof:
        with installed("onnx"):
            from ddpm_export.exporting.from_denoiser import write_one_call
        return write_one_call(original, path, graph)

    return write


def _triton(original: Original, path: Path) -> PictureProof:
    with installed("onnx"):
        from ddpm_export.exporting.triton import write_triton
    return write_triton(original, path)


def _in_repository(original: Original, path: Path) -> Path:
    with installed("onnx"):
        from ddpm_export.exporting.triton import model_path
    return model_path(original.spec, path)


# onnx first: its proof is that of the graph which the one-call files are made of
FORMATS = {"onnx": Format(".onnx", _onnx), "torchscript": Format(".ts", _torchscript), "pt2": Format(".pt2", _pt2)}
# graphs around a denoiser, which open_model refuses and generate and the commands know
ONE_CALL_FORMATS = {graph: Format(f".{graph}.onnx", _one_call(graph)) for graph in ("sampler", "slice", "edit")}
# what inference servers read: a folder, in which each plan of each network has one of its own
SERVED_FORMATS = {"triton": Format("", _triton, _in_repository)}
ALL_FORMATS = {**FORMATS, **ONE_CALL_FORMATS, **SERVED_FORMATS}
