"""The site of the docs has every page: mkdocs.yml against the files."""

import re
from pathlib import Path

import ddpm_export

ROOT = Path(__file__).parent.parent


def test_the_site_names_every_page_once() -> None:
    named = re.findall(r"^ +- .*: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    generated = ["commands.md", "library.md", "errors.md"]  # when the site is built
    assert sorted(named) == sorted([*generated, *(page.name for page in (ROOT / "docs").glob("*.md"))])


def test_the_library_page_has_a_section_for_every_public_name() -> None:
    titled = re.findall(r'^    "(\w+)": "', (ROOT / "docs" / "site.py").read_text(encoding="utf-8"), re.M)
    assert {place.split(".")[0] for place in ddpm_export._HOME.values()} == set(titled)
