import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from models import constant, mix_model, scale_model, sick_model, tiny_spec, told_model
from representative import representative

from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.golden import golden_from_model, replay_golden
from ddpm_export.model.golden_pictures import replay_golden_pictures
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults, ModelSpec
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.runtimes.opening import open_model
from ddpm_export.runtimes.providers import PROVIDERS, Provider


def rewritten(model, path, change):
    """Write the model with another spec."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(model)
    values = json.loads(proto.metadata_props[0].value)
    change(values)
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(values)})
    onnx.save(proto, path)
    return path


@pytest.mark.torch
def test_a_sound_file_shows_its_spec_and_reproduces_its_golden_vectors(trained, command):
    code, out, err = command("check", trained[1])
    assert (code, err) == (0, "")
    for text in ("alphas_cumprod.first", "philox4x32-10", "3 of 3 reproduced", "source.importer", "defaults.num_steps"):
        assert text in out
    assert "\x1b" not in out
    assert "\\x1b[31m[red]" in out  # as written: neither the terminal nor rich has taken it for markup
    code, out, _ = command("check", trained[1], "--json", "--threads", "1")
    values = json.loads(out)
    assert (code, values["bytes"], values["proof"]) == (0, trained[1].stat().st_size, None)
    assert [case["passed"] for case in values["golden"]] == [True] * 3


@pytest.mark.long
@pytest.mark.torch
def test_against_repeats_the_proof(trained, command):
    code, out, _ = command("check", trained[1], "--against", trained[0])
    assert (code, "largest error" in out, "100.00% equal pixels" in out) == (0, True, True)
    code, _, err = command("check", trained[1], "--against", trained[0], "--weights", "raw")
    assert (code, err.count("\n")) == (4, 1)
    assert "does not reproduce its network" in err


@pytest.mark.torch
@representative(
    ("graph", "storage", "source"),
    [
        ("onnx", "float16", {"weights": "raw", "storage": "float32"}),
        ("sampler", "float16", {}),
        ("onnx", "int8", {"weights": 7}),
    ],
)
def test_the_stored_weights_are_read_from_the_file_and_not_from_source(
    trained, command, tmp_path, graph, storage, source
):
    from ddpm_export.exporting.export import export, storage_of
    from ddpm_export.importers.load import load_checkpoint

    report = export(load_checkpoint(trained[0]), tmp_path / "small.onnx", format=graph, storage=storage)
    assert (storage_of(report.path), storage_of(trained[1])) == (storage, "float32")
    path = rewritten(report.path, tmp_path / "other.onnx", lambda values: values.update(source=source))
    code, _, err = command("check", path, "--against", trained[0])
    assert code == 0, err


@pytest.mark.torch
def test_a_failing_golden_vector_is_exit_4_in_one_line(trained, command, tmp_path):
    def change(values):
        values["golden"]["cases"][1]["values"][3] += values["golden"]["cases"][1]["max_abs"] * 2e-4
        values["golden"]["cases"][1]["max_abs"] *= 1.00005

    code, out, err = command("check", rewritten(trained[1], tmp_path / "m.onnx", change))
    assert (code, err.count("\n")) == (4, 1)
    assert "does not compute what it promises: 1 of 3 golden cases fail" in err
    assert "2 of 3 reproduced" in out


@pytest.mark.torch
def test_a_file_without_golden_vectors_says_so(trained, command, tmp_path):
    path = rewritten(trained[1], tmp_path / "m.onnx", lambda values: values.update(golden=None))
    code, out, _ = command("check", path)
    assert (code, "none in the file" in out) == (0, True)


def test_a_file_without_golden_vectors_runs_once_all_the_same():
    spec, asked = tiny_spec(), []

    def broken(x_t, t):
        asked.append(t.tolist())
        raise BadFileError("the graph does not run")

    with pytest.raises(BadFileError, match="does not run"):
        replay_golden(broken, spec)
    assert asked == [[spec.num_train_timesteps - 1]]
    with pytest.raises(BadFileError, match="does not run"):
        replay_golden_pictures(lambda draw: broken(None, np.array([draw.n])), spec)
    assert replay_golden_pictures(lambda _draw: np.zeros((1, 6, 5, 1), np.uint8), spec) == []


def test_a_file_that_gives_only_nan_is_not_sound_without_golden_vectors_either(tmp_path, command):
    (tmp_path / "m.onnx").write_bytes(sick_model(bad_t=39))
    code, _, err = command("check", tmp_path / "m.onnx")
    assert (code, "NaN" in err, err.count("\n")) == (4, True, 1)


@pytest.mark.long
@pytest.mark.torch
def test_torch_files_need_trust(trained, command, tmp_path):
    from ddpm_export.exporting.export import export
    from ddpm_export.importers.load import load_checkpoint

    export(load_checkpoint(trained[0]), tmp_path / "unet.ts", format="torchscript")
    code, _, err = command("check", tmp_path / "unet.ts")
    assert (code, "--trust" in err, err.count("\n")) == (3, True, 1)
    code, out, err = command("check", tmp_path / "unet.ts", "--trust")
    assert (code, err, "3 of 3 reproduced" in out) == (0, "", True)


def test_a_missing_file_is_exit_3(command, tmp_path):
    code, out, err = command("check", tmp_path / "none.onnx")
    assert (code, out, err.count("\n")) == (3, "", 1)


@pytest.mark.torch
def test_checking_loads_neither_torch_nor_onnx(trained):
    code = "import sys; sys.argv = ['ddpm-check', sys.argv[1]]; from ddpm_export.cli.check import main\ntry: main()\nfinally: assert not {'torch', 'onnx'} & set(sys.modules)"  # fmt: skip  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code, str(trained[1])], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 3 reproduced" in done.stdout


def golden_file(tmp_path, weight):
    """A file that promises what it would compute with the weight 0.5."""
    (tmp_path / "exact.onnx").write_bytes(scale_model())
    model, spec = open_model(tmp_path / "exact.onnx")
    text = json.loads(json_from_spec(spec)) | {"golden": golden_from_model(model, spec)}
    path = tmp_path / "m.onnx"
    path.write_bytes(scale_model(weight=constant("w", weight), metadata=json.dumps(text)))
    return path


def test_check_measures_by_the_precision_of_the_provider_or_the_one_asked_for(tmp_path, command, monkeypatch):
    path = golden_file(tmp_path, 0.5 * 1.001)
    code, _, err = command("check", path)
    assert (code, "does not compute what it promises" in err) == (4, True)
    code, out, err = command("check", path, "--precision", "float16")
    assert (code, "3 of 3 reproduced" in out) == (0, True), err
    half = Provider("half", "CPUExecutionProvider", extra="cpu", needs="nothing", precision="float16")
    monkeypatch.setitem(PROVIDERS, "half", half)
    assert command("check", path, "--provider", "half")[0] == 0
    assert command("check", path, "--provider", "half", "--precision", "float32")[0] == 4
    code, _, err = command("check", path, "--precision", "int8")
    assert (code, "precision must be one of float32, float16, bfloat16, got 'int8'" in err) == (2, True)


def test_the_help_of_every_command_names_the_providers(command):
    for name in ("run", "check", "eval"):
        _, out, _ = command(name, "--help")
        assert ", ".join(PROVIDERS) in " ".join(out.split()), name


@representative("graph", ["sampler", "slice"])
def test_precision_does_not_apply_to_a_one_call_file_and_one_that_gives_nan_is_4(tmp_path, command, graph):
    onnx = pytest.importorskip("onnx")
    from ddpm_export.exporting.export import export

    (tmp_path / "m.onnx").write_bytes(mix_model())
    path = export(tmp_path / "m.onnx", tmp_path / "s.onnx", format=graph).path
    assert command("check", path)[0] == 0
    code, out, err = command("check", path, "--precision", "float16")
    assert (code, out, "--precision does not apply to a one-call file" in err) == (2, "", True)
    made = onnx.load(path)
    for entry in made.graph.initializer:
        if entry.data_type == onnx.TensorProto.FLOAT:
            entry.CopyFrom(constant(entry.name, np.full(entry.dims, np.nan)))
    spec = json.loads(made.metadata_props[0].value)
    made.metadata_props[0].value = json.dumps({name: spec[name] for name in spec.keys() - {"golden", "weights_sha256"}})
    onnx.save(made, path)
    code, out, err = command("check", path)
    assert (code, out, "s.onnx gives NaN or infinity" in err) == (4, "", True)


SPEC = ModelSpec("s", "eps", (1, 2, 3), (0.9, 0.5, 0.1), defaults=Defaults(num_steps=3))


def model(x_t, t):
    return {"eps": (np.sin(x_t) + t.reshape(-1, 1, 1, 1)).astype(np.float32)}


def golden_spec():
    return dataclasses.replace(SPEC, golden=golden_from_model(model, SPEC))


def test_golden_vectors_survive_json_and_find_another_model():
    spec = spec_from_json(json_from_spec(golden_spec()))
    assert [(r.image, r.t, r.error, r.passed) for r in replay_golden(model, spec)] == [
        (k, k, 0.0, True) for k in range(3)
    ]
    off = replay_golden(lambda x_t, t: {"eps": model(x_t, t)["eps"] * np.float32(1.001)}, spec)
    assert not any(result.passed for result in off)
    assert all(r.passed for r in replay_golden(lambda x, t: {"eps": model(x, t)["eps"] * np.float32(1.001)}, spec, precision="float16"))  # fmt: skip  # noqa: E501
    nothing = replay_golden(lambda x_t, t: {"eps": np.full_like(x_t, np.nan * t[0])}, spec)
    assert not any(result.passed for result in nothing)
    with pytest.raises(UsageError, match="float32"):
        replay_golden(model, spec, precision="int8")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1), ("seed", 2**63), ("image", 2**32), ("t", 3), ("t", True), ("t", None), ("positions", [6]),
        ("positions", [10**30]), ("positions", [0.5]), ("positions", []), ("positions", [0] * 10**5), ("values", None),
        ("values", [float("nan")] * 6), ("values", ["1"] * 6), ("values", [10**400] * 6), ("mean", "x"), ("norm", None),
        ("max_abs", 1e9), ("max_abs", -1.0),
    ],
)  # fmt: skip
def test_hostile_golden_vectors_are_refused(key, value):
    spec = golden_spec()
    spec.golden["cases"][0][key] = value
    with pytest.raises(BadFileError, match="golden"):
        replay_golden(model, spec)


@pytest.mark.parametrize("golden", [{}, {"cases": [], "tolerance": {"float32": 1e-4}}, {"cases": [7], "tolerance": {"float32": 1e-4}}, {"cases": 7, "tolerance": []}, {"cases": [{}], "tolerance": {"float32": 1e9}}])  # fmt: skip  # noqa: E501
def test_hostile_golden_objects_are_refused(golden):
    with pytest.raises(BadFileError, match="golden"):
        replay_golden(model, dataclasses.replace(SPEC, golden=golden))


def test_the_inputs_of_a_model_are_listed(tmp_path, command):
    inputs = (
        Input("y", "label", none=2, classes=("shoe", "bag")),
        Input("strength", "vector", (2,), none=0.0),
        Input("low_res", "image", (1, 2, 3)),
        Input("x_0_prev", "previous", (1, 6, 5)),
    )
    defaults = Defaults(num_steps=4, guidance=Guidance(2.5, (3, 30)))
    spec = tiny_spec(inputs=inputs, requires=("inputs", "guidance"), defaults=defaults)
    (tmp_path / "m.onnx").write_bytes(told_model(spec))
    code, out, _ = command("check", tmp_path / "m.onnx", "--json")
    values = json.loads(out)
    assert (code, values["classes"]) == (0, ["shoe", "bag"])
    assert values["defaults"]["guidance"] == {"scale": 2.5, "interval": [3, 30]}
    assert values["inputs"] == [
        "y (label of 2, may be none)",
        "strength (vector of 2, 0 unless given)",
        "low_res (image of 1x2x3, must be given)",
        "x_0_prev (previous, fed by the sampler)",
    ]
    code, out, _ = command("check", tmp_path / "m.onnx")
    assert (code, "scale 2.5, interval 3, 30" in out, "shoe, bag" in out) == (0, True, True)


@pytest.mark.parametrize("is_inline", [True, False])
def test_a_flipped_bit_of_the_weights_is_3_whatever_golden_vectors_say(tmp_path, command, is_inline):
    onnx = pytest.importorskip("onnx")
    from ddpm_export.exporting.onnx_file import writing_model

    path = tmp_path / "m.onnx"
    proto = onnx.ModelProto.FromString(scale_model())
    proto.graph.initializer.append(constant("unused", np.ones(1000)))
    with writing_model(proto, path, max_inline_bytes=None if is_inline else 0):
        pass
    code, out, _ = command("check", path, "--json")
    assert (code, len(json.loads(out)["weights_sha256"])) == (0, 64)
    file = path if is_inline else next(tmp_path.glob("m.onnx.*.data"))
    whole = file.read_bytes()
    at = whole.index(np.ones(9, np.float32).tobytes())
    file.write_bytes(whole[:at] + b"\1" + whole[at + 1 :])
    code, out, err = command("check", path)
    assert (code, out) == (3, "")
    assert "its graph or weights are not those that were exported" in err
    rewritten(path, path, lambda values: values.pop("weights_sha256"))  # as of a version that wrote none
    code, out, _ = command("check", path, "--json")
    assert (code, json.loads(out)["weights_sha256"]) == (0, None)
