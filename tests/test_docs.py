"""Every block of the README and the docs runs as pasted; every named file exists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*/README.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "exported" / "README.md", *EXAMPLES]
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
    for name in ("exported", "examples"):
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


def test_the_example_runs(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/python/straight_line.py"], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (clone / "samples.png").stat().st_size > 1000


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
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
