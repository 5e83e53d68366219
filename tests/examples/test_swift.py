"""The Swift package, on Linux: its own tests, `sample` against Python's pictures, and the code blocks of its README."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from gaussian import gaussian_spec
from models import onnx_file

from ddpm_export import generate
from ddpm_export.errors import DdpmExportError
from ddpm_export.exporting.sampler import sampler_from_denoiser, spec_of_graph
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import METADATA_KEY, json_from_spec, spec_from_json
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.rows import Plan, Row
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for

from .edits import EDITS, PICTURE, flags_of, pictures_of
from .fed import FED, mixed_with_t
from .specs import guided_specs, specs

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "examples" / "ios"
MODEL = ROOT / "exported" / "unet.onnx"
PLAIN = ROOT / "ablation" / "cosine-l1" / "unet.onnx"  # without classes and plans

pytestmark = pytest.mark.torch  # no torch, but a compiler: it takes more than ten seconds


def run(*command, cwd=PACKAGE, timeout=600):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=timeout)
    # Debian's ONNX Runtime writes these as it starts
    done.stderr = "".join(
        line for line in done.stderr.splitlines(keepends=True) if line.strip() and not line.startswith("Schema error")
    )
    return done


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Build everything once, its tests too, with warnings as errors, and return the folder of what was built."""
    if shutil.which("swift") is None:
        pytest.skip("no swift: apt install swiftlang")
    for library in ("libonnxruntime", "libpng"):
        if shutil.which("pkg-config") is None or run("pkg-config", "--exists", library).returncode:
            pytest.skip(f"no {library}: apt install pkg-config {library}-dev")
    scratch = tmp_path_factory.mktemp("swift")
    options = ["-c", "release", "--scratch-path", scratch, "--cache-path", scratch / "cache"]
    checks = ["-Xswiftc", "-warnings-as-errors"]
    done = run("swift", "build", "--build-tests", *options, *checks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning:" not in done.stdout + done.stderr, done.stdout + done.stderr
    return scratch / "release"


def test_the_packages_own_tests(build):
    done = run(build / "DDPMPackageTests.xctest")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    (count,) = set(re.findall(r"'All tests' passed.*\n.*Executed (\d+) tests, with 0 failures", said))
    assert int(count) == len(re.findall(r"^    func test", sources("Tests"), flags=re.M))
    assert "skipped" not in said


def sources(folder):
    return "".join(path.read_text(encoding="utf-8") for path in sorted((PACKAGE / folder).rglob("*.swift")))


@pytest.mark.parametrize(
    ("n", "options", "settings"),
    [
        (3, ["--steps", 5, "--sampler", "ddim", "--eta", 0.5], {"num_steps": 5, "sampler": "ddim", "eta": 0.5}),
        (17, ["--steps", 2, "--sampler", "ddpm"], {"num_steps": 2, "sampler": "ddpm"}),
        (2, ["--times", "900,500,20"], {"times": [900, 500, 20]}),
    ],
)
def test_sample_makes_pythons_pictures(build, tmp_path, n, options, settings):
    out = tmp_path / "grid.png"
    done = run(build / "sample", MODEL, "--n", n, *options, "--seed", 2**63 - 1, "--first", 5, "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["images"] == n
    assert 0 < report["seconds_load"] < report["seconds"]
    expected = grid(generate(MODEL, n=n, seed=2**63 - 1, first=5, **settings))
    picture = read_image(out, 1)
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("settings", EDITS, ids=str)
def test_sample_makes_pythons_edits(build, tmp_path, settings):
    out = tmp_path / "grid.png"
    done = run(build / "sample", MODEL, *flags_of(settings), "--out", out)
    assert done.returncode == 0, done.stderr
    assert np.abs(read_image(out, 1).astype(int) - pictures_of(settings)).max() <= 1


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--plan", "twice"], {"plan": "twice"}),
        (["--times", "49,30,2", "--eta", 0.5], {"times": [49, 30, 2], "eta": 0.5}),
        (["--label", "cat,none,0", "--guidance", 0.5], {"label": ["cat", "none", 0], "guidance": 0.5}),
    ],
)
def test_what_the_spec_lists_is_fed(build, tmp_path, options, settings):
    """Inputs of every kind, a time that is a fraction, a plan that the file carries, times of one's own."""
    spec = FED["spec"]
    (tmp_path / "fed.onnx").write_bytes(onnx_file(FED["nodes"], FED["constants"], spec, inputs=FED["inputs"]))
    out = tmp_path / "grid.png"
    done = run(build / "sample", tmp_path / "fed.onnx", "--n", 17, "--seed", 4, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    chosen = request_for(spec, n=17, seed=4, **settings)
    last = [state.x for _, state in sample(mixed_with_t, spec, chosen) if state.row is chosen.steps.plan.rows[-1]]
    expected = grid(to_uint8(np.concatenate(last))).astype(int)
    assert len(np.unique(expected)) > 50
    assert np.abs(read_image(out, 1) - expected).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "A model must be named."),
        ([MODEL, "--mask", PICTURE], 2, "--mask needs an --image."),
        ([MODEL, "--image", PICTURE], 2, "A picture needs a mask, a measure or a strength."),
        ([MODEL, "--image", "README.md", "--strength", 1], 3, "README.md cannot be read as a PNG ("),
        (
            [MODEL, "--image", "../../docs/given/between.png", "--strength", 1],
            2,
            "../../docs/given/between.png must have 28 x",
        ),
        ([MODEL, "--what", 1], 2, 'Unknown argument "--what".'),
        ([MODEL, "--n"], 2, "--n needs a value."),
        ([MODEL, "--n", 0], 2, "--n must be an integer from 1 to 1048576"),
        ([MODEL, "--seed", -1], 2, "--seed must be"),
        ([MODEL, "--seed", 2**63], 2, "--seed must be"),
        ([MODEL, "--eta", "nan"], 2, "eta must be between 0 and 1, got nan."),
        ([MODEL, "--eta", "x"], 2, "--eta must be a number"),
        ([MODEL, "--steps", 1001], 2, "The number of steps must be from 1 to 1000, the model's own, got 1001."),
        ([MODEL, "--times", "9,8,"], 2, "--times must be integers with commas between them"),
        (
            [MODEL, "--times", "8,9"],
            2,
            "times must strictly fall from at most 999 to at least 0, got 8, 9.",
        ),
        ([MODEL, "--times", "9,8", "--steps", 3], 2, "num_steps must be left out or be the number of times, 2, got 3."),
        ([PLAIN, "--plan", "p"], 2, "plan must be one of none, for the model carries none, got 'p'."),
        ([MODEL, "--guidance", "x"], 2, "--guidance must be a number"),
        ([MODEL, "--guidance", 101], 2, "guidance must be a number from 0 to 100, got 101."),
        ([PLAIN, "--guidance", 2], 2, "guidance must be 1 for a network that has not learned to do without a class"),
        ([PLAIN, "--label", "cat"], 2, "label does not apply to a network that is told no class."),
        ([MODEL, "--sampler", "euler"], 2, "sampler must be one of ddpm, ddim, got 'euler'."),
        ([MODEL, "--sampler", "ddpm", "--eta", 0], 2, "eta does not apply to ddpm."),
        ([MODEL, "--n", 2, "--first", 2**32 - 1], 2, "--first must be at most 2^32 - n"),
        (["missing.onnx"], 3, "missing.onnx: cannot be read"),
        (["README.md"], 3, "The model is no ONNX file"),
        ([MODEL, "--out", "missing/grid.png"], 5, "missing/grid.png cannot be written."),
    ],
)
def test_errors_are_one_line_with_an_exit_code(build, arguments, code, words):
    done = run(build / "sample", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"sample: {words}")
    assert not re.search(r"\. got |, expected |\. Do ", done.stderr)


def edited(old, new, path):
    data = MODEL.read_bytes()
    assert data.count(old) == 1
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def test_a_newer_file_is_refused(build, tmp_path):
    model = edited(b'"format": "ddpm-export/1"', b'"format": "ddpm-export/2"', tmp_path / "newer.onnx")
    done = run(build / "sample", model, "--n", 1, "--steps", 1, "--out", tmp_path / "grid.png")
    assert done.returncode == 4
    told = "The model needs the format 'ddpm-export/2', and this version knows ddpm-export/1. Install a newer one."
    assert done.stderr == f"sample: {told}\n"


def test_numbers_that_are_not_finite_end_it(build, tmp_path):
    model = onnx.load(MODEL)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = np.full(len(largest.raw_data) // 4, np.nan, dtype="<f4").tobytes()
    onnx.save(model, tmp_path / "nan.onnx")
    done = run(build / "sample", tmp_path / "nan.onnx", "--n", 1, "--steps", 3, "--out", tmp_path / "grid.png")
    assert done.returncode == 6
    assert done.stderr.startswith("sample: At step 1 (t = 999), image 0 became NaN or infinite.")
    assert not (tmp_path / "grid.png").exists()


def compiled(build, out, *files):
    """Compile a program against what the package built."""
    objects = [file for name in ("DDPM", "DDPMOnnxRuntime", "OnnxRuntimeBindings") for file in objects_of(build, name)]
    done = run(
        "swiftc", "-O", "-warnings-as-errors", "-I", build / "Modules", "-I", PACKAGE / "Linux" / "COnnxRuntime",
        "-Xcc", f"-I{include_folder()}", *files, *objects, "-lonnxruntime", "-o", out, cwd=out.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def objects_of(build, name):
    found = sorted((build / f"{name}.build").glob("*.o"))
    assert found
    return found


def include_folder():
    return run("pkg-config", "--variable=includedir", "libonnxruntime").stdout.strip()


VERDICTS = """
import DDPM
import Foundation

while let line = readLine() {
    do {
        _ = try specFromJson(Data(base64Encoded: line)!)
        print(0)
    } catch let error as DDPMError {
        print(error.kind.rawValue, String(reflecting: error.description))
    }
}
"""


def verdict(text):
    try:
        spec_from_json(text)
    except DdpmExportError as exc:
        return exc.exit_code
    return 0


def test_specs_are_taken_and_refused_as_python_does(build, tmp_path):
    texts = [*specs(), *guided_specs()]
    assert '"tiny"' in texts[0]
    (tmp_path / "main.swift").write_text(VERDICTS, encoding="utf-8")
    compiled(build, tmp_path / "program", tmp_path / "main.swift")
    lines = "".join(f"{base64.b64encode(text.encode('utf-8')).decode('ascii')}\n" for text in texts)
    done = subprocess.run([tmp_path / "program"], input=lines, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert {answer.split()[0] for answer in answers} == {"0", "3", "4"}
    wrong = []
    for text, answer in zip(texts, answers, strict=True):
        code, *message = answer.split(" ", 1)
        if int(code) != verdict(text):
            wrong.append((text, verdict(text), answer))
        for part in message:  # quoted once more by the program: a control character would show as \\u or \\n
            assert re.fullmatch(r'"([^\\]|\\["\'\\])*"', part), answer
            assert len(part) < 500, answer
    assert not wrong


COUNT_ALLOCATIONS = """
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
void *__libc_malloc(size_t);
static size_t large;
static void report(void) { fprintf(stderr, "%zu\\n", large); }
__attribute__((constructor)) static void start(void) { atexit(report); }
void *malloc(size_t size) {
    large += size >= 4096;
    return __libc_malloc(size);
}
"""

LOOP = r"""
import DDPM
import Foundation

struct Half: Model {
    func evaluate(
        _ x_t: [Float], t: Double, inputs: [String: InputArray], outputs: inout [String: [Float]]
    ) {
        outputs["eps"]!.withUnsafeMutableBufferPointer { said in
            for k in x_t.indices { said[k] = 0.5 * x_t[k] }
        }
    }
}

let spec = try specFromJson(Data(CommandLine.arguments[1].utf8))
let times = CommandLine.arguments[2].split(separator: ",").map { Int($0)! }
let rows = times.count > 1 ? try plan(spec, name: "p\(times[0])") : try plan(spec, numSteps: times[0], eta: 1)
let noise = try noiseStream(seed: 1, images: 0..<16, shape: spec.stateShape)
let keep = CommandLine.arguments.count > 3
var kept: [State] = []
let given: [String: InputValue] = spec.label == nil ? [:] : ["y": .index(0)]
try walk(denoiser(Half(), spec, inputs: given), noise, rows) { state in
    if keep { kept.append(state) }
    return true
}
"""


def test_the_loop_takes_no_memory(build, tmp_path):
    """Count what is allocated in blocks of 4096 bytes or more: as much in 50 steps as in 5."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no cc: apt install gcc")
    (tmp_path / "count.c").write_text(COUNT_ALLOCATIONS, encoding="utf-8")
    done = run(compiler, "-shared", "-fPIC", "-O1", tmp_path / "count.c", "-o", tmp_path / "count.so")
    assert done.returncode == 0, done.stderr
    (tmp_path / "main.swift").write_text(LOOP, encoding="utf-8")
    compiled(build, tmp_path / "program", tmp_path / "main.swift")
    alphas = [1 - 0.01 * k for k in range(1, 61)]
    rows = [Row(i, 60 - i, 0.01 * i, (0.25,) * min(i, 3), (0.25,) * min(i, 3), (0.5,)) for i in range(1, 51)]
    plans = {"p5": Plan(tuple(rows[:5])), "p50": Plan(tuple(rows))}
    inputs = (Input("x_0_prev", "previous", (1, 28, 28), None), Input("y", "label", (), 1, ("a",)))
    spec = gaussian_spec(alphas, image_shape=(1, 28, 28), plans=plans)
    fed = replace(spec, inputs=inputs, requires=("inputs", "variance_fraction"))
    guided = replace(fed, defaults=replace(fed.defaults, guidance=Guidance(2.0)), requires=(*fed.requires, "guidance"))

    def allocations(spec, *arguments):
        text = json_from_spec(spec)
        done = run("env", f"LD_PRELOAD={tmp_path / 'count.so'}", tmp_path / "program", text, *arguments)
        assert done.returncode == 0, done.stderr
        return int(done.stderr.splitlines()[-1])

    assert allocations(spec, 50) == allocations(spec, 5) > 0
    assert allocations(spec, "50,0") == allocations(spec, "5,0") > 0, "with a history"
    assert allocations(fed, "50,0") == allocations(fed, "5,0") > 0, "with what was found before as an input"
    assert allocations(guided, "50,0") == allocations(guided, "5,0") > 0, "of twice the batch"
    # who keeps the states is who pays for them: three arrays each, five of which the walk has anyway
    assert allocations(spec, 50, "keep") >= allocations(spec, 50) + 3 * 50 - 5


def blocks():
    """Return the Swift programs of the README, by their function's name."""
    found = re.findall(r"```swift\n(.*?)```", (PACKAGE / "README.md").read_text(encoding="utf-8"), flags=re.S)
    return {re.search(r"^func (\w+)", block, flags=re.M)[1]: block for block in found}


def test_the_readmes_program_makes_a_picture(build, tmp_path):
    (tmp_path / "block.swift").write_text(blocks()["picture"], encoding="utf-8")
    (tmp_path / "main.swift").write_text(
        f'import DDPM\nlet made = try picture(path: "{MODEL}", seed: 7, n: 2)\nprint(made.width, made.height, '
        "made.channels)\nprint(made.pixels)\n",
        encoding="utf-8",
    )
    compiled(build, tmp_path / "program", tmp_path / "main.swift", tmp_path / "block.swift")
    done = run(tmp_path / "program")
    assert done.returncode == 0, done.stderr
    *progress, shape, pixels = done.stdout.splitlines()
    assert progress == [f"{step} of 50" for step in range(1, 51)]
    expected = grid(generate(MODEL, n=2, seed=7, num_steps=50, sampler="ddim", eta=0.0))
    assert [int(size) for size in shape.split()] == [expected.shape[1], expected.shape[0], 1]
    assert np.abs(np.array(json.loads(pixels)) - expected.ravel()).max() <= 1


def test_the_readmes_one_call_program_makes_pictures(build, tmp_path):
    model = onnx.load(MODEL)
    (metadata,) = (entry.value for entry in model.metadata_props if entry.key == METADATA_KEY)
    one_call = sampler_from_denoiser(model, spec_of_graph(spec_from_json(metadata), "sampler"))
    onnx.save(one_call, tmp_path / "unet.sampler.onnx")
    (tmp_path / "block.swift").write_text(blocks()["images"], encoding="utf-8")
    (tmp_path / "main.swift").write_text(
        'let made = try images(model: "unet.sampler.onnx", seed: 7, n: 2, steps: 4)\nprint(Array(made))\n',
        encoding="utf-8",
    )
    compiled(build, tmp_path / "program", tmp_path / "main.swift", tmp_path / "block.swift")
    done = run(tmp_path / "program", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = {} if spec_from_json(metadata).label is None else {"label": 0, "guidance": 1.0}
    expected = generate(MODEL, n=2, seed=7, num_steps=4, sampler="ddim", eta=0.0, **told)
    assert np.abs(np.array(json.loads(done.stdout)) - expected.ravel()).max() <= 1
    # the package itself says that this is no network to sample with
    done = run(build / "sample", tmp_path / "unet.sampler.onnx", "--out", tmp_path / "grid.png")
    assert done.returncode == 4
    assert "a one-call sampler" in done.stderr


def test_the_apps_files_parse(build):
    """Apple's SDK is not here: all that can be said of them is that they are Swift."""
    done = run("swiftc", "-frontend", "-parse", *sorted((PACKAGE / "App").glob("*.swift")))
    assert done.returncode == 0, done.stderr


def test_the_project_names_what_is_there():
    project = (PACKAGE / "App" / "project.yml").read_text(encoding="utf-8")
    paths = re.findall(r"path: (\S+)", project)
    assert len(paths) == 4
    for path in paths:
        assert (PACKAGE / "App" / path).exists(), path
    assert {path for path in paths if path.endswith(".swift")} == {f.name for f in (PACKAGE / "App").glob("*.swift")}
    manifest = (PACKAGE / "Package.swift").read_text(encoding="utf-8")
    for product in re.findall(r"product: (\S+)", project):
        assert f'.library(name: "{product}"' in manifest
