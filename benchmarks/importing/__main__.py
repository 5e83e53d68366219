"""`python -m benchmarks.importing`: every configuration of every project, exported and compared; Markdown tables."""

import argparse
import importlib
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.importing import Case, Row, compare
from ddpm_export.errors import DdpmExportError
from train.pages import markdown_from_table, write_between_marks

PROJECTS = ("diffusers", "lucidrains", "openai", "tqch")
COLUMNS = ["configuration", "one evaluation", "ancestral: equal", "largest", "DDIM: equal", "largest"]
MAX_ERROR, MIN_EQUAL = 1e-5, 0.995


def main() -> None:
    """Compare, print, and with `--write` put each project's table between its marks of a page; 1 where one fails."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--project", action="append", choices=PROJECTS, help="only this one; repeatable")
    options.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the marks of this page")
    arguments = options.parse_args()
    failed = 0
    for project in arguments.project or PROJECTS:
        cases: list[Case] = importlib.import_module(f"benchmarks.importing.{project}").cases()
        rows = []
        for number, case in enumerate(cases, start=1):
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    row = compare(case, Path(folder))
                    cells, ok = _cells(row), _is_reproduced(row)
                except DdpmExportError as exc:
                    cells, ok = [str(exc).replace("|", "/"), *[""] * 4], False
            failed += not ok
            rows.append([case.name + ("" if ok else " **not reproduced**"), *cells])
            seconds = time.perf_counter() - start
            print(f"{project} {number} of {len(cases)}, {seconds:.0f} s: {rows[-1]}", file=sys.stderr, flush=True)
        text = markdown_from_table(f"{project}: {len(rows)} configurations", COLUMNS, rows)
        print(text)
        if arguments.write:
            write_between_marks(arguments.write, text, f"<!-- {project}: begin -->", f"<!-- {project}: end -->")
    sys.exit(1 if failed else 0)


def _cells(row: Row) -> list[str]:
    shares = [(row.ddpm_equal, row.ddpm_levels), (row.ddim_equal, row.ddim_levels)]
    pairs = [("-", "-") if share is None else (f"{share:.2%}", f"{levels}") for share, levels in shares]
    return [f"{row.error:.1e}", *pairs[0], *pairs[1]]


def _is_reproduced(row: Row) -> bool:
    values = asdict(row)
    equal = [values[name] for name in ("ddpm_equal", "ddim_equal") if values[name] is not None]
    return row.error <= MAX_ERROR and min(equal, default=1.0) >= MIN_EQUAL


if __name__ == "__main__":
    main()
