"""Whether this checkout gives the pictures of another one, to the bit: the same runs in both, on this machine.

`python -m benchmarks.pins OTHER_CHECKOUT`. Each checkout exports and runs its own code on the other's model files; what
is compared is the SHA-256 of the pixels. Where command lines differ, `RUNS` has those of each side. Kernels differ
between processors, so digests are compared here, never with digests from another machine.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.report import Report, Table, markdown_from_reports
from ddpm_export.measuring.timing import machine

__all__ = ["main"]

HERE = Path(__file__).parents[1]
UNET, EMOJI, BARE, TOY = "exported/unet.onnx", "emoji/unet.onnx", "no_clip.onnx", "learned.onnx"
CLASSES = "classes.onnx"
SAMPLER, SLICE = "unet.sampler.onnx", "unet.slice.onnx"
PICTURE, MASK = "docs/given/pictures/00.png", "docs/given/right-half.png"


class Run(NamedTuple):
    """The same pictures asked of both checkouts: a model, the words of a command, and before `ddpm-edit` if others.

    MODEL stands for the model's path; without it the words are options of `run MODEL`.
    """

    model: str
    words: str
    before: str = ""

    def command(self, checkout: Path, path: Path) -> list[str]:
        """Return the command of a checkout, and its arguments."""
        is_new = (checkout / "ddpm_export" / "cli" / "edit.py").exists()
        text = self.words if is_new or not self.before else self.before
        return (text if "MODEL" in text else f"run MODEL {text}").replace("MODEL", str(path)).split()


RUNS = (
    Run(UNET, "--n 4 --sampler ddim:eta=0 --steps 50", "--n 4 --sampler ddim --steps 50 --eta 0"),
    Run(UNET, "--n 4 --sampler ddim:eta=0.5 --steps 50", "--n 4 --sampler ddim --steps 50 --eta 0.5"),
    Run(UNET, "--n 4 --sampler ddim:eta=1 --steps 7", "--n 4 --sampler ddim --steps 7 --eta 1"),
    Run(UNET, "--n 2 --sampler ddim:eta=0 --steps 1000", "--n 2 --sampler ddim --steps 1000 --eta 0"),
    Run(
        UNET,
        "--n 4 --sampler ddpm:variance=fixed_small --steps 50",
        "--n 4 --sampler ddpm --steps 50 --variance fixed_small",
    ),
    Run(
        UNET,
        "--n 4 --sampler ddpm:variance=fixed_large --steps 7",
        "--n 4 --sampler ddpm --steps 7 --variance fixed_large",
    ),
    Run(
        UNET,
        "--n 2 --sampler ddpm:variance=fixed_large --steps 1000",
        "--n 2 --sampler ddpm --steps 1000 --variance fixed_large",
    ),
    Run(UNET, "--n 3 --sampler ddpm --steps 999,700,333,40,0", "--n 3 --sampler ddpm --times 999,700,333,40,0"),
    Run(
        UNET,
        "--n 4 --sampler unipc:order=2,grid=karras --steps 6",
        "--n 4 --sampler unipc --order 2 --grid karras --steps 6",
    ),
    Run(UNET, "--n 4 --plan tuned-8"),
    Run(UNET, "--n 5 --first 3 --batch 2 --steps 20"),
    Run(UNET, "--n 2"),
    Run(
        UNET,
        "--n 4 --label 7,none --guidance 2@300-700",
        "--n 4 --label 7,none --guidance 2 --guidance-interval 300,700",
    ),
    Run(
        UNET,
        f"edit fill MODEL {PICTURE} --mask {MASK} --n 2 --sampler ddim:eta=1 --steps 20 --returns 1",
        f"run MODEL --image {PICTURE} --mask {MASK} --n 2 --sampler ddim --eta 1 --steps 20 --returns 1",
    ),
    Run(
        UNET,
        f"edit vary MODEL {PICTURE} --strength 0.5 --n 2 --steps 20",
        f"run MODEL --image {PICTURE} --strength 0.5 --n 2 --steps 20",
    ),
    Run(
        UNET,
        f"edit measure MODEL {PICTURE} --by average:4 --steps 20",
        f"run MODEL --image {PICTURE} --measure average:4 --steps 20",
    ),
    Run(
        UNET,
        f"edit between MODEL {PICTURE} docs/given/pictures/01.png --strength 0.6 --n 3 --steps 20",
        f"run MODEL --between {PICTURE} docs/given/pictures/01.png --strength 0.6 --n 3 --steps 20",
    ),
    Run(BARE, "--n 4 --sampler ddim:eta=0 --steps 50", "--n 4 --sampler ddim --steps 50 --eta 0"),
    Run(BARE, "--n 4 --sampler ddpm --steps 50"),
    Run(EMOJI, "--n 4"),
    Run(EMOJI, "--n 4 --sampler ddpm --steps 50"),
    Run(TOY, "--n 4 --sampler ddpm:variance=learned --steps 7", "--n 4 --sampler ddpm --steps 7 --variance learned"),
    Run(TOY, "--n 4 --sampler ddpm --steps 40"),
    Run(CLASSES, "--n 4 --label 0,2,none --guidance 2.5"),
    Run(
        CLASSES,
        "--n 6 --guidance 1.5@10-30 --sampler ddpm --steps 20",
        "--n 6 --guidance 1.5 --guidance-interval 10,30 --sampler ddpm --steps 20",
    ),
    Run(SAMPLER, "--n 4 --sampler ddim:eta=0.5 --steps 7", "--n 4 --steps 7 --eta 0.5"),
    Run(SAMPLER, "--n 4 --first 3 --batch 2 --steps 50"),
    Run(SLICE, "--n 4 --sampler ddim:eta=1 --steps 7", "--n 4 --steps 7 --eta 1"),
    Run(SLICE, "--n 4 --steps 50"),
)
# of every program in examples/ that takes a sampler: what stands after these options in its command line
SETTINGS = (
    {"--sampler": "ddim", "--eta": "0", "--steps": "50"},
    {"--sampler": "ddim", "--eta": "1", "--steps": "7", "--first": "3"},
    {"--sampler": "ddpm", "--eta": None, "--steps": "20"},
)
MODELS = """
import sys
from pathlib import Path
import onnx
from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.inputs import Input
from tests.models import classes_file, learned_model, tiny_spec
folder = Path(sys.argv[1])
(folder / "learned.onnx").write_bytes(learned_model())
told = tiny_spec(inputs=(Input("y", "label", none=3, classes=("a", "b", "c")),), requires=("inputs",))
(folder / "classes.onnx").write_bytes(classes_file(told, [-0.75, 0.5, 0.75, 0.125], 0.5))
model = onnx.load(sys.argv[2])
text = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
assert '"clip_x_0": 1.0' in text.value
text.value = text.value.replace('"clip_x_0": 1.0', '"clip_x_0": null')
onnx.save(model, folder / "no_clip.onnx")
"""
LEFT_OUT, NOT_COMPARED = "left out: ", "not compared"
COMMAND = "from ddpm_export.cli.{} import main; main()"
# examples/__main__.py of each checkout knows how its own programs are built and called
PROGRAMS = """
import hashlib, json, subprocess, sys
from pathlib import Path
import examples.__main__
from examples.__main__ import BUILD, EXPORT, PROGRAMS, ran, read
exports = (EXPORT, *getattr(examples.__main__, "EXPORT_OPEN", ()))  # of hosts of one-call files
out, settings, only = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
BUILD.mkdir(parents=True, exist_ok=True)
made = set()
for program in PROGRAMS:
    chosen = [None, *settings]
    for k, changes in enumerate(chosen):
        command = program.run(4, out / f"grid{program.ending}")
        if (changes is None) == ("--sampler" in command):
            continue
        label = [program.name] if changes is None else [
            program.name, *(f"{name} {value}" for name, value in changes.items() if value is not None)]
        label = " ".join(label)
        if only not in label:
            continue
        for option, value in (changes or {}).items():
            place = command.index(option) + 1
            command[place - 1 : place + 1] = [] if value is None else [option, value]
        missing = program.missing()
        if missing:
            told = "left out: " + "; ".join(missing)
        else:
            try:
                if program.name not in made:
                    for build in (*exports, *program.build):
                        ran(build)
                    made.add(program.name)
                told = hashlib.sha256(read(ran(command), Path(out / f"grid{program.ending}")).tobytes()).hexdigest()
            except subprocess.CalledProcessError as exc:
                told = f"failed: {((exc.stderr or '').strip().splitlines() or [exc])[-1]}"
        print(json.dumps([label, told]), flush=True)
"""


def ran(checkout: Path, code: str, *arguments: object) -> str:
    """Return what a piece of Python prints that imports from a checkout; raises SystemExit with its last words."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {checkout.name}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return done.stdout


def digests(checkout: Path, models: Path, only: str) -> Iterator[tuple[str, str]]:
    """Yield (run, SHA-256 of its pixels, or why there are none) of a checkout, its models in `models`."""
    with tempfile.TemporaryDirectory() as made:
        out = Path(made)
        for run in RUNS:
            model, label = run.model, f"{run.model} {run.words}"
            if only not in label:
                continue
            path = models / model
            if model in (SAMPLER, SLICE):  # exported by the checkout itself
                path = out / model
                if not path.exists():
                    kind = "sampler" if model == SAMPLER else "slice"
                    is_chosen = "`open`" in (checkout / "docs" / "format.md").read_text(encoding="utf-8")
                    opens = ["--open", "all"] if is_chosen else []  # what every one-call file took before
                    ran(checkout, COMMAND.format("export"), models / UNET, "--format", kind, *opens, "--out", path)
            pixels = out / "pixels.npy"
            command, *words = run.command(checkout, path)
            ran(checkout, COMMAND.format(command), *words, "--seed", 7, "--threads", 1, "--out", pixels)
            yield label, hashlib.sha256(np.load(pixels).tobytes()).hexdigest()
        for line in ran(checkout, PROGRAMS, out, json.dumps(SETTINGS), only).splitlines():
            label, inputs = json.loads(line)
            yield label, inputs


def main() -> None:
    """Run both checkouts, print the table, and end with 1 where a digest differs."""
    options = argparse.ArgumentParser(description="The same runs in this checkout and in another one, compared.")
    options.add_argument("other", type=Path, help="another checkout of this project")
    options.add_argument("--only", default="", metavar="TEXT", help="only runs whose line contains this")
    arguments = options.parse_args()
    other = arguments.other.resolve()
    found: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        for name in (UNET, EMOJI):
            (models / name).parent.mkdir()
            (models / name).symlink_to(other / name)
        ran(HERE, MODELS, models, other / UNET)
        for checkout in (other, HERE):
            found.append({})
            for label, inputs in digests(checkout, models, arguments.only):
                found[-1][label] = inputs
                print(f"{checkout.name}: {label}: {inputs}", file=sys.stderr, flush=True)
    before, after = found
    rows = [[label, before.get(label, "-"), _verdict(before, after, label)] for label in {**before, **after}]
    table = Table("SHA-256 of the pixels, seed 7", ["run", "there", "here"], rows)
    report = Report("python -m benchmarks.pins", machine(), [table])
    print(markdown_from_reports([vars(report) | {"tables": [vars(table)]}]))
    sys.exit(1 if any(row[-1] not in ("equal", NOT_COMPARED) for row in rows) else 0)


def _verdict(before: dict[str, str], after: dict[str, str], label: str) -> str:
    there, here = before.get(label, "nothing"), after.get(label, "nothing")
    if there != here:
        return here
    return NOT_COMPARED if here.startswith(LEFT_OUT) else "equal"


if __name__ == "__main__":
    main()
