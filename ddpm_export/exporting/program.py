"""The graph of a network: traced by torch.export with a dynamic batch, and every format is made from what can be so."""

import contextlib
import copy
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType

import torch
from torch import Tensor, nn

from ddpm_export.errors import DdpmExportError, ModelRefusedError, first_line
from ddpm_export.exporting.storage import rounded_values
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model
from ddpm_export.runtimes.torch_archive import model_from_module

TORCH = str(Path(torch.__file__).parent)
SHAPES_LOG = "torch.fx.experimental.symbolic_shapes"


def eager_model(checkpoint: Checkpoint) -> Model:
    """Return the network itself, in eager PyTorch, as a Model: NumPy in and out, float32.

    The model raises ModelRefusedError where the network's own code fails, with the module and the line.
    """
    model = model_from_module(checkpoint.network, checkpoint.spec, "cpu")

    def asked(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        try:
            return model(x_t, t, **inputs)
        except DdpmExportError:
            raise
        except Exception as exc:  # whatever a user's network raises
            raise ModelRefusedError(
                f"network: does not run on a batch of {len(x_t)}, x_t of shape {x_t.shape} and t of shape {t.shape}: "
                f"{_first_line(exc)} in {_place(checkpoint.network, traceback.walk_tb(exc.__traceback__))}. "
                "Correct the network, or the image shape."
            ) from exc

    return asked


def example_inputs(spec: ModelSpec) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return (x_t, t) and the spec's inputs by name, of two images: with one, torch takes the batch for a constant."""
    t = torch.tensor([0, 1], dtype=getattr(torch, spec.t_dtype))
    named = example_of_inputs(spec.inputs, 0, (0, 1))
    return (torch.zeros(2, *spec.state_shape), t), {name: torch.from_numpy(value) for name, value in named.items()}


def with_rounded_weights(network: nn.Module) -> nn.Module:
    """Return a copy whose large weights are rounded to what float16 can hold, in float32 still.

    Raises ModelRefusedError for a weight beyond float16's range.
    """
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in (*network.named_parameters(), *network.named_buffers()):
            weight.copy_(torch.from_numpy(rounded_values(name, weight.numpy())))
    return network


def program_from_network(
    network: nn.Module, example: tuple[Tensor, ...], named: Mapping[str, Tensor] = MappingProxyType({})
) -> torch.export.ExportedProgram:
    """Return a network as a graph of ATen operators whose batch may be of any size.

    example, named: what it is called with, by place and by name, of two images. Raises ModelRefusedError where the
    network does what no graph can express, with the module and the line.
    """
    try:
        with quiet_torch():
            program = _traced(network, example, named)
    except Exception as exc:  # torch raises whatever its tracer and the network's own code met
        if "Constraints violated" in str(exc):
            reason = "code that fixes the size of the batch"
            place = _place_that_fixes_the_batch(network, example, named)
        else:
            reason, place = _first_line(exc), _place(network, traceback.walk_tb(exc.__traceback__))
        raise ModelRefusedError(
            f"network: cannot be traced: {reason} in {place}. Nothing may depend on the values of its inputs or on the "
            "size of the batch: write it with tensor operations."
        ) from exc
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # absolute paths of this machine
    return program


def program_from_checkpoint(checkpoint: Checkpoint) -> torch.export.ExportedProgram:
    """Return a checkpoint's network as a graph of ATen operators, as `program_from_network` does."""
    return program_from_network(checkpoint.network, *example_inputs(checkpoint.spec))


def _traced(
    network: nn.Module, example: tuple[Tensor, ...], named: Mapping[str, Tensor]
) -> torch.export.ExportedProgram:
    batch, shapes = torch.export.Dim("batch"), torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in (*example, *named.values()):
        shapes[tensor] = {0: batch}
    return torch.export.export(network, example, dict(named), dynamic_shapes=shapes)  # type: ignore[arg-type]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch sum in one order: golden values are written to the last bit, whatever the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep to ourselves what torch says while it traces: what is wrong is raised as well."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    printed = io.StringIO()  # the graph so far, where it fails
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
            # torch's own use of its own deprecated names
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        logging.disable(disabled)


def _first_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {first_line(exc).split(' (unhinted')[0]}"


def _place_that_fixes_the_batch(network: nn.Module, example: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> str:
    """Trace once more and look, at the first assumption on a size that torch logs, at who is calling."""
    places: list[str] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "[guard added]" in record.getMessage():
                places.append(_place(network, [*traceback.walk_stack(sys._getframe())][::-1]))

    log, watch = logging.getLogger(SHAPES_LOG), Watch()
    level, propagate, others = log.level, log.propagate, log.handlers[:]
    log.handlers[:], log.propagate = [watch], False
    log.setLevel(logging.INFO)
    disabled, logging.root.manager.disable = logging.root.manager.disable, logging.NOTSET
    try:
        with contextlib.suppress(Exception):
            _traced(network, example, named)
    finally:
        log.handlers[:], log.propagate = others, propagate
        log.setLevel(level)
        logging.root.manager.disable = disabled
    return places[0] if places else _place(network, [])


def _place(network: nn.Module, frames: Iterable[tuple[FrameType, int]]) -> str:
    """Say `module mid.1 (Block), net.py:17` for the innermost of the frames that is code of one of its modules."""
    names = {id(module): name for name, module in network.named_modules()}
    place = _module(names, network)
    for frame, line in frames:  # from the outermost on
        code, file = frame.f_code, frame.f_code.co_filename
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None  # self, by whatever name
        if isinstance(owner, nn.Module) and id(owner) in names and not file.startswith(TORCH):
            place = f"{_module(names, owner)}, {Path(file).name}:{line}"
    return place


def _module(names: dict[int, str], module: nn.Module) -> str:
    return f"module {names[id(module)] or 'network'} ({type(module).__name__})"
