"""From a checkpoint to a proven file: the torch side of the library. Imports torch only once it is called.

`load_checkpoint` gives a network and the numbers that belong to it; `export` writes them as one file, which takes its
name only after it has reproduced the network.
"""

import copy
import dataclasses
import importlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ddpm_export.diffusion import Model
from ddpm_export.errors import EnvironmentProblem, UsageError
from ddpm_export.exporting.proof import PictureProof, Proof, Rounding, prove, prove_pictures, rounding
from ddpm_export.files import sha256_of
from ddpm_export.golden import golden_from_model
from ddpm_export.runtimes import open_model
from ddpm_export.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FORMATS",
    "ONE_CALL_FORMATS",
    "STORAGES",
    "WEIGHTS",
    "Checkpoint",
    "PictureProof",
    "Proof",
    "Report",
    "eager_model",
    "export",
    "load_checkpoint",
    "load_network",
    "prove",
    "prove_pictures",
    "rounded",
]

# the module in this folder that writes a format, and the ending by which open_model knows the file
FORMATS = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}
# the same of the graphs around a denoiser, which open_model refuses and generate and the commands know
ONE_CALL_FORMATS = {"sampler": ".sampler.onnx", "slice": ".slice.onnx"}
STORAGES = ("float32", "float16")
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
    """Tell what was written and how well it reproduces the network.

    rounding: what storing weights as float16 costs, None for float32. notes: what a user of the file has to know.
    """

    path: Path
    format: str
    num_bytes: int
    sha256: str
    proof: Proof | PictureProof
    storage: str = "float32"
    rounding: Rounding | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        values = {**dataclasses.asdict(self), "path": str(self.path), "proof": self.proof.to_json()}
        return {**values, "notes": list(self.notes)}


def load_checkpoint(path: str | Path, *, weights: str = "ema", options: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint of any known layout: a file, a folder, or the name of a model on the hub.

    weights: the averaged ones ("ema") or those of the last step ("raw"). options: what the checkpoint does not say, by
    the names of its own project (docs/importing.md). The spec's source tells importer, digest of the file and weights.
    No code in the file can run.
    Raises BadFileError for a file that is broken, foreign or hostile, UsageError for options that do not fit,
    EnvironmentProblem without torch or the package that the layout needs.
    """
    _check_weights(weights)
    sources, importers = _module("sources"), _module("importers")
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
    found, source = _module("sources").read_source(path)
    network = _module("own_network").network_from_class(reference, arguments or {}, found.contents, weights)
    source = {**spec.source, "importer": "own", "network": reference, "weights": weights, **source}
    return Checkpoint(network.eval().requires_grad_(False), dataclasses.replace(spec, source=source))


def _check_weights(weights: str) -> None:
    if weights not in WEIGHTS:
        raise UsageError(f"weights: unknown. got {weights!r}, expected one of {', '.join(WEIGHTS)}. Do pick one.")


def rounded(checkpoint: Checkpoint) -> Checkpoint:
    """Return a copy whose large weights are rounded to what float16 can hold, in float32 still.

    That is the network of a file with --storage float16. Raises ModelRefusedError for a weight beyond its range.
    """
    return dataclasses.replace(checkpoint, network=_module("program").with_rounded_weights(checkpoint.network))


def eager_model(checkpoint: Checkpoint) -> Model:
    """Return the network itself, in eager PyTorch, as a Model: NumPy in and out, float32."""
    model: Model = _module("program").eager_model(checkpoint)
    return model


@overload
def export(
    checkpoint: Checkpoint, path: str | Path, /, *, format: str = "onnx", storage: str = "float32"
) -> Report: ...


@overload
def export(denoiser: str | Path, path: str | Path, /, *, format: str, storage: str = "float32") -> Report: ...


@overload
def export(
    network: "nn.Module", spec: ModelSpec, path: str | Path, /, *, format: str = "onnx", storage: str = "float32"
) -> Report: ...


def export(source: Any, *where: Any, format: str = "onnx", storage: str = "float32") -> Report:  # noqa: A002
    """Write a network as one file, prove it against the network, and only then give it its name.

    Takes a checkpoint and a path; a network of your own, its spec and a path; or the path of a denoiser, `*.onnx`, and
    another one, which needs no torch. A network is used in evaluation mode, float32, on the CPU; it maps
    (x_t (B, C, H, W), t (B,) int64) to the outputs that the spec names.
    format: onnx, torchscript or pt2; sampler or slice, the one-call files; the path must have its ending. storage:
    float32, or float16 for the large weights of onnx, sampler and slice, which are then rounded; all is computed in
    float32. The same source gives the same bytes.
    Network evaluations: 48 batches and 10 steps of each, and 3 for the golden vectors; for a one-call file of a
    checkpoint some 100 more.
    Raises ModelRefusedError where the file does not reproduce the network, NonFiniteError where the network gives no
    numbers, EnvironmentProblem where a package is missing or the file cannot be written. A file of that name stays as
    it was in each of these cases.
    """
    path = Path(where[-1])
    _check_format(path, format, storage)
    if isinstance(source, (str, Path)):
        return _export_denoiser(Path(source), path, format, storage)
    checkpoint = source if isinstance(source, Checkpoint) else _checkpoint_of(source, *where[:-1])
    if format in ONE_CALL_FORMATS or storage != "float32":
        return _export_by_denoiser(checkpoint, path, format, storage)
    writing: Callable[[Checkpoint, Path], AbstractContextManager[Path]] = _module(format).writing
    reference = eager_model(checkpoint)
    with _one_thread():
        golden = golden_from_model(reference, checkpoint.spec)
    checkpoint = dataclasses.replace(checkpoint, spec=dataclasses.replace(checkpoint.spec, golden=golden))
    with writing(checkpoint, path) as beside:
        model, spec = open_model(beside, trust=True)  # we wrote it this moment
        proof = prove(model, reference, spec, where=str(path))
    return Report(path, format, path.stat().st_size, sha256_of(path), proof)


def _check_format(path: Path, format: str, storage: str) -> None:  # noqa: A002
    endings = {**FORMATS, **ONE_CALL_FORMATS}
    if format not in endings:
        raise UsageError(f"format: unknown. got {format!r}, expected one of {', '.join(endings)}. Do pick one.")
    expected = FORMATS.get(format, ".onnx")  # a one-call file may be called as its owner likes
    if path.suffix != expected:
        raise UsageError(
            f"{path}: the ending is not that of {format}. got {path.suffix!r}, expected {endings[format]!r}. Do "
            "rename it."
        )
    if storage not in STORAGES:
        raise UsageError(f"storage: unknown. got {storage!r}, expected one of {', '.join(STORAGES)}. Do pick one.")
    if storage != "float32" and expected != ".onnx":
        raise UsageError(
            f"storage: has no place in {format}. got {storage!r}, expected float32. Do leave it out, or choose onnx, "
            "sampler or slice."
        )


def _export_by_denoiser(checkpoint: Checkpoint, path: Path, format: str, storage: str) -> Report:  # noqa: A002
    """Export a checkpoint as a denoiser, proven against torch, and go on from that file."""
    exact = eager_model(checkpoint)
    if storage == "float16":
        checkpoint = rounded(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        denoiser = Path(folder) / "unet.onnx"
        export(checkpoint, denoiser)
        with _one_thread():
            return _written(denoiser, checkpoint.spec, eager_model(checkpoint), exact, path, format, storage)


def _export_denoiser(source: Path, path: Path, format: str, storage: str) -> Report:  # noqa: A002
    """Go on from a denoiser's file, which is taken for what it says: it was proven when it was exported."""
    side = _module("from_denoiser")
    if source.suffix != ".onnx" or FORMATS.get(format, ".onnx") != ".onnx" or (format, storage) == ("onnx", "float32"):
        raise UsageError(
            f"{source}: cannot be exported so. got --format {format} and storage {storage}, expected a .onnx file as "
            "sampler or slice, or stored as float16. Do export the checkpoint."
        )
    # one thread: golden values shall not depend on the number of cores
    exact, spec = open_model(source, threads=1)
    if path.resolve() == source.resolve():
        raise UsageError(f"{path}: is the source itself. got --out {path}, expected another file. Do name one.")
    with tempfile.TemporaryDirectory() as folder:
        denoiser, reference = source, exact
        if storage == "float16":
            denoiser = Path(folder) / "unet.onnx"
            side.write_rounded(source, denoiser)
            reference, _ = open_model(denoiser, threads=1)
        return _written(denoiser, spec, reference, exact, path, format, storage)


def _written(
    denoiser: Path,
    spec: ModelSpec,
    reference: Model,
    exact: Model,
    path: Path,
    format: str,  # noqa: A002
    storage: str,
) -> Report:
    cost = rounding(reference, exact, spec) if storage == "float16" else None
    proof = _module("from_denoiser").write_from_denoiser(denoiser, spec, reference, path, format, storage)
    notes: tuple[str, ...] = ()
    if format in ONE_CALL_FORMATS and spec.variance != "fixed_small":
        notes = (
            f"ddpm with variance {spec.variance} has no place in a one-call file: eta 1 is ddpm with fixed_small.",
        )
    return Report(path, format, path.stat().st_size, sha256_of(path), proof, storage, cost, notes)


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


def _module(name: str) -> Any:
    """Import a module of this folder that needs torch or onnx; a missing package is told once, here."""
    try:
        return importlib.import_module(f"ddpm_export.exporting.{name}")
    except ModuleNotFoundError as exc:
        package = (exc.name or "").split(".")[0]
        if package in ("", "ddpm_export"):
            raise
        extra = "onnx" if name == "from_denoiser" else "export"
        raise EnvironmentProblem(
            f"{package}: not installed. got no module of that name, expected one to export with. Do pip install "
            f"'ddpm-export[{extra}]'."
        ) from exc
