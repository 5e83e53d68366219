import json
import subprocess
import sys

import numpy as np
import pytest

from ddpm_export import Guidance, generate, open_model
from ddpm_export.model.spec import Defaults
from ddpm_export.runtimes.opening import open_file

pytestmark = pytest.mark.torch


def only_progress(err: str) -> bool:
    """Say whether stderr holds nothing but the line that a slow machine prints every 10 s."""
    return all(line.startswith("exporting: ") for line in err.splitlines())


def test_all_formats_go_beside_the_checkpoint_or_into_a_folder(trained, command, tmp_path):
    code, out, err = command(
        "export",
        trained[0],
        "--format",
        "onnx",
        "--format",
        "torchscript",
        "--format",
        "pt2",
        "--out",
        tmp_path / "o",
        "--json",
    )
    assert code == 0, err
    assert only_progress(err)
    files = json.loads(out)["files"]
    assert [file["path"].rsplit("/", 1)[1] for file in files] == ["unet.onnx", "unet.ts", "unet.pt2"]
    assert all(file["proof"]["error"] <= 1e-5 for file in files)
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["unet.onnx", "unet.pt2", "unet.ts"]


def test_the_report_is_a_table(trained, command, tmp_path):
    code, out, err = command(
        "export", trained[0], "--format", "pt2", "--out", tmp_path / "mine.pt2", "--weights", "raw"
    )
    assert code == 0, err
    assert only_progress(err)
    assert "largest error" in out
    assert "100.00%" in out
    assert (tmp_path / "mine.pt2").exists()


def test_a_file_names_the_sampler_it_was_told_to(trained, command, tmp_path):
    inputs = {"sampler": "ddim", "num_steps": 7, "eta": 0.5}
    options = ("--sampler", "ddim:eta=0.5", "--steps", 7)
    code, _, err = command("export", trained[0], *options, "--out", tmp_path / "a.onnx")
    assert code == 0, err
    assert open_model(tmp_path / "a.onnx")[1].defaults == Defaults(**inputs)
    # and where its user says nothing, these are what it is sampled with
    code, _, err = command("run", tmp_path / "a.onnx", "--n", 1, "--seed", 0, "--out", tmp_path / "a.npy")
    assert code == 0, err
    expected = generate(tmp_path / "a.onnx", n=1, num_steps=7, sampler="ddim", eta=0.5, seed=0)
    assert (np.load(tmp_path / "a.npy") == expected).all()


def test_a_file_carries_the_plans_it_was_told_to(trained, command, tmp_path):
    options = ("--plans", "dpmpp_2m:3,5", "--plans", "heun:2", "--steps", "30,4,0")
    code, _, err = command("export", trained[0], *options, "--out", tmp_path / "a.onnx")
    assert code == 0, err
    spec = open_model(tmp_path / "a.onnx")[1]
    assert list(spec.plans) == ["dpmpp_2m-3", "dpmpp_2m-5", "heun-2"]
    assert (spec.defaults.times, spec.requires) == ((30, 4, 0), ("times",))
    code, _, err = command(
        "run", tmp_path / "a.onnx", "--n", 1, "--seed", 0, "--plan", "heun-2", "--out", tmp_path / "a.npy"
    )
    assert code == 0, err
    expected = generate(tmp_path / "a.onnx", n=1, num_steps=2, sampler="heun", seed=0)
    assert (np.load(tmp_path / "a.npy") == expected).all()


def test_a_plan_can_be_the_default(trained, command, tmp_path):
    options = ("--plans", "dpmpp_2m:3,5", "--plan", "dpmpp_2m-3")
    code, _, err = command("export", trained[0], *options, "--out", tmp_path / "a.onnx")
    assert code == 0, err
    spec = open_model(tmp_path / "a.onnx")[1]
    assert (spec.defaults.plan, spec.requires) == ("dpmpp_2m-3", ("plan",))


@pytest.mark.parametrize(
    ("options", "of_the_steps", "plans"),
    [
        (("--plans", "unipc:3,grid=karras"), False, ["unipc-karras-3"]),
        (
            ("--plans", "unipc:3,4,grid=karras", "--plans", "heun:2"),
            False,
            ["heun-2", "unipc-karras-3", "unipc-karras-4"],
        ),
        (("--plans", "unipc:3", "--sampler", "ddim:grid=karras", "--steps", "2"), True, ["unipc-3"]),
        (("--sampler", "ddim:grid=karras", "--steps", "2"), True, []),
    ],
)
def test_a_grid_is_of_the_steps_and_plans_that_are_named(trained, command, tmp_path, options, of_the_steps, plans):
    code, _, err = command("export", trained[0], *options, "--out", tmp_path / "a.onnx")
    assert code == 0, err
    spec = open_model(tmp_path / "a.onnx")[1]
    times = (spec.num_train_timesteps - 1, 0) if of_the_steps else None
    assert (spec.defaults.times, list(spec.plans)) == (times, plans)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sampler", "ddim:grid=even"], "grid must be one of"),
        (["--steps", "0"], "number of steps must be from 1 to"),
        (["--steps", "a"], "--steps must be a number of steps"),
        (
            ["--plans", "scheduler:5,3"],
            "--steps must be one number for a project without steps of its own, got 5, 3. Use --plans for more",
        ),
        (["--plan", "heun-3"], "plan must be one of"),
        (["--sampler", "euler"], "sampler must be one of"),
        (["--plans", "heun"], "plans must be given as sampler:steps,steps"),
        (["--sampler", "ddpm:eta=0.5"], "eta does not apply to ddpm"),
        (["--sampler", "ddim:eta=2"], "eta must be between 0 and 1"),
        (["--format", "tflite"], "onnx, torchscript, pt2"),
        (["--out", "x.ts"], "--out x.ts is one file"),
        (["--format", "onnx", "--format", "pt2", "--out", "x.onnx"], "Name a folder"),
        (["--weights", "best"], "ema, raw"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_contradicting_arguments_are_usage_errors(trained, command, arguments, expected):
    code, out, err = command("export", trained[0], *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err


def test_a_file_that_is_no_checkpoint_is_exit_3(command, tmp_path):
    for content in (None, b"", b"PK\x03\x04 no", b"\x80\x02cos\nsystem\n(S'true'\ntR."):
        if content is not None:
            (tmp_path / "c.pt").write_bytes(content)
        code, out, err = command("export", tmp_path / "c.pt")
        assert (code, out, err.count("\n")) == (3, "", 1), err


def test_without_torch_one_line_says_what_to_install(trained):
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['ddpm-export', sys.argv[1]]; from ddpm_export.cli.export import main; main()"  # fmt: skip  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code, str(trained[0])], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'ddpm-export[export]'" in done.stderr


def test_help_needs_no_torch():
    code = "import sys; sys.argv = ['ddpm-export', '--help']; from ddpm_export.cli.export import main\ntry: main()\nfinally: assert not {'torch', 'onnx'} & set(sys.modules)"  # fmt: skip  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert only_progress(done.stderr)
    assert "--weights" in done.stdout


def with_classes(checkpoint, path, dropout):
    """Write the checkpoint once more as that of a network with two classes."""
    from ddpm_export.importers.checkpoint import load_torch_file, save_checkpoint
    from ddpm_export.importers.unet import UNet, UNetConfig

    contents = load_torch_file(checkpoint)
    contents.pop("format")
    config = {**contents["config"]["network"], "num_classes": 2}
    label = UNet(UNetConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})).label.weight
    states = {name: {**contents[name], "label.weight": label.detach().normal_()} for name in ("ema", "network")}
    config = {**contents["config"], "network": config, "label_dropout": dropout}
    save_checkpoint(path, **{**contents, **states, "config": config, "classes": ["shoe", "bag"]})
    return path


def test_a_file_names_the_guidance_it_was_told_to(trained, command, tmp_path):
    checkpoint = with_classes(trained[0], tmp_path / "c.pt", 0.1)
    options = ("--guidance", "2.5@5-40")
    code, _, err = command("export", checkpoint, *options, "--out", tmp_path / "a.onnx")
    assert code == 0, err
    model = open_model(tmp_path / "a.onnx")
    assert (model[1].defaults.guidance, model[1].requires) == (Guidance(2.5, (5, 40)), ("inputs", "guidance"))
    stated = generate(model, n=2, seed=0, guidance=Guidance(2.5, (5, 40)))
    np.testing.assert_array_equal(generate(model, n=2, seed=0), stated)
    code, _, err = command("export", tmp_path / "a.onnx", "--guidance", 2, "--format", "sampler", "--out", tmp_path)
    assert code == 0, err  # what a one-call file fixes is chosen at export
    assert open_file(tmp_path / "a.sampler.onnx").spec.defaults.guidance.scale == 2


def test_guidance_of_a_network_that_cannot_be_guided_is_refused(trained, command, tmp_path):
    for checkpoint in (trained[0], with_classes(trained[0], tmp_path / "c.pt", 0.0)):
        code, _, err = command("export", checkpoint, "--guidance", 2, "--out", tmp_path / "a.onnx")
        assert (code, "guidance must be 1 for a network that has not learned" in err) == (2, True)
        assert not (tmp_path / "a.onnx").exists()
    code, _, err = command("export", trained[0], "--guidance", "@1-2", "--out", tmp_path / "a.onnx")
    assert (code, "--guidance @1-2 needs a scale" in err) == (2, True)
