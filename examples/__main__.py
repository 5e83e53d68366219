"""`python -m examples`: build and run the sampler of every language here, and compare its images with Python's.

One line each: what ran, the largest difference from Python in levels, the share of equal values, the time from the
start of the program to its first image, and the differences of two plans that travel in a file, a solver of several
steps and a tuned one, and of an edit, where the program makes any. The hosts in Java and Swift run one-call files,
whose graph Python runs, too: the pictures have to be equal. A language whose tools are missing is named and left out;
exit code 1 where one fails or is off by more than a level.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ddpm_export import edit, generate, open_model
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, BUILD = ROOT / "examples", ROOT / "build" / "examples"
UNET = ROOT / "exported" / "unet.onnx"
ONE_CALL = BUILD / "unet.sampler.onnx"  # of STEPS, the class alone being open
GRAPHS = {graph: BUILD / f"open.{graph}.onnx" for graph in ("slice", "edit")}
PLANNED = BUILD / "planned"  # the same network with plans, as unet.onnx, unet.sampler.onnx and unet.slice.onnx
PLANS = ("unipc-8", "tuned-8")
N, STEPS, SEED = 16, 50, 7
GIVEN = ROOT / "docs" / "given"  # half a shoe, filled in four ways
EDIT = {"num_steps": 10, "sampler": "ddim", "eta": 1.0, "seed": SEED, "returns": 2, "n": 4}
HOST_EDIT = {"num_steps": 20, "seed": SEED, "n": 4}
SPEC = open_model(UNET)[1]
TOLD = {"label": 7, "guidance": 2.0} if SPEC.takes_guidance else {}  # one class for all, by its number
FLAGS = [text for name, value in TOLD.items() for text in (f"--{name}", str(value))]
MAX_DIFFERENCE = 1  # levels, docs/format.md section 2
WEB = EXAMPLES / "web"
Command = Callable[..., list[str]]  # (how many images, where to write, a plan's name if any) -> what to run


@dataclass(frozen=True)
class Program:
    """What runs in one language: its name, the commands or files it needs, how it is built, and its command line.

    needs: (a command or a path, how to get it). run: (n, where to write, a plan's name) -> command; without a plan 50
    steps of DDIM. takes_plans: whether it can be told one. first: the command that prints the milliseconds to the first
    image, where the program's own time is not that. edits: of one that takes --image, (where to write) -> command.
    is_host: whether it runs a one-call file, whose edits have no returns.
    """

    name: str
    needs: tuple[tuple[str, str], ...]
    build: tuple[list[str], ...]
    run: Command
    ending: str = ".png"
    takes_plans: bool = True
    first: tuple[str, ...] = ()
    edits: Callable[[Path], list[str]] | None = None
    is_host: bool = False

    def missing(self) -> list[str]:
        """Return what is not here, as a person would install it."""
        return [f"no {tool}: {how}" for tool, how in self.needs if not (shutil.which(tool) or Path(tool).exists())]


def sampling(*program: str) -> Command:
    """Return the command of a `sample` program, which takes the same arguments in every language."""
    steps = ("--steps", str(STEPS), "--sampler", "ddim", "--eta", "0")

    def command(n: int, out: Path, plan: str | None = None) -> list[str]:
        model, way = (UNET, steps) if plan is None else (PLANNED / "unet.onnx", ("--plan", plan))
        common = (*FLAGS, "--n", str(n), "--seed", str(SEED), "--first", "0", "--out", str(out))
        return [*program, str(model), *way, *common]

    return command


def editing(*program: str) -> Callable[[Path], list[str]]:
    """Return the command of a `sample` program that fills a picture in."""
    stated = {"image": GIVEN / "pictures" / "00.png", "mask": GIVEN / "right-half.png", **EDIT}
    options = [text for name, value in stated.items() for text in (f"--{name.removeprefix('num_')}", str(value))]
    return lambda out: [*program, str(UNET), *FLAGS, *options, "--out", str(out)]


def one_call(*program: str, label_last: bool = False) -> Command:
    """Return the command of a program over the one-call file: MODEL N SEED CLASS OUT, or the class last."""
    label = [str(TOLD.get("label", 0))]

    def command(n: int, out: Path, _: str | None = None) -> list[str]:
        return [*program, str(ONE_CALL), str(n), str(SEED), *([str(out), *label] if label_last else [*label, str(out)])]

    return command


def hosting(program: Path) -> Command:
    """Return the command of a `sample` program that runs a slice."""

    def command(n: int, out: Path, plan: str | None = None) -> list[str]:
        way = ["--steps", str(STEPS)]
        if plan is not None:
            way = ["--steps", plan.rpartition("-")[2], "--plan", str(number_of(plan))]
        model = GRAPHS["slice"] if plan is None else PLANNED / "unet.slice.onnx"
        return [str(program), str(model), *way, *FLAGS, "--n", str(n), "--seed", str(SEED), "--out", str(out)]

    return command


def host_editing(program: Path) -> Callable[[Path], list[str]]:
    """Return the command of a `sample` program that fills a picture in, over an edit graph."""
    files = ["--image", str(GIVEN / "pictures" / "00.png"), "--mask", str(GIVEN / "right-half.png")]
    stated = [
        *files,
        *(text for name, value in HOST_EDIT.items() for text in (f"--{name.removeprefix('num_')}", str(value))),
    ]
    return lambda out: [str(program), str(GRAPHS["edit"]), *FLAGS, *stated, "--out", str(out)]


def number_of(plan: str) -> int:
    """Return the number of a plan in the planned files."""
    return sorted(open_model(PLANNED / "unet.onnx")[1].plans).index(plan) + 1


def in_a_page(n: int, _: Path, plan: str | None = None) -> list[str]:
    """Return the command that drives the page and prints the pixels that it showed."""
    way = {"steps": STEPS} if plan is None else {"plan": plan, "file": str(PLANNED / "unet.onnx")}
    if TOLD and SPEC.label is not None:
        way |= {**TOLD, "label": SPEC.label.name_of(TOLD["label"])}  # what its button says
    return ["node", str(WEB / "test" / "page.js"), "batch", json.dumps({"n": n, "seed": str(SEED), **way})]


def in_the_graph(plan: str) -> NDArray[np.uint8]:
    """Return the grid of a plan by the one-call file, which ONNX Runtime runs here."""
    session = onnxruntime.InferenceSession(PLANNED / "unet.sampler.onnx", providers=["CPUExecutionProvider"])
    integers = {"seed": SEED, "first": 0, "n": N, "steps": int(plan.rpartition("-")[2]), "plan": number_of(plan)}
    feeds = {name: np.array(value, dtype=np.int64) for name, value in integers.items()}
    if TOLD and SPEC.label is not None:
        feeds[SPEC.label.name] = np.full(N, TOLD["label"])
        feeds["guidance"] = np.array(TOLD["guidance"], dtype=np.float32)
        feeds["guidance_interval"] = np.array([0, SPEC.num_train_timesteps - 1], dtype=np.float32)
    return grid(np.asarray(session.run(["images"], feeds)[0]))


DDPM_EXPORT = str(Path(sys.executable).parent / "ddpm-export")
GUIDED = ["guidance"] if TOLD else []
EXPORT = [DDPM_EXPORT, str(UNET), "--format", "sampler", "--sampler", "ddim:eta=0", "--steps", str(STEPS)]
EXPORT += ["--out", str(ONE_CALL), *(["--guidance", str(TOLD["guidance"])] if TOLD else [])]
EXPORT_OPEN = [
    [DDPM_EXPORT, str(UNET), "--format", graph, "--open", ",".join(["steps", *GUIDED]), "--out", str(path)]
    for graph, path in GRAPHS.items()
]
EXPORT_PLANS = [
    *(DDPM_EXPORT, str(ROOT / "exported" / "checkpoint.pt"), "--plans", str(ROOT / "exported" / "plans.json")),
    *("--sampler", "unipc", "--steps", "8", "--format", "onnx", "--format", "sampler", "--format", "slice"),
    *("--open", ",".join(["steps", "plan", *GUIDED]), "--out", str(PLANNED)),
]
CMAKE = (["cmake", "-S", str(EXAMPLES / "cpp"), "-B", str(BUILD / "cpp")], ["cmake", "--build", str(BUILD / "cpp")])
SWIFT = ["swift", "build", "-c", "release", "--package-path", str(EXAMPLES / "ios"), "--scratch-path"]
ONNXRUNTIME = ("/usr/include/onnxruntime", "apt install libonnxruntime-dev")
CXX = ("c++", "apt install g++")
CPP = (CXX, ("cmake", "apt install cmake"), ("/usr/include/png.h", "apt install libpng-dev"), ONNXRUNTIME)
NODE = (("node", "apt install nodejs"), (str(WEB / "node_modules"), "make examples/web/node_modules (needs npm)"))

PROGRAMS = (
    Program(
        *("Python, one call", (), (), one_call(sys.executable, str(EXAMPLES / "python" / "one_call.py"))),
        ending=".npy",
        takes_plans=False,
    ),
    Program(
        "C++",
        CPP,
        CMAKE,
        sampling(str(BUILD / "cpp" / "ddpm_sample")),
        edits=editing(str(BUILD / "cpp" / "ddpm_sample")),
    ),
    Program("C++, one call", CPP, CMAKE, one_call(str(BUILD / "cpp" / "one_call"), label_last=True), takes_plans=False),
    Program(
        "JavaScript, node",
        NODE,
        (),
        sampling("node", str(WEB / "sample.js")),
        edits=editing("node", str(WEB / "sample.js")),
    ),
    Program(
        *("JavaScript, one call", NODE, (), one_call("node", str(WEB / "one_call.js"))),
        ending=".bin",
        takes_plans=False,
    ),
    Program(
        "JavaScript, Chromium",
        (*NODE, ("chromium", "apt install chromium")),
        (),
        in_a_page,
        ending=".json",
        first=("node", str(WEB / "test" / "page.js"), "first"),
    ),
    Program(
        "Java, JVM",
        (("javac", "apt install default-jdk-headless"), CXX, ONNXRUNTIME),
        (["sh", str(EXAMPLES / "android" / "jvm" / "build.sh"), str(BUILD / "java")],),
        hosting(BUILD / "java" / "sample"),
        edits=host_editing(BUILD / "java" / "sample"),
        is_host=True,
    ),
    Program(
        "Swift, Linux",
        (("swift", "apt install swiftlang"), ONNXRUNTIME),
        ([*SWIFT, str(BUILD / "swift"), "--product", "sample"],),
        hosting(BUILD / "swift" / "release" / "sample"),
        edits=host_editing(BUILD / "swift" / "release" / "sample"),
        is_host=True,
    ),
)


def main() -> None:
    """Build, run and compare what can be built here; end with 1 where something went wrong."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for command in (EXPORT, *EXPORT_OPEN, EXPORT_PLANS):
        ran(command)
    expected = {plan: grid(generate(PLANNED / "unet.onnx", n=N, plan=plan, seed=SEED, **TOLD)) for plan in PLANS}
    expected[None] = grid(generate(UNET, n=N, num_steps=STEPS, sampler="ddim", eta=0.0, seed=SEED, **TOLD))
    picture, mask = (read_image(GIVEN / name, 1) for name in ("pictures/00.png", "right-half.png"))
    edited = grid(edit(UNET, picture[np.newaxis], mask=mask[..., 0], **EDIT, **TOLD))
    how = {"n": N, "seed": SEED, **TOLD}
    graphs = {None: grid(generate(GRAPHS["slice"], num_steps=STEPS, **how))}
    graphs |= {plan: grid(generate(PLANNED / "unet.slice.onnx", plan=plan, **how)) for plan in PLANS}
    filled = grid(edit(GRAPHS["edit"], picture[np.newaxis], mask=mask[..., 0], **HOST_EDIT, **TOLD))
    inputs = "".join(f", {name} {value:g}" for name, value in TOLD.items())
    print(f"{N} images, {STEPS} steps of DDIM, seed {SEED}{inputs}: difference from Python, cold start with one image")
    print(f"Plans in the file: {', '.join(PLANS)}")
    print(f"Edit: half a picture filled in {EDIT['n']} ways, {EDIT['num_steps']} steps, {EDIT['returns']} returns")
    failures = 0
    for plan in PLANS:
        inputs, is_same = difference(in_the_graph(plan), expected[plan])
        print(f"{'the graph':22} {plan}: {inputs}", flush=True)
        failures += not is_same
    for program in PROGRAMS:
        missing = program.missing()
        if missing:
            inputs = f"left out: {'; '.join(missing)}"
        else:
            try:
                inputs, is_same = compared(program, *((graphs, filled) if program.is_host else (expected, edited)))
                failures += not is_same
            except subprocess.CalledProcessError as exc:
                lines = (exc.stderr or "").strip().splitlines()
                inputs, failures = f"failed: {lines[-1] if lines else exc}", failures + 1
        print(f"{program.name:22} {inputs}", flush=True)
    sys.exit(1 if failures else 0)


def ran(command: list[str]) -> str:
    """Return what a command prints; raises CalledProcessError where it fails."""
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return done.stdout


def compared(
    program: Program, expected: dict[str | None, NDArray[np.uint8]], edited: NDArray[np.uint8]
) -> tuple[str, bool]:
    """Return what to print of a program, and whether its images are Python's, or of a host those of the graph there."""
    for command in program.build:
        ran(command)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"grid{program.ending}"
        most = 0 if program.is_host else MAX_DIFFERENCE
        inputs, is_same = difference(read(ran(program.run(N, out, None)), out), expected[None], most)
        if program.first:
            seconds = json.loads(ran(list(program.first)))["ms"] / 1000
        else:
            start = time.perf_counter()
            ran(program.run(1, out, None))
            seconds = time.perf_counter() - start
        inputs += f", first image {seconds:.2f} s"
        for plan in PLANS if program.takes_plans else ():
            of_plan, is_its = difference(read(ran(program.run(N, out, plan)), out), expected[plan], most)
            inputs, is_same = f"{inputs}; {plan}: {of_plan}", is_same and is_its
        edit_told = "this program makes none"
        if program.edits is not None:
            edit_told, is_its = difference(read(ran(program.edits(out)), out), edited, most)
            is_same = is_same and is_its
    return f"{inputs}; edit: {edit_told}", is_same


def difference(pixels: NDArray[np.uint8], expected: NDArray[np.uint8], most: int = MAX_DIFFERENCE) -> tuple[str, bool]:
    """Return how far a grid is from Python's, in words, and whether it is within so many levels."""
    if pixels.shape != expected.shape:
        return f"failed: a grid of {pixels.shape}, expected {expected.shape}", False
    levels = np.abs(pixels.astype(int) - expected)
    largest, equal = int(levels.max()), float((levels == 0).mean())
    return f"max difference {largest}, {equal:8.3%} equal", largest <= most


def read(printed: str, out: Path) -> NDArray[np.uint8]:
    """Return the grid (H, W, 1) that a program wrote, or printed, as its ending says."""
    if out.suffix == ".npy":
        return grid(np.load(out))
    if out.suffix == ".bin":
        return grid(np.fromfile(out, np.uint8).reshape(-1, *SPEC.state_shape[1:], SPEC.state_shape[0]))
    if out.suffix == ".json":
        seen = json.loads(printed)
        return np.array(seen["data"], dtype=np.uint8).reshape(seen["height"], seen["width"], -1)[..., :1]
    return read_image(out, channels=1)


if __name__ == "__main__":
    main()
