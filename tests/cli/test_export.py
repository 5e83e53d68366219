import json
import subprocess
import sys

import numpy as np
import pytest
from models import tiny_spec

from ddpm_export import Guidance, generate, open_model
from ddpm_export.cli.writing import Defaults as Options
from ddpm_export.cli.writing import Output
from ddpm_export.errors import UsageError
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults
from ddpm_export.runtimes.opening import open_file

pytestmark = pytest.mark.torch


def only_progress(err: str) -> bool:
    """Say whether stderr holds nothing but the line that a slow machine prints every 10 s."""
    return all(line.startswith("exporting: ") for line in err.splitlines())


@pytest.mark.long
def test_all_formats_go_beside_the_checkpoint_or_into_a_folder(trained, command, tmp_path):
    formats = [word for name in ("onnx", "torchscript", "pt2") for word in ("--format", name)]
    code, out, err = command("export", trained[0], *formats, "--out", tmp_path / "o", "--json")
    assert code == 0, err
    assert only_progress(err)
    files = json.loads(out)["files"]
    assert [file["path"].rsplit("/", 1)[1] for file in files] == ["unet.onnx", "unet.ts", "unet.pt2"]
    assert all(file["proof"]["error"] <= 1e-5 for file in files)
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["unet.onnx", "unet.pt2", "unet.ts"]


def test_a_file_has_the_chosen_defaults_and_plans_and_the_report_is_a_table(trained, command, tmp_path):
    path, options = tmp_path / "a.onnx", ("--sampler", "ddim:eta=0.5", "--steps", 7, "--plans", "heun:2")
    code, out, err = command("export", trained[0], *options, "--weights", "raw", "--out", path)
    assert code == 0, err
    assert only_progress(err)
    assert ("largest error" in out, "100.00%" in out) == (True, True)
    spec = open_model(path)[1]
    assert (spec.defaults, list(spec.plans)) == (Defaults(sampler="ddim", num_steps=7, eta=0.5), ["heun-2"])
    ways = {
        (): {"num_steps": 7, "sampler": "ddim", "eta": 0.5},
        ("--plan", "heun-2"): {"num_steps": 2, "sampler": "heun"},
    }
    for chosen, settings in ways.items():
        code, _, err = command("run", path, "--n", 1, "--seed", 0, *chosen, "--out", tmp_path / "a.npy")
        assert code == 0, err
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), generate(path, n=1, seed=0, **settings))


def spec_with(**options):
    record = Options(**options)
    return record.applied(record.with_plans(tiny_spec()))


@pytest.mark.parametrize(
    ("options", "plans", "defaults"),
    [
        ({"plans": ["dpmpp_2m:3,5", "heun:2"], "steps": "30,4,0"}, ["dpmpp_2m-3", "dpmpp_2m-5", "heun-2"], (30, 4, 0)),
        ({"plans": ["dpmpp_2m:3,5"], "plan": "dpmpp_2m-3"}, ["dpmpp_2m-3", "dpmpp_2m-5"], "dpmpp_2m-3"),
        ({"plans": ["unipc:3,4,grid=karras", "heun:2"]}, ["unipc-karras-3", "unipc-karras-4", "heun-2"], None),
        ({"plans": ["unipc:3"], "sampler": "ddim:grid=karras", "steps": "2"}, ["unipc-3"], (39, 0)),
        ({"sampler": "ddim:grid=karras", "steps": "2"}, [], (39, 0)),
    ],
)
def test_options_choose_plans_and_a_default_plan_or_times(options, plans, defaults):
    spec = spec_with(**options)
    assert list(spec.plans) == plans
    assert (spec.defaults.plan or spec.defaults.times) == defaults


def test_options_choose_the_default_guidance():
    label = Input("y", "label", none=2, classes=("shoe", "bag"))
    spec = Options(guidance="2.5@5-40").applied(tiny_spec(inputs=(label,), requires=("inputs",)))
    assert (spec.defaults.guidance, spec.requires) == (Guidance(2.5, (5, 40)), ("inputs", "guidance"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampler": "ddim:grid=even"}, "grid must be one of"),
        ({"steps": "0"}, "number of steps must be from 1 to"),
        ({"steps": "a"}, "--steps must be a number"),
        ({"plan": "heun-3"}, "plan must be one of"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"plans": ["heun"]}, "plans must be given as sampler:steps,steps"),
        ({"sampler": "ddpm:eta=0.5"}, "eta does not apply to ddpm"),
        ({"sampler": "ddim:eta=2"}, "eta must be between 0 and 1"),
        ({"guidance": "2"}, "guidance must be 1 for a network that has not learned"),
        ({"guidance": "@1-2"}, "--guidance @1-2 needs a scale"),
    ],
)
def test_defaults_that_no_file_can_have(options, expected):
    with pytest.raises(UsageError, match=expected):
        spec_with(**options)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--plans", "scheduler:5,3"],
            "--steps must be one number for a project without steps of its own, got 5, 3. Use --plans for more",
        ),
        (["--out", "x.ts"], "--out x.ts is one file"),
        (["--weights", "best"], "ema, raw"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_contradicting_arguments_are_usage_errors(trained, command, arguments, expected):
    code, out, err = command("export", trained[0], *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err


def test_formats_that_do_not_fit_are_usage_errors(tmp_path):
    for options, expected in (
        ({"formats": ["tflite"]}, "onnx, torchscript, pt2"),
        ({"formats": ["onnx", "pt2"], "out": tmp_path / "x.onnx"}, "Name a folder"),
        ({"precision": "int4"}, "--precision must be float32 or int8, got 'int4'"),
        ({"calibrate": 8}, "--calibrate needs --precision int8"),
        ({"formats": ["triton", "onnx"]}, "must be by itself"),
    ):
        with pytest.raises(UsageError, match=expected):
            Output(**options).paths("c.pt", "unet")


def test_a_file_that_is_no_checkpoint_is_exit_3(command, tmp_path):
    for content in (None, b"\x80\x02cos\nsystem\n(S'true'\ntR."):
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
    assert (done.returncode, done.stderr, "--weights" in done.stdout) == (0, "", True)


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


@pytest.mark.long
def test_a_file_has_the_chosen_guidance(trained, command, tmp_path):
    code, _, err = command("export", with_classes(trained[0], tmp_path / "d.pt", 0.0), "--guidance", 2)
    assert (code, "guidance must be 1 for a network that has not learned" in err) == (2, True)
    checkpoint = with_classes(trained[0], tmp_path / "c.pt", 0.1)
    code, _, err = command("export", checkpoint, "--guidance", "2.5@5-40", "--out", tmp_path / "a.onnx")
    assert code == 0, err
    model = open_model(tmp_path / "a.onnx")
    assert (model[1].defaults.guidance, model[1].requires) == (Guidance(2.5, (5, 40)), ("inputs", "guidance"))
    expected = generate(model, n=2, seed=0, guidance=Guidance(2.5, (5, 40)))
    np.testing.assert_array_equal(generate(model, n=2, seed=0), expected)
    code, _, err = command("export", tmp_path / "a.onnx", "--guidance", 2, "--format", "sampler", "--out", tmp_path)
    assert code == 0, err  # a one-call file's fixed choices are made at export
    assert open_file(tmp_path / "a.sampler.onnx").spec.defaults.guidance.scale == 2
