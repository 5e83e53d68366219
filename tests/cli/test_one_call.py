"""One-call files in the commands: made, run and checked, without torch."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from commands import assert_refused, command_line, heeding_interrupts, run_apart, run_here, without_digest
from models import COLOUR, learned_model, mix_model, tiny_spec
from PIL import Image
from representative import representative

from ddpm_export import generate
from ddpm_export.cli.export import main as export_main
from ddpm_export.model.golden_pictures import golden_from_pictures
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.process.rows import Plan, Row
from ddpm_export.runtimes.one_call import inputs_of

onnx = pytest.importorskip("onnx")

GRAPHS = ("sampler", "slice")
KINDS = {"int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder of a denoiser and its one-call files, each as the command writes it by default."""
    folder, a = tmp_path_factory.mktemp("one-call"), tiny_spec().alphas_cumprod
    rows = (Row(1, 35, a[35], (0.5,), (0.75,), (0.25,)), Row(2, 9, a[9], (1.25, -0.25)))
    (folder / "m.onnx").write_bytes(mix_model(tiny_spec(COLOUR, plans={"own": Plan(rows)})))
    ending = run_here(export_main, folder / "m.onnx", "--format", "sampler", "--format", "slice", "--open", "all")
    assert ending.code == 0, ending
    return folder


@pytest.fixture
def source(exports, tmp_path):
    return Path(shutil.copy(exports / "m.onnx", tmp_path))


@pytest.fixture
def made(exports, tmp_path):
    """{graph: its file}"""
    return {graph: Path(shutil.copy(exports / f"m.{graph}.onnx", tmp_path)) for graph in GRAPHS}


def test_the_report_says_what_was_proven(source, command):
    code, out, err = command(
        "export", source, "--format", "sampler", "--open", "all", "--out", source.with_name("s.onnx"), "--json"
    )
    assert (code, err) == (0, "")
    values = json.loads(out)
    assert (values["checkpoint"], values["weights"], values["importer"]) == (str(source), None, None)
    (file,) = values["files"]
    assert (file["path"], file["format"], file["storage"]) == (str(source.with_name("s.onnx")), "sampler", "float32")
    assert file["rounding"] is None
    assert file["proof"]["max_level_difference"] <= 1
    assert file["proof"]["equal_share"] >= 0.995
    assert len(file["proof"]["draws"]) == 4 + 1 + 1


@pytest.mark.parametrize(("storage", "stem"), [("float16", "m.float16"), ("int8", "m.int8-weights")])
def test_the_table_tells_what_a_storage_costs(source, command, storage, stem):
    source.write_bytes(mix_model(tiny_spec((16, 4, 4))))
    code, out, err = command("export", source, "--format", "onnx", "--format", "slice", "--storage", storage)
    assert (code, err) == (0, "")
    assert f"cost of {storage}" in out
    assert source.with_name(f"{stem}.slice.onnx").exists()
    assert source.read_bytes() == mix_model(tiny_spec((16, 4, 4)))
    code, out, err = command("check", source.with_name(f"{stem}.onnx"), "--json", "--trust")
    assert (code, json.loads(out)["source"]["storage"]) == (0, storage), err
    assert {case["tolerance"] for case in json.loads(out)["golden"]} == {1e-4}  # it computes in float32


def test_what_is_not_in_the_file_is_noted(tmp_path, command):
    (tmp_path / "l.onnx").write_bytes(learned_model())
    code, _, err = command("export", tmp_path / "l.onnx", "--format", "sampler")
    assert code == 0
    assert err == "note: ddpm with variance learned has no place in a one-call file: eta 1 is ddpm with fixed_small.\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "cannot be exported as"),
        (["--format", "sampler", "--weights", "ema"], "--weights does not apply to an exported file"),
        (["--format", "sampler", "--set", "a=1"], "--set does not apply to an exported file"),
        (["--format", "sampler", "--plans", "heun:2"], "--plans does not apply to an exported file"),
        (
            ["--format", "sampler", "--open", "stepps"],
            "--open must be all, or some of steps, eta, times",
        ),
        (
            ["--format", "sampler", "--open", "guidance"],
            "--open must be some of steps, eta, times, plan for this sampler",
        ),
        (["--format", "sampler", "--format", "slice", "--out", "x.onnx"], "Name a folder"),
    ],
)
def test_what_has_no_meaning_for_an_exported_file_is_a_usage_error(source, command, arguments, named):
    code, out, err = command("export", source, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert named in err
    assert [path.name for path in source.parent.iterdir()] == ["m.onnx"]


@representative("graph", GRAPHS)
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--sampler", "ddpm"],
        ["--batch", 2, "--steps", 7],
        ["--steps", "30,9,2"],
        ["--plan", "own"],
        ["--sampler", "ddim:grid=karras", "--steps", 6],
    ],
)
def test_run_gives_the_pictures_of_the_denoiser(source, made, command, tmp_path, graph, arguments):
    outs = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path, out in zip((source, made[graph]), outs, strict=True):
        code, _, err = command("run", path, "--n", 5, "--seed", 3, "--first", 4, "--out", out, *arguments)
        assert (code, err) == (0, "")
    a, b = (np.load(out).astype(int) for out in outs)
    assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_png_says_what_the_picture_follows_from(made, command, tmp_path, graph):
    code, out, _ = command(
        "run", made[graph], "--n", 2, "--seed", 3, "--steps", 5, "--out", tmp_path / "a.png", "--json"
    )
    assert code == 0
    with Image.open(tmp_path / "a.png") as image:
        text = json.loads(image.text["ddpm_export"])
    values = json.loads(out)
    assert text == {name: values[name] for name in text}
    assert {"model_sha256", "seed", "num_steps", "eta", "sampler", "first", "n"} <= set(text)


def test_a_slice_shows_the_denoising_as_the_denoiser_does_and_a_sampler_says_that_it_cannot(
    source, made, command, tmp_path
):
    frames = []
    for path in (source, made["slice"]):
        out = tmp_path / f"{path.stem}.webp"
        assert command("run", path, "--n", 2, "--seed", 3, "--steps", 5, "--out", out)[0] == 0
        with Image.open(out) as image:
            assert image.n_frames == 5
            image.seek(2)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
    assert np.abs(frames[0] - frames[1]).max() <= 1
    code, out, err = command("run", made["sampler"], "--n", 2, "--out", tmp_path / "no.gif")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "a one-call sampler, which shows no steps" in err
    assert not (tmp_path / "no.gif").exists()


@representative("graph", GRAPHS)
@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--steps", "3,9"], 2, "--steps must strictly fall"),
        (["--plan", "own", "--steps", "2"], 2, "--plan own already fixes the steps. Drop --steps."),
        (["--provider", "cuda"], 4, "does not run on cuda"),
    ],
)
def test_run_refuses_by_name_what_has_no_place(made, command, tmp_path, graph, arguments, code, named):
    ended, out, err = command("run", made[graph], "--out", tmp_path / "a.png", *arguments)
    assert (ended, out, err.count("\n")) == (code, "", 1)
    assert named in err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("graph", GRAPHS)
def test_check_replays_what_the_file_promises(made, command, graph):
    code, out, err = command("check", made[graph])
    assert (code, err) == (0, "")
    assert "5 of 5 reproduced" in out
    code, out, _ = command("check", made[graph], "--json")
    values = json.loads(out)
    assert (code, values["graph"], values["variance"]) == (0, graph, "fixed_small")
    assert [case["passed"] for case in values["golden"]] == [True] * 5


def loop_body(model):
    return next(node for node in model.graph.node if node.op_type == "Loop").attribute[0].g


@representative("graph", GRAPHS)
@representative("k", range(9))
def test_check_finds_a_wrong_weight(made, command, graph, k):
    model = onnx.load(made[graph])
    tensor = next(tensor for tensor in loop_body(model).initializer if tensor.name == "network/w")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[k % 3, k // 3] *= 1.2
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, made[graph])
    code, _, err = command("check", made[graph])
    assert (code, err.count("\n")) == (3, 1)  # by the digest of the weights
    without_digest(model)
    onnx.save(model, made[graph])
    code, _, err = command("check", made[graph])
    assert (code, err.count("\n")) == (4, 1)
    assert "does not compute what it promises" in err


SHAPES = {"images": (2, 4, 4, 3), "x_0": (2, *COLOUR), "x_after": (2, *COLOUR)}
LIES = {
    "pictures of another dtype": {"images": np.zeros(SHAPES["images"], np.float32)},
    "pictures of another shape": {"images": np.zeros((2, 3, 4, 4), np.uint8)},
    "fewer pictures": {"images": np.zeros((1, 4, 4, 3), np.uint8)},
    "more pictures": {"images": np.zeros((3, 4, 4, 3), np.uint8)},
    "no pictures": {"images": None},
    "a clean image of another dtype": {"x_0": np.zeros(SHAPES["x_0"], np.float64)},
    "a clean image of another shape": {"x_0": np.zeros((2, 48), np.float32)},
    "a single number": {"x_0": np.float32(0)},
    "NaN": {"x_0": np.full(SHAPES["x_0"], np.nan, np.float32)},
    "one infinity": {"x_0": np.where(np.arange(96).reshape(SHAPES["x_0"]) == 77, np.inf, 0).astype(np.float32)},
}


def lying_file(path, graph, lie):
    """A file of the right inputs whose outputs are these, whatever it is asked for; it promises black pictures."""
    spec = tiny_spec(COLOUR, graph=graph, requires=("times",))
    golden = golden_from_pictures(lambda draw: np.zeros((draw.n, 4, 4, 3), np.uint8), spec)
    cases = [{**case, "n": 2, "num_steps": 2, "times": [3, 1]} for case in golden["cases"]]
    spec = dataclasses.replace(spec, golden={**golden, "cases": cases})
    given = {name: np.zeros(shape, np.uint8 if name == "images" else np.float32) for name, shape in SHAPES.items()}
    given = {name: value for name, value in {**given, **lie}.items() if value is not None}
    if graph == "sampler":
        del given["x_after"]
    values = {name: onnx.numpy_helper.from_array(np.asarray(value), f"of {name}") for name, value in given.items()}
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [value.name], [name], name=name) for name, value in values.items()],
        "lies",
        [info(name, KINDS[kind], shape) for name, (kind, shape) in inputs_of(spec).items()],
        [info(name, value.data_type, None) for name, value in values.items()],
        list(values.values()),
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(model, {"ddpm_export": json_from_spec(spec)})
    onnx.save(model, path)


@representative("graph", GRAPHS)
@pytest.mark.parametrize("lie", LIES)
def test_outputs_that_are_not_those_of_the_format_are_refused_in_every_batch(command, tmp_path, graph, lie):
    path, out = tmp_path / "m.onnx", tmp_path / "a.npy"
    lying_file(path, graph, LIES[lie])
    expected = 6 if lie in ("NaN", "one infinity") else 3
    arguments = [["check"], ["run", "--n", 4, "--batch", 2, "--steps", 2, "--out", out]]
    for name, *more in arguments:
        code, shown, err = command(name, path, *more)
        wanted = 4 if expected == 6 and name == "check" else expected  # a check refuses the model
        assert (code, shown, err.count("\n")) == (wanted, "", 1), err
        assert "infinit" in err if expected == 6 else ("the graph gave" in err or "graph and spec disagree" in err)
    assert not out.exists()


def endless_file(path, graph):
    """A file that is as it should be but for its clean image, which a Loop without an end is to give."""
    lying_file(path, graph, {})
    model = onnx.load(path)
    number, truth = (onnx.helper.make_tensor_value_info(*value, []) for value in (("z", 1), ("go", 9)))
    rounds, after = (onnx.helper.make_tensor_value_info(*value, []) for value in (("k", 7), ("z_after", 1)))
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Sin", ["z"], ["z_after"]), onnx.helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [rounds, truth, number],
        [onnx.helper.make_tensor_value_info("go_on", 9, []), after],
    )
    nodes = {node.output[0]: node for node in model.graph.node}
    nodes["x_0"].op_type = "Add"
    nodes["x_0"].input.append("never")
    loop = onnx.helper.make_node("Loop", ["", "", "zero"], ["never"], body=body)
    model.graph.node.insert(0, loop)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"))
    onnx.save(model, path)


def processor_time(process):
    """Seconds that a process has computed, on Linux."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@representative("graph", GRAPHS)
@representative("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_graph_that_never_would(tmp_path, graph, number):
    endless_file(tmp_path / "m.onnx", graph)
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        command_line(tmp_path / "m.onnx", "--n", 2, "--steps", 2, "--threads", 1, "--out", tmp_path / "out" / "a.npy"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_interrupts,
    )
    try:
        while process.poll() is None and not any((tmp_path / "out").iterdir()):
            time.sleep(0.02)
        begun = processor_time(process)
        while process.poll() is None and processor_time(process) < begun + 0.5:  # well within the Loop
            time.sleep(0.02)
        assert process.poll() is None
        since = time.monotonic()
        process.send_signal(number)
        printed, inputs = process.communicate(timeout=20)
        seconds = time.monotonic() - since
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, printed, inputs) == (130, "", "stopped.\n")
    assert list((tmp_path / "out").iterdir()) == []
    assert seconds < 5  # on an idle machine about a quarter of a second


@representative("graph", GRAPHS)
def test_check_ends_a_graph_that_never_would_at_its_limit(tmp_path, graph):
    endless_file(tmp_path / "m.onnx", graph)
    since = time.monotonic()
    ending = run_apart(
        tmp_path / "m.onnx", "--untrusted", "0.5s", code="from ddpm_export.cli.check import main; main()"
    )
    assert_refused(ending, 3, "m.onnx: one run of the graph takes longer than 0.5 s. Give it more time")
    assert time.monotonic() - since < 20


@pytest.mark.parametrize(
    ("limit", "words"), [("0s", "timeout must be a number of seconds above 0"), ("60", "limits such as 600s,16GiB")]
)
def test_a_limit_must_be_one(made, command, limit, words):
    code, out, err = command("check", made["sampler"], "--untrusted", limit)
    assert (code, out) == (2, "")
    assert words in err


@representative("graph", GRAPHS)
def test_the_last_batch_is_looked_at_as_the_first(command, tmp_path, graph):
    path, out = tmp_path / "m.onnx", tmp_path / "a.npy"
    lying_file(path, graph, {})  # always two pictures
    assert command("run", path, "--n", 4, "--batch", 2, "--steps", 2, "--out", out)[0] == 0
    out.unlink()
    code, _, err = command("run", path, "--n", 5, "--batch", 2, "--steps", 2, "--out", out)
    assert (code, err.count("\n")) == (3, 1), err
    assert not out.exists()


def test_a_network_that_goes_bad_ends_with_6(made, command, tmp_path):
    model = onnx.load(made["sampler"])
    tensor = next(tensor for tensor in loop_body(model).initializer if tensor.name == "network/hundredth")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(np.inf, np.float32), tensor.name))
    onnx.save(model, made["sampler"])
    code, out, err = command("run", made["sampler"], "--n", 2, "--out", tmp_path / "a.png")
    assert (code, out, err.count("\n")) == (6, "", 1)
    assert "images 0 to 1" in err


@pytest.mark.torch
@representative("storage", ["float32", "float16"])
def test_a_checkpoint_becomes_a_sampler_and_is_checked_against(command, tmp_path, storage):
    from tests.exporting.conftest import SMALL, save

    checkpoint = save(tmp_path / "small.pt", SMALL)
    formats = ("--format", "onnx", "--format", "sampler", "--open", "all")
    code, shown, err = command("export", checkpoint, *formats, "--storage", storage, "--json")
    assert code == 0, err
    denoiser, out = (file["path"] for file in json.loads(shown)["files"])
    code, shown, err = command("check", out, "--against", checkpoint)
    assert code == 0, err
    assert "largest error of x_0" in " ".join(shown.split())
    settings = {"n": 3, "num_steps": 10, "seed": 5, "eta": 0.4}
    assert np.abs(generate(out, **settings).astype(int) - generate(denoiser, **settings)).max() <= 1


@representative("graph", GRAPHS)
def test_by_default_choices_are_fixed_and_refused_by_name(source, command, tmp_path, graph):
    path, out = tmp_path / "fixed.onnx", tmp_path / "a.npy"
    code, _, err = command("export", source, "--format", graph, "--sampler", "ddim", "--steps", 6, "--out", path)
    assert code == 0, err
    made = []
    for model, steps in ((path, []), (source, ["--sampler", "ddim", "--steps", 6])):
        code, _, err = command("run", model, "--n", 3, "--seed", 2, "--out", out, *steps)
        assert code == 0, err
        made.append(np.load(out).astype(int))
    assert np.abs(made[0] - made[1]).max() <= 1
    for arguments, name in (
        (["--steps", 7], "steps"),
        (["--sampler", "ddim:eta=0.5"], "eta"),
        (["--steps", "30,2"], "times"),
        (["--plan", "own"], "plan"),
        (["--sampler", "ddim:grid=karras"], "grid"),
        (["--sampler", "ddpm"], "sampler"),
    ):
        code, shown, err = command("run", path, "--out", out, *arguments)
        assert (code, shown) == (2, "")
        opened = {"grid": "times", "sampler": "eta"}.get(name, name)
        assert f"{name} is fixed in this one-call {graph}. Export the model again with {opened} open." in err
    code, _, err = command("check", path)
    assert code == 0, err
