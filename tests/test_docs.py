"""The README and the docs say what is so: blocks run as pasted, commands are accepted, named files exist.

Blocks marked python and sh are run. What a block marked console shows takes downloads, hours, or tools that only the
tests of its language want: each of its command lines is given to the command itself, which parses and then stops.
"""

import argparse
import importlib
import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import typer.core
from commands import run_here
from models import tiny_spec

from ddpm_export.exporting.proof import prove
from ddpm_export.process.noise import normal_table

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*/README.md"))
CARDS = [ROOT / name / "README.md" for name in ("exported", "emoji", "ablation")]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *CARDS,
    *EXAMPLES,
]
GUARDS = ("DDPM_EXPORT_FASHION_MNIST", "PYTHONPATH")  # a small data set and no network, as tests/conftest.py has them
NOT_RUN = ("make ", "pip ", "git ", "cd ")  # installing is what CI's clean clone does


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        pattern = rf"^```{language}\n(.*?)^```"
        for number, text in enumerate(re.findall(pattern, page.read_text(encoding="utf-8"), re.S | re.M)):
            found.append((f"{page.relative_to(ROOT)}-{language}-{number}", text))
    return found


def marked(name: str, block: str) -> "pytest.param":
    """Leave to `make test-long` the docs' blocks, and those of the README that sample many times or train.

    Of a shell block that is left, `make test` parses the commands.
    """
    is_long = not name.startswith("README") or block.count("ddpm-run") > 2 or "-m train" in block
    return pytest.param(block, id=name, marks=[pytest.mark.long] * is_long)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder that looks like a clone, to run blocks in without touching the real one."""
    for name in ("exported", "emoji", "examples", "docs/given"):
        built = shutil.ignore_patterns("node_modules", "build", ".build")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=built)
    for name in ("train", "ddpm_export", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run_as_pasted(code: str, clone: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.torch
@pytest.mark.parametrize("code", [marked(name, text) for name, text in blocks("python")])
def test_python_blocks_run(code: str, clone: Path) -> None:
    if "exported/checkpoint.pt" in code:  # a small network in place of the shipped one, whose export takes 20 seconds
        from tests.exporting.conftest import SMALL, save

        save(clone / "exported" / "checkpoint.pt", SMALL)
    if "network-snapshot-200000.pkl" in code:  # any module that knows its options, in place of EDM's, 200 MB
        import torch

        network = torch.nn.Linear(1, 1)
        network.init_kwargs = {"in_features": 1}
        (clone / "network-snapshot-200000.pkl").write_bytes(pickle.dumps({"ema": network}))
    run_as_pasted(code, clone)


@pytest.mark.torch
@pytest.mark.long
def test_the_readmes_first_block_runs_on_the_shipped_checkpoint(clone: Path) -> None:
    run_as_pasted(blocks("python")[0][1], clone)


@pytest.mark.torch
@pytest.mark.parametrize("code", [marked(name, text) for name, text in blocks("sh")])
def test_shell_blocks_run(code: str, clone: Path) -> None:
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(NOT_RUN)]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-euc", "\n".join(lines)],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path, "HOME": str(clone), **{name: os.environ[name] for name in GUARDS}},
    )
    assert done.returncode == 0, done.stderr


NAMES = ("run", "edit", "dataset", "adopt", "export", "check", "eval", "bench", "serve")
OURS = (*(f"ddpm-{name}" for name in NAMES), "python", "torchrun")
ELSEWHERE = {  # words that begin a line of a console block and belong to the system, or to tests/examples
    "apt",
    "build/ddpm_sample",
    "build/java/sample",
    "build/one_call",
    "cd",
    "cmake",
    "curl",
    "git",
    "go",
    "gradle",
    "kill",
    "./gradlew",
    "make",
    "mcs",
    "mkdir",
    "node",
    "npm",
    "pip",
    "rustc",
    "sh",
    "swift",
}
RECORD = f"""
record() {{ for word in "$@"; do printf '%s\\0' "$word"; done; printf '\\n'; }}
/usr/bin/time() {{ shift; "$@"; }}
nohup() {{ "$@"; }}
nice() {{ shift 2; "$@"; }}
{"".join(f"{name}() {{ record {name} {chr(34)}$@{chr(34)}; }}" + chr(10) for name in OURS)}
"""


def command_lines(block: str) -> list[list[str]]:
    """Return the words of each of our commands in a console block, split and expanded by bash."""
    text = re.sub(r" (\d?>>?|<) ?\S+", "", block.replace("\\\n", " "))  # what goes into files is no command's
    text = text.replace(" & ", "; ").replace("$!", "0")  # one after another: else their words come mixed
    has_prompts = "$ " in text
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ") or not has_prompts]
    for line in lines:
        word = re.sub(r"^([A-Z_]+=\S* |/usr/bin/time -v |nohup |nice -n \d+ )*", "", line).split()[0]
        assert word in {*OURS, *ELSEWHERE} or re.match(r"\w+=", word), f"neither ours nor known: {line}"
    kept = [line for line in lines if line.split()[0] not in ELSEWHERE]
    done = subprocess.run(["bash", "-euc", RECORD + "\n".join(kept)], capture_output=True, text=True, check=True)
    return [line.split("\0")[:-1] for line in done.stdout.splitlines() if "\0" in line]


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
    """Return (module, its arguments) of a command of ours, None for a program of examples/."""
    name, *arguments = words
    if name.startswith("ddpm-"):
        return f"ddpm_export.cli.{name.removeprefix('ddpm-')}", arguments
    arguments = [word for word in arguments if word != "--"]  # of torchrun, before a module's name
    if "-m" in arguments:
        place = arguments.index("-m")
        return arguments[place + 1], arguments[place + 2 :]
    return None


def call_of(module: str):
    def main() -> None:
        # by os._exit a command ends its process, which is pytest's here
        with warnings.catch_warnings(), mock.patch.object(os, "_exit", sys.exit):
            warnings.simplefilter("ignore")  # runpy's, where the module has been imported before
            found = runpy.run_module(module, run_name="__main__")
        if module.startswith("ddpm_export.cli."):
            found["main"]()

    return main


def parsed(module: str, arguments: list[str]) -> str:
    """Return what a command says of its arguments, "" where it takes them; it does nothing more."""

    def then_stop(self, *args, **kwargs) -> None:
        inner(self, *args, **kwargs)
        sys.exit(0)

    inner = argparse.ArgumentParser.parse_args
    with (
        mock.patch.object(typer.core.TyperCommand, "invoke", return_value=0),
        mock.patch.object(argparse.ArgumentParser, "parse_args", then_stop),
    ):
        ending = run_here(call_of(module), *arguments)
    return "" if ending.code == 0 else ending.err


def values_after(option: str, arguments: list[str]) -> list[str]:
    return [value for before, value in pairwise(arguments) if before == option]


@pytest.mark.torch
@pytest.mark.parametrize(
    "block",
    [pytest.param(text, id=name) for name, text in [*blocks("console"), *blocks("sh")] if "python -c" not in text],
)
def test_commands_of_console_blocks_are_accepted(block: str) -> None:
    from train.config import load_config

    for words in command_lines(block):
        command = module_of(words)
        if command is None:
            assert (ROOT / words[1]).is_file(), words
            continue
        module, arguments = command
        assert parsed(module, arguments) == "", words
        shipped = {word for word in arguments if word.startswith(("exported/", "emoji/", "docs/"))}
        missing = {name for name in shipped.difference(values_after("--out", arguments)) if not (ROOT / name).exists()}
        assert missing == set(), words
        if module == "train" and "CONFIG" not in arguments:
            (config,), changes = values_after("--config", arguments), values_after("--set", arguments)
            load_config(config, dict(change.split("=", 1) for change in changes))


@pytest.mark.torch
@pytest.mark.parametrize("card", CARDS[:2], ids=lambda card: card.parent.name)
def test_the_command_of_a_card_gives_the_configuration_that_it_shows(card: Path) -> None:
    from train.config import load_config

    text = card.read_text(encoding="utf-8")
    shown = config_on(card)
    arguments = re.findall(r"`python -m train (--[^`]+)`", text)[0].split()
    (config,), changes = values_after("--config", arguments), values_after("--set", arguments)
    given = json.loads(json.dumps(asdict(load_config(config, dict(change.split("=", 1) for change in changes)))))
    for name in (
        "teacher",
        "weaker",
        "autoencoder",
    ):  # which a configuration knows by their digests, and a command by their files
        assert len(values_after(f"--{name}", arguments)) == bool(shown.get(name))
        given[name] = shown.get(name, "")
    # fields that came later have defaults which change nothing for what was trained before
    assert shown == {name: values_of(given[name], value) for name, value in shown.items()}


def config_on(card: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        re.findall(r"^```json\n(.*?)^```", card.read_text(encoding="utf-8"), re.S | re.M)[0]
    )
    return found


def values_of(given: object, shown: object) -> object:
    return {name: given[name] for name in shown} if isinstance(given, dict) and isinstance(shown, dict) else given


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def options_of(module: str) -> set[str]:
    """Return the options of a command, of its subcommands as well."""
    if not module.startswith("ddpm_export.cli."):
        return options_in(run_here(call_of(module), "--help").out)
    command = typer.main.get_command(importlib.import_module(module).main.app)
    parts = [command, *getattr(command, "commands", {}).values()]
    return {option for part in parts for parameter in part.params for option in parameter.opts} | {"--help"}


@pytest.mark.torch
def test_options_that_prose_names_are_those_of_the_command() -> None:
    helped: dict[str, set[str]] = {}
    seen = 0
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for code in re.findall(
            rf"`((?:ddpm-(?:{'|'.join(NAMES)})|python -m) [^`]+)`", page.read_text(encoding="utf-8")
        ):
            command = module_of(code.split())
            assert command is not None, f"{page.name}: {code}"
            module, named = command[0], options_in(code)
            if named:
                if module not in helped:
                    helped[module] = options_of(module)
                assert named <= helped[module], f"{page.name}: {code}"
                seen += 1
    assert seen > 10


def test_code_in_other_languages_is_that_of_a_tested_file() -> None:
    """docs/embedding-*.md show parts of the examples, which tests/examples compiles and runs; nothing of their own."""
    seen = 0
    for page in (ROOT / "docs").glob("embedding-*.md"):
        parts = re.split(
            r"^```(py|cpp|js|kotlin|swift)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M
        )
        for before, code in zip(parts[:-1:3], parts[2::3], strict=True):
            source = re.findall(r"\]\(([^)\s]+)\)", before)[-1]  # the last file named before the block
            assert code in (page.parent / source).read_text(encoding="utf-8"), f"{source}: not in it: {code[:80]}"
            seen += 1
    assert seen > 9


def test_the_example_runs(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/python/straight_line.py"], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (clone / "samples.png").stat().st_size > 1000


DIGEST = re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{12,64}\b")


def test_every_digest_is_of_a_file_that_ships_or_said_not_to_ship() -> None:
    sums = "".join((ROOT / name / "SHA256SUMS").read_text() for name in ("exported", "emoji"))
    known = {line.split()[0] for line in sums.splitlines()}
    known.add(
        sha256(normal_table().astype("<i4").tobytes()).hexdigest()
    )  # docs/format.md has that of the table of normals
    # a network's teachers, which its configuration knows by their digests
    configs = [config_on(card) for card in CARDS[:2]]
    known |= {
        str(config[name]) for config in configs for name in ("teacher", "weaker", "autoencoder") if name in config
    }
    seen = 0
    for page in [*PAGES, ROOT / "exported" / "extractor.md"]:
        text = page.read_text(encoding="utf-8")
        for match in DIGEST.finditer(text):
            ships = any(digest.startswith(match.group()) for digest in known)
            options = text[match.end() :].startswith(", which no longer ships")
            assert ships != options, f"{page.name}: {match.group()}"
            seen += 1
    assert seen >= 5


def test_what_is_said_of_the_proof_is_what_it_does() -> None:
    def model(x_t: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        return {"eps": x_t, "variance_fraction": np.full_like(x_t, 0.5)}

    T = 50
    spec = tiny_spec(alphas_cumprod=tuple(np.linspace(0.999, 0.01, T).tolist()), clip_x_0=1.0)
    small, above, learned = (
        prove(model, model, replace(spec, state_shape=shape, **changes))
        for shape, changes in (
            ((3, 64, 64), {}),
            ((1, 64 * 3, 65), {}),
            ((1, 2, 2), {"variance": "learned", "requires": ("variance_fraction",)}),
        )
    )
    assert small.batches == above.batches == learned.batches
    assert small.num_steps == above.num_steps == learned.num_steps
    options = re.compile(
        rf"at {len(small.times)} times in {len(small.batches)} batch sizes "
        rf"\({len(above.times)} times for images of more than 64x64x3 values\).* a trajectory of {small.num_steps} "
        r"steps, with DDIM or, where the variance is learned, DDPM:"
    )
    assert options.search(" ".join((ROOT / "docs" / "importing.md").read_text(encoding="utf-8").split()))


def test_same_bits_are_promised_only_where_they_were_measured() -> None:
    sampling = " ".join((ROOT / "docs" / "sampling.md").read_text(encoding="utf-8").split())
    page = (ROOT / "docs" / "benchmarks-step.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (batch|threads) +\| +([\d, ]+) \| +bit-equal \|", page, re.M))
    batches, threads = (rows[name].split(", ") for name in ("batch", "threads"))
    cpu, cores = re.findall(r"^Machine: ([\w ]+) \(.*?, (\d+) cores", page, re.M)[0]
    measured = f"at batches of {batches[0]} to {batches[-1]} and with {' or '.join(threads)} threads"
    assert f"equal to the bit {measured} on an {cpu} of {cores} cores" in sampling
    assert "any number of threads" not in sampling


def test_the_picture_is_the_state_after_the_last_row() -> None:
    """x_0 of the last evaluation is the picture only where the last row takes all of it and nothing before."""
    for page in [*PAGES, *(ROOT / "examples" / "python").glob("*.py")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"to_uint8\((decode\()?state\.x_0", text), page.name


def test_what_contributing_says_of_files_and_tables_is_so() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| a") and "`ddpm_export" in line]
    assert len(rows) >= 8
    for what, _, named_in, _ in rows:
        name, file = re.findall(r"`([A-Z]+)` in `([\w/]+\.py)`", named_in)[0]
        module = importlib.import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        table = getattr(module, name)
        assert isinstance(table, Mapping), what
        assert table, what
        assert re.search(rf"^{name}\b.*=", (ROOT / file).read_text(encoding="utf-8"), re.M), f"{what}: made elsewhere"


def test_files_that_prose_names_exist() -> None:
    for page in (ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "README.md", "docs/architecture.md")):
        for name in re.findall(r"`((?:ddpm_export|tests|docs|train|\.ci)/[\w/.]*)`", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_targets_of_make_that_prose_names_exist() -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {name for page in PAGES for name in re.findall(r"`make ([\w./-]+)`", page.read_text(encoding="utf-8"))}
    assert len(named) > 3
    assert named <= targets, named - targets


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)  # code is no prose
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target and not target.startswith("../../actions/"):  # a badge of GitHub's, on its own page
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tree_of_rooms_equals_the_files() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = re.search(r"^```text\n(ddpm_export/.*?)^```", text, re.S | re.M)
    assert tree is not None
    named = set(re.findall(r"^  (\S+)", tree.group(1), re.M))
    folder = ROOT / "ddpm_export"
    actual = {p.name for p in folder.glob("*.py")} - {"__init__.py"}
    actual |= {f"{p.name}/" for p in folder.iterdir() if (p / "__init__.py").exists()}
    assert named == actual
