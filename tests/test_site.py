"""The site of the docs has every page: mkdocs.yml against the files."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_site_names_every_page_once() -> None:
    named = re.findall(r"^ +- .*: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    generated = ["commands.md"]  # when the site is built
    assert sorted(named) == sorted([*generated, *(page.name for page in (ROOT / "docs").glob("*.md"))])
