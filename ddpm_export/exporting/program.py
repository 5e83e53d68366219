"""The graph of a network: traced by torch.export with a dynamic batch, and every format is made from what can be so."""

import contextlib
import copy
import io
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddpm_export.diffusion import Array, Model
from ddpm_export.errors import DdpmExportError, ModelRefusedError
from ddpm_export.exporting.storage import MIN_ROUNDED, float16_values
from ddpm_export.runtimes.torch_archive import model_from_module

if TYPE_CHECKING:
    from ddpm_export.exporting import Checkpoint

__all__ = ["eager_model", "example_inputs", "program_from_network", "quiet_torch", "with_rounded_weights"]

TORCH = str(Path(torch.__file__).parent)
SHAPES_LOG = "torch.fx.experimental.symbolic_shapes"


def eager_model(checkpoint: "Checkpoint") -> Model:
    """Return the network itself, in eager PyTorch, as a Model: NumPy in and out, float32.

    It raises ModelRefusedError where the network's own code fails, with the module and the line.
    """
    model = model_from_module(checkpoint.network, checkpoint.spec, "cpu")

    def told(x_t: Array, t: Array) -> dict[str, Array]:
        try:
            return model(x_t, t)
        except DdpmExportError:
            raise
        except Exception as exc:  # whatever a user's network raises
            frames = _frames_of(exc)
            raise ModelRefusedError(
                f"network: does not run on a batch of {len(x_t)}. got {_first_line(exc)} in "
                f"{_place(checkpoint.network, frames)}, expected {checkpoint.spec.prediction} for x_t of shape "
                f"{x_t.shape} and t of shape {t.shape}. Do correct the network, or the image shape."
            ) from exc

    return told


def example_inputs(checkpoint: "Checkpoint") -> tuple[Tensor, Tensor]:
    """Return x_t and t of two images: with one, torch takes the batch for a constant."""
    return torch.zeros(2, *checkpoint.spec.image_shape), torch.tensor([0, 1])


def with_rounded_weights(network: nn.Module) -> nn.Module:
    """Return a copy whose large weights are rounded to what float16 can hold, in float32 still.

    Raises ModelRefusedError for a weight beyond float16's range.
    """
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.numel() >= MIN_ROUNDED:
                weight.copy_(torch.from_numpy(float16_values(name, weight.numpy())))
    return network


def program_from_network(network: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Return a network as a graph of ATen operators whose batch may be of any size.

    Raises ModelRefusedError where the network does what no graph can express, with the module and the line.
    """
    try:
        with quiet_torch():
            return _traced(network, example)
    except Exception as exc:  # torch raises whatever its tracer and the network's own code met
        if "Constraints violated" in str(exc):
            reason, place = "code that fixes the size of the batch", _place_that_fixes_the_batch(network, example)
        else:
            reason, place = _first_line(exc), _place(network, _frames_of(exc))
        raise ModelRefusedError(
            f"network: cannot be traced. got {reason} in {place}, expected nothing that depends on the values of x_t "
            "and t or on the size of the batch. Do write it with tensor operations."
        ) from exc


def _traced(network: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    return torch.export.export(network, example, dynamic_shapes=({0: batch},) * len(example))


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
    line = (str(exc).splitlines() or [""])[0].split(" (unhinted")[0]
    return repr(f"{type(exc).__name__}: {line[:160]}")


def _place_that_fixes_the_batch(network: nn.Module, example: tuple[Tensor, ...]) -> str:
    """Trace once more and look, at the first assumption on a size that torch logs, at who is calling."""
    places: list[str] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "[guard added]" in record.getMessage():
                places.append(_place(network, _frames_of_caller()))

    log, watch = logging.getLogger(SHAPES_LOG), Watch()
    level, propagate, others = log.level, log.propagate, log.handlers[:]
    log.handlers[:], log.propagate = [watch], False
    log.setLevel(logging.INFO)
    disabled, logging.root.manager.disable = logging.root.manager.disable, logging.NOTSET
    try:
        with contextlib.suppress(Exception):
            _traced(network, example)
    finally:
        log.handlers[:], log.propagate = others, propagate
        log.setLevel(level)
        logging.root.manager.disable = disabled
    return places[0] if places else _place(network, [])


def _frames_of(exc: BaseException) -> list[tuple[FrameType, int]]:
    frames, traceback = [], exc.__traceback__
    while traceback is not None:
        frames.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    return frames


def _frames_of_caller() -> list[tuple[FrameType, int]]:
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return frames[::-1]


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
