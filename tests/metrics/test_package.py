"""The metrics stand on NumPy alone, as the equations do, and open no file."""

import ast
import sys
from pathlib import Path

import pytest

from ddpm_export.scoring import metrics

ROOT = Path(metrics.__file__).parent
MODULES = ["classes.py", "frechet.py", "inception_score.py", "kernel.py", "neighbours.py"]
MINE = {"ddpm_export.errors", *(f"ddpm_export.scoring.metrics.{Path(name).stem}" for name in MODULES)}


@pytest.mark.parametrize("name", MODULES)
def test_imports_are_numpy_the_standard_library_the_errors_and_each_other(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            top = module.split(".")[0]
            assert top == "numpy" or top in sys.stdlib_module_names or module in MINE, module
            assert top not in {"pathlib", "os", "io", "tempfile", "shutil"}
    called = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"open", "load", "save", "fromfile", "tofile", "memmap", "read_bytes", "write_bytes"}
