"""From a checkpoint to a proven file: the torch side of the library. Imports torch only once it is called.

`load_checkpoint` gives a network and the numbers that belong to it; `export` writes them as one file, which takes its
name only after it has reproduced the network. `formats.py` has the table of formats.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ddpm_export.errors import UsageError, several, shown
from ddpm_export.exporting.foreign import ForeignNetwork, foreign_network, shape_and_time
from ddpm_export.exporting.formats import ALL_FORMATS, FORMATS, ONE_CALL_FORMATS, SERVED_FORMATS
from ddpm_export.exporting.original import Original, original_from_checkpoint, original_from_file
from ddpm_export.exporting.proof import PictureProof, Proof, Rounding
from ddpm_export.exporting.storage import STORAGES
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.packages import installed
from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.spec import OPENABLE, ModelSpec
from ddpm_export.process.equations import Model
from ddpm_export.runtimes.external_data import metadata_of
from ddpm_export.system.files import sha256_of

if TYPE_CHECKING:
    from torch import nn


MAX_CALIBRATE = 100_000


@dataclasses.dataclass(frozen=True)
class Report:
    """Tell what was written and how well it reproduces the network.

    rounding: what storing weights in fewer bits costs, None for float32. notes: what a user of the file has to know.
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


def is_foreign(path: Path) -> bool:
    """Return whether a file is an .onnx that is not ours. Raises BadFileError for one that is no ONNX file at all."""
    return path.suffix == ".onnx" and path.is_file() and METADATA_KEY not in metadata_of(path)


def foreign_shape_and_time(path: Path, options: Mapping[str, Any]) -> tuple[tuple[int, ...] | None, str]:
    """Return the shape of the state of a foreign .onnx, None where its graph does not say it, and t, sigma or c_noise.

    options: as of `load_onnx`. Raises BadFileError and UsageError as that does.
    """
    with installed("onnx"):
        from ddpm_export.exporting.foreign_graph import places_of
    return shape_and_time(path, places_of(path)[0], options)


def load_onnx(path: str | Path, spec: ModelSpec, options: Mapping[str, Any]) -> ForeignNetwork:
    """Read a network that is an .onnx already, of whoever made it; needs no torch.

    options: which of its inputs is x_t, t (or sigma, or c_noise) and each of the spec's inputs, by name, and the rest
    of docs/importing-modules.md. Raises BadFileError for what is no ONNX file, UsageError for options that do not fit,
    ModelRefusedError for what cannot become a network of (x_t, t).
    """
    path = Path(path)
    with installed("onnx"):
        from ddpm_export.exporting.foreign_graph import places_of
    inputs, outputs = places_of(path)
    network = foreign_network(path, inputs, outputs, spec, options)
    names = {ours: place.name for ours, place in network.places.items()}
    source = {
        **spec.source,
        "importer": "onnx",
        "names": names,
        "time": network.time,
        "checkpoint_sha256": sha256_of(path),
    }
    notes = [f"golden vectors record what {path} gives in ONNX Runtime, the only reference there is."]
    if network.one_by_one:
        notes.append(f"{path} takes a single image or time: batches are evaluated image by image.")
    shape = network.spec.state_shape
    if len(shape) == 3 and not network.is_nhwc and shape[2] in (1, 3, 4) and shape[0] > shape[2]:
        notes.append(
            f"{path} was read as {shape[0]} channels of {shape[1]} x {shape[2]} pixels. If its channels come last, add "
            "`layout=NHWC`."
        )
    left = [name for name in outputs if name != network.output.name]
    if left:
        notes.append(f"left out: the output {several(left)}.")
    return dataclasses.replace(network, spec=dataclasses.replace(spec, source=source), notes=tuple(notes))


def stored_model(checkpoint: Checkpoint, storage: str) -> Model:
    """Return the network that a file of a checkpoint has to reproduce, its weights rounded as a storage rounds them.

    In eager PyTorch; for int8 its graph, once it is proven. Raises ModelRefusedError where a storage cannot hold it.
    """
    with ExitStack() as stack:
        return original_from_checkpoint(checkpoint, storage, stack).reference


def storage_of(path: Path) -> str:
    """Return how a model file stores its weights: float32, or float16 or int8, which only .onnx files do."""
    if path.suffix != ".onnx":
        return "float32"
    with installed("onnx"):
        from ddpm_export.exporting import stored_weights
    return stored_weights.storage_of(path)


def eager_model(checkpoint: Checkpoint) -> Model:
    """Return the network itself, in eager PyTorch, as a Model: NumPy in and out, float32."""
    with installed("export"):
        from ddpm_export.exporting import program
    return program.eager_model(checkpoint)


@overload
def export(
    source: Checkpoint | ForeignNetwork | str | Path,
    path: str | Path,
    /,
    *,
    format: str = "onnx",
    storage: str = "float32",
    opens: Sequence[str] = (),
) -> Report: ...


@overload
def export(
    network: "nn.Module",
    spec: ModelSpec,
    path: str | Path,
    /,
    *,
    format: str = "onnx",
    storage: str = "float32",
    opens: Sequence[str] = (),
    stages: "Mapping[str, nn.Module] | None" = None,
) -> Report: ...


def export(
    source: Any,
    *where: Any,
    format: str = "onnx",  # noqa: A002
    storage: str = "float32",
    opens: Sequence[str] = (),
    stages: "Mapping[str, nn.Module] | None" = None,
) -> Report:
    """Write a network as one file, prove it against the network, and only then give it its name.

    Takes a checkpoint and a path; a network of your own, its spec and a path; or, without torch, a foreign .onnx of
    `load_onnx` and a path, or the path of a denoiser, `*.onnx`, and another one. A network is used in evaluation mode,
    float32, on the CPU; it maps (x_t (B, C, H, W), t (B,) int64, and the spec's inputs by name) to the outputs that the
    spec names.
    format: onnx, torchscript or pt2; sampler, slice or edit, the one-call files; the path must have its ending. triton,
    whose path is a folder of models, in which this one gets a folder called by the plan that is its default.
    storage: float32, or, for the large weights of .onnx files, float16 or int8, to which they are then rounded; all is
    computed in float32. The same source gives the same bytes.
    opens: of a one-call file, which of steps, eta, times, plan and guidance are inputs of its graph, or "all"; the
    others are fixed to the defaults of the network's spec.
    stages: of a network of your own, those that its spec describes, by name: each maps its inputs, in their order, to
    its outputs. They become files beside `path`, such as unet.after.onnx, or a part of a one-call file.
    Network evaluations: 48 batches and 10 steps of each, and 3 for the golden vectors; for a one-call file of a
    checkpoint some 100 more.
    Raises ModelRefusedError where the file does not reproduce the network, NonFiniteError where the network gives no
    numbers, EnvironmentProblem where a package is missing or the file cannot be written. A file of that name stays as
    it was in each of these cases.
    """
    path = Path(where[-1])
    if not isinstance(source, (str, Path, Checkpoint, ForeignNetwork)):
        _check_format(path, format, storage)
        # a copy: the user's network may be in training, on a GPU or in half precision
        networks = {"": source, **(stages or {})}
        copies = {name: copy.deepcopy(own).cpu().float().eval().requires_grad_(False) for name, own in networks.items()}
        source = Checkpoint(copies.pop(""), where[0], stages=copies)
    (report,) = export_all(source, {format: path}, storage=storage, opens=opens)
    return report


def export_all(
    source: Checkpoint | ForeignNetwork | str | Path,
    paths: Mapping[str, str | Path],
    *,
    storage: str = "float32",
    calibrate: int | None = None,
    opens: Sequence[str] = (),
    defaults: Callable[[ModelSpec], ModelSpec] = lambda spec: spec,
) -> Iterator[Report]:
    """Write a network in several formats, {format: path}, as `export` writes one; yields a report after each file.

    calibrate: 1 to 100,000, over how many evaluations of an image the ranges of 8-bit integers are found; onnx only,
    whose convolutions then compute in them. None for float32. Such a file's pictures are near the network's, not equal.
    opens: as of `export`, where one of the formats is a one-call file.
    defaults: what becomes of the spec that is found in a file, where its defaults shall be others. The network is
    traced, and its ONNX graph proven, once for all of them: onnx is written before the one-call files.
    """
    targets = {format: Path(path) for format, path in paths.items()}  # noqa: A001
    for format, path in targets.items():  # noqa: A001
        _check_format(path, format, storage)
        if not isinstance(source, Checkpoint):
            _check_source(source, path, format, storage if calibrate is None else "int8")
        _check_int8(format, storage, calibrate)
    opens = _checked_choices(opens, targets)
    with ExitStack() as stack:
        if isinstance(source, Checkpoint):
            _check_staged(source, targets)
            original = original_from_checkpoint(source, storage, stack)
        elif isinstance(source, ForeignNetwork):
            with installed("onnx"):
                from ddpm_export.exporting.foreign_graph import original_from_foreign
            original = original_from_foreign(source, storage, stack)
        else:
            original = original_from_file(Path(source), storage, stack)
            original.spec = defaults(original.spec)
        original.calibrate, original.opens = calibrate, opens
        for format in sorted(targets, key=list(ALL_FORMATS).index):  # noqa: A001
            path = ALL_FORMATS[format].path_in(original, targets[format])
            proof = ALL_FORMATS[format].write(original, path)
            notes = _notes(original, format)
            yield Report(path, format, path.stat().st_size, sha256_of(path), proof, storage, original.cost, notes)


def _check_format(path: Path, format: str, storage: str) -> None:  # noqa: A002
    if format not in ALL_FORMATS:
        raise UsageError(f"format must be one of {', '.join(ALL_FORMATS)}, got {format!r}.")
    expected = FORMATS[format].ending if format in FORMATS else ".onnx"  # a one-call file need not end in .sampler.onnx
    if path.suffix != expected and format not in SERVED_FORMATS:
        raise UsageError(f"{path}: a file of format {format} ends in {ALL_FORMATS[format].ending}.")
    if storage not in STORAGES:
        raise UsageError(f"storage must be one of {', '.join(STORAGES)}, got {storage!r}.")
    if storage != "float32" and expected != ".onnx":
        raise UsageError(f"storage {storage} does not apply to {format}. Choose onnx, sampler, slice or edit.")


def _checked_choices(opens: Sequence[str], formats: Iterable[str]) -> Sequence[str]:
    opens = OPENABLE if opens == "all" else opens
    unknown = [name for name in opens if name not in OPENABLE]
    if unknown:
        raise UsageError(f"open must be all, or some of {', '.join(OPENABLE)}, got {shown(unknown[0])}.", "open")
    if opens and not set(ONE_CALL_FORMATS).intersection(formats):
        raise UsageError(f"open applies to {', '.join(ONE_CALL_FORMATS)} only, got {', '.join(formats)}.", "open")
    return opens


def _check_staged(source: Checkpoint, formats: Iterable[str]) -> None:
    alone = [format for format in formats if format in FORMATS and format != "onnx"]  # noqa: A001
    if source.stages and alone:
        raise UsageError(f"format {alone[0]} has no place for stages, which the network has. Choose an .onnx format.")


def _check_int8(format: str, storage: str, calibrate: int | None) -> None:  # noqa: A002
    if calibrate is None:
        return
    if (format, storage) != ("onnx", "float32"):
        raise UsageError(
            f"precision int8 applies to format onnx with storage float32, got {format} with {storage}. Leave one out."
        )
    if not 1 <= calibrate <= MAX_CALIBRATE:
        raise UsageError(f"calibrate must be from 1 to {MAX_CALIBRATE}, got {calibrate!r}.")


def _check_source(source: ForeignNetwork | str | Path, path: Path, format: str, storage: str) -> None:  # noqa: A002
    is_foreign = isinstance(source, ForeignNetwork)
    file = source.path if isinstance(source, ForeignNetwork) else Path(source)
    needs_torch = format in FORMATS and format != "onnx"
    if is_foreign and needs_torch:
        raise UsageError(f"{file}: cannot be exported as {format}, which needs torch. Choose an .onnx format.")
    if not is_foreign and (file.suffix != ".onnx" or needs_torch or (format, storage) == ("onnx", "float32")):
        raise UsageError(
            f"{file}: cannot be exported as {format} with storage {storage}. From an exported .onnx, make a one-call "
            "file or one of float16 or int8; for anything else, export the checkpoint."
        )
    if path.resolve() == file.resolve():
        raise UsageError(f"{path} is the source itself. Choose another `out`.")


def _notes(original: Original, format: str) -> tuple[str, ...]:  # noqa: A002
    variance = original.spec.variance
    if format in ONE_CALL_FORMATS and variance != "fixed_small":
        return (f"ddpm with variance {variance} has no place in a one-call file: eta 1 is ddpm with fixed_small.",)
    return ()
