"""Files of the trainer's tools, written whole or not at all: texts, JSON, copies, and Markdown between two marks."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from ddpm_export.system.files import replacing

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file with sorted keys."""
    write_text(path, json.dumps(values, indent=1, sort_keys=True) + "\n")


def copy_file(path: Path, to: Path) -> None:
    """Copy a file."""
    with replacing(to) as beside:
        shutil.copyfile(path, beside)


def write_between_marks(page: Path, markdown: str, begin: str = BEGIN, end: str = END) -> None:
    """Put text in place of what stands between two marks of a page; without them, say so and exit."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        sys.exit(f"error: {page} lacks the marks {begin!r} and {end!r}. Add them where the numbers belong.")
    write_text(page, f"{before}{begin}\n\n{markdown}\n\n{end}{after}")


def markdown_from_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """Return a table whose columns but the first are set to the right."""
    widths = [max(3, *(len(line[k]) for line in [columns, *rows])) for k in range(len(columns))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    ruler = [f"{'-' * (width - 1)}:" if k else "-" * width for k, width in enumerate(widths)]
    return "\n".join([f"**{title}**", "", line(columns), line(ruler), *(line(row) for row in rows)])
