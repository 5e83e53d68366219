"""The metrics stand on NumPy alone, as the equations do, and open no file."""

import ast
import sys
from pathlib import Path

import pytest

import ddpm_export.metrics

ROOT = Path(ddpm_export.metrics.__file__).parent
MODULES = ["classes.py", "frechet.py", "inception_score.py", "kernel.py", "neighbours.py"]
MINE = {"ddpm_export.errors", *(f"ddpm_export.metrics.{Path(name).stem}" for name in MODULES)}


@pytest.mark.parametrize("name", ["__init__.py", *MODULES])
def test_imports_are_numpy_the_standard_library_the_errors_and_each_other(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            top = module.split(".")[0]
            mine = module in MINE or (name == "__init__.py" and module.startswith("ddpm_export.metrics."))
            assert top == "numpy" or top in sys.stdlib_module_names or mine, module
            assert top not in {"pathlib", "os", "io", "tempfile", "shutil"}
    called = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"open", "load", "save", "fromfile", "tofile", "memmap", "read_bytes", "write_bytes"}


def test_every_name_of_the_package_loads_and_says_what_it_is():
    for name in ddpm_export.metrics.__all__:
        assert getattr(ddpm_export.metrics, name).__doc__
