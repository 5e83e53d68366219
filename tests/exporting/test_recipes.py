"""docs/recipes.md: its network saved, every command of it run, in order."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (ddpm-.*)$", PAGE, flags=re.MULTILINE)

pytestmark = [pytest.mark.torch, pytest.mark.long]


def test_every_recipe_runs(tmp_path):
    (tmp_path / "nets.py").write_text(re.search(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[1])
    subprocess.run([sys.executable, "nets.py"], cwd=tmp_path, check=True)
    Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)).save(tmp_path / "small.png")
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        code = f"import ddpm_export.cli.start as start; start.{program.removeprefix('ddpm-')}()"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert (tmp_path / arguments[arguments.index("--out") + 1]).stat().st_size > 500
