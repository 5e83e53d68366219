"""The Java core against the golden files and the Python reader; the adapter and the program over a real ONNX Runtime.

Java's floats are IEEE's and its compiler fuses nothing, so noise, steps and pixels are asked to equal to the bit what
float32 NumPy says, wherever no power is taken. What needs Android's SDK is compiled against signatures alone.
"""

import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from gaussian import gaussian_model, gaussian_spec
from PIL import Image
from test_spec import INVALID, SPEC, values

from ddpm_export import generate
from ddpm_export.diffusion import denoiser, trajectory
from ddpm_export.errors import BadFileError, ModelRefusedError
from ddpm_export.exporting.sampler import sampler_from_denoiser
from ddpm_export.images import grid
from ddpm_export.noise import noise_stream, normal_table
from ddpm_export.samplers import SAMPLERS
from ddpm_export.spec import METADATA_KEY, ModelSpec, json_from_spec, spec_from_json

ROOT = Path(__file__).resolve().parents[2]
ANDROID = ROOT / "examples" / "android"
CORE = ANDROID / "core" / "src" / "main" / "java"
MODEL = ROOT / "exported" / "unet.onnx"


def golden(name):
    return json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text(encoding="ascii"))


def needs(tool, package):
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}: apt install {package}")
    return tool


def ran(*command, **options):
    """The finished process; with what it said, should it have failed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def javac(out, *sources, classpath=""):
    ran(
        needs("javac", "openjdk-17-jdk-headless"),
        *("--release", "8", "-Xlint:all,-options", "-Xdoclint:all,-missing", "-Werror", "-d", out, "-cp", classpath),
        *sources,
    )
    return out


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """The core and the test's own door to it, compiled as Android's oldest supported Java, warnings as errors."""
    sources = [*CORE.rglob("*.java"), ROOT / "tests" / "examples" / "java" / "ddpm" / "Calls.java"]
    return javac(tmp_path_factory.mktemp("java"), *sources)


@pytest.fixture(scope="module")
def java(classes):
    """Call the core: one JVM for all the calls given, an answer for each."""

    def call(*calls):
        asked = "".join(json.dumps(one) + "\n" for one in calls)
        done = ran("java", "-cp", classes, "ddpm.Calls", input=asked)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(calls)
        return answers

    return call


def bits_of(array):
    return np.ascontiguousarray(array, dtype=np.float32).reshape(-1).view(np.uint32).tolist()


def floats(bits):
    return np.array(bits, dtype=np.uint32).view(np.float32)


def test_the_table_as_the_core_holds_it(java):
    (answer,) = java({"call": "table"})
    assert answer["table"] == normal_table().reshape(-1).tolist()
    digest = hashlib.sha256(np.array(answer["table"], dtype="<i4").tobytes()).hexdigest()
    assert digest == answer["sha256"] == golden("normals")["table_sha256"]


def test_philox(java):
    cases = golden("philox")["cases"]
    answers = java(*({"call": "philox", "counter": case["counter"], "key": case["key"]} for case in cases))
    assert [answer["words"] for answer in answers] == [case["words"] for case in cases]


def test_normals(java):
    cases = golden("normals")["cases"]
    (answer,) = java({"call": "normals", "words": [case["word"] for case in cases]})
    assert answer["bits"] == [case["bits"] for case in cases]


def test_noise(java):
    cases = golden("noise")["cases"]
    answers = java(
        *(
            {"call": "noise", "images": [case["image"]], **{k: case[k] for k in ("seed", "draw", "domain", "shape")}}
            for case in cases
        )
    )
    for case, answer in zip(cases, answers, strict=True):
        assert answer["bits"][:8] == case["first_bits"]
        assert answer["bits"][-3:] == case["last_bits"]
        assert hashlib.sha256(np.array(answer["bits"], dtype="<u4").tobytes()).hexdigest() == case["sha256"]


def test_the_noise_of_an_image_does_not_depend_on_its_batch(java):
    one = {"call": "noise", "seed": "5", "draw": 3, "domain": 0, "shape": [1, 3, 3]}
    together, alone = java({**one, "images": [2, 7, 4294967295]}, {**one, "images": [7]})
    assert together["bits"][9:18] == alone["bits"]
    assert together["bits"] == bits_of(noise_stream(5, [2, 7, 4294967295], (1, 3, 3))(3))


def test_time_grids(java):
    cases = golden("time_grids")["cases"]
    asked = [{"call": "spacing", **{k: case[k] for k in ("num_train_timesteps", "num_steps")}} for case in cases]
    assert [answer["t"] for answer in java(*asked)] == [case["t"] for case in cases]


def test_coefficients(java):
    """What the samplers and the denoiser do to single ones are their coefficients."""
    cases = golden("coefficients")["cases"]
    spec = json_from_spec(gaussian_spec([0.5], prediction="v", image_shape=(1, 1, 1)))
    asked = [
        {"call": "coefficients", "spec": spec, **{k: case[k] for k in ("i", "t", "a", "a_prev", "eta", "variance")}}
        for case in cases
    ]
    names = ["sqrt_a", "sqrt_1_minus_a", "sqrt_a_prev", "c_eps", "c_noise"]
    for case, answer in zip(cases, java(*asked), strict=True):
        expected = np.array([case["bits"][name] for name in names])
        assert np.abs(np.array(answer["bits"]) - expected).max() <= 1, "a unit in the last place"
        if case["variance"] == "fixed_small":
            np.testing.assert_allclose(answer["noise_std"], case["c_noise"], rtol=1e-14, atol=0)


def trajectory_call(case, file, begin=0, x=None):
    spec = gaussian_spec(file["alphas_cumprod"], case["prediction"], case["clip_x_0"], tuple(file["shape"]))
    return {
        **{"call": "states", "spec": json_from_spec(spec), "begin": begin, "x": x, "eta": 0.0},
        **{name: file[name] for name in ("seed", "images", "shape", "num_steps", "mean", "std")},
        **{name: value for name, value in case.items() if name in ("sampler", "eta", "variance")},
    }


def test_trajectories_from_the_start_and_from_the_middle(java):
    file = golden("trajectories")
    calls = []
    for case in file["cases"]:
        calls.append(trajectory_call(case, file))
        calls.append(trajectory_call(case, file, begin=3, x=bits_of(np.float32(case["states"][2]["x"]))))
    answers = java(*calls)
    for case, whole, rest in zip(file["cases"], answers[::2], answers[1::2], strict=True):
        for states, expected in ((whole["states"], case["states"]), (rest["states"], case["states"][3:])):
            assert len(states) == len(expected)
            for state, right in zip(states, expected, strict=True):
                assert [state[name] for name in ("i", "t", "a", "a_prev")] == [
                    right[name] for name in ("i", "t", "a", "a_prev")
                ]
                for name in ("x", "x_0", "eps"):
                    np.testing.assert_allclose(
                        floats(state[name]), np.float32(right[name]), rtol=0, atol=file["tolerance"]
                    )
        assert rest["states"] == whole["states"][3:], "a resumed trajectory is the same to the bit"


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_learned_variances_given_times_and_bit_equality(java, prediction):
    """The Java core walks as the Python one does, through times of one's own, with and without a learned variance."""
    plain = gaussian_spec(np.linspace(0.99, 0.01, 50), prediction, clip_x_0=0.8, image_shape=(3, 4, 5))
    learned = ModelSpec(**{**vars(plain), "variance": "learned", "requires": ("variance_fraction",)})
    times = [49, 48, 40, 33, 30, 26, 21, 17, 12, 11, 7, 3]
    common = {"call": "states", "seed": "9", "images": [4, 5], "shape": [3, 4, 5], "begin": 0, "mean": 0.1, "std": 0.4}
    settings = [(plain, "ddim", {"eta": eta}) for eta in (0.1, 0.3, 0.7, 0.9)]  # rounded to float32 first
    settings += [(learned, "ddpm", {"variance": name}) for name in ("fixed_small", "fixed_large", "learned")]
    asked = [
        {**common, "spec": json_from_spec(spec), "times": times, "sampler": sampler, **knobs}
        for spec, sampler, knobs in settings
    ]
    for (spec, sampler, knobs), answer in zip(settings, java(*asked), strict=True):
        inner = gaussian_model(spec.alphas_cumprod, 0.1, 0.4, prediction)

        def model(x_t, t, inner=inner):
            fraction = (np.arange(x_t.size, dtype=np.float32) / np.float32(x_t.size)).reshape(x_t.shape)
            return {**inner(x_t, t), "variance_fraction": fraction}

        noise = noise_stream(9, [4, 5], (3, 4, 5))
        expected = SAMPLERS[sampler](denoiser(model, spec), noise, trajectory(spec, times=times), **knobs)
        for state, right in zip(answer["states"], expected, strict=True):
            for name in ("x", "x_0", "eps"):
                if knobs.get("variance") == "learned":  # two libraries' powers
                    np.testing.assert_allclose(floats(state[name]), getattr(right, name).reshape(-1), rtol=0, atol=2e-6)
                else:
                    assert state[name] == bits_of(getattr(right, name))


def test_pixels(java):
    cases = golden("pixels")["cases"]
    (answer,) = java({"call": "pixels", "bits": [case["bits"] for case in cases], "shape": [1, 1, 1]})
    assert answer["levels"] == [case["level"] for case in cases]


def test_pixels_have_their_channels_last(java, rng):
    x = rng.uniform(-1.5, 1.5, (2, 3, 4, 5)).astype(np.float32)
    (answer,) = java({"call": "pixels", "bits": bits_of(x), "shape": [3, 4, 5]})
    expected = np.floor(np.clip(np.float32(127.5) * x + np.float32(127.5), 0, 255) + np.float32(0.5))
    assert answer["levels"] == expected.transpose(0, 2, 3, 1).astype(int).reshape(-1).tolist()


def sample_call(**changes):
    file = golden("trajectories")
    spec = gaussian_spec(file["alphas_cumprod"], image_shape=(1, 2, 3))
    return {
        **{"call": "sample", "spec": json_from_spec(spec), "seed": "1", "first": 0, "n": 2, "num_steps": 6},
        **{"sampler": "ddim", "eta": 0.5, "mean": 0.3, "std": 0.5, "stop_after": 99},
        **changes,
    }


def test_sampling_in_one_call_tells_its_progress_and_can_be_cancelled(java):
    whole, cancelled, second = java(sample_call(), sample_call(stop_after=3), sample_call(first=1, n=1))
    assert [told[:2] for told in whole["progress"]] == [[i, 6] for i in range(1, 7)]
    assert whole["progress"][-1][2] == whole["bits"]
    assert whole["progress"][-1][3] == whole["bits"], "after the last step the preview is the picture"
    assert cancelled == {"error": "CANCELLED", "message": "cancelled after step 3 of 6"}
    assert second["bits"] == whole["bits"][6:], "an image is a function of its number, not of its batch"


ONE_LINE = re.compile(r"[^\n]+: [^\n]+\. got [^\n]+, expected [^\n]+\. Do [^\n]+\.")


def test_refusals(java):
    wrong = [
        ({"seed": "-1"}, "USAGE", "2^63"),
        ({"first": -1}, "USAGE", "images"),
        ({"first": 2**32 - 1}, "USAGE", "4294967296"),
        ({"n": 0}, "USAGE", "at least 1"),
        ({"n": -1}, "USAGE", "at least 1"),
        ({"n": 2**29}, "USAGE", "too many"),
        ({"num_steps": 0}, "USAGE", "steps"),
        ({"num_steps": 51}, "USAGE", "1 to 50"),
        ({"eta": -0.1}, "USAGE", "eta"),
        ({"eta": 1.0000001}, "USAGE", "eta"),
        ({"sampler": "euler"}, "USAGE", "euler"),
        ({"sampler": "ddpm"}, "USAGE", "no meaning"),
        ({"poison": "predicted"}, "NOT_FINITE", "step 1 (t = 49), image 1"),
    ]
    answers = java(*(sample_call(**changes) for changes, _, _ in wrong))
    for (changes, kind, words), answer in zip(wrong, answers, strict=True):
        assert answer.get("error") == kind, f"{changes}: {answer}"
        assert words in answer["message"], f"{changes}: {answer}"
        assert ONE_LINE.fullmatch(answer["message"])


def test_a_network_that_is_not_finite_is_not_hidden_by_clipping(java):
    spec = gaussian_spec([0.9, 0.5, 0.1], clip_x_0=1.0, image_shape=(1, 2, 3))
    learned = ModelSpec(**{**vars(spec), "variance": "learned", "requires": ("variance_fraction",)})
    asked = {"num_steps": 3, "eta": 0.0, "first": 7}
    clipped, fraction = java(
        sample_call(spec=json_from_spec(spec), poison="predicted", **asked),
        sample_call(spec=json_from_spec(learned), poison="fraction", sampler="ddpm", **asked),
    )
    assert clipped["error"] == fraction["error"] == "NOT_FINITE"
    assert "image 8" in clipped["message"]


def test_refusals_of_the_parts(java):
    wrong = [
        ({"variance": "small"}, "small"),
        ({"variance": "learned"}, "learned none"),
        ({"x": [0] * 5}, "another size"),
        ({"times": []}, "at least one"),
        ({"times": [5, 5]}, "falling"),
        ({"times": [50]}, "falling"),
        ({"times": [3, -1 & 0xFFFFFFFF]}, "falling"),
        ({"shape": []}, "shape"),
        ({"shape": [1, 2]}, "shape"),
        ({"shape": [0, 2, 3]}, "shape"),
        ({"images": []}, "at least 1"),
        ({"images": [2**32]}, "2^32"),
    ]
    case = {"sampler": "ddpm", "variance": "fixed_small", "prediction": "eps", "clip_x_0": None}
    plain = trajectory_call(case, golden("trajectories"))
    for (changes, words), answer in zip(wrong, java(*({**plain, **changes} for changes, _ in wrong)), strict=True):
        assert answer.get("error") == "USAGE", f"{changes}: {answer}"
        assert words in answer["message"], f"{changes}: {answer}"
        assert ONE_LINE.fullmatch(answer["message"])


@pytest.mark.parametrize("variance", ["fixed_small", "learned"])
def test_no_array_is_made_in_the_loop(java, variance):
    spec = gaussian_spec(np.linspace(0.99, 0.01, 50), clip_x_0=1.0, image_shape=(3, 32, 32))
    spec = ModelSpec(**{**vars(spec), "variance": variance, "requires": ("variance_fraction",)})
    (answer,) = java(
        {
            **{"call": "allocated", "spec": json_from_spec(spec), "variance": variance, "mean": 0.0, "std": 0.5},
            **{"seed": "0", "images": [0, 1], "shape": [3, 32, 32]},
        }
    )
    assert answer["bytes"] < 4 * 3 * 32 * 32, "less in ten steps than one array of one image"


def verdict(text):
    try:
        spec_from_json(text)
    except ModelRefusedError:
        return "REFUSED"
    except BadFileError:
        return "BAD_FILE"
    return None


def test_the_spec_is_read(java):
    shipped = onnx.load(MODEL, load_external_data=False)
    text = {entry.key: entry.value for entry in shipped.metadata_props}[METADATA_KEY]
    for answer, spec in zip(
        java(*({"call": "spec", "spec": one} for one in (text, json_from_spec(SPEC)))),
        (spec_from_json(text), SPEC),
        strict=True,
    ):
        assert answer == {
            "name": spec.name,
            "prediction": spec.prediction,
            "image_shape": list(spec.image_shape),
            "T": spec.num_train_timesteps,
            "last": spec.alphas_cumprod[-1],
            "clip_x_0": spec.clip_x_0,
            "variance": spec.variance,
            "defaults": [spec.defaults.sampler, spec.defaults.num_steps, spec.defaults.eta],
            "outputs": len(spec.outputs),
        }


def test_the_reader_judges_every_text_as_pythons_does(java):
    """Sound, broken and hostile specs, and a thousand damaged ones: one verdict, and never anything but one line."""
    sound = json_from_spec(SPEC)
    texts = [sound, sound.replace(":", " :\t").replace("{", "{\r\n"), sound.encode().decode("unicode_escape")]
    texts += [json.dumps(values(**changes)) for changes in INVALID]
    texts += [json.dumps(values(format=f"ddpm-export/{version}")) for version in ("1.7", "1/x", "2", "10", "1x", "")]
    for names in (["y"], ["variance_fraction"], ["variance_fraction", "y"]):
        texts += [json.dumps(values(requires=names)), json.dumps(values(requires=names, variance="learned"))]
    texts += [json.dumps(values(noise=tag)) for tag in (None, "", 1, "philox4x32-10/icdf-q20/2", "\x1b]0;owned\x07\n")]
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "01", "1.", ".5", "+1", "1e", "-", "0x1", "1e-999", "1E+2"):
        texts += [json.dumps(values(later="HERE", clip_x_0=1)).replace('"HERE"', number)]
        texts += [json.dumps(values(clip_x_0="HERE")).replace('"HERE"', number)]
    for depth in (*range(25, 40), 5000):
        for left, right, middle in (("[", "]", ""), ('{"a":', "}", "1"), ("[", "]", "1")):
            texts.append(json.dumps(values(later="HERE")).replace('"HERE"', left * depth + middle + right * depth))
    texts += ["", " ", "{", "null", "1", "[]", "{}", "\x00", "\ufeff{}", sound[:-1], sound + "}", "1" * 100_000]
    for name in (r'"\u0041\n\"\/"', r'"\x41"', r'"\u00g1"', r'"\u٤٤٤٤"', '"\t"', '"\\', r'"\u', r'"\ud800"'):
        texts.append(sound.replace('"tiny"', name))
    texts += [sound + " " * (256 * 1024 - len(sound) + extra) for extra in (0, 1)]
    noise = random.Random(0)
    for _ in range(1000):
        damaged = list(sound)
        for _ in range(noise.randint(1, 3)):
            at = noise.randrange(len(damaged))
            damaged[at] = noise.choice(['"', "{", "]", ",", "0", "-", "e", ".", "\\", "", "\u00e9", damaged[at] * 2])
        texts.append("".join(damaged))
    answers = java(*({"call": "spec", "spec": text} for text in texts))
    seen = set()
    for text, answer in zip(texts, answers, strict=True):
        assert answer.get("error") == verdict(text), f"{text[:300]!r}: {answer}"
        seen.add(answer.get("error"))
        if "error" in answer:
            assert answer["message"].isprintable()
            assert len(answer["message"]) < 1000
    assert seen == {None, "BAD_FILE", "REFUSED"}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program `sample`, built as its README says: the adapter for ai.onnxruntime over Debian's ONNX Runtime."""
    needs("javac", "openjdk-17-jdk-headless")
    needs("c++", "g++")
    needs("pkg-config", "pkg-config")
    if subprocess.run(["pkg-config", "--exists", "libonnxruntime"], check=False).returncode != 0:
        pytest.skip("no libonnxruntime: apt install libonnxruntime-dev")
    folder = tmp_path_factory.mktemp("jvm")
    ran("sh", ANDROID / "jvm" / "build.sh", folder)
    return folder


def sampled(program, out, *arguments):
    done = ran(program / "sample", *arguments, "--out", out)
    report = json.loads(done.stdout)
    assert set(report) == {"images", "seconds_load", "seconds"}
    assert 0 < report["seconds_load"] < report["seconds"]
    return report["images"], np.asarray(Image.open(out)).astype(int)


def test_the_golden_image(program, tmp_path):
    full = golden("full_image")
    count, pixels = sampled(
        *(program, tmp_path / "one.png", MODEL, "--n", 1, "--steps", full["num_steps"]),
        *("--sampler", full["sampler"], "--eta", full["eta"], "--seed", full["seed"], "--first", full["first"]),
    )
    assert count == 1
    assert np.abs(pixels - np.array(full["pixels"]).reshape(28, 28)).max() <= 1


@pytest.mark.torch  # for its time: 18 images
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.5), ("ddpm", None)])
def test_a_grid_of_two_batches_equals_pythons(program, tmp_path, sampler, eta):
    knobs = [] if eta is None else ["--eta", eta]
    count, pixels = sampled(
        *(program, tmp_path / "grid.png", MODEL, "--n", 18, "--steps", 5, "--sampler", sampler, "--seed", 3),
        *("--first", 40, *knobs),
    )
    expected = grid(generate(MODEL, n=18, num_steps=5, sampler=sampler, eta=eta, seed=3, first=40))[..., 0]
    assert count == 18
    assert pixels.shape == (4 * 28, 5 * 28)
    assert np.abs(pixels - expected).max() <= 1
    assert not pixels[84:, 84:].any(), "cells that no image fills are black"


def small_onnx(path, outputs=("eps",), spec=None, inputs=("x_t", "t")):
    """A graph of 3 x 4 x 5 pixels whose first output is x_t itself, another its sigmoid; the spec in its metadata."""
    shapes = {"x_t": (1, ["batch", 3, 4, 5]), "t": (7, ["batch"])}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity" if name == outputs[0] else "Sigmoid", ["x_t"], [name], name=name)
            for name in outputs
        ],
        "small",
        [onnx.helper.make_tensor_value_info(name, *shapes.get(name, (1, [1]))) for name in inputs],
        [onnx.helper.make_tensor_value_info(name, 1, ["batch", 3, 4, 5]) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    if spec is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: spec})
    onnx.save(model, path)
    return path


COLOUR = gaussian_spec(np.linspace(0.99, 0.01, 50), clip_x_0=1.0, image_shape=(3, 4, 5))
LEARNED = ModelSpec(**{**vars(COLOUR), "variance": "learned", "requires": ("variance_fraction",)})


def test_colours_and_a_second_output(program, tmp_path):
    """Two outputs, three channels: the planes of an image become its pixels, and the fraction reaches the sampler."""
    path = small_onnx(tmp_path / "m.onnx", ("eps", "variance_fraction"), json_from_spec(LEARNED))
    _, pixels = sampled(program, tmp_path / "c.png", path, "--n", 3, "--steps", 4, "--sampler", "ddpm", "--seed", 2)
    assert pixels.shape == (8, 10, 3)
    expected = grid(generate(path, n=3, num_steps=4, sampler="ddpm", seed=2)).astype(int)
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no model"),
        ([MODEL, "--n"], 2, "no value"),
        ([MODEL, "--n", "0"], 2, "1 to"),
        ([MODEL, "--n", "x"], 2, "--n"),
        ([MODEL, "--steps", "1001"], 2, "1 to 1000"),
        ([MODEL, "--seed", "-1"], 2, "--seed"),
        ([MODEL, "--seed", "9223372036854775808"], 2, "--seed"),
        ([MODEL, "--first", "4294967295"], 2, "--first"),
        ([MODEL, "--eta", "2"], 2, "eta"),
        ([MODEL, "--eta", "NaN"], 2, "eta"),
        ([MODEL, "--sampler", "ddpm", "--eta", "0.5"], 2, "no meaning"),
        ([MODEL, "--sampler", "euler"], 2, "euler"),
        ([MODEL, "--fast"], 2, "--fast"),
        ([MODEL, MODEL], 2, "unknown argument"),
        ([MODEL, "--out", "nowhere/grid.png"], 2, "--out"),
        (["missing.onnx"], 3, "no such file"),
        (["text.onnx"], 3, "cannot load"),
        (["bare.onnx"], 3, "not a file of ddpm-export"),
        (["inputs.onnx"], 3, "not a denoiser"),
        (["outputs.onnx"], 3, "not a denoiser"),
        (["shape.onnx"], 3, "does not run"),
        (["newer.onnx"], 4, "cannot do"),
        (["nan.onnx"], 6, "not finite"),
    ],
    ids=lambda value: " ".join(map(str, value[-2:])).replace(str(ROOT), "") if isinstance(value, list) else None,
)
def test_what_the_program_refuses(program, tmp_path, arguments, code, words):
    spec = json_from_spec(COLOUR)
    (tmp_path / "text.onnx").write_text("not a model")
    small_onnx(tmp_path / "bare.onnx")
    small_onnx(tmp_path / "inputs.onnx", spec=spec, inputs=("x_t", "t", "y"))
    small_onnx(tmp_path / "outputs.onnx", ("v",), spec)
    small_onnx(tmp_path / "shape.onnx", spec=spec.replace("[3, 4, 5]", "[3, 4, 6]"))
    small_onnx(tmp_path / "newer.onnx", spec=spec.replace('"requires": []', '"requires": ["y"]'))
    model = onnx.load(small_onnx(tmp_path / "nan.onnx", spec=spec))
    model.graph.node[0].op_type = "Log"  # of negative numbers
    onnx.save(model, tmp_path / "nan.onnx")
    command = [str(part) for part in (program / "sample", *arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if line and "Schema error" not in line]  # that is Debian's build
    assert done.returncode == code, done.stderr[-500:]
    assert done.stdout == ""
    assert len(told) == 1, told
    assert words in told[0]
    assert re.search(r"\. got .+, expected .+\. Do .+\.$", told[0])
    assert not (tmp_path / "grid.png").exists()


def test_without_its_library_the_program_says_so(program, tmp_path):
    command = ["java", "-cp", str(program / "classes"), "ddpm.Sample", str(MODEL), "--out", str(tmp_path / "g.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1
    assert "ONNX Runtime: does not start" in done.stderr


def test_the_one_call_file(program, tmp_path):
    """The program that knows no sampler, over a file that holds one."""
    model = onnx.load(MODEL)
    spec = spec_from_json({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
    onnx.save(sampler_from_denoiser(model, spec), tmp_path / "unet.sampler.onnx")
    ran(
        *("java", "-Djava.awt.headless=true", f"-Djava.library.path={program}", "-cp", program / "classes"),
        *("ddpm.OneCall", tmp_path / "unet.sampler.onnx", 2, 10, 7, tmp_path / "grid.png"),
    )
    pixels = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    expected = grid(generate(MODEL, n=2, num_steps=10, sampler="ddim", eta=0.0, seed=7))[..., 0]
    assert np.abs(pixels - expected).max() <= 1


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    """The app's manifest, layout and texts through Android's own resource compiler: the folder of its R.java."""
    needs("aapt2", "aapt")
    package = subprocess.run(
        [needs("dpkg-query", "dpkg"), "--listfiles", "android-framework-res"],
        capture_output=True,
        text=True,
        check=False,
    )
    framework = next((line for line in package.stdout.splitlines() if line.endswith(".apk")), None)
    if framework is None:
        pytest.skip("no resources of Android: apt install android-framework-res")
    folder = tmp_path_factory.mktemp("resources")
    source = ANDROID / "app" / "src" / "main"
    manifest = (source / "AndroidManifest.xml").read_text(encoding="utf-8")
    # Gradle adds these three from build.gradle.kts
    manifest = manifest.replace("<manifest ", '<manifest package="ddpm.sample" ')
    (folder / "AndroidManifest.xml").write_text(manifest, encoding="utf-8")
    ran("aapt2", "compile", "--dir", source / "res", "-o", folder / "compiled.zip")
    ran(
        *("aapt2", "link", "-I", framework, "--manifest", folder / "AndroidManifest.xml", "--java", folder / "java"),
        *("--min-sdk-version", 26, "--target-sdk-version", 36, "-o", folder / "app.apk", folder / "compiled.zip"),
    )
    return folder / "java"


def test_the_apps_resources_compile(resources):
    assert (resources / "ddpm" / "sample" / "R.java").is_file()


@pytest.mark.torch  # for its time
def test_the_app_compiles_against_androids_signatures(program, resources, tmp_path):
    """By Kotlin's compiler, which the Jupyter kernel's wheel carries; Android's classes are signatures alone."""
    kernel = importlib.util.find_spec("run_kotlin_kernel")
    if kernel is None:
        pytest.skip("no Kotlin compiler: pip install --no-deps kotlin-jupyter-kernel")
    jars = Path(kernel.submodule_search_locations[0]) / "jars"
    signatures = (ROOT / "tests" / "examples" / "stubs").rglob("*.java")
    stubs = javac(tmp_path / "stubs", *signatures, *resources.rglob("*.java"))
    (stdlib,) = jars.glob("kotlin-stdlib-[0-9]*.jar")
    classpath = os.pathsep.join(map(str, (stdlib, program / "classes", stubs)))
    sources = [*(ANDROID / "app" / "src" / "main").rglob("*.kt"), *readme_blocks(tmp_path)]
    ran(
        *("java", "-cp", os.pathsep.join(map(str, jars.glob("*.jar"))), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"),
        *(
            "-Werror",
            "-no-stdlib",
            "-no-reflect",
            "-jvm-target",
            "1.8",
            "-cp",
            classpath,
            "-d",
            tmp_path / "app",
            *sources,
        ),
    )
    assert (tmp_path / "app" / "ddpm" / "sample" / "MainActivity.class").is_file()


def readme_blocks(folder):
    """The README's Kotlin, each block a function of its own, with what it takes as given."""
    text = (ANDROID / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```kotlin\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for k, block in enumerate(blocks):
        lines = block.splitlines()
        imports = [line for line in lines if line.startswith("import ")]
        body = [line for line in lines if not line.startswith("import ")]
        given = "assets: android.content.res.AssetManager, cancelled: Boolean, show: (FloatArray) -> Unit"
        path = folder / f"Block{k}.kt"
        path.write_text(
            "\n".join([*imports, f"fun block{k}({given}): ByteArray {{", *body, "return pixels }"]), "utf-8"
        )
        yield path
