"""What a release needs: one version, one address, workflows that name what there is, and a citation."""

import re
from pathlib import Path

import yaml

from ddpm_export import __version__

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_file_has_the_version_and_the_changelog_describes_it():
    assert f'__version__ = "{__version__}"' in text_of("ddpm_export/__init__.py")
    assert re.search(rf"^## {re.escape(__version__)} - \d{{4}}-\d\d-\d\d$", text_of("CHANGELOG.md"), re.M)
    assert not re.search(r"^version *[:=] ", text_of("pyproject.toml") + text_of("CITATION.cff"), re.M)


def test_only_one_file_names_the_owner():
    owner = re.search(r'^Repository = "https://github\.com/([\w-]+)/', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    patterns = ("*.*", ".github/**/*.*", "docs/**/*.md", "ddpm_export/**/*.py")
    texts = [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]
    assert [path.name for path in texts if f"/{owner}/" in path.read_text(encoding="utf-8")] == ["pyproject.toml"]


def test_workflows_are_sound():
    jobs = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"] for path in WORKFLOWS.glob("*.yml")}
    assert set(jobs) == {"ci", "docs", "release"}
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.M))
    for workflow in jobs.values():
        for job in workflow.values():
            for step in job["steps"]:
                assert ("uses" in step) != ("run" in step)
                assert set(re.findall(r"^make ([\w-]+)", step.get("run", ""), re.M)) <= targets
    systems = jobs["ci"]["wheel"]["strategy"]["matrix"]["os"]
    assert re.findall(r"^\| .*\(`([\w.-]+)`\) \|", text_of("docs/sampling.md"), re.M) == systems
    assert jobs["release"]["publish"]["permissions"] == {"id-token": "write"}  # PyPI trusts the workflow, no password


def test_forms_and_citation_have_what_their_formats_require():
    for name in ("bug", "checkpoint"):
        form = yaml.safe_load(text_of(f".github/ISSUE_TEMPLATE/{name}.yml"))
        assert form["name"]
        assert form["description"]
        assert all(part["attributes"]["label"] for part in form["body"])
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
