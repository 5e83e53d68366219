"""Write a network as files and report them: what export and adopt share."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ddpm_export.cli.console import print_json
from ddpm_export.cli.help import how, where
from ddpm_export.cli.options import Json
from ddpm_export.cli.progress import progress
from ddpm_export.cli.texts import guidance_from_text, numbers_from_text, sampler_from_text, steps_from_text
from ddpm_export.errors import UsageError, printable

if TYPE_CHECKING:
    from ddpm_export.exporting.foreign import ForeignNetwork
    from ddpm_export.importers.checkpoint import Checkpoint
    from ddpm_export.model.spec import ModelSpec

OWN = "scheduler:"  # plans of the checkpoint's own scheduler
STORED_ENDINGS = {"float32": "", "float16": ".float16", "int8": ".int8-weights"}  # .int8 also computes in int8


@dataclass(frozen=True)
class Defaults:
    """What a file is sampled with by default, and which plans it offers."""

    sampler: Annotated[
        str | None,
        how(
            "The default sampler, such as ddpm, ddim:eta=1 or unipc:grid=karras. [default: ddim]",
            metavar="NAME[:KEY=VALUE]",
        ),
    ] = None
    steps: Annotated[
        str | None,
        how("The default steps, such as 50 or 980,960,0. [default: 50, or the checkpoint's own]", metavar="N|TIMES"),
    ] = None
    plans: Annotated[
        list[str] | None,
        how(
            "Plans to put into the file: dpmpp_2m:5,10,20, unipc:5,10,grid=karras, scheduler:50,20 (the "
            "checkpoint's own, of diffusers), or a .json of python -m train.tune. Repeatable.",
            metavar="NAME:N,N|FILE",
        ),
    ] = None
    plan: Annotated[str | None, how("The default plan, one of --plans, instead of --sampler and --steps.")] = None
    guidance: Annotated[
        str | None, how("The default guidance, such as 2 or 2@300-700. [default: 1]", metavar="SCALE[@LOW-HIGH]")
    ] = None

    @property
    def given(self) -> list[str]:
        """Return the flags that were given."""
        return [f"--{name}" for name, value in vars(self).items() if value is not None]

    def steps_to_import(self) -> list[int] | None:
        """Return the numbers of steps to import from a checkpoint's own scheduler.

        None imports the scheduler's own number, an empty list nothing.
        """
        own = [text.removeprefix(OWN) for text in self.plans or [] if text.startswith(OWN)]
        if own:
            return numbers_from_text(f"--plans {OWN}", ",".join(own))
        steps = steps_from_text(self.steps)
        if self.sampler is not None or "times" in steps:
            return []
        return [steps["num_steps"]] if "num_steps" in steps else None

    def with_plans(self, spec: "ModelSpec") -> "ModelSpec":
        """Return the spec with the plans added that are not the checkpoint's own."""
        from ddpm_export.exporting.plans import with_plans

        for text in self.plans or []:
            head, _, grid = text.rpartition(",grid=")
            if not text.startswith(OWN):
                spec = with_plans(spec, [head], grid=grid) if head else with_plans(spec, [text])
        return spec

    def applied(self, spec: "ModelSpec", *, imported: bool = False) -> "ModelSpec":
        """Return the spec with these defaults; imported: --steps alone chose the scheduler's own steps."""
        from ddpm_export.model.defaults import with_defaults

        steps = {**steps_from_text(self.steps), **sampler_from_text(self.sampler)}
        if imported and self.plan is None and self.steps_to_import() == [steps.get("num_steps")]:
            steps = {}
        return with_defaults(spec, plan=self.plan, guidance=guidance_from_text(spec, self.guidance), **steps)


@dataclass(frozen=True)
class Output:
    """Which files are written, how their numbers are stored, and where they go."""

    formats: Annotated[
        list[str] | None,
        where(
            "onnx, torchscript or pt2; sampler (seed in, images out, in one call), slice (some steps of one, for "
            "progress) or edit (from a picture); triton (for inference servers). Repeatable. [default: onnx]",
            "--format",
        ),
    ] = None
    opens: Annotated[
        str | None,
        where(
            "Choices that a sampler, slice or edit leaves to its user: all, or some of steps,eta,times,plan,guidance. "
            "[default: none; they are fixed to the file's defaults]",
            "--open",
            metavar="CHOICE,CHOICE",
        ),
    ] = None
    storage: Annotated[
        str,
        where("float32, or float16 or int8: a half or a quarter of the size, weights rounded, computed in float32."),
    ] = "float32"
    precision: Annotated[
        str, where("float32, or int8: convolutions computed in 8-bit integers, slightly different images.")
    ] = "float32"
    calibrate: Annotated[
        int | None, where("With --precision int8: how many evaluations find its ranges. [default: 256]")
    ] = None
    out: Annotated[
        Path | None,
        where("A file x.onnx, x.ts or x.pt2, or a folder. [default: the checkpoint's folder, or the current one]"),
    ] = None
    as_json: Json = False

    @property
    def names(self) -> list[str]:
        """Return the formats, each once."""
        return list(dict.fromkeys(self.formats or ["onnx"]))

    def folder(self, checkpoint: str) -> Path:
        """Return the folder at or below which everything is written."""
        out = self.out or _folder_of(checkpoint)
        return out if out.is_dir() or not out.suffix else out.parent

    def paths(self, checkpoint: str, stem: str) -> dict[str, Path]:
        """Return where each format goes; raises UsageError for an unknown format and contradicting options."""
        from ddpm_export.exporting.formats import FORMATS, ONE_CALL_FORMATS, SERVED_FORMATS

        if self.precision not in ("float32", "int8"):
            raise UsageError(f"--precision must be float32 or int8, got {self.precision!r}.")
        if self.precision == "float32" and self.calibrate is not None:
            raise UsageError("--calibrate needs --precision int8.")
        names, out, listed = self.names, self.out or _folder_of(checkpoint), " ".join(self.names)
        endings = {name: format.ending for name, format in (FORMATS | ONE_CALL_FORMATS).items()}  # noqa: A001
        for name in names:
            if name not in (*endings, *SERVED_FORMATS):
                raise UsageError(f"--format must be one of {', '.join((*endings, *SERVED_FORMATS))}, got {name!r}.")
        if set(names) & set(SERVED_FORMATS):
            if len(names) > 1 or out.suffix in endings.values():
                raise UsageError(f"--format {listed} must be by itself, and --out a folder, got {str(out)!r}.")
            return {names[0]: out}
        if out.suffix not in endings.values() or out.is_dir():
            stem += ".int8" if self.precision == "int8" else STORED_ENDINGS.get(self.storage, "")
            return {name: out / f"{stem}{endings[name]}" for name in names}
        is_one_call = names[0] in ONE_CALL_FORMATS and out.suffix == ".onnx"  # which may have any name
        if len(names) > 1 or not (is_one_call or endings[names[0]] == out.suffix):
            raise UsageError(f"--out {out} is one file, of another format than --format {listed}. Name a folder.")
        return {names[0]: out}


def write_files(
    checkpoint: str,
    loaded: "Checkpoint | ForeignNetwork | Path",
    paths: dict[str, Path],
    output: Output,
    defaults: Defaults,
    weights: str | None = None,
    *,
    write: Callable[..., Iterable[Any]],
    imported: bool = False,
) -> None:
    """Write a network as files by `export_all`, with these defaults, and report each."""
    from ddpm_export.importers.checkpoint import Checkpoint

    notes, importer = list[str](), None
    if not isinstance(loaded, Path):
        spec = defaults.applied(defaults.with_plans(loaded.spec), imported=imported)
        loaded = replace(loaded, spec=spec)
        if not isinstance(loaded, Checkpoint):
            loaded = loaded.beginning_with_noise()
        notes, importer = list(loaded.notes), spec.source.get("importer")
    reports: list[Any] = []
    calibrate = None if output.precision == "float32" else 256 if output.calibrate is None else output.calibrate
    opens = "all" if output.opens == "all" else tuple(filter(None, (output.opens or "").split(",")))
    with progress(len(paths), "exporting") as advance:
        for report in write(
            loaded, paths, storage=output.storage, calibrate=calibrate, opens=opens, defaults=defaults.applied
        ):
            reports.append(report)
            advance(str(report.path))
    notes += dict.fromkeys(note for report in reports for note in report.notes)
    _print_notes(notes)
    if output.as_json:
        about = {"checkpoint": checkpoint, "weights": weights, "importer": importer, "notes": notes}
        print_json({**about, "files": [report.to_json() for report in reports]})
        return
    _print_table(reports)
    if any(not getattr(report.proof, "relative", True) for report in reports):
        _print_notes(["the network returns only zeros somewhere, as an untrained one does; errors there are absolute."])


def _folder_of(checkpoint: str) -> Path:
    path = Path(checkpoint)
    return path if path.is_dir() else path.parent if path.exists() else Path()


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)


def _print_table(reports: list[Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ddpm_export.exporting.proof import Proof

    table = Table(box=None, pad_edge=False)
    for title in ("file", "size", "largest error", "at", "equal pixels", "SHA-256"):
        table.add_column(title, overflow="fold")
    if any(report.rounding for report in reports):
        table.add_column(f"cost of {reports[0].storage}", overflow="fold")
    for report in reports:
        proof, cost = report.proof, report.rounding
        relative = ""
        if isinstance(proof, Proof):
            relative = "" if proof.relative else " (absolute)"
            at, runs = f"t={proof.t}, batch {proof.batch}", f"after {proof.num_steps} steps"
        else:
            at, runs = proof.at, f"in {len(proof.draws)} draws"
        rounding = f"{cost.equal_share:.2%} equal pixels after {cost.num_steps} steps, others within " if cost else ""
        table.add_row(
            escape(printable(str(report.path))),
            f"{report.num_bytes / 1e6:.1f} MB",
            f"{proof.error:.1e}{relative}",
            at,
            f"{proof.equal_share:.2%} {runs}, others within {proof.max_level_difference}",
            report.sha256[:16],
            *([f"{rounding}{cost.max_level_difference}"] if cost else []),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
