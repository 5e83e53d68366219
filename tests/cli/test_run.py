import hashlib
import json
import re

import numpy as np
import onnxruntime
import pytest
from commands import assert_refused, run_apart, run_here
from models import COLOUR, GREY, T, mix_model, sick_model, tiny_spec
from PIL import Image
from representative import representative

from ddpm_export import generate
from ddpm_export.cli.run import main
from ddpm_export.images.write import grid
from ddpm_export.model.spec import Defaults
from ddpm_export.process.solvers import SAMPLERS


@pytest.fixture
def model(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model(tiny_spec(COLOUR)))
    return tmp_path / "m.onnx"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "a.npy"


CASES = {
    "nothing": ([], {}),
    "n": (["--n", 3], {"n": 3}),
    "steps": (["--n", 2, "--steps", 7], {"n": 2, "num_steps": 7}),
    "one step": (["--steps", 1], {"num_steps": 1}),
    "times": (["--steps", "30,12,5"], {"times": [30, 12, 5]}),
    "grid": (["--sampler", "ddim:grid=karras", "--steps", 6], {"grid": "karras", "num_steps": 6}),
    "order": (["--sampler", "unipc:order=2"], {"sampler": "unipc", "order": 2}),
    "all steps": (["--n", 1, "--steps", T], {"n": 1, "num_steps": T}),
    "first": (["--n", 2, "--first", 5], {"n": 2, "first": 5}),
    "batch": (["--n", 5, "--batch", 2], {"n": 5}),
    "threads": (["--threads", 2, "--provider", "cpu"], {}),
    "eta": (["--sampler", "ddim:eta=0.5"], {"eta": 0.5}),
    "large": (["--sampler", "ddpm:variance=fixed_large"], {"sampler": "ddpm", "variance": "fixed_large"}),
    **{name: (["--sampler", name], {"sampler": name}) for name in SAMPLERS},
}


@representative("case", CASES, by=lambda case: "sampler" if case in SAMPLERS else case)
def test_each_option_does_what_the_library_does(model, out, case):
    arguments, settings = CASES[case]
    ending = run_here(main, model, "--seed", 3, "--out", out, *arguments)
    assert ending.code == 0, ending
    np.testing.assert_array_equal(np.load(out), generate(model, seed=3, **settings))
    assert ending.err == ""
    assert re.fullmatch(rf"{re.escape(str(out))}: \d+ images? \(\w+, \d+ steps, seed 3\) in [\d.]+ s\n", ending.out), (
        ending.out
    )


def test_options_change_the_images(model):
    settings = [{}, {"seed": 4}, {"num_steps": 7}, {"first": 1}, {"eta": 0.5}, {"sampler": "ddpm"}]
    settings.append({"sampler": "ddpm", "variance": "fixed_large"})
    assert len({generate(model, **{"seed": 3, "n": 2, **changes}).tobytes() for changes in settings}) == len(settings)


def test_json_says_everything_the_images_follow_from(model, out):
    arguments = ["--n", 2, "--first", 4, "--steps", 3, "--seed", 9, "--sampler", "ddim:eta=0.25", "--json"]
    ending = run_here(main, model, "--out", out, *arguments)
    assert (ending.code, ending.err) == (0, "")
    assert ending.out.count("\n") == 1
    values = json.loads(ending.out)
    assert values.pop("seconds") >= 0
    assert values == {
        "model": "tiny",
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "sampler": "ddim",
        "num_steps": 3,
        "eta": 0.25,
        "seed": 9,
        "first": 4,
        "n": 2,
        "out": str(out),
        "provider": "cpu",
    }
    ddpm = json.loads(run_here(main, model, "--out", out, "--n", 1, "--sampler", "ddpm", "--json").out)
    assert ddpm["variance"] == "fixed_small"
    assert "eta" not in ddpm


def test_the_png_says_the_grid(model, tmp_path):
    run_here(main, model, "--n", 1, "--sampler", "ddim:grid=log_snr", "--steps", 3, "--out", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        text = json.loads(image.text["ddpm_export"])
    assert (text["grid"], text["num_steps"]) == ("log_snr", 3)
    assert "times" not in text


def test_a_fresh_seed_is_printed_and_gives_the_images_again(model, tmp_path):
    first = run_here(main, model, "--n", 2, "--out", tmp_path / "a.npy")
    seed = re.search(r"seed (\d+)\)", first.out)[1]
    again = run_here(main, model, "--n", 2, "--out", tmp_path / "b.npy", "--seed", seed)
    assert (first.code, again.code) == (0, 0)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    other = run_here(main, model, "--n", 2, "--out", tmp_path / "c.npy")
    assert seed not in other.out


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_every_ending_shows_the_same_images(tmp_path, shape):
    (tmp_path / "m.onnx").write_bytes(mix_model(tiny_spec(shape)))
    images = generate(tmp_path / "m.onnx", n=5, seed=2)
    for name in ("a.npy", "a.png", "a.webp", "a.gif", "folder"):
        ending = run_here(main, tmp_path / "m.onnx", "--n", 5, "--batch", 2, "--seed", 2, "--out", tmp_path / name)
        assert ending.code == 0, ending
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), images)
    mode = "L" if shape == GREY else "RGB"
    for name in ("a.png", "a.webp"):
        with Image.open(tmp_path / name) as image:
            image.seek(getattr(image, "n_frames", 1) - 1)
            np.testing.assert_array_equal(np.asarray(image.convert(mode)), grid(images).squeeze())
    with Image.open(tmp_path / "a.png") as image:
        text = json.loads(image.text["ddpm_export"])
    digest = hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert text == {
        **{"model": "tiny", "model_sha256": digest, "sampler": "ddim", "num_steps": 4, "eta": 0.0},
        **{"seed": 2, "first": 0, "n": 5},
    }
    for number, pixels in enumerate(images):
        with Image.open(tmp_path / "folder" / f"{number:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), pixels.squeeze())
            assert json.loads(image.text["ddpm_export"])["image"] == number
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 4


REFUSED = [  # what the command refuses itself, what typer does, and one that the library refuses
    (["--n", 0], "error: --n must be at least 1, got 0"),
    (["--n", "many"], "--n"),
    (["--steps", "3,30"], "--steps must strictly fall"),
    (["--out", "a.jpg"], "must end in .png"),
    (["--from", "x_T.npy", "--each-label"], "Give --each-label or --from, not both"),
    (["--untrusted", "--trust"], "Give --untrusted or --trust, not both"),
    (["--nope"], "--nope"),
    (["more"], "more"),
]


@pytest.mark.parametrize(("arguments", "named"), REFUSED)
def test_what_makes_no_sense_is_one_line_and_2(model, out, arguments, named):
    ending = run_here(main, model, *([] if "--out" in arguments else ["--out", out]), *arguments)
    assert_refused(ending, 2, named)
    assert not out.parent.exists()


@pytest.mark.parametrize("arguments", [[], ["--steps", 3]])
def test_a_file_whose_default_sampler_is_unknown_is_refused(tmp_path, out, arguments):
    spec = tiny_spec(defaults=Defaults(sampler="rk45", num_steps=3))
    (tmp_path / "newer.onnx").write_bytes(mix_model(spec))
    assert_refused(run_here(main, tmp_path / "newer.onnx", "--out", out, *arguments), 4, "'rk45'")
    assert run_here(main, tmp_path / "newer.onnx", "--out", out, "--sampler", "ddpm", *arguments).code == 0


def test_numbers_that_go_bad_end_with_6_and_no_file(tmp_path, out):
    (tmp_path / "m.onnx").write_bytes(sick_model(bad_t=19, sick=np.inf))
    ending = run_here(main, tmp_path / "m.onnx", "--n", 3, "--first", 2, "--out", out, "--steps", 4)
    assert_refused(ending, 6, "step 3 (t = 19), image 2")
    assert list(out.parent.iterdir()) == []


def test_cuda_on_a_machine_without_is_5_and_no_picture(model, out):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert_refused(run_apart(model, "--provider", "cuda", "--out", out), 5, "cuda", "ddpm-export[cuda]")
    assert not out.parent.exists()


def test_cuda_half_installed_is_5_and_no_picture(model, out, monkeypatch):
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas.so"), raising=False)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **_: real(path, options, providers=["CPUExecutionProvider"]),
    )
    assert_refused(run_here(main, model, "--provider", "cuda", "--out", out), 5, "CUDA 13", "cuDNN 9")
    assert not out.parent.exists()


def test_without_onnxruntime_it_is_5_and_names_both_extras(model, out):
    code = "import sys; sys.modules['onnxruntime'] = None\nfrom ddpm_export.cli.run import main; main()"
    ending = run_apart(model, "--out", out, code=code)
    assert_refused(ending, 5, "ddpm-export[cpu]", "ddpm-export[cuda]")


def test_a_real_process_keeps_stdout_for_the_result(model, out):
    ending = run_apart(model, "--n", 3, "--seed", 1, "--json", "--out", out)
    assert (ending.code, ending.err) == (0, "")
    assert json.loads(ending.out)["seed"] == 1
    np.testing.assert_array_equal(np.load(out), generate(model, n=3, seed=1))


def test_debug_shows_the_traceback(model):
    ending = run_apart(model, "--n", 0, "--debug")
    assert ending.code == 2
    assert ("Traceback" in ending.err, "UsageError: n must be at least 1" in ending.err) == (True, True)
