"""Every block of the README and the docs runs as pasted; every named file exists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*/README.md"))
CARDS = [ROOT / name / "README.md" for name in ("exported", "emoji", "ablation")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *CARDS, *EXAMPLES]
NOT_RUN = ("make ", "pip ", "git ", "cd ")  # installing is what CI's clean clone does


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        pattern = rf"^```{language}\n(.*?)^```"
        for number, text in enumerate(re.findall(pattern, page.read_text(encoding="utf-8"), re.S | re.M)):
            found.append((f"{page.relative_to(ROOT)}-{language}-{number}", text))
    return found


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder that looks like a clone, to run blocks in without touching the real one."""
    for name in ("exported", "emoji", "examples"):
        built = shutil.ignore_patterns("node_modules", "build", ".build")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=built)
    for name in ("train", "ddpm_export", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.torch
@pytest.mark.parametrize("code", [pytest.param(text, id=name) for name, text in blocks("python")])
def test_python_blocks_run(code: str, clone: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.torch
@pytest.mark.parametrize("code", [pytest.param(text, id=name) for name, text in blocks("sh")])
def test_shell_blocks_run(code: str, clone: Path) -> None:
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(NOT_RUN)]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-euc", "\n".join(lines)],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path, "HOME": str(clone)},
    )
    assert done.returncode == 0, done.stderr


def test_code_in_other_languages_is_that_of_a_tested_file() -> None:
    """docs/embedding.md shows parts of the examples, which tests/examples compiles and runs; nothing of its own."""
    page = ROOT / "docs" / "embedding.md"
    parts = re.split(r"^```(py|cpp|js|kotlin|swift)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    assert len(parts) > 20
    for before, code in zip(parts[:-1:3], parts[2::3], strict=True):
        source = re.findall(r"\]\(([^)\s]+)\)", before)[-1]  # the last file named before the block
        assert code in (page.parent / source).read_text(encoding="utf-8"), f"{source}: not in it: {code[:80]}"


def test_the_example_runs(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/python/straight_line.py"], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (clone / "samples.png").stat().st_size > 1000


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)  # code is no prose
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tree_in_the_readme_equals_the_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"^```text\n(ddpm_export/.*?)^```", text, re.S | re.M)
    assert tree is not None
    named = set(re.findall(r"^  (\S+)", tree.group(1), re.M))
    folder = ROOT / "ddpm_export"
    actual = {p.name for p in folder.glob("*.py")} - {"__init__.py"}
    actual |= {f"{p.name}/" for p in folder.iterdir() if (p / "__init__.py").exists()}
    assert named == actual
