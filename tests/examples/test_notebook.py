"""The notebook runs from top to bottom: its code cells as a program, its shell lines as the commands they name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook" / "train_export_sample.ipynb"
SHELL = """
import shlex, subprocess, sys
def shell(line):
    name, *arguments = shlex.split(line)
    code = f"import sys, ddpm_export.cli.start as start; start.{name.removeprefix('ddpm-')}()"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
"""


def program(cells):
    lines = [line for cell in cells for line in [*"".join(cell["source"]).splitlines(), ""]]
    return "\n".join([SHELL, *(f"shell(f{line[1:]!r})" if line.startswith("!") else line for line in lines)])


def test_nothing_is_stored_that_a_run_makes():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
    )


@pytest.mark.torch
@pytest.mark.long
def test_the_cells_run_in_order_and_the_pictures_are_those_of_pytorch(tmp_path):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    first = cells[0]["source"]
    assert first[0].startswith("STEPS = ")
    first[0] = "STEPS = 5\n"
    done = subprocess.run(
        [sys.executable, "-c", program(cells)], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "equal pixels: " in done.stdout
    assert (tmp_path / "runs" / "notebook" / "samples.png").stat().st_size > 1000
