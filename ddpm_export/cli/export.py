"""`ddpm-export`: write a checkpoint as files that run without torch, each proven against it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_export.cli.console import Debug, Json, entry_point, print_json, printable, progress
from ddpm_export.errors import UsageError

if TYPE_CHECKING:
    from ddpm_export.exporting import Report

__all__ = ["main"]


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, such as runs/fashion-mnist/checkpoint.pt.")],
    formats: Annotated[list[str], typer.Option("--format", help="onnx, torchscript or pt2; repeatable.")] = ["onnx"],  # noqa: B006
    weights: Annotated[str, typer.Option(help="ema (averaged) or raw (of the last step).")] = "ema",
    out: Annotated[
        Path | None,
        typer.Option(
            help="A file x.onnx, x.ts or x.pt2, or a folder, for unet.onnx, unet.ts and unet.pt2. [default: the "
            "checkpoint's folder]"
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a checkpoint; a file takes its name only once it has reproduced the network within 1e-5.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 the file does not reproduce its network, 5 environment, 6 numbers went
    bad, 130 interrupted.
    """
    from ddpm_export import exporting

    paths = _paths(list(dict.fromkeys(formats)), out or checkpoint.parent, exporting.FORMATS)
    loaded = exporting.load_checkpoint(checkpoint, weights=weights)
    reports = []
    with progress(len(paths), "exporting") as advance:
        for format, path in paths.items():  # noqa: A001
            reports.append(exporting.export(loaded, path, format=format))
            advance(str(path))
    if as_json:
        print_json({"checkpoint": str(checkpoint), "weights": weights, "files": [r.to_json() for r in reports]})
        return
    _print_table(reports)
    if any(not report.proof.relative for report in reports):
        print(
            "note: the network gives only zeros somewhere, as an untrained one does; errors there are absolute.",
            file=sys.stderr,
        )


def _paths(formats: list[str], out: Path, suffixes: dict[str, str]) -> dict[str, Path]:
    """Return where each format goes; raises UsageError for an unknown one and for one file that should be several."""
    for format in formats:  # noqa: A001
        if format not in suffixes:
            raise UsageError(
                f"--format: unknown. got {format!r}, expected one of {', '.join(suffixes)}. Do pick some of them."
            )
    if out.suffix not in suffixes.values() or out.is_dir():
        return {format: out / f"unet{suffixes[format]}" for format in formats}  # noqa: A001
    if [suffixes[format] for format in formats] != [out.suffix]:  # noqa: A001
        raise UsageError(
            f"--out: {out} is one file of another format. got --format {' '.join(formats)}, expected the one of its "
            f"ending {out.suffix}. Do name a folder."
        )
    return {formats[0]: out}


def _print_table(reports: "list[Report]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("file", "size", "largest error", "at", "equal pixels", "SHA-256"):
        table.add_column(title, overflow="fold")
    for report in reports:
        proof = report.proof
        table.add_row(
            escape(printable(str(report.path))),
            f"{report.num_bytes / 1e6:.1f} MB",
            f"{proof.error:.1e}{'' if proof.relative else ' (absolute)'}",
            f"t={proof.t}, batch {proof.batch}",
            f"{proof.equal_share:.2%} after {proof.num_steps} steps, others within {proof.max_level_difference}",
            report.sha256[:16],
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


main = entry_point(export)
