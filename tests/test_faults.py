"""Foreign, broken and hostile models, full disks and sudden ends: one line, the right code, nothing lost."""

import json
import os
import re
import signal
import subprocess
import time
import zipfile

import numpy as np
import pytest
from commands import assert_refused, command_line, heeding_interrupts, run_apart, run_here
from external_data import OUTSIDE, TWICE, folder_with_secret
from models import constant, external, mix_model, node, onnx_file, scale_model, text_model, tiny_spec
from onnx import TensorProto
from representative import representative

from ddpm_export.cli.run import main
from ddpm_export.errors import BadFileError
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.runtimes.external_data import check_external_data


def refused(tmp_path, content, code, *words, name="m.onnx"):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ending = run_here(main, tmp_path / name, "--n", 1, "--out", tmp_path / "out" / "a.npy")
    assert_refused(ending, code, *words)
    assert not (tmp_path / "out" / "a.npy").exists()
    return ending


def changed_spec(**changes):
    """Return the JSON of the tiny spec with other values: such as no ModelSpec would take."""
    return json.dumps({**json.loads(json_from_spec(tiny_spec())), **changes})


FOREIGN = {
    "empty": b"",
    "text": b"# My model\n\nDownload it from the release page.\n" * 20,
    "zeros": bytes(4096),
    "a page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
}


@representative("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_onnx_file_is_3(tmp_path, content):
    refused(tmp_path, content, 3, "m.onnx: not an ONNX file")


def test_an_onnx_file_of_others_is_3(tmp_path):
    refused(
        tmp_path,
        scale_model(metadata=""),
        3,
        "its metadata has no 'ddpm_export'",
        "Make one of it, or of its checkpoint, with ddpm-export.",
    )


@representative(
    ("text", "code", "named"),
    [
        ("no JSON", 3, "not JSON"),
        ("[]", 3, "object"),
        ("{}", 3, "format"),
        ("[" * 100_000, 3, "spec"),
        (changed_spec(format="ddpm-export/2"), 4, "Install a newer one"),
        (changed_spec(requires=["y"]), 4, "Install a newer one"),
        (changed_spec(noise="mt19937"), 4, "Install a newer one"),
        (changed_spec(image_shape=[10**9] * 3), 3, "state_shape"),
        (changed_spec(image_shape=[1, 10**9, 10**9]), 3, "state_shape"),
        (changed_spec(image_shape=[1, 5, 6]), 3, "graph and spec disagree"),
        (changed_spec(image_shape=[3, 6, 5]), 3, "graph and spec disagree"),
        (changed_spec(prediction="v"), 3, "graph and spec disagree"),
        (changed_spec(alphas_cumprod=[]), 3, "alphas_cumprod"),
        (changed_spec(defaults={"sampler": "ddim", "num_steps": 10**9, "eta": 0.0}), 3, "num_steps"),
        (changed_spec(defaults={"sampler": "magic", "num_steps": 4, "eta": 0.0}), 4, "magic"),
    ],
    by=lambda _, code, named: (code, named in ("magic", "graph and spec disagree")),
)
def test_a_spec_that_does_not_fit_is_refused(tmp_path, text, code, named):
    refused(tmp_path, scale_model(metadata=text), code, named)


ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e\nerror: all is well"


@representative(("field", "code"), {"prediction": 3, "variance": 3, "noise": 4, "format": 4}.items())
def test_escape_sequences_in_an_error_are_escaped(tmp_path, field, code):
    value = ("ddpm-export/" if field == "format" else "") + ESCAPES
    refused(tmp_path, scale_model(metadata=changed_spec(**{field: value})), code, "owned", field)


def test_escape_sequences_in_a_name_reach_no_terminal(tmp_path):
    (tmp_path / "m.onnx").write_bytes(scale_model(metadata=changed_spec(name=ESCAPES, source={ESCAPES: ESCAPES})))
    for options in ([], ["--json"]):
        ending = run_here(main, tmp_path / "m.onnx", "--n", 1, "--out", tmp_path / "a.npy", *options)
        assert ending.code == 0
        assert ending.out.rstrip("\n").isprintable()
        assert ending.err == ""
    assert json.loads(ending.out)["model"] == ESCAPES
    os.rename(tmp_path / "m.onnx", tmp_path / "\x1b[2J.onnx")
    assert_refused(run_here(main, tmp_path / "\x1b[2J.onnx", "--n", 0), 2)
    assert_refused(run_here(main, tmp_path / "\x1b[3J.onnx"), 3, r"\x1b[3J")
    ending = run_here(main, tmp_path / "\x1b[2J.onnx", "--n", 1, "--out", tmp_path / "\x1b[2J.npy")
    assert ending.code == 0
    assert ending.out.rstrip("\n").isprintable()


@pytest.mark.parametrize("operator", ["RegexFullMatch", "Tokenizer"])
def test_a_pattern_that_a_runtime_would_write_to_the_terminal_is_refused(tmp_path, capfd, operator):
    refused(tmp_path, text_model(operator, f"({ESCAPES}"), 3, f"its operator {operator} matches text")
    assert capfd.readouterr() == ("", "")


def giant(*dims):
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)


@representative("dims", [(10**9, 10**9), (1, 1, 60_000, 50_000), (1, 1, -6, -5), (2**62, 4), (1, 1, 6, 5)])
def test_weights_that_claim_what_is_not_there_are_3(tmp_path, dims):
    refused(tmp_path, scale_model(weight=giant(*dims)), 3, "ONNX Runtime cannot load it")


def test_a_graph_that_would_need_all_memory_is_3(tmp_path):
    nodes = [  # 4 PiB of zeros
        node("ConstantOfShape", ["huge"], "zeros"),
        node("ReduceSum", ["zeros"], "sum", keepdims=0),
        node("Add", ["x_t", "sum"], "eps"),
    ]
    refused(tmp_path, onnx_file(nodes, [constant("huge", [2**40, 2**10], np.int64)]), 3, "m.onnx")


def test_a_name_that_is_not_utf_8_is_told_as_such(tmp_path):
    name = os.fsdecode(b"\xff.onnx")
    refused(tmp_path, scale_model(), 3, r"\udcff.onnx: its name must be UTF-8 for ONNX Runtime. Rename it.", name=name)


folder = pytest.fixture(folder_with_secret)


def test_weights_in_a_file_beside_are_read(folder, tmp_path):
    (folder / "m.onnx").write_bytes(scale_model(weight=external("m.onnx.data")))
    (folder / "whole.onnx").write_bytes(scale_model())
    for name in ("m", "whole"):
        ending = run_here(main, folder / f"{name}.onnx", "--n", 2, "--seed", 1, "--out", tmp_path / f"{name}.npy")
        assert ending.code == 0, ending
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), np.load(tmp_path / "whole.npy"))


def placed(**entries):
    """Return weights in m.onnx.data whose place is given once more, or in other words."""
    weight = external("m.onnx.data")
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return weight


def nowhere():
    weight = external("m.onnx.data")
    del weight.external_data[0]
    return weight


BEYOND = [(120, 10**18), (10**18, 0), (120, 4), (2**63, 2**63)]
NO_NUMBERS = [(120, 2**64 - 4), (120, -40), (-1, 0), ("0x10", 0), ("1e2", 0), (" 120", 0), ("", 0)]
PLAINLY = "weights do not say plainly where they are"
WEIGHTS = [  # a tensor whose numbers lie in another file, and what is wrong
    *((external(location), "weights lie outside the model's folder") for location in OUTSIDE),
    (external("."), "which is not a file"),
    (external("pipe"), "weights lie in 'pipe', which is not a file"),
    # ONNX Runtime takes the last location that is not empty, and prepacked bytes as they are
    *((placed(**{key: value}), PLAINLY) for key, value in (("location", "../secret"), ("location", ""))),
    *((placed(**{key: value}), PLAINLY) for key, value in (("offset", "4"), ("prepacked_0", "x"))),
    (nowhere(), PLAINLY),
    *((external("m.onnx.data", *place), "weights go beyond the end of 'm.onnx.data'") for place in BEYOND),
    *((external("m.onnx.data", *place), "which must be integers from 0") for place in NO_NUMBERS),
]


def refused_by_check(folder, content, words):
    (folder / "m.onnx").write_bytes(content)
    with pytest.raises(BadFileError, match=re.escape(words)):
        check_external_data(folder / "m.onnx")


@pytest.mark.parametrize(("weight", "words"), WEIGHTS, ids=range(len(WEIGHTS)))
def test_weights_elsewhere_are_refused_before_the_runtime_sees_them(folder, weight, words):
    for entry in weight.external_data:
        entry.value = entry.value.replace("{absolute}", str(folder.parent / "secret"))
    os.mkfifo(folder / "pipe")
    refused_by_check(folder, scale_model(weight=weight), words)


def test_weights_outside_the_folder_are_3(folder):
    refused(folder, scale_model(weight=external("../secret")), 3, "weights lie outside the model's folder")


@pytest.mark.parametrize("content", TWICE.values(), ids=TWICE)
def test_what_protobuf_would_merge_is_3(folder, content):
    refused_by_check(folder, content, "a field twice that has one value")


def with_graph_s_tag(content, tag):
    """Return a model's bytes with another tag before its graph."""
    at = content.index(b"\x3a")  # field 7, of bytes; the fields before it are short and have no such byte
    assert at < 20
    return content[:at] + tag + content[at + 1 :]


@pytest.mark.parametrize("fifth", [0x10, 0x70])
def test_weights_outside_the_folder_are_3_where_a_tag_hides_them(folder, fifth):
    """Protobuf drops the bits of a tag beyond the 32nd: what looks like an unknown field is the graph."""
    hidden = with_graph_s_tag(scale_model(weight=external("../secret")), bytes([0xBA, 0x80, 0x80, 0x80, fifth]))
    refused_by_check(folder, hidden, "a field number out of range")


def test_a_tag_longer_than_it_need_be_is_read(folder):
    shown = with_graph_s_tag(scale_model(weight=external("../secret")), bytes([0xBA, 0x80, 0x00]))
    refused_by_check(folder, shown, "weights lie outside the model's folder")


def test_weights_that_are_not_there_are_3(folder):
    refused(folder, scale_model(weight=external("missing")), 3, "ONNX Runtime cannot load it")


@pytest.mark.parametrize("name", ["m.ts", "m.pt2"])
def test_what_can_run_code_is_3_and_names_trust(tmp_path, name):
    refused(tmp_path, b"PK\x03\x04", 3, "--trust", name=name)


def test_a_decoder_that_meets_damage_in_an_archive_is_3(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.ts", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("m/extra/ddpm_export.json", "{}" * 1000)
    whole = bytearray((tmp_path / "m.ts").read_bytes())
    at = whole.index(b"ddpm_export.json") + len("ddpm_export.json")
    whole[at + 9 : at + 30] = bytes([0xFF]) * 21  # after version, size of properties and properties
    (tmp_path / "m.ts").write_bytes(whole)
    ending = run_here(main, tmp_path / "m.ts", "--trust", "--out", tmp_path / "a.npy")
    assert_refused(ending, 3, "m.ts is damaged: Corrupt input data")


BATTERY = """
import faulthandler, resource, sys, warnings
from pathlib import Path
faulthandler.enable()
warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
from ddpm_export import DdpmExportError, generate
whole = Path(sys.argv[1]).read_bytes()
path = Path(sys.argv[2])
variants = [whole[:length] for length in range(0, len(whole), 7)]
# every byte of the graph, and every tenth of the numbers in its metadata
metadata = range(whole.index(b"alphas_cumprod"), whole.index(b'"clip_x_0"'))
flipped = [at for at in range(len(whole)) if at not in metadata or at % 10 == 0]
variants += [whole[:at] + bytes([whole[at] ^ 1 << at * 5 % 8]) + whole[at + 1:] for at in flipped]
ran = refused = 0
for variant in variants:
    path.write_bytes(variant)
    try:
        generate(path, n=1, num_steps=1, seed=0, threads=1)
        ran += 1
    except DdpmExportError as exc:
        assert exc.exit_code in (2, 3, 4, 6), exc
        assert "\\n" not in str(exc) and len(str(exc)) < 1500, exc
        refused += 1
print(ran, refused)
"""


def test_truncated_and_bit_flipped_files_run_or_are_refused(tmp_path):
    (tmp_path / "whole").write_bytes(mix_model())
    ending = run_apart(tmp_path / "whole", tmp_path / "m.onnx", code=BATTERY)
    assert (ending.code, ending.err) == (0, ""), ending
    ran, refused = map(int, ending.out.split())
    assert ran > 50  # a flipped weight or name still runs
    assert refused > 500


OUTPUTS = ["a.npy", "a.png", "a.gif", "a.webp", "folder"]


@representative("name", OUTPUTS)
def test_where_out_cannot_be_written_it_is_5(tmp_path, name):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    (tmp_path / "file").write_text("no folder")
    places = [tmp_path / "file" / name]
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked" / name)
    for place in places:
        ending = run_here(main, tmp_path / "m.onnx", "--n", 1, "--out", place)
        assert_refused(ending, 5, "cannot be written", "--out")
    assert (tmp_path / "file").read_text() == "no folder"


def test_out_that_is_a_file_without_ending_or_a_device_is_5(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    (tmp_path / "file").write_text("no folder")
    assert_refused(run_here(main, tmp_path / "m.onnx", "--n", 1, "--out", tmp_path / "file"), 5, "cannot be written")
    os.mkfifo(tmp_path / "pipe.npy")
    assert_refused(run_here(main, tmp_path / "m.onnx", "--n", 1, "--out", tmp_path / "pipe.npy"), 5, "not a file")
    assert (tmp_path / "pipe.npy").is_fifo()


FULL = """
import json, resource, sys
from ddpm_export.cli.run import main
model, *outs = sys.argv[1:]
codes = []
for out in outs:
    limit = 64 if out.endswith("folder") else 2048
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    sys.argv[1:] = [model, "--n", "200", "--steps", "2", "--out", out]
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
print(json.dumps(codes))
"""


def test_a_full_disk_is_5_and_the_files_before_stay(tmp_path):
    """A limit on the size of files stands for a disk without room: the write fails half-way, with another errno."""
    (tmp_path / "m.onnx").write_bytes(mix_model())
    outs = [tmp_path / "out" / name for name in OUTPUTS]
    outs[-1].mkdir(parents=True)
    kept = [*outs[:-1], outs[-1] / "000000.png"]
    for path in kept:
        path.write_text("the one before")
    ending = run_apart(tmp_path / "m.onnx", *outs, code=FULL)
    assert json.loads(ending.out) == [5] * len(outs), ending
    assert ending.err.count("\n") == ending.err.count("error: ") == len(outs)
    assert ending.err.count("cannot be written") == len(outs)
    assert [path.read_text() for path in kept] == ["the one before"] * len(outs)
    assert sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file()) == sorted(kept)


# a million images, one at a time, and a proof by 1,000 steps: it is still at it when something is on the disk
STOPPED = {
    "run": ("a.npy", ["--n", 10**6, "--batch", 1, "--steps", 1]),
    "export": ("a.onnx", ["--format", "sampler", "--steps", 1000]),
}


@representative("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("command", STOPPED)
def test_stopped_at_work_the_file_before_is_whole(tmp_path, number, command):
    spec = tiny_spec(alphas_cumprod=tuple(np.linspace(0.999, 0.01, 1000).tolist()))
    (tmp_path / "m.onnx").write_bytes(mix_model(spec))
    name, options = STOPPED[command]
    out, before = tmp_path / "out" / name, b"the one before"
    out.parent.mkdir()
    out.write_bytes(before)
    process = subprocess.Popen(
        command_line(
            tmp_path / "m.onnx", *options, "--out", out, code=f"from ddpm_export.cli.{command} import main; main()"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heeding_interrupts,
    )
    try:
        while process.poll() is None and not any(part.stat().st_size for part in out.parent.glob(".*part*")):
            time.sleep(0.02)
        assert process.poll() is None
        process.send_signal(number)
        printed, inputs = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    assert printed == ""
    assert "Traceback" not in inputs
    assert inputs.count("\n") <= 1
    assert out.read_bytes() == before
    left = [path.name for path in out.parent.iterdir() if path != out]
    assert all(name.startswith(".") for name in left) if number == signal.SIGKILL else left == []
