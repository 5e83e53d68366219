"""The ONNX graph of a denoiser, weights rounded as they are to be stored; a large one lies in files. No torch."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from ddpm_export.errors import UsageError
from ddpm_export.exporting.onnx_file import fits_inline, writing_model
from ddpm_export.exporting.stored_weights import round_weights, storage_of
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Model
from ddpm_export.runtimes.onnx import model_from_bytes, model_from_path


@dataclass(frozen=True)
class DenoiserGraph:
    """Hold a denoiser's ONNX model, in memory, or without its weights where those lie in files beside `path`.

    Protobuf copies no message of 2 GB: a transform of a larger model takes the graph first and its weights last.
    """

    model: ModelProto
    path: Path | None = None

    def copy(self) -> ModelProto:
        """Return a model of one's own, without the weights that lie in files."""
        model = ModelProto()
        model.CopyFrom(self.model)
        return model

    def with_weights(self) -> ModelProto:
        """Return a model of one's own with all of its weights in memory."""
        return self.copy() if self.path is None else onnx.load(self.path)


def graph_from_model(model: ModelProto, storage: str, stack: ExitStack) -> DenoiserGraph:
    """Return a model with its weights rounded as they are to be stored, in float32 still.

    One that is too large for protobuf lies in a temporary folder until the stack is left.
    """
    if storage != "float32":
        round_weights(model, storage)
    if fits_inline(model):
        return DenoiserGraph(model)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "unet.onnx"
    with writing_model(model, path):
        pass
    return DenoiserGraph(onnx.load(path, load_external_data=False), path)


def graph_from_file(path: Path, storage: str, stack: ExitStack) -> DenoiserGraph:
    """Return the graph of a denoiser's file, as `graph_from_model` does.

    Raises UsageError where its weights are to be stored otherwise than they already are.
    """
    if storage != "float32":
        if (before := storage_of(path)) not in ("float32", storage):
            raise UsageError(
                f"{path}: has its weights stored as {before} already. Choose `storage={before}`, or a file of float32."
            )
        return graph_from_model(onnx.load(path), storage, stack)
    return DenoiserGraph(onnx.load(path, load_external_data=False), path)


def rounded_graph(graph: DenoiserGraph, storage: str, stack: ExitStack) -> DenoiserGraph:
    """Return a graph with its weights rounded as they are to be stored; the one that is given stays."""
    return graph_from_model(graph.with_weights(), storage, stack)


def model_from_graph(graph: DenoiserGraph, spec: ModelSpec, *, threads: int | None = None) -> Model:
    """Return the network of a graph, evaluated by ONNX Runtime on the CPU."""
    if graph.path is None:
        return model_from_bytes(graph.model.SerializeToString(), spec, threads=threads)
    return model_from_path(graph.path, threads=threads)
