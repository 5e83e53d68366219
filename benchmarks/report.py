"""What a benchmark says: tables as Markdown, which also reads well in a terminal, or as JSON. Measures nothing."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ddpm_export.errors import DdpmExportError
from train.pages import markdown_from_table

__all__ = [
    "CHECKPOINT",
    "MODEL",
    "Report",
    "Table",
    "markdown_from_reports",
    "parser",
    "run",
]

MODEL, CHECKPOINT = "exported/unet.onnx", "exported/checkpoint.pt"
IDLE_BELOW = 0.1


@dataclass(frozen=True)
class Table:
    """Hold a table: the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Report:
    """Hold what one benchmark found, and what it was run with. `values` are its numbers, for machines."""

    command: str
    machine: dict[str, Any]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


def parser(description: str, *, rounds: int | None = None, checkpoint: bool = False) -> argparse.ArgumentParser:
    """Return the options that benchmarks share."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--model", default=MODEL, help="an exported .onnx file [%(default)s]")
    if checkpoint:
        made.add_argument("--checkpoint", default=CHECKPOINT, help="what it was exported from [%(default)s]")
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=rounds, help="turns of each contender [%(default)s]")
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    return made


def run(measure: Callable[[argparse.Namespace], Report], options: argparse.ArgumentParser) -> None:
    """Parse the command line, measure, and print on stdout; an error is one line and its exit code."""
    arguments = options.parse_args()
    try:
        report = measure(arguments)
    except DdpmExportError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    print(json.dumps(asdict(report), sort_keys=True) if arguments.json else markdown_from_reports([asdict(report)]))


def markdown_from_reports(reports: list[dict[str, Any]]) -> str:
    """Return reports, as their JSON values, as one piece of Markdown: the machine once, its load with each."""
    parts = [_machine_line(reports[0]["machine"])] if reports else []
    for report in reports:
        parts.append(f"`{report['command']}`; {_load(report['machine']['others_busy_share'])}.")
        parts.extend(markdown_from_table(**table) for table in report["tables"])
        if report["notes"]:
            parts.append("\n".join(f"- {note}" for note in report["notes"]))
    return "\n\n".join(parts)


def _machine_line(machine: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {machine[name]}"
        for name in ("python", "numpy", "onnxruntime", "torch", "diffusers")
        if name in machine
    )
    features = f" ({', '.join(machine['features'])})" if machine["features"] else ""
    memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
    return f"Machine: {machine['cpu']}{features}, {machine['cores']} cores{memory}, {machine['system']}; {versions}."


def _load(busy: float | None) -> str:
    if busy is None:
        return "how idle the machine was is not known"
    if busy < IDLE_BELOW:
        return "measured while idle"
    return f"**not idle**: other processes used {busy:.0%} of the cores, so these numbers are preliminary"
