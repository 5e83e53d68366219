"""From a checkpoint to a proven file: the torch side of the library. Imports torch only once it is called.

`load_checkpoint` gives a network and the numbers that belong to it; `export` writes them as one file, which takes its
name only after it has reproduced the network.
"""

import copy
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ddpm_export.diffusion import Model
from ddpm_export.errors import EnvironmentProblem, UsageError
from ddpm_export.exporting.proof import Proof, prove
from ddpm_export.files import sha256_of
from ddpm_export.golden import golden_from_model
from ddpm_export.runtimes import open_model
from ddpm_export.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FORMATS",
    "WEIGHTS",
    "Checkpoint",
    "Proof",
    "Report",
    "eager_model",
    "export",
    "load_checkpoint",
    "load_network",
    "prove",
]

# the module in this folder that writes a format, and the ending by which open_model knows the file
FORMATS = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}
WEIGHTS = ("ema", "raw")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Hold a network in evaluation mode, float32 on the CPU, and its spec.

    The network maps (x_t (B, C, H, W), t (B,) int64) to what the spec's `prediction` names, or to that and
    variance_fraction where the spec requires it. notes: what to tell whoever exports it.
    """

    network: "nn.Module"
    spec: ModelSpec
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """Tell what was written and how well it reproduces the network."""

    path: Path
    format: str
    num_bytes: int
    sha256: str
    proof: Proof

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**dataclasses.asdict(self), "path": str(self.path), "proof": self.proof.to_json()}


def load_checkpoint(path: str | Path, *, weights: str = "ema", options: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint of any known layout: a file, a folder, or the name of a model on the hub.

    weights: the averaged ones ("ema") or those of the last step ("raw"). options: what the checkpoint does not say, by
    the names of its own project (docs/importing.md). The spec's source tells importer, digest of the file and weights.
    No code in the file can run.
    Raises BadFileError for a file that is broken, foreign or hostile, UsageError for options that do not fit,
    EnvironmentProblem without torch or the package that the layout needs.
    """
    _check_weights(weights)
    sources, importers = _torch_side("sources"), _torch_side("importers")
    found, source = sources.read_source(path)
    imported = importers.import_network(path, found, weights, options or {})
    source = {**imported.spec.source, **imported.source, **source}
    network = imported.network.eval().requires_grad_(False)
    return Checkpoint(network, dataclasses.replace(imported.spec, source=source), imported.notes)


def load_network(
    path: str | Path,
    reference: str,
    spec: ModelSpec,
    *,
    arguments: Mapping[str, Any] | None = None,
    weights: str = "ema",
) -> Checkpoint:
    """Read the weights of a network of your own class, `package.module:Class`, which is called with the arguments.

    This runs the module's code. The network maps (x_t, t) to what the spec says, whose source then names the class and
    the digest of the file. Raises UsageError for a class that cannot be made, BadFileError for weights that do not fit.
    """
    _check_weights(weights)
    found, source = _torch_side("sources").read_source(path)
    network = _torch_side("own_network").network_from_class(reference, arguments or {}, found.contents, weights)
    source = {**spec.source, "importer": "own", "network": reference, "weights": weights, **source}
    return Checkpoint(network.eval().requires_grad_(False), dataclasses.replace(spec, source=source))


def _check_weights(weights: str) -> None:
    if weights not in WEIGHTS:
        raise UsageError(f"weights: unknown. got {weights!r}, expected one of {', '.join(WEIGHTS)}. Do pick one.")


def eager_model(checkpoint: Checkpoint) -> Model:
    """Return the network itself, in eager PyTorch, as a Model: NumPy in and out, float32."""
    model: Model = _torch_side("program").eager_model(checkpoint)
    return model


@overload
def export(checkpoint: Checkpoint, path: str | Path, /, *, format: str = "onnx") -> Report: ...


@overload
def export(network: "nn.Module", spec: ModelSpec, path: str | Path, /, *, format: str = "onnx") -> Report: ...


def export(source: Any, *where: Any, format: str = "onnx") -> Report:  # noqa: A002
    """Write a network as one file, prove it against eager PyTorch, and only then give it its name.

    Takes a checkpoint and a path, or a network of your own, its spec and a path. A network is used in evaluation mode,
    float32, on the CPU; it maps (x_t (B, C, H, W), t (B,) int64) to the outputs that the spec names.
    format: onnx, torchscript or pt2; the path must have its ending. The same checkpoint gives the same bytes.
    Network evaluations: 48 batches and 10 steps of each, and 3 for the golden vectors.
    Raises ModelRefusedError where the file does not reproduce the network, NonFiniteError where the network gives no
    numbers, EnvironmentProblem where a package is missing or the file cannot be written. A file of that name stays as
    it was in each of these cases.
    """
    checkpoint = source if isinstance(source, Checkpoint) else _checkpoint_of(source, *where[:-1])
    path = Path(where[-1])
    if format not in FORMATS:
        raise UsageError(f"format: unknown. got {format!r}, expected one of {', '.join(FORMATS)}. Do pick one.")
    if path.suffix != FORMATS[format]:
        raise UsageError(
            f"{path}: the ending is not that of {format}. got {path.suffix!r}, expected {FORMATS[format]!r}. Do "
            "rename it."
        )
    writing: Callable[[Checkpoint, Path], AbstractContextManager[Path]] = _torch_side(format).writing
    reference = eager_model(checkpoint)
    with _one_thread():
        golden = golden_from_model(reference, checkpoint.spec)
    checkpoint = dataclasses.replace(checkpoint, spec=dataclasses.replace(checkpoint.spec, golden=golden))
    with writing(checkpoint, path) as beside:
        model, spec = open_model(beside, trust=True)  # we wrote it this moment
        proof = prove(model, reference, spec, where=str(path))
    return Report(path, format, path.stat().st_size, sha256_of(path), proof)


def _checkpoint_of(network: "nn.Module", spec: ModelSpec) -> Checkpoint:
    """Return a copy of a user's network, ready to be exported: theirs may be in training, on a GPU, of half floats."""
    return Checkpoint(copy.deepcopy(network).cpu().float().eval().requires_grad_(False), spec)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch sum in one order: golden values are written to the last bit, whatever the number of cores."""
    torch = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _torch_side(name: str) -> Any:
    """Import a module of this folder; a missing package is told once, here."""
    try:
        return importlib.import_module(f"ddpm_export.exporting.{name}")
    except ModuleNotFoundError as exc:
        package = (exc.name or "").split(".")[0]
        if package in ("", "ddpm_export"):
            raise
        raise EnvironmentProblem(
            f"{package}: not installed. got no module of that name, expected one to export with. Do pip install "
            "'ddpm-export[export]'."
        ) from exc
