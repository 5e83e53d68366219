"""Pages of Markdown of which a command rewrites a part: what stands between two marks, and tables."""

import sys
from pathlib import Path

from ddpm_export.system.files import replacing

__all__ = ["BEGIN", "END", "markdown_from_table", "write_between_marks"]

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_between_marks(page: Path, markdown: str, begin: str = BEGIN, end: str = END) -> None:
    """Put text in place of what stands between two marks of a page; without them, say so and exit."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        sys.exit(f"error: {page} lacks the marks {begin!r} and {end!r}. Add them where the numbers belong.")
    with replacing(page) as beside:
        beside.write_text(f"{before}{begin}\n\n{markdown}\n\n{end}{after}", encoding="utf-8")


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
