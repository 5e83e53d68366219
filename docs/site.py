"""What mkdocs needs for pages that are read in the repository too: links and pictures outside of docs/ still work."""

import ast
import importlib
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

LIBRARY = """# Library

The public names of `ddpm_export`, from their docstrings. Import them from the package, as in
`from ddpm_export import generate`. None of them loads torch or ONNX Runtime before it is needed.
[Making images](sampling.md), [importing](importing.md) and [policies](policies.md) show them in use."""
ERRORS = """# Errors

A command that fails prints one line on stderr, `error: ` and a sentence, and ends with an exit code; `--debug` adds the
traceback. The library raises the exceptions named below, all of them `DdpmExportError`, with the same `exit_code`.
Here `…` stands for a value. Messages are the library's: commands show its arguments as flags, such as `--steps` for
`num_steps`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a defect of this package; please report it |
| 2 to 6 | below |
| 130 | interrupted by Ctrl-C, SIGTERM or SIGHUP |"""


def on_config(config: Any) -> Any:
    """Set the address of the repository, which pyproject.toml alone names."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    config["repo_url"] = re.findall(r'^Repository = "(.*)"', pyproject, re.MULTILINE)[0]
    config["repo_name"] = config["site_name"]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the shipped models' pictures and the pages that the program itself gives."""
    for path in sorted([*ROOT.glob("exported/*.png"), *ROOT.glob("emoji/*.png")]):
        name = f"repository/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, content in (("commands.md", commands()), ("library.md", library()), ("errors.md", errors())):
        files.append(File.generated(config, name, content=content))
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


ROOMS = {
    "importers": "Read a checkpoint",
    "exporting": "Export",
    "runtimes": "Open a file",
    "sampling": "Make images and actions",
    "images": "Write images",
    "process": "The loop by hand",
    "model": "Models",
    "errors": "Errors",
}


def library() -> str:
    """Return a page with the docstring of every public name, for mkdocstrings to fill in."""
    home: dict[str, str] = importlib.import_module("ddpm_export")._HOME
    parts = [LIBRARY]
    for room, title in ROOMS.items():
        names = [f"::: ddpm_export.{place}.{name}" for name, place in home.items() if place.split(".")[0] == room]
        parts += [f"## {title}", *names]
    assert sum(part.startswith(":::") for part in parts) == len(home), "a public name lies in a room without a title"
    return "\n\n".join(parts)


def errors() -> str:
    """Return a page with each exit code and the forms of its messages, read from the source."""
    source = importlib.import_module("ddpm_export.errors")
    kinds = {name: kind for name, kind in vars(source).items() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    forms: dict[int, set[str]] = {kind.exit_code: set() for kind in kinds.values() if kind.exit_code > 1}
    for path in sorted(ROOT.glob("ddpm_export/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
                text = _form(node.args[0])
                if len(text.replace("…", "").split()) > 2:  # the sentence is not only made elsewhere
                    forms[kinds[node.func.id].exit_code].add(text)
    parts = [ERRORS]
    for code, texts in sorted(forms.items()):
        named = " or ".join(f"`{name}`" for name, kind in kinds.items() if kind.exit_code == code)
        about = next(kind for kind in kinds.values() if kind.exit_code == code).__doc__
        listed = "\n".join(sorted(texts, key=lambda text: text.lstrip("….:`\"' ").lower()))
        parts.append(f"## {code}: {named}\n\n{about}\n\n```text\n{listed}\n```")
    return "\n\n".join(parts)


def _form(node: ast.AST) -> str:
    """Return the text that an expression makes, with … for each value in it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return re.sub("…+", "…", "".join(map(_form, parts)))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _form(left) + _form(right)
    return "…"


def on_page_markdown(markdown: str, config: Any, **_: object) -> str:
    """Return a page whose links out of docs/ lead to the repository, and whose pictures from there are the site's."""

    def inside(match: re.Match[str]) -> str:
        place = "repository" if match[1] else f"{config['repo_url']}/blob/main"
        return f"{match[1]}[{match[2]}]({place}/{posixpath.normpath(match[3])}"

    return re.sub(r"(!?)\[([^\]]*)\]\(\.\./([^)#\s]+)", inside, markdown)
