"""Whether this checkout gives the pictures of another one, to the bit: the same runs in both, on this machine.

`python -m benchmarks.pins OTHER_CHECKOUT`. Each checkout exports and runs its own code on the other's model files; what
is compared is the SHA-256 of the pixels. Command lines are those that both understand. Kernels differ between
processors, so digests are compared here, never with digests from another machine.
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

import numpy as np

from benchmarks.report import Report, Table, markdown_from_reports
from ddpm_export.measuring.timing import machine

__all__ = ["main"]

HERE = Path(__file__).parents[1]
UNET, EMOJI, BARE, TOY = "exported/unet.onnx", "emoji/unet.onnx", "no_clip.onnx", "learned.onnx"
CLASSES = "classes.onnx"
SAMPLER, SLICE = "unet.sampler.onnx", "unet.slice.onnx"
RUNS = (  # (model, settings of ddpm-run)
    (UNET, "--n 4 --sampler ddim --steps 50 --eta 0"),
    (UNET, "--n 4 --sampler ddim --steps 50 --eta 0.5"),
    (UNET, "--n 4 --sampler ddim --steps 7 --eta 1"),
    (UNET, "--n 2 --sampler ddim --steps 1000 --eta 0"),
    (UNET, "--n 4 --sampler ddpm --steps 50 --variance fixed_small"),
    (UNET, "--n 4 --sampler ddpm --steps 7 --variance fixed_large"),
    (UNET, "--n 2 --sampler ddpm --steps 1000 --variance fixed_large"),
    (UNET, "--n 3 --sampler ddpm --times 999,700,333,40,0"),
    (UNET, "--n 5 --first 3 --batch 2 --steps 20"),
    (UNET, "--n 2"),
    (BARE, "--n 4 --sampler ddim --steps 50 --eta 0"),
    (BARE, "--n 4 --sampler ddpm --steps 50"),
    (EMOJI, "--n 4"),
    (EMOJI, "--n 4 --sampler ddpm --steps 50"),
    (TOY, "--n 4 --sampler ddpm --steps 7 --variance learned"),
    (TOY, "--n 4 --sampler ddpm --steps 40"),
    (CLASSES, "--n 4 --label 0,2,none --guidance 2.5"),
    (CLASSES, "--n 6 --guidance 1.5 --guidance-interval 10,30 --sampler ddpm --steps 20"),
    (SAMPLER, "--n 4 --steps 7 --eta 0.5"),
    (SAMPLER, "--n 4 --first 3 --batch 2 --steps 50"),
    (SLICE, "--n 4 --steps 7 --eta 1"),
    (SLICE, "--n 4 --steps 50"),
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
from ddpm_export.model.spec import METADATA_KEY
from ddpm_export.model.inputs import Input
from tests.models import classes_file, learned_model, tiny_spec
folder = Path(sys.argv[1])
(folder / "learned.onnx").write_bytes(learned_model())
told = tiny_spec(inputs=(Input("y", "label", none=3, classes=("a", "b", "c")),), requires=("inputs",))
(folder / "classes.onnx").write_bytes(classes_file(told, [-0.75, 0.5, 0.75, 0.125], 0.5))
model = onnx.load("exported/unet.onnx")
text = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
assert '"clip_x_0": 1.0' in text.value
text.value = text.value.replace('"clip_x_0": 1.0', '"clip_x_0": null')
onnx.save(model, folder / "no_clip.onnx")
"""
LEFT_OUT, NOT_COMPARED = "left out: ", "not compared"
EXPORT, RUN = (f"from ddpm_export.cli.{command} import main; main()" for command in ("export", "run"))
# examples/__main__.py of each checkout knows how its own programs are built and called
PROGRAMS = """
import hashlib, json, subprocess, sys
from pathlib import Path
from examples.__main__ import BUILD, EXPORT, PROGRAMS, ran, read
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
                    for build in (EXPORT, *program.build):
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
        for model, settings in RUNS:
            label = f"{model} {settings}"
            if only not in label:
                continue
            path = models / model
            if model in (SAMPLER, SLICE):  # exported by the checkout itself
                path = out / model
                if not path.exists():
                    kind = "sampler" if model == SAMPLER else "slice"
                    is_chosen = "--open" in (checkout / "ddpm_export" / "cli" / "export.py").read_text(encoding="utf-8")
                    opens = ["--open", "all"] if is_chosen else []  # what every one-call file took before
                    ran(checkout, EXPORT, models / UNET, "--format", kind, *opens, "--out", path)
            pixels = out / "pixels.npy"
            ran(checkout, RUN, path, *settings.split(), "--seed", 7, "--threads", 1, "--out", pixels)
            yield label, hashlib.sha256(np.load(pixels).tobytes()).hexdigest()
        for line in ran(checkout, PROGRAMS, out, json.dumps(SETTINGS), only).splitlines():
            label, told = json.loads(line)
            yield label, told


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
        ran(other, MODELS, models)
        for checkout in (other, HERE):
            found.append({})
            for label, told in digests(checkout, models, arguments.only):
                found[-1][label] = told
                print(f"{checkout.name}: {label}: {told}", file=sys.stderr, flush=True)
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
