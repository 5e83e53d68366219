"""`python -m benchmarks`: run all, each in a process of its own, and print the Markdown of docs/benchmarks-step.md."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import CHECKPOINT, MODEL, markdown_from_reports
from train.pages import write_between_marks

NEED_CHECKPOINT = ("step", "cold_start")


def main() -> None:
    """Parse, run, print; with `--write`, put the numbers between the marks of a page."""
    options = argparse.ArgumentParser(description="Run all benchmarks and print their tables as Markdown.")
    options.add_argument("--model", default=MODEL, help="an exported .onnx file [%(default)s]")
    options.add_argument("--checkpoint", default=CHECKPOINT, help="what it was exported from [%(default)s]")
    options.add_argument(
        "--write", type=Path, metavar="PAGE", help="replace what stands between the marks of this page"
    )
    options.add_argument("--json", action="store_true", help="print the reports as JSON")
    arguments = options.parse_args()
    reports: list[dict[str, Any]] = []
    for name in ("step", "sampler", "cold_start", "batch_invariance"):
        print(f"benchmarks.{name}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", "--model", arguments.model]
        if name in NEED_CHECKPOINT:
            command += ["--checkpoint", arguments.checkpoint]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            sys.exit(done.returncode)  # its own error line says why
        reports.append(json.loads(done.stdout))
    markdown = markdown_from_reports(reports)
    print(json.dumps(reports, sort_keys=True) if arguments.json else markdown)
    if arguments.write:
        write_between_marks(arguments.write, markdown)


if __name__ == "__main__":
    main()
