"""The JavaScript core, its program on node and its page in Chromium: against the golden files and against Python.

Without node, Chromium or the npm packages of examples/web the tests that need them are skipped. `SCREENSHOTS=folder`
keeps what the browser showed; `-rP` prints the time to the first picture.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_export import generate
from ddpm_export.images import grid, read_image

ROOT = Path(__file__).parent.parent.parent
WEB = ROOT / "examples" / "web"
MODEL = ROOT / "exported" / "unet.onnx"
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


@pytest.mark.parametrize("name", ["core", "images", "serve"])
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
    assert (tmp_path / "ddpm.d.ts").read_text() == (WEB / "ddpm.d.ts").read_text(), "run: npm run types"


# --- the program ---

SETTINGS = [
    {"n": 3, "num_steps": 10, "sampler": "ddim", "eta": 0.0, "seed": 7, "first": 0},
    {"n": 17, "num_steps": 2, "sampler": "ddim", "eta": 0.3, "seed": BIG_SEED, "first": 2**32 - 17},
    {"n": 1, "num_steps": 12, "sampler": "ddpm", "seed": 1, "first": 5},
]


@pytest.mark.parametrize("settings", SETTINGS)
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


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([MODEL, "--n", 0], 2, "n: "),
        ([MODEL, "--n", "many"], 2, "n: not a number"),
        ([MODEL, "--steps", 1001], 2, "1 to 1000"),
        ([MODEL, "--eta", 1.5], 2, "eta: "),
        ([MODEL, "--sampler", "ddpm", "--eta", 0.5], 2, "eta: has no meaning for ddpm"),
        ([MODEL, "--sampler", "euler"], 2, "sampler: "),
        ([MODEL, "--seed", "1.5"], 2, "seed: "),
        ([MODEL, "--seed", 2**63], 2, "seed: "),
        ([MODEL, "--first", 2**32], 2, "first: "),
        ([MODEL, "--colour", 1], 2, "arguments: "),
        ([], 2, "arguments: "),
        (["nowhere.onnx"], 3, "nowhere.onnx: "),
        (["package.json"], 3, "not an ONNX file"),
        ([MODEL, "--n", 1, "--steps", 1, "--out", "nowhere/grid.png"], 5, "nowhere/grid.png: "),
    ],
)
def test_the_program_refuses_in_one_line(arguments: list, code: int, words: str) -> None:
    needs("onnxruntime-node", "fast-png")
    done = node("sample.js", *arguments)
    assert done.returncode == code, done
    assert done.stdout == ""
    assert words in done.stderr
    assert re.fullmatch(r"error: [^\n]+: [^\n]+\. got [^\n]+, expected [^\n]+\. Do [^\n]+\.\n", done.stderr)


def test_a_file_of_the_future_is_refused(tmp_path: Path) -> None:
    needs("onnxruntime-node", "fast-png")
    raw = MODEL.read_bytes()
    assert raw.count(b"ddpm-export/1") == 1
    (tmp_path / "future.onnx").write_bytes(raw.replace(b"ddpm-export/1", b"ddpm-export/2"))
    assert node("sample.js", tmp_path / "future.onnx").returncode == 4


# --- the page ---


@pytest.mark.torch
def test_time_to_the_first_picture() -> None:
    seen = seen_in_page("first")
    print(f"first picture after {seen['ms'] / 1000:.1f} s (50 steps; goal 3 s). {seen['status']} {seen['facts']}")
    assert seen["status"].startswith("Done: 1 picture")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({"n": 4, "steps": 10, "seed": str(BIG_SEED), "first": 9, "eta": 0.5}, "one thread"),
        ({"n": 1, "steps": 8, "sampler": "ddpm", "isolate": True}, " threads"),
    ],
)
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


@pytest.mark.torch
def test_the_keyboard_is_enough() -> None:
    seen = seen_in_page("keyboard")
    assert seen["order"] == ["seed", "fresh", "n", "steps", "SUMMARY", "start", "prove"]
    assert seen["sampler"] == "ddpm"
    assert seen["whileRunning"] == "cancel"
    assert seen["after"] == "start"
    assert [caption.split(".")[0] for caption in seen["gallery"]] == ["Seed 12, picture 0, 3 steps"]


@pytest.mark.torch
def test_stop_stops_and_leaves_nothing_behind() -> None:
    seen = seen_in_page("cancel", n=1, steps=6)
    assert seen["stopped"] == {"status": "Stopped.", "gallery": []}
    assert seen["status"].startswith("Done")
    assert_same_pictures(page_of(seen["shown"]), pictures(n=1, num_steps=6, seed=7, sampler="ddim", eta=0.0))


@pytest.mark.torch
def test_once_open_it_opens_without_a_network() -> None:
    seen = seen_in_page("offline", n=1, steps=6)
    assert_same_pictures(page_of(seen["shown"]), pictures(n=1, num_steps=6, seed=7, sampler="ddim", eta=0.0))


@pytest.mark.torch
@pytest.mark.parametrize(("reduced_motion", "draws"), [("reduce", 5), ("no-preference", 21)])
def test_little_motion_for_those_who_ask_for_it(reduced_motion: str, draws: int) -> None:
    seen = seen_in_page("motion", n=1, steps=20, reducedMotion=reduced_motion)
    assert seen["draws"] == draws  # the quarters or every step, and the finished picture
    assert seen["said"][:-1] == ["Making 1 picture …", "25 % done", "50 % done", "75 % done"]
    assert seen["workers"] == 1


@pytest.mark.torch
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


@pytest.mark.torch
def test_no_graphics_card_no_offer() -> None:
    assert seen_in_page("plain")["offered"] is False


@pytest.mark.torch
@pytest.mark.parametrize(("factor", "chosen"), [(1, "webgpu"), (1.01, "wasm"), (float("nan"), "wasm")])
def test_a_graphics_card_is_used_only_if_it_agrees_with_the_processor(factor: float, chosen: str) -> None:
    seen = seen_in_page("gpu", fake=str(factor).replace("nan", "NaN"), n=1, steps=3)
    assert seen["chosen"] == chosen
    assert ("graphics card" in seen["facts"]) == (chosen == "webgpu")
    assert ("other numbers than the processor" in seen["warning"]) == (chosen == "wasm")
    assert_same_pictures(page_of(seen["shown"]), pictures(n=1, num_steps=3, seed=7, sampler="ddim", eta=0.0))


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
    found, reading = set(), ["index.html"]
    while reading:
        text = (WEB / reading.pop()).read_text(encoding="utf-8")
        names = set(re.findall(r'(?:src=|href=|from |URL\()"(?:\./)?([\w./-]+\.(?:js|css))"', text)) - found - {"sw.js"}
        found |= names
        reading += [each for each in names if each.endswith(".js")]
    assert {"page.js", "worker.js", "normal_table.js", "style.css"} <= found
    assert found == {name for name in kept if not name.startswith("node_modules") and name != "unet.onnx"}
    assert "unet.onnx" in kept


# --- files with the sampler inside, and small ones ---


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    program = "from ddpm_export.cli.export import main; main()"
    for arguments in (["sampler", "--format", "slice"], ["onnx", "--storage", "float16"]):
        command = [sys.executable, "-c", program, MODEL, "--format", *arguments, "--out", folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.torch
@pytest.mark.parametrize("runtime", ["web", "node"])
@pytest.mark.parametrize("file", ["unet.sampler.onnx", "unet.slice.onnx"])
def test_one_call_files_in_both_runtimes(runtime: str, file: str, exports: Path) -> None:
    needs(f"onnxruntime-{runtime}")
    for settings in (
        {"seed": 7, "first": 3, "n": 1, "steps": 11, "eta": 0.0},
        {"seed": BIG_SEED, "first": 2**32 - 3, "n": 3, "steps": 4, "eta": 0.5},
    ):
        values = {**settings, "seed": str(settings["seed"])}
        done = node("test/one_call.js", runtime, exports / file, json.dumps(values))
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert "error" not in result, result
        images = np.array(result["pixels"], dtype=np.uint8).reshape(result["shape"])
        num_steps = settings.pop("steps")
        assert_same_pictures(images, generate(MODEL, num_steps=num_steps, sampler="ddim", **settings))
    wrong = {"seed": "7", "first": 0, "n": 1, "steps": 1001, "eta": 0.0}
    done = node("test/one_call.js", runtime, exports / file, json.dumps(wrong))
    assert "steps must be 1 to 1000" in json.loads(done.stdout)["error"]


@pytest.mark.torch
def test_the_one_call_page(exports: Path) -> None:
    seen = seen_in_page("oneCall", slice=str(exports / "unet.slice.onnx"), seed=str(BIG_SEED))
    assert seen["status"] == f"Done: seed {BIG_SEED}."
    expected = pictures(n=1, num_steps=50, seed=BIG_SEED, sampler="ddim", eta=0.0)
    assert_same_pictures(page_of(seen["shown"]), expected)


@pytest.mark.torch
def test_half_the_download_gives_the_pictures_of_its_own_rounded_weights(exports: Path) -> None:
    (small,) = exports.glob("*float16*.onnx")
    assert small.stat().st_size < 0.55 * MODEL.stat().st_size
    seen = seen_in_page("batch", n=1, steps=10, file=str(small))
    data = np.array(seen["data"], dtype=np.uint8).reshape(28, 28, 4)
    assert_same_pictures(data[..., :1], grid(generate(small, n=1, num_steps=10, seed=7, sampler="ddim", eta=0.0)))


@pytest.mark.torch
def test_webgpu_itself_where_chromium_has_it_in_software() -> None:
    """One step on SwiftShader, Chromium's own GPU in software: slow, but WebGPU's kernels and not the processor's."""
    seen = seen_in_page("gpu", n=1, steps=1)
    assert seen["warning"] == ""
    assert seen["chosen"] == "webgpu"
    assert_same_pictures(page_of(seen["shown"]), pictures(n=1, num_steps=1, seed=7, sampler="ddim", eta=0.0))
