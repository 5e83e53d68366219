"""The JavaScript core, its program on node and its page in Chromium: against the golden files and against Python.

Without node, Chromium or the npm packages of examples/web the tests that need them are skipped. `SCREENSHOTS=folder`
keeps what the browser showed; `-rP` prints the time to the first picture.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from commands import run_here
from models import GREY, classes_file, constant, mix_model, onnx_file, scale_model, tiny_spec
from models import node as node_of
from onnx import TensorProto
from PIL import Image
from representative import representative

from benchmarks.runtimes import told_by_default
from ddpm_export import edit, generate, open_model
from ddpm_export.cli.export import main as export_command
from ddpm_export.exporting.sampler import sampler_from_denoiser, slice_from_denoiser, spec_of_graph
from ddpm_export.exporting.stored_weights import round_weights, store_weights
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid
from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import from_uint8
from ddpm_export.process.walk import walk

from .edits import EDITS, PICTURE, flags_of, pictures_of
from .specs import exit_code_of, shared_specs

ROOT = Path(__file__).parent.parent.parent
WEB = ROOT / "examples" / "web"
MODEL = ROOT / "exported" / "unet.onnx"
SPEC = open_model(MODEL)[1]
PLAIN = ROOT / "ablation" / "cosine-l1" / "unet.onnx"  # without classes and plans
INSTALL = "cd examples/web && npm install --ignore-scripts --no-package-lock"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
BIG_SEED = 2**63 - 1  # beyond what a number of JavaScript holds


def node(*arguments: object) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("no node: apt install nodejs")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < 18:
        pytest.skip(f"node {version.strip()} is older than 18: install a newer one")
    return subprocess.run(
        ["node", *map(str, arguments)], cwd=WEB, capture_output=True, text=True, timeout=300, check=False
    )


def needs(*packages: str) -> None:
    for package in packages:
        if not (WEB / "node_modules" / package / "package.json").exists():
            pytest.skip(f"no npm package {package}: {INSTALL}")


def seen_in_page(scenario: str, **settings: object) -> dict:
    """Run a scenario of test/page.js; whatever it does, the page stays without errors and asks no other server."""
    needs("playwright-core", "onnxruntime-web", "fast-png")
    if CHROMIUM is None:
        pytest.skip("no chromium: apt install chromium")
    done = node("test/page.js", scenario, json.dumps(settings))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["trouble"] == []
    assert seen["foreign"] == []
    assert seen["requests"] > 0
    return seen


def assert_same_pictures(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.995


def page_of(canvas: dict) -> np.ndarray:
    """Return what a canvas showed as (H, W, 1), having seen that it is grey and opaque."""
    rgba = np.array(canvas["rgba"], dtype=np.uint8).reshape(canvas["height"], canvas["width"], 4)
    assert (rgba[..., 3] == 255).all()
    assert (rgba[..., :1] == rgba[..., :3]).all()
    return rgba[..., :1]


def pictures(**settings: object) -> np.ndarray:
    return grid(generate(MODEL, **settings))


# --- the core ---


@pytest.mark.parametrize("name", ["core", "given", "images", "serve"])
def test_what_node_tests(name: str) -> None:
    done = node("--test", f"test/{name}.test.js")
    assert done.returncode == 0, done.stdout
    passed = re.search(r"pass (\d+)", done.stdout)
    assert passed is not None
    assert int(passed.group(1)) >= 5


def test_the_types_are_those_of_the_code(tmp_path: Path) -> None:
    needs("typescript")
    done = node("node_modules/typescript/bin/tsc", "--project", "tsconfig.json", "--outDir", tmp_path)
    assert done.returncode == 0, done.stdout
    for name in ("ddpm.d.ts", "given.d.ts", "policy.d.ts"):
        assert (tmp_path / name).read_text() == (WEB / name).read_text(), "run: npm run types"


LABEL = {"name": "y", "kind": "label", "shape": [], "none": 3, "classes": ["cat", "dog", "a, b"]}
VECTOR = {"name": "v", "kind": "vector", "shape": [3], "none": 0.5}
IMAGE = {"name": "low", "kind": "image", "shape": [1, 3, 2], "none": None}
PREVIOUS = {"name": "x_0_prev", "kind": "previous", "shape": list(GREY), "none": None}
ROW = [3, 0.5, [1], [0.5], []]
DEFAULTS = {"sampler": "ddim", "num_steps": 4, "eta": 0.0}
VERDICTS = """
      import { readFileSync } from "node:fs";
      import { DdpmError, specFromJson } from "./ddpm.js";
      const codeOf = (text) => {
        try {
          specFromJson(text);
          return 0;
        } catch (error) {
          if (!(error instanceof DdpmError) || !/^[ -~]+$/.test(error.message)) throw error;
          return error.exitCode;
        }
      };
      console.log(JSON.stringify(JSON.parse(readFileSync(process.argv[1], "utf8")).map(codeOf)));
"""


def test_specs_get_the_exit_code_that_python_gives(tmp_path: Path) -> None:
    """Of a spec with two faults another may be told first: it is then refused as newer, in place of as broken."""
    texts = shared_specs()
    (tmp_path / "specs.json").write_text(json.dumps(texts))
    done = node("--input-type=module", "--eval", VERDICTS, tmp_path / "specs.json")
    assert done.returncode == 0, done.stderr
    pairs = [(exit_code_of(text), theirs) for text, theirs in zip(texts, json.loads(done.stdout), strict=True)]
    of_two_faults = {(3, 4), (4, 3)}  # either may be found first
    differing = [(text, *pair) for text, pair in zip(texts, pairs, strict=True) if len({*pair}) > 1]
    assert [case for case in differing if case[1:] not in of_two_faults] == []
    assert len(differing) < 30
    assert {(0, 0), (3, 3), (4, 4)} < {*pairs}


# --- the program ---

SETTINGS = [
    {"n": 3, "num_steps": 10, "sampler": "ddim", "eta": 0.0, "seed": 7, "first": 0},
    {"n": 17, "num_steps": 2, "sampler": "ddim", "eta": 0.3, "seed": BIG_SEED, "first": 2**32 - 17},
    {"n": 1, "num_steps": 12, "sampler": "ddpm", "seed": 1, "first": 5},
]


@representative("settings", SETTINGS)
def test_the_program_gives_pythons_pictures(settings: dict, tmp_path: Path) -> None:
    needs("onnxruntime-node", "fast-png")
    flags = [text for name, value in settings.items() for text in (f"--{name.replace('num_', '')}", value)]
    out = tmp_path / "grid.png"
    done = node("sample.js", MODEL, *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {"images", "seconds_load", "seconds"}
    assert report["images"] == settings["n"]
    assert 0 < report["seconds_load"] < report["seconds"]
    assert out.read_bytes()[24:29] == bytes((8, 0, 0, 0, 0))  # 8 bits, grey, deflate, no filter set, not interlaced
    assert_same_pictures(read_image(out, 1), pictures(**settings))


@representative("settings", EDITS, ids=str)
def test_the_program_makes_pythons_edits(settings: dict, tmp_path: Path) -> None:
    needs("onnxruntime-node", "fast-png")
    out = tmp_path / "grid.png"
    done = node("sample.js", MODEL, *flags_of(settings), "--out", out)
    assert done.returncode == 0, done.stderr
    assert_same_pictures(read_image(out, 1), pictures_of(settings))


@representative(
    ("arguments", "code", "words"),
    [
        ([MODEL, "--n", 0], 2, "n must be from 1 to 4294967296, got 0."),
        ([MODEL, "--n", "many"], 2, '--n must be a number, got "many".'),
        ([MODEL, "--steps", 1001], 2, "The number of steps must be from 1 to 1000, the model's own, got 1001."),
        ([MODEL, "--eta", 1.5], 2, "eta must be between 0 and 1, got 1.5."),
        ([MODEL, "--sampler", "ddpm", "--eta", 0.5], 2, "eta does not apply to ddpm."),
        ([MODEL, "--sampler", "euler"], 2, "sampler must be one of ddpm, ddim, got 'euler'."),
        ([MODEL, "--times", "3,4"], 2, "times must strictly fall from at most 999 to at least 0, got 3, 4."),
        ([MODEL, "--times", "3,,4"], 2, "--times must be integers"),
        ([MODEL, "--times", "4,3", "--steps", 3], 2, "numSteps must be left out or be the number of times, 2, got 3."),
        ([PLAIN, "--plan", "heun"], 2, "plan must be one of none, for the model carries none, got 'heun'."),
        ([MODEL, "--seed", "1.5"], 2, '--seed must be an integer, got "1.5".'),
        ([MODEL, "--seed", 2**63], 2, "seed must be from 0 to 2^63 - 1, got 9223372036854775808."),
        ([MODEL, "--first", 2**32], 2, "first must be from 0 to 2^32 - 1, got 4294967296."),
        ([MODEL, "--mask", PICTURE], 2, "--mask needs an --image."),
        ([MODEL, "--image", PICTURE], 2, "A picture needs a mask, a measure or a strength."),
        ([MODEL, "--image", "package.json", "--strength", 1], 3, "package.json: is not a PNG that can be read ("),
        (
            [MODEL, "--image", ROOT / "docs" / "given" / "between.png", "--strength", 1],
            2,
            " must have 28 x 28 pixels, got ",
        ),
        ([MODEL, "--colour", 1], 2, "The arguments were not understood: "),
        ([], 2, "got 0 paths."),
        (["nowhere.onnx"], 3, "nowhere.onnx: cannot be read (ENOENT)."),
        (["package.json"], 3, "The model is not an ONNX file: "),
        ([MODEL, "--n", 1, "--steps", 1, "--out", "nowhere/grid.png"], 5, "nowhere/grid.png: cannot be written"),
    ],
    by=lambda _arguments, code, _words: code,
)
def test_the_program_refuses_in_one_line(arguments: list, code: int, words: str) -> None:
    needs("onnxruntime-node", "fast-png")
    done = node("sample.js", *arguments)
    assert done.returncode == code, done
    assert done.stdout == ""
    assert words in done.stderr
    assert re.fullmatch(r"error: [^\n]+\.\n", done.stderr)


# --- times, plans and inputs, in files made by hand ---

PLANS = {
    "looks-back": {"rows": [[39, 0.01, [0.5], [0.75], []], [20.5, 0.5, [0.75, 0.125], [0.25, -0.5], [0.25]], ROW]},
    "tuned-2": {"rows": [[39, 0.01, [0.5], [0.75], []], [11, 0.5, [0.75, 0.125], [], []]]},
    "tuned-3": {"rows": [[39, 0.01, [0.5], [0.75], []], [20.5, 0.5, [0.75, 0.125], [0.25, -0.5], []], ROW]},
    "learned": {"start": 1.25, "rows": [[30, 0.25, [0.5], [0.75], [0.125, 0.5]], [30, 0.25, [0.75], [0.5, -0.25], []]]},
}
EVERYTHING = {
    "inputs": [LABEL, VECTOR, {**IMAGE, "none": -0.25}, PREVIOUS],
    "requires": ["fractional_t", "guidance", "inputs", "times", "variance_fraction"],
    "plans": PLANS,
    "defaults": {**DEFAULTS, "times": [38, 11, 2], "guidance": {"scale": 1.5, "interval": [10, 30]}},
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that needs all there is: its eps and variance_fraction depend on every input, and on t."""
    spec = spec_from_json(json.dumps({**json.loads(json_from_spec(tiny_spec())), **EVERYTHING}))
    batch = [
        ("x_t", "float32", GREY),
        ("t", "float32", ()),
        *((entry.name, entry.dtype, entry.shape) for entry in spec.inputs),
    ]
    floats = {"t": "t", "v": "v_sum", "y": "y_float", "low": "low_sum"}
    nodes = [
        node_of("Cast", ["y"], "y_float", to=TensorProto.FLOAT),
        node_of("ReduceMean", ["v", "axis"], "v_sum", keepdims=0),
        node_of("ReduceMean", ["low", "axes"], "low_sum", keepdims=0),
    ]
    total = "x_0_prev"
    for name, values in floats.items():
        nodes += [
            node_of("Reshape", [values, "column"], f"{name}_column"),
            node_of("Mul", [f"{name}_column", "tenth"], f"{name}_tenth"),
            node_of("Add", [total, f"{name}_tenth"], f"{name}_total"),
        ]
        total = f"{name}_total"
    nodes += [
        node_of("Add", [total, "x_t"], "mixed"),
        node_of("Tanh", ["mixed"], "eps"),
        node_of("Sigmoid", [total], "variance_fraction"),
    ]
    integers = {"axis": [1], "axes": [1, 2, 3], "column": [-1, 1, 1, 1]}
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    (path := tmp_path_factory.mktemp("everything") / "everything.onnx").write_bytes(
        onnx_file(
            nodes,
            [constant("tenth", 0.1), *(constant(name, value, np.int64) for name, value in integers.items())],
            spec,
            inputs={name: (types[dtype], ["batch", *shape]) for name, dtype, shape in batch},
            outputs=dict.fromkeys(spec.outputs, (TensorProto.FLOAT, ["batch", *GREY])),
        )
    )
    return path


def opened(path: Path) -> tuple[Model, ModelSpec]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    spec = spec_from_json(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    return lambda x_t, t, **inputs: dict(
        zip(spec.outputs, session.run(spec.outputs, {"x_t": x_t, "t": t, **inputs}), strict=True)
    ), spec


@representative(
    ("flags", "settings"),
    [
        ([], {}),
        (["--steps", 3], {"num_steps": 3}),
        (["--times", "39,21,20,0", "--sampler", "ddpm"], {"times": [39, 21, 20, 0], "sampler": "ddpm"}),
        (["--plan", "looks-back"], {"plan": "looks-back"}),
        (["--plan", "learned"], {"plan": "learned"}),
        (["--label", "dog", "--guidance", 2.5], {"label": "dog", "guidance": 2.5}),
        (["--label", "1, none", "--guidance", 1, "--first", 1], {"label": ["1", "none"], "guidance": 1, "first": 1}),
        (["--label", "a, b"], {"label": "a, b"}),
    ],
    by=lambda _flags, settings: next((name for name in ("plan", "guidance") if name in settings), None),
)
def test_the_program_takes_times_and_plans_and_feeds_what_is_not_said(
    flags: list, settings: dict, everything: Path, tmp_path: Path
) -> None:
    needs("onnxruntime-node", "fast-png")
    done = node("sample.js", everything, "--n", 3, "--seed", 5, *flags, "--out", tmp_path / "grid.png")
    assert done.returncode == 0, done.stderr
    expected = grid(generate(opened(everything), n=3, seed=5, **settings))
    assert_same_pictures(read_image(tmp_path / "grid.png", 1), expected)


def test_inputs_that_are_given_reach_the_network(everything: Path) -> None:
    needs("onnxruntime-node")
    program = """
      import { readFileSync } from "node:fs";
      import * as ort from "onnxruntime-node";
      import { denoiser, noiseStream, plan, walk } from "./ddpm.js";
      import { openModel } from "./model.js";
      const [path, name, given] = process.argv.slice(1);
      const { model, spec } = await openModel(ort, new Uint8Array(readFileSync(path)), { intraOpNumThreads: 1 });
      const noise = noiseStream(5, [0, 1], spec.image_shape);
      const states = [];
      for await (const { x } of walk(denoiser(model, spec, JSON.parse(given)), noise, plan(spec, { name }))) {
        states.push([...x]);
      }
      console.log(JSON.stringify(states));
    """
    model, spec = opened(everything)
    low = np.linspace(-1, 1, 12).reshape(2, 1, 3, 2)
    given = {"y": ["dog", 0], "v": [0.25, -1.0, 2.0], "low": low}
    flat = {**given, "low": low.ravel().tolist()}
    for name in PLANS:
        done = node("--input-type=module", "--eval", program, everything, name, json.dumps(flat))
        assert done.returncode == 0, done.stderr
        noise = noise_stream(5, [0, 1], spec.state_shape)
        states = [state.x.ravel() for state in walk(denoiser(model, spec, **given), noise, plan(spec, name=name))]
        np.testing.assert_allclose(json.loads(done.stdout), states, rtol=0, atol=1e-5)


REFUSED_FILES = [
    (lambda _path: scale_model(tiny_spec(graph="slice")), 4, "The model is a one-call slice, not a denoiser. "),
    (lambda _path: changed(MODEL, b"ddpm-export/1", b"ddpm-export/2"), 4, "The model needs the format"),
    (lambda path: changed(path, b'"name": "low"', b'"name": "wol"'), 3, "graph leads from x_t, t, y, v, low, x_0_prev"),
    (
        lambda path: changed(path, b'"fractional_t"', b'"inputs"      ').replace(b"20.5", b"20  "),
        3,
        "ONNX Runtime cannot run the model: ",
    ),
]


def changed(path: Path, before: bytes, after: bytes) -> bytes:
    raw = path.read_bytes()
    assert raw.count(before) == 1
    return raw.replace(before, after)


@representative("content, code, words", REFUSED_FILES, by=lambda _content, code, _words: code)
def test_files_the_program_refuses(content: Callable, code: int, words: str, everything: Path, tmp_path: Path) -> None:
    needs("onnxruntime-node", "fast-png")
    (tmp_path / "m.onnx").write_bytes(content(everything))
    done = node("sample.js", tmp_path / "m.onnx")
    assert done.returncode == code
    assert words in done.stderr
    assert re.fullmatch(r"error: [^\n]+\.\n", done.stderr)


# --- the page ---


@pytest.mark.long
def test_a_first_picture_is_made_at_once_the_files_own_way_and_all_is_sent_once(everything: Path) -> None:
    seen = seen_in_page("first", model=str(everything))
    (cold,), (warm,) = seen["cold"], seen["warm"]
    for visit in (cold, warm):
        assert visit["status"].startswith("Done: 1 picture")
        assert ", 3 steps. " in visit["made"], "the file's own times"
    assert 2 < cold["megabytes"] < 4, "the runtime, compressed"
    plans = sum(path.stat().st_size for path in [*WEB.glob("two-ways*.onnx"), *WEB.glob("policy*")]) / 1e6
    assert cold["megabytesOffline"] < cold["megabytes"] + plans + 0.1, "for offline use, only the page of plans is sent"
    assert warm["megabytesOffline"] < 0.1


@pytest.mark.long
@pytest.mark.torch
@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({"n": 4, "steps": 10, "seed": str(BIG_SEED), "first": 9, "eta": 0.5}, "one thread"),
        ({"n": 1, "steps": 8, "sampler": "ddpm", "isolate": True}, " threads"),
    ],
)
@pytest.mark.usefixtures("all_cores")
def test_the_page_gives_pythons_pictures(settings: dict, threads: str) -> None:
    if threads == " threads" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: threads are not to be seen")
    seen = seen_in_page("batch", **settings)
    assert seen["problem"] == ""
    assert threads in seen["facts"]
    data = np.array(seen["data"], dtype=np.uint8).reshape(seen["height"], seen["width"], -1)
    expected = pictures(
        n=settings["n"],
        num_steps=settings["steps"],
        seed=int(settings.get("seed", 7)),
        first=settings.get("first", 0),
        sampler=settings.get("sampler", "ddim"),
        **({"eta": settings["eta"]} if "eta" in settings else {}),
    )
    assert_same_pictures(data[..., :1], expected)
    assert (data[..., :1] == data[..., :3]).all()
    assert seen["name"].startswith("seed-")


@pytest.mark.torch
@representative(
    ("settings", "ours", "way"),
    [
        (
            {"plan": "looks-back", "label": "dog", "guidance": 2.5},
            {"plan": "looks-back", "label": "dog", "guidance": Guidance(2.5, (10, 30))},
            "plan looks-back, guidance 2.5 at t 10 to 30",
        ),
        ({"plan": "looks-back"}, {"plan": "looks-back"}, "plan looks-back"),
        ({"times": "39, 21,0"}, {"times": [39, 21, 0], "sampler": "ddim", "eta": 0.0}, "3 steps"),
        ({"fast": True, "label": "cat"}, {"plan": "tuned-3", "label": "cat"}, "plan tuned-3"),
    ],
)
def test_the_page_offers_what_the_file_has(settings: dict, ours: dict, way: str, everything: Path) -> None:
    seen = seen_in_page("batch", n=4, file=str(everything), **settings)
    assert seen["problem"] == ""
    assert seen["shown"] == ["4", "38, 11, 2", ""]
    data = np.array(seen["data"], dtype=np.uint8).reshape(seen["height"], seen["width"], -1)
    assert_same_pictures(data[..., :1], grid(generate(opened(everything), n=4, seed=7, **ours)))
    assert seen["offered"] == {"classes": ["each in turn", *LABEL["classes"], "none"], "labels": True, "guidance": True}
    name = settings.get("label", LABEL["classes"][3 % len(LABEL["classes"])])
    assert seen["gallery"][0].startswith(f"Seed 7, picture 3, {name}, {way}. ")
    assert ours.get("plan", "39-21-0") in seen["name"]
    assert ("class-1-guidance-2.5-" in seen["name"]) == ("guidance" in settings)


@pytest.mark.long
@pytest.mark.torch
def test_the_page_tells_the_network_numbers_and_a_picture(everything: Path, tmp_path: Path) -> None:
    pixels = np.arange(0, 240, 40, dtype=np.uint8).reshape(3, 2, 1)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "low.png")
    wish = {"inputs": {"v": "1,-2, 0.5"}, "pictures": {"low": str(tmp_path / "low.png")}}
    seen = seen_in_page("batch", file=str(everything), plan="looks-back", **wish)
    assert seen["problem"] == ""
    asked = {"v": [1, -2, 0.5], "low": from_uint8(pixels[None])[0]}
    data = np.array(seen["data"], dtype=np.uint8).reshape(seen["height"], seen["width"], -1)
    assert_same_pictures(
        data[..., :1], grid(generate(opened(everything), n=1, seed=7, plan="looks-back", inputs=asked))
    )
    assert seen["gallery"][0].startswith("Seed 7, picture 0, cat, plan looks-back, v 1 -2 0.5, low")
    assert seen["refused"] == ["v must be 3 numbers, with commas between them."] * 3


@pytest.mark.long
@pytest.mark.torch
def test_the_gallery_shows_that_the_same_seed_gives_the_same_picture() -> None:
    seen = seen_in_page("gallery", n=4, steps=5)
    digests = [re.search(r"[0-9a-f]{12}", caption).group() for caption in seen["gallery"]]
    other, again, *batch = digests
    assert again == batch[2]  # newest first: 3, 2, 1, 0
    assert len({other, *batch}) == 5
    ticked = [caption for caption in seen["gallery"] if "the same as before" in caption]
    assert ticked == [seen["gallery"][1]]
    alone, among = seen["proof"]
    assert "alone" in alone
    assert "one of 4" in among
    assert re.search(r"[0-9a-f]{12}", alone).group() == re.search(r"[0-9a-f]{12}", among).group()
    assert "784 numbers are equal" in seen["verdict"]
    assert seen["wide"] <= 390  # nothing sticks out on a phone
    assert seen["button"] < 900  # seen without scrolling


@pytest.mark.long
@pytest.mark.torch
def test_the_keyboard_is_enough() -> None:
    seen = seen_in_page("keyboard")
    tuned = ["fast"] if any(name.startswith("tuned-") for name in SPEC.plans) else []
    asked = ["INPUT"] if SPEC.label is not None else []  # a radio button, the first of its group
    guided = ["guidance"] if SPEC.takes_guidance else []
    steps = [] if SPEC.defaults.plan else ["steps"]  # a plan fixes them
    assert seen["order"] == [
        "shipped",
        "seed",
        "fresh",
        "n",
        *steps,
        *tuned,
        *asked,
        *guided,
        "SUMMARY",
        "start",
        "share",
        "picture",
    ]
    assert seen["sampler"] == "ddpm"
    assert seen["whileRunning"] == "cancel"
    assert seen["after"] == "start"
    of_class = f", {SPEC.label.classes[0]}" if SPEC.label is not None else ""
    assert [caption.split(".")[0] for caption in seen["gallery"]] == [f"Seed 12, picture 0{of_class}, 3 steps"]


@pytest.mark.torch
def test_stop_stops_and_leaves_nothing_behind() -> None:
    seen = seen_in_page("cancel", n=1, steps=6)
    assert seen["stopped"] == {"status": "Stopped.", "gallery": []}
    assert seen["status"].startswith("Done")
    assert_same_pictures(page_of(seen["shown"]), pictures(n=1, num_steps=6, seed=7, sampler="ddim", eta=0.0))


@pytest.mark.long
@pytest.mark.torch
def test_once_open_it_opens_without_a_network() -> None:
    seen = seen_in_page("offline", n=1, steps=6)
    assert_same_pictures(page_of(seen["shown"]), pictures(n=1, num_steps=6, seed=7, sampler="ddim", eta=0.0))


@pytest.mark.long
@pytest.mark.torch
@representative("reduced_motion, draws", [("reduce", 5), ("no-preference", 21)])
def test_little_motion_for_those_who_ask_for_it(reduced_motion: str, draws: int) -> None:
    seen = seen_in_page("motion", n=1, steps=20, reducedMotion=reduced_motion)
    assert seen["draws"] == draws  # the quarters or every step, and the finished picture
    assert seen["said"][:-1] == ["Making 1 picture …", "25 % done", "50 % done", "75 % done"]
    assert seen["workers"] == 1


@pytest.mark.torch
@representative("whose", ["the page's", "the user's"])
def test_what_is_painted_over_is_filled_as_in_python(whose: str) -> None:
    """The paint is seen on the canvas: where it is, red and green differ."""
    settings = {"n": 4, "seed": 5, "first": 1, "steps": 3, "returns": 0}
    seen = seen_in_page("fill", **settings, **({} if whose == "the page's" else {"file": str(PICTURE)}))

    def colours(name: str) -> np.ndarray:
        return np.array(seen[name]["rgba"], dtype=np.uint8).reshape(28, 28, 4)

    def paint(name: str) -> np.ndarray:
        return colours(name)[..., 0] != colours(name)[..., 1]

    assert seen["before"] == [False, False, False]
    assert seen["taken"] == seen["made"]
    picture = page_of(seen["picture"])
    assert (whose == "the page's") == (seen["picture"] == seen["made"])
    if whose == "the user's":
        np.testing.assert_array_equal(picture, read_image(PICTURE, 1))
    assert seen["wiped"] == seen["picture"]
    half, tapped, stroked = paint("half"), paint("tapped"), paint("stroked")
    assert half[14:].all()
    assert not half[:14].any()
    assert tapped[25, 2]
    assert 8 <= tapped.sum() <= 20, "a dot of radius 2"
    assert stroked[tapped].all()
    assert stroked[[7, 14, 21], [17, 19, 19]].all(), "along the whole stroke"
    assert not stroked[:, 5:12].any(), "the pointer moved there with no button down"
    assert seen["filled"] == 4
    assert seen["status"].startswith("Done: filled in 4 ways")
    filled = page_of(seen["shown"])
    given = {"n": 4, "seed": 5, "first": 1, "num_steps": 20, "sampler": "ddim", "eta": 1.0}
    assert_same_pictures(filled, grid(edit(MODEL, picture[np.newaxis], mask=stroked.astype(np.uint8) * 255, **given)))
    np.testing.assert_array_equal(filled[28:, 28:][~stroked], picture[~stroked])


@pytest.mark.long
def test_names_and_contrast() -> None:
    seen = seen_in_page("access")
    assert seen["nameless"] == []
    assert seen["lang"] == "en"
    for scheme in ("light", "dark"):
        assert seen["contrast"][scheme]["ratio"] >= 4.5, seen["contrast"]  # WCAG 2, level AA


@pytest.mark.torch
def test_a_bad_file_is_told_and_the_model_stays() -> None:
    seen = seen_in_page("batch", n=1, steps=2, file=str(WEB / "package.json"))
    assert "not an ONNX file" in seen["problem"]
    data = np.array(seen["data"], dtype=np.uint8).reshape(28, 28, 4)
    assert_same_pictures(data[..., :1], pictures(n=1, num_steps=2, seed=7, sampler="ddim", eta=0.0))


@pytest.mark.long
@pytest.mark.torch
def test_what_is_not_there_is_not_offered(tmp_path: Path) -> None:
    """Without a graphics card, and with a model that is told no class, takes no guidance and carries no plans."""
    (tmp_path / "plain.onnx").write_bytes(mix_model(tiny_spec()))
    assert seen_in_page("plain", model=str(tmp_path / "plain.onnx"))["offered"] == [False] * 5
    _, spec = open_model(MODEL)
    has = [
        spec.label is not None,
        spec.takes_guidance,
        bool(spec.plans),
        any(name.startswith("tuned-") for name in spec.plans),
    ]
    assert seen_in_page("plain")["offered"] == [False, *has]


@pytest.mark.torch
def test_pictures_follow_the_slider_between_two_seeds() -> None:
    fast = ROOT / "exported" / "unet.fast.onnx"
    seen = seen_in_page("turning", model=str(fast), seed=7, label=5)
    assert seen["problem"] == ""
    assert seen["frames"] > 0
    expected = edit(fast, seeds=(7, 8), n=5, label=5, plan="fast-2")[1]
    assert_same_pictures(page_of(seen["shown"]), expected)


@pytest.mark.long
@pytest.mark.torch
@representative("factor, chosen", [(1, "webgpu"), (1.01, "wasm"), (float("nan"), "wasm")])
def test_a_graphics_card_is_used_only_if_it_agrees_with_the_processor(factor: float, chosen: str) -> None:
    seen = seen_in_page("gpu", fake=str(factor).replace("nan", "NaN"), n=1, steps=3)
    assert seen["chosen"] == chosen
    assert ("graphics card" in seen["facts"]) == (chosen == "webgpu")
    assert ("other numbers than the processor" in seen["warning"]) == (chosen == "wasm")
    assert_same_pictures(page_of(seen["shown"]), pictures(n=1, num_steps=3, seed=7, sampler="ddim", eta=0.0))


@pytest.mark.long
@pytest.mark.torch
def test_the_readmes_page_runs(tmp_path: Path) -> None:
    (html,) = re.findall(r"^```html\n(.*?)^```", (WEB / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    (tmp_path / "embed.html").write_text(html, encoding="utf-8")
    seen = seen_in_page("embed", html=str(tmp_path / "embed.html"))
    expected = pictures(n=4, num_steps=10, seed=7, sampler="ddim", eta=0.0)
    assert_same_pictures(page_of(seen["shown"]), expected)


def test_the_service_worker_keeps_every_file_of_the_page() -> None:
    kept = set(re.findall(r'^  ["`](.+?)["`],$', (WEB / "sw.js").read_text(encoding="utf-8"), re.M))
    kept = {name.replace("${RUNTIME}", "node_modules/onnxruntime-web/dist/") for name in kept} - {"./"}
    found, reading = set(), ["index.html", "policy.html"]
    while reading:
        text = (WEB / reading.pop()).read_text(encoding="utf-8")
        names = set(re.findall(r'(?:src=|href=|from |URL\()"(?:\./)?([\w./-]+\.(?:js|css))"', text)) - found - {"sw.js"}
        found |= names
        reading += [each for each in names if each.endswith(".js")]
    assert {"page.js", "worker.js", "normal_table.js", "style.css"} <= found
    assert found == {name for name in kept if name.endswith((".js", ".css")) and not name.startswith("node_modules")}
    assert {"unet.onnx", "policy.html", "two-ways.onnx"} < kept


# --- files with the sampler inside, and small ones ---


@pytest.mark.torch
@representative("runtime", ["web", "node"])
@representative("file", ["unet.sampler.onnx", "unet.slice.onnx"])
def test_one_call_files_in_both_runtimes(runtime: str, file: str, shipped_exports: Path) -> None:
    needs(f"onnxruntime-{runtime}")
    for settings in (
        {"seed": 7, "first": 3, "n": 1, "steps": 11, "eta": 0.0},
        {"seed": BIG_SEED, "first": 2**32 - 3, "n": 3, "steps": 4, "eta": 0.5},
    ):
        numbers = range(settings["first"], settings["first"] + settings["n"])
        values = {**settings, "seed": str(settings["seed"]), **told_by_default(SPEC, numbers)}
        done = node("test/one_call.js", runtime, shipped_exports / file, json.dumps(values))
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert "error" not in result, result
        images = np.array(result["pixels"], dtype=np.uint8).reshape(result["shape"])
        num_steps = settings.pop("steps")
        assert_same_pictures(images, generate(MODEL, num_steps=num_steps, sampler="ddim", **settings))
    wrong = {"seed": "7", "first": 0, "n": 1, "steps": 1001, "eta": 0.0, **told_by_default(SPEC, range(1))}
    done = node("test/one_call.js", runtime, shipped_exports / file, json.dumps(wrong))
    assert "steps must be 1 to 1000" in json.loads(done.stdout)["error"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network that is told a class or none, as unet.onnx, and its one-call files."""
    folder = tmp_path_factory.mktemp("classes")
    label = Input("y", "label", none=3, classes=("a", "b", "c"))
    alphas_cumprod = tuple(np.linspace(0.999, 0.01, 60).tolist())  # for the 50 steps of the page
    spec = tiny_spec(inputs=(label,), requires=("inputs",), alphas_cumprod=alphas_cumprod)
    (folder / "unet.onnx").write_bytes(content := classes_file(spec, [-0.75, 0.5, 0.75, 0.125], 0.5))
    for graph, write in (("sampler", sampler_from_denoiser), ("slice", slice_from_denoiser)):
        onnx.save(write(onnx.load_from_string(content), spec_of_graph(spec, graph)), folder / f"unet.{graph}.onnx")
    return folder


@representative("runtime", ["node", "web"])
@representative("graph", ["slice", "sampler"])
def test_one_call_files_are_told_classes_and_guidance(runtime: str, graph: str, classes: Path) -> None:
    needs(f"onnxruntime-{runtime}")
    settings = {"seed": 7, "first": 1, "n": 3, "steps": 5, "eta": 0.5}
    asked = {"y": [1, 3, 0], "guidance": 2.5, "guidance_interval": [10, 30]}
    done = node("test/one_call.js", runtime, classes / f"unet.{graph}.onnx", json.dumps({**settings, **asked}))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "error" not in result, result
    images = np.array(result["pixels"], dtype=np.uint8).reshape(result["shape"])
    num_steps = settings.pop("steps")
    how = {"label": [0, 1, 3], "guidance": Guidance(2.5, (10, 30)), "sampler": "ddim", "num_steps": num_steps}
    assert_same_pictures(images, generate(classes / "unet.onnx", **settings, **how))


@representative("runtime", ["node", "web"])
def test_weights_stored_as_int8_in_both_runtimes(runtime: str, tmp_path: Path) -> None:
    needs(f"onnxruntime-{runtime}")
    spec = tiny_spec((16, 4, 4))
    model = onnx.load_from_string(mix_model(spec))
    round_weights(model, "int8")
    onnx.save(model, tmp_path / "rounded.onnx")
    model = sampler_from_denoiser(model, spec_of_graph(spec, "sampler"))
    store_weights(model.graph, "int8")
    onnx.save(model, tmp_path / "small.onnx")
    settings = {"seed": 7, "first": 1, "n": 3, "steps": 5, "eta": 0.5}
    done = node("test/one_call.js", runtime, tmp_path / "small.onnx", json.dumps(settings))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    images = np.array(result["pixels"], dtype=np.uint8).reshape(result["shape"])
    num_steps = settings.pop("steps")
    assert_same_pictures(images, generate(tmp_path / "rounded.onnx", num_steps=num_steps, sampler="ddim", **settings))


@pytest.mark.torch
def test_the_one_call_page_asks_for_what_is_open(classes: Path, tmp_path: Path) -> None:
    spec = open_model(classes / "unet.onnx")[1]  # with steps enough to be stopped on the way
    spec = replace(spec, defaults=replace(spec.defaults, num_steps=50))
    spec = spec_of_graph(spec, "slice", ("guidance",))
    onnx.save(slice_from_denoiser(onnx.load(classes / "unet.onnx"), spec), tmp_path / "unet.slice.onnx")
    asked = {"label": 2, "guidance": 2.5}
    seen = seen_in_page("oneCall", slice=str(tmp_path / "unet.slice.onnx"), seed="7", **asked)
    assert seen["status"] == "Done: seed 7."
    assert seen["offered"] == [True, True]
    assert_same_pictures(page_of(seen["shown"]), grid(generate(tmp_path / "unet.slice.onnx", n=1, seed=7, **asked)))


@pytest.mark.long
@pytest.mark.torch
def test_the_one_call_page(tmp_path: Path) -> None:
    path = tmp_path / "unet.slice.onnx"  # of steps enough to be stopped
    of_50 = ("--format", "slice", "--sampler", "ddim", "--steps", 50, "--out", path)
    assert run_here(export_command, MODEL, *of_50).code == 0
    seen = seen_in_page("oneCall", slice=str(path), seed=str(BIG_SEED))
    assert seen["status"] == f"Done: seed {BIG_SEED}."
    assert seen["offered"] == [SPEC.label is not None, False]
    asked = {"label": 0} if SPEC.label is not None else {}
    assert_same_pictures(page_of(seen["shown"]), grid(generate(path, n=1, seed=BIG_SEED, **asked)))


@pytest.mark.torch
def test_the_one_call_program_on_node(shipped_exports: Path, tmp_path: Path) -> None:
    needs("onnxruntime-node")
    path = shipped_exports / "closed.sampler.onnx"
    done = node("one_call.js", path, 3, 7, 2, tmp_path / "images.bin")
    assert done.returncode == 0, done.stderr
    images = np.fromfile(tmp_path / "images.bin", np.uint8).reshape(3, *SPEC.state_shape[1:], SPEC.state_shape[0])
    assert_same_pictures(images, generate(path, n=3, seed=7, label=2))


@pytest.mark.long
@pytest.mark.torch
def test_half_the_download_gives_the_pictures_of_its_own_rounded_weights(shipped_exports: Path) -> None:
    small = shipped_exports / "unet.float16.onnx"
    assert small.stat().st_size < 0.55 * MODEL.stat().st_size
    seen = seen_in_page("batch", n=1, steps=10, file=str(small))
    data = np.array(seen["data"], dtype=np.uint8).reshape(28, 28, 4)
    assert_same_pictures(data[..., :1], grid(generate(small, n=1, num_steps=10, seed=7, sampler="ddim", eta=0.0)))


@pytest.mark.long
@pytest.mark.torch
def test_webgpu_itself_where_chromium_has_it_in_software() -> None:
    """One step on SwiftShader, Chromium's own GPU in software: slow, but WebGPU's kernels and not the processor's."""
    seen = seen_in_page("gpu", n=1, steps=1)
    assert seen["warning"] == ""
    assert seen["chosen"] == "webgpu"
    assert_same_pictures(page_of(seen["shown"]), pictures(n=1, num_steps=1, seed=7, sampler="ddim", eta=0.0))
