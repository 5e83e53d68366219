"""The network that the files of one export must reproduce, and what those files share, each made once when asked for.

It comes from a checkpoint, with torch, or from the file of a denoiser or a foreign network, without.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_export.exporting.proof import REMEDY, Proof, Rounding, prove, prove_int8, rounding
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.packages import installed
from ddpm_export.model.golden import golden_from_model
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Model
from ddpm_export.runtimes.onnx import model_from_path
from ddpm_export.runtimes.opened import Network
from ddpm_export.runtimes.opening import open_model
from ddpm_export.system.files import replacing

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

    from ddpm_export.exporting.denoiser_graph import DenoiserGraph


STORE_OTHERWISE = "Choose `storage=float16`, or leave it out."


@dataclass
class Original:
    """Hold a network, how its weights are to be stored, and what has been found out about it so far.

    reference: the network with its weights as they are stored; exact: with its own. checkpoint: None where it is a
    file. one_thread: makes sums come out the same on any number of cores. is_proven: whether the ONNX graph is known to
    be the network. remedy: what to try where a file does not reproduce it. opens: the choices that one-call files take.
    """

    spec: ModelSpec
    exact: Model
    reference: Model
    storage: str
    checkpoint: Checkpoint | None
    make_graph: Callable[[Any], "DenoiserGraph"]
    one_thread: Callable[[], AbstractContextManager[None]]
    is_proven: bool = False
    remedy: str = REMEDY
    calibrate: int | None = None
    opens: Sequence[str] = ()
    stages: "Mapping[str, ModelProto]" = field(default_factory=dict)

    @property
    def traced_from(self) -> Checkpoint:
        """Return the checkpoint, where torch has to trace it."""
        assert self.checkpoint is not None  # `export` refuses formats of torch for a file
        return self.checkpoint

    @cached_property
    def program(self) -> "ExportedProgram":
        """Return the checkpoint's network as torch traced it."""
        with installed("export"):
            from ddpm_export.exporting.program import program_from_checkpoint
        return program_from_checkpoint(self.traced_from)

    @cached_property
    def graph(self) -> "DenoiserGraph":
        """Return the network's ONNX graph, weights rounded as they are to be stored."""
        return self.make_graph(self)

    @cached_property
    def spec_with_golden(self) -> ModelSpec:
        """Return the spec as the file of a denoiser carries it."""
        with self.one_thread():
            return dataclasses.replace(self.spec, golden=golden_from_model(self.reference, self.spec))

    @cached_property
    def cost(self) -> Rounding | None:
        """Return what storing weights in fewer bits costs, None where they are not."""
        return None if self.storage == "float32" else rounding(self.reference, self.exact, self.spec)

    def write_proven(self, content: bytes | memoryview, path: Path) -> Proof:
        """Write a file's bytes beside `path`; it takes that name once it is proven."""
        with replacing(path) as beside:
            beside.write_bytes(content)
            return self.prove_file(beside, path)

    def prove_graph(self, path: Path) -> None:
        """Prove the graph that a file, to be called `path`, is made of, unless that has been done for another file."""
        with installed("onnx"):
            from ddpm_export.exporting.denoiser_graph import model_from_graph
        if not self.is_proven:
            model = model_from_graph(self.graph, self.spec)
            prove(model, self.reference, self.spec, where=str(path), remedy=self.remedy)
            self.is_proven = True

    @contextmanager
    def writing(self, model: "ModelProto", path: Path) -> Iterator[Path]:
        """Give a model the network's weights, stored as they are to be, and write it beside `path`."""
        with installed("onnx"):
            from ddpm_export.exporting.onnx_file import read_weights, writing_model
            from ddpm_export.exporting.stored_weights import store_weights
        folder = self.graph.path.parent if self.graph.path else None
        if self.storage != "float32":
            if folder is not None:
                read_weights(model, folder)
            store_weights(model.graph, self.storage)
        with writing_model(model, path, weights_in=folder) as beside:
            yield beside

    def prove_file(self, beside: Path, path: Path) -> Proof:
        """Prove a file that we have just written to `beside`, and that is to be called `path`."""
        is_onnx = beside.suffix == ".onnx"  # whose stages are proven, and written after it
        model = model_from_path(beside) if is_onnx else open_model(beside, trust=True)[0]
        return prove(model, self.reference, self.spec, where=str(path), remedy=self.remedy)


def original_from_checkpoint(checkpoint: Checkpoint, storage: str, stack: ExitStack) -> Original:
    """Return a checkpoint's network; it is run once, so that what is wrong with its code is told first.

    stack: removes what lies in files for as long as the export lasts.
    """
    with installed("export"):
        from ddpm_export.exporting.program import eager_model, one_thread, with_rounded_weights
        from ddpm_export.exporting.stages import eager_stages, stages_from_checkpoint

    def traced(*what: Any) -> "ModelProto":
        with installed("export"):
            from ddpm_export.exporting.onnx import model_from_network
            from ddpm_export.exporting.passes import PASSES, rewritten
        return rewritten(model_from_network(*what), PASSES)

    def make_graph(original: Original) -> "DenoiserGraph":
        with installed("export"):
            from ddpm_export.exporting.denoiser_graph import graph_from_model
            from ddpm_export.exporting.onnx import model_from_checkpoint
            from ddpm_export.exporting.passes import PASSES, WEIGHTS_KEPT
        passes = WEIGHTS_KEPT if storage == "float16" else PASSES
        of_graph = "float32" if storage == "int8" else storage
        return graph_from_model(model_from_checkpoint(checkpoint, original.program, passes), of_graph, stack)

    spec = checkpoint.spec
    stages = eager_stages(checkpoint)
    reference = exact = Network(eager_model(checkpoint), spec, stages)
    if storage == "float16":
        rounded = dataclasses.replace(checkpoint, network=with_rounded_weights(checkpoint.network))
        reference = Network(eager_model(rounded), spec, stages)
    original = Original(spec, exact, reference, storage, checkpoint, make_graph, one_thread)
    original.stages = stages_from_checkpoint(checkpoint, stages, traced) if stages else {}
    _ = original.spec_with_golden
    # a graph may hold a weight transposed: which of its axes has the output channels, only the graph says
    return with_rounded_graph(original, "network", stack) if storage == "int8" else original


def original_from_file(source: Path, storage: str, stack: ExitStack) -> Original:
    """Return the network of a denoiser's file, which is taken for what it says: it was proven when it was exported."""
    with installed("onnx"):
        from ddpm_export.exporting.denoiser_graph import graph_from_file, model_from_graph
        from ddpm_export.exporting.stages import stages_from_files
    # one thread: golden values shall not depend on the number of cores
    exact, spec = open_model(source, threads=1)
    graph = graph_from_file(source, storage, stack)
    reference = exact if storage == "float32" else model_from_graph(graph, spec, threads=1)
    if storage == "int8":
        prove_int8(reference, exact, spec, where=str(source), remedy=STORE_OTHERWISE)
    if isinstance(exact, Network):
        reference = dataclasses.replace(exact, evaluate=reference)
    stages = stages_from_files(source, spec)
    return Original(spec, exact, reference, storage, None, lambda _: graph, nullcontext, is_proven=True, stages=stages)


def with_rounded_graph(original: Original, where: str, stack: ExitStack) -> Original:
    """Return a network whose graph has rounded weights: proven before it is, it is what files then have to reproduce.

    Raises ModelRefusedError, besides where the graph is not the network, where 8-bit integers are too coarse for it.
    """
    with installed("onnx"):
        from ddpm_export.exporting.denoiser_graph import model_from_graph, rounded_graph
    spec, exact, storage = original.spec, original.exact, original.storage
    prove(model_from_graph(original.graph, spec, threads=1), exact, spec, where=where, remedy=original.remedy)
    graph = rounded_graph(original.graph, storage, stack)
    reference: Model = model_from_graph(graph, spec, threads=1)
    if isinstance(exact, Network):
        reference = dataclasses.replace(exact, evaluate=reference)
    if storage == "int8":
        prove_int8(reference, exact, spec, where=where, remedy=STORE_OTHERWISE)
    return dataclasses.replace(original, reference=reference, make_graph=lambda _: graph, is_proven=True)
