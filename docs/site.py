"""What mkdocs needs for pages that are read in the repository too: links and pictures outside of docs/ still work."""

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
MATHJAX = "build/mathjax/node_modules/mathjax/es5/tex-svg.js"  # of npm, by `make docs`: one file, no network later


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures of the models that ship."""
    for path in sorted([*ROOT.glob("exported/*.png"), *ROOT.glob("emoji/*.png")]):
        name = f"repository/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    files.append(File.generated(config, "commands.md", content=commands()))
    files.append(File.generated(config, "mathjax.js", abs_src_path=str(ROOT / MATHJAX)))
    return files


def commands() -> str:
    """Return a page with what each command says of itself."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    scripts = re.findall(r'^(ddpm-\w+) = "ddpm_export\.cli\.start:(\w+)"', pyproject, re.MULTILINE)
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "PYTHONPATH": str(ROOT)}

    def help_of(name: str, function: str, *subcommand: str) -> str:
        code = f"import sys; sys.argv[0] = {name!r}; import ddpm_export.cli.start as start; start.{function}()"
        command = [sys.executable, "-c", code, *subcommand, "--help"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    parts = ["# Commands\n\nWhat each command prints for `--help`."]
    for name, function in scripts:
        texts = {name: help_of(name, function)}
        for sub in re.findall(r"^  ([a-z]+)  ", texts[name].partition("Commands:")[2], re.MULTILINE):
            texts[f"{name} {sub}"] = help_of(name, function, sub)
        parts += [f"## {title}\n\n```text\n{text}\n```" for title, text in texts.items()]
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, config: Any, **_: object) -> str:
    """Return a page whose links out of docs/ lead to the repository, and whose pictures from there are the site's."""

    def inside(match: re.Match[str]) -> str:
        place = "repository" if match[1] else f"{config['repo_url']}/blob/main"
        return f"{match[1]}[{match[2]}]({place}/{posixpath.normpath(match[3])}"

    return re.sub(r"(!?)\[([^\]]*)\]\(\.\./([^)#\s]+)", inside, markdown)
