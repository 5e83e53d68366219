"""What mkdocs needs for pages that are read in the repository too: links and pictures outside of docs/ still work."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures of the models that ship."""
    for path in sorted([*ROOT.glob("exported/*.png"), *ROOT.glob("emoji/*.png")]):
        name = f"repository/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, config: Any, **_: object) -> str:
    """Return a page whose links out of docs/ lead to the repository, and whose pictures from there are the site's."""

    def inside(match: re.Match[str]) -> str:
        place = "repository" if match[1] else f"{config['repo_url']}/blob/main"
        return f"{match[1]}[{match[2]}]({place}/{posixpath.normpath(match[3])}"

    return re.sub(r"(!?)\[([^\]]*)\]\(\.\./([^)#\s]+)", inside, markdown)
