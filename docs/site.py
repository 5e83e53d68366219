"""What mkdocs needs for pages that are read in the repository too: links out of docs/ lead to the repository."""

import posixpath
import re
from typing import Any


def on_page_markdown(markdown: str, config: Any, **_: object) -> str:
    """Return a page whose links and pictures outside of docs/ have the repository's address."""
    address = config["repo_url"]

    def absolute(match: re.Match[str]) -> str:
        kind = "raw" if match[1] else "blob"
        return f"{match[1]}[{match[2]}]({address}/{kind}/main/{posixpath.normpath(match[3])}"

    return re.sub(r"(!?)\[([^\]]*)\]\(\.\./([^)#\s]+)", absolute, markdown)
