"""Write a network as files and report on them: what export and adopt share."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.console import print_json
from ddpm_export.cli.help import HOW, WHERE
from ddpm_export.cli.options import Debug, Json
from ddpm_export.cli.progress import progress
from ddpm_export.cli.texts import guidance_from_text, numbers_from_text, sampler_from_text, steps_from_text
from ddpm_export.errors import UsageError, printable

if TYPE_CHECKING:
    from ddpm_export.exporting.foreign import ForeignNetwork
    from ddpm_export.importers.checkpoint import Checkpoint
    from ddpm_export.model.spec import ModelSpec


OWN = "scheduler:"  # plans of the checkpoint's own scheduler
STORED_ENDINGS = {"float16": ".float16", "int8": ".int8-weights"}  # .int8 is what computes in such integers


@dataclass(frozen=True)
class Defaults:
    """What a file is sampled with by default, and which plans it offers."""

    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE]",
            help="The default sampler, such as ddpm, ddim:eta=1 or unipc:grid=karras. [default: ddim]",
            rich_help_panel=HOW,
        ),
    ] = None
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N|TIMES",
            help="The default steps, such as 50 or 980,960,0. [default: 50, or the checkpoint's own]",
            rich_help_panel=HOW,
        ),
    ] = None
    plans: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:N,N|FILE",
            help="Plans to put into the file: dpmpp_2m:5,10,20, unipc:5,10,grid=karras, scheduler:50,20 (the "
            "checkpoint's own, of diffusers), or a .json of python -m train.tune. Repeatable.",
            rich_help_panel=HOW,
        ),
    ] = None
    plan: Annotated[
        str | None,
        typer.Option(help="The default plan, one of --plans, instead of --sampler and --steps.", rich_help_panel=HOW),
    ] = None
    guidance: Annotated[
        str | None,
        typer.Option(
            metavar="SCALE[@LOW-HIGH]",
            help="The default guidance, such as 2 or 2@300-700. [default: 1]",
            rich_help_panel=HOW,
        ),
    ] = None

    @property
    def given(self) -> list[str]:
        """Return the flags that were given."""
        values = {"sampler": self.sampler, "steps": self.steps, "plans": self.plans}
        values |= {"plan": self.plan, "guidance": self.guidance}
        return [f"--{name}" for name, value in values.items() if value is not None]

    def steps_to_import(self) -> list[int] | None:
        """Return the numbers of steps that a checkpoint's own scheduler is asked for.

        None for the number it has itself, an empty list where its steps are left behind.
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
            *items, last = text.split(",")
            if text.startswith(OWN):
                continue
            if items and last.startswith("grid="):
                spec = with_plans(spec, [",".join(items)], grid=last.removeprefix("grid="))
            else:
                spec = with_plans(spec, [text])
        return spec

    def applied(self, spec: "ModelSpec", *, imported: bool = False) -> "ModelSpec":
        """Return the spec with these defaults; imported: a number alone was of the scheduler's own steps."""
        from ddpm_export.model.defaults import with_defaults

        how = {**steps_from_text(self.steps), **sampler_from_text(self.sampler)}
        if imported and self.plan is None and self.steps_to_import() == [how.get("num_steps")]:
            how = {}
        return with_defaults(spec, plan=self.plan, guidance=guidance_from_text(spec, self.guidance), **how)


@dataclass(frozen=True)
class Output:
    """Which files are written, how their numbers are stored, and where they go."""

    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="onnx, torchscript or pt2; sampler (seed in, images out, in one call), slice (some steps of one, for "
            "progress) or edit (from a picture); triton (for inference servers). Repeatable. [default: onnx]",
            rich_help_panel=WHERE,
        ),
    ] = None
    opens: Annotated[
        str | None,
        typer.Option(
            "--open",
            metavar="CHOICE,CHOICE",
            help="What a sampler, slice or edit leaves to its user: all, or some of steps,eta,times,plan,guidance. "
            "[default: none; they are fixed to the file's defaults]",
            rich_help_panel=WHERE,
        ),
    ] = None
    storage: Annotated[
        str,
        typer.Option(
            help="float32, or float16 or int8: a half or a quarter of the size, weights rounded, computed in float32.",
            rich_help_panel=WHERE,
        ),
    ] = "float32"
    precision: Annotated[
        str,
        typer.Option(
            help="float32, or int8: convolutions computed in 8-bit integers, slightly different images.",
            rich_help_panel=WHERE,
        ),
    ] = "float32"
    calibrate: Annotated[
        int | None,
        typer.Option(
            help="With --precision int8: evaluations to find its ranges. [default: 256]", rich_help_panel=WHERE
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            help="A file x.onnx, x.ts or x.pt2, or a folder. [default: the checkpoint's folder, or the current one]",
            rich_help_panel=WHERE,
        ),
    ] = None
    as_json: Json = False
    debug: Debug = False

    @property
    def names(self) -> list[str]:
        """Return the formats, each once."""
        return list(dict.fromkeys(self.formats or ["onnx"]))

    def folder(self, checkpoint: str) -> Path:
        """Return the folder at or below which everything is written."""
        out = self.out or _folder_of(checkpoint)
        return out if out.is_dir() or not out.suffix else out.parent

    def paths(self, checkpoint: str, stem: str) -> dict[str, Path]:
        """Return where each format goes. Raises UsageError for an unknown format and contradicting options."""
        from ddpm_export.exporting.formats import FORMATS, ONE_CALL_FORMATS, SERVED_FORMATS

        if self.precision not in ("float32", "int8"):
            raise UsageError(f"--precision must be float32 or int8, got {self.precision!r}.")
        if self.precision == "float32" and self.calibrate is not None:
            raise UsageError("--calibrate needs --precision int8.")
        ending = ".int8" if self.precision == "int8" else STORED_ENDINGS.get(self.storage, "")
        return _paths(
            self.names,
            self.out or _folder_of(checkpoint),
            {name: format.ending for name, format in FORMATS.items()},  # noqa: A001
            {name: format.ending for name, format in ONE_CALL_FORMATS.items()},  # noqa: A001
            list(SERVED_FORMATS),
            stem + ending,
        )


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
    """Write a network, with other defaults where they are given, as files by `export_all`, and report on each."""
    from ddpm_export.importers.checkpoint import Checkpoint

    if not isinstance(loaded, Path):
        spec = defaults.applied(defaults.with_plans(loaded.spec), imported=imported)
        loaded = replace(loaded, spec=spec)
        if not isinstance(loaded, Checkpoint):
            loaded = loaded.beginning_with_noise()
    notes = [] if isinstance(loaded, Path) else list(loaded.notes)
    reports: list[Any] = []
    with progress(len(paths), "exporting") as advance:
        evaluations = (256 if output.calibrate is None else output.calibrate) if output.precision == "int8" else None
        opens = "all" if output.opens == "all" else tuple(filter(None, (output.opens or "").split(",")))
        for report in write(
            loaded, paths, storage=output.storage, calibrate=evaluations, opens=opens, defaults=defaults.applied
        ):
            reports.append(report)
            advance(str(report.path))
    notes += dict.fromkeys(note for report in reports for note in report.notes)
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if output.as_json:
        values: dict[str, Any] = {
            "checkpoint": checkpoint,
            "weights": weights,
            "importer": None if isinstance(loaded, Path) else loaded.spec.source.get("importer"),
            "notes": notes,
            "files": [report.to_json() for report in reports],
        }
        print_json(values)
        return
    _print_table(reports)
    if any(not getattr(report.proof, "relative", True) for report in reports):
        print(
            "note: the network returns only zeros somewhere, as an untrained one does; errors there are absolute.",
            file=sys.stderr,
        )


def _folder_of(checkpoint: str) -> Path:
    path = Path(checkpoint)
    if path.is_dir():
        return path
    return path.parent if path.exists() else Path()


def _paths(
    formats: list[str], out: Path, suffixes: dict[str, str], one_call: dict[str, str], served: list[str], name: str
) -> dict[str, Path]:
    """Return where each format goes; raises UsageError for an unknown one and for one file that should be several."""
    suffixes = {**suffixes, **one_call}
    for format in formats:  # noqa: A001
        if format not in (*suffixes, *served):
            raise UsageError(f"--format must be one of {', '.join((*suffixes, *served))}, got {format!r}.")
    if set(formats) & set(served):
        if len(formats) > 1 or out.suffix in suffixes.values():
            raise UsageError(f"--format {' '.join(formats)} must be by itself, and --out a folder, got {str(out)!r}.")
        return {formats[0]: out}
    if out.suffix not in suffixes.values() or out.is_dir():
        return {format: out / f"{name}{suffixes[format]}" for format in formats}  # noqa: A001
    if len(formats) == 1 and formats[0] in one_call and out.suffix == ".onnx":
        return {formats[0]: out}  # called as its owner likes
    if [suffixes[format] for format in formats] != [out.suffix]:  # noqa: A001
        raise UsageError(
            f"--out {out} is one file, of another format than --format {' '.join(formats)}. Name a folder."
        )
    return {formats[0]: out}


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
