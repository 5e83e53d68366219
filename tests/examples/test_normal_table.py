"""The table of normals in every language is what its generator writes now, and generated nowhere else."""

import hashlib
import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_generator():
    spec = importlib.util.spec_from_file_location("normal_table", EXAMPLES / "normal_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = load_generator()


@pytest.mark.parametrize("path", generator.TARGETS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_the_file_is_what_the_generator_writes(path):
    written = path.read_text(encoding="utf-8")
    assert written == generator.TARGETS[path]()
    assert generator.digest() in written


def test_the_digest_is_that_of_the_format():
    assert generator.digest() in (EXAMPLES.parent / "docs" / "format.md").read_text(encoding="utf-8")
    assert hashlib.sha256(generator.table_bytes()).hexdigest() == generator.digest()
    assert len(generator.table_bytes()) == 32 * 257 * 4
