"""The C++ core, its C interface and its programs: against the golden files, against Python, and against bad input."""

import contextlib
import copy
import ctypes
import dataclasses
import functools
import hashlib
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
from external_data import OUTSIDE, TWICE, field, folder_with_secret
from models import (
    COLOUR,
    GREY,
    classes_file,
    constant,
    external,
    learned_model,
    mix_model,
    node,
    onnx_file,
    scale_model,
    sick_model,
    text_model,
    tiny_spec,
)
from onnx import TensorProto
from representative import representative

from ddpm_export import edit, generate
from ddpm_export.cli.texts import labels_from_text
from ddpm_export.errors import BadFileError, DdpmExportError
from ddpm_export.exporting.sampler import sampler_from_denoiser, spec_of_graph
from ddpm_export.images.read import read_image
from ddpm_export.images.write import grid, save_images
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.model.steps import grid_of as time_grid
from ddpm_export.model.steps import plan
from ddpm_export.process.noise import noise_stream, normal_table, normals_from_words
from ddpm_export.process.pixels import from_uint8, to_uint8
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.solvers import dpmpp_2m
from ddpm_export.process.walk import State, walk
from ddpm_export.runtimes.external_data import LEADS, check_external_data
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for

from .edits import PICTURE
from .specs import is_accepted, shared_specs

ROOT = Path(__file__).parent.parent.parent
CPP = ROOT / "examples" / "cpp"
CORE = Path(__file__).parent / "cpp" / "core.cpp"
GOLDEN = ROOT / "tests" / "golden"
UNET = ROOT / "exported" / "unet.onnx"

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
SANITIZED = ["-O0", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
FLAGS = {"Og": ["-Og"], "sanitized": SANITIZED, "O3": ["-O3"], "native": ["-O3", "-march=native"]}
PACKAGES = {
    "g++": "g++",
    "gcc": "gcc",
    "clang++": "clang",
    "clang": "clang",
    "cmake": "cmake",
    "pkg-config": "pkg-config",
}


def tool(name):
    if shutil.which(name) is None:
        pytest.skip(f"no {name}: apt install {PACKAGES[name]}")
    return name


def which(name):
    """Return the file of a tool: what is built by one is built again by another."""
    return Path(shutil.which(tool(name))).resolve()


def run(command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, timeout=300, check=False, **options)


def compile_with(compiler, *arguments):
    """Run a compiler; assert that it neither fails nor warns."""
    standard = "-std=c11" if compiler in ("gcc", "clang") else "-std=c++17"
    done = run([tool(compiler), standard, *WARNINGS, "-I", CPP, *arguments])
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


@pytest.fixture(scope="module")
def core_of(made_once):
    """Return compiler, flags -> core.cpp built so; each kind is built once."""

    @functools.cache
    def build(compiler, flags):
        def make(folder):
            compile_with(compiler, *FLAGS[flags], CORE, "-o", folder / "core")

        return made_once(f"core-{compiler}-{flags}", make, CORE, CPP, which(compiler)) / "core"

    return build


BUILDS = ["Og", pytest.param("sanitized", marks=pytest.mark.long)]


@pytest.fixture(scope="module", params=BUILDS)
def core(core_of, request):
    return core_of("g++", request.param)


def output_of(program, *arguments):
    done = run([program, *arguments])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


# ------------------------------------------------------------------------------------------------------------- the core


@pytest.mark.torch
@representative("flags", FLAGS)
@representative("compiler", ["g++", "clang++"])
def test_core_keeps_its_promises(core_of, compiler, flags):
    output_of(core_of(compiler, flags), "check", GOLDEN)


def test_core_holds_the_table(core):
    entries = np.array(output_of(core, "table").split(), dtype="<i4")
    golden = json.loads((GOLDEN / "normals.json").read_text())
    assert entries.size == math.prod(golden["table_shape"])
    assert hashlib.sha256(entries.tobytes()).hexdigest() == golden["table_sha256"]
    assert np.array_equal(entries.reshape(32, 257), normal_table())


def test_noise_is_equal_to_the_bit(core):
    lines = output_of(core, "noise", GOLDEN).decode().split()
    cases = json.loads((GOLDEN / "noise.json").read_text())["cases"]
    assert len(lines) == len(cases)
    for line, case in zip(lines, cases, strict=True):
        raw = np.array([int(line[k : k + 8], 16) for k in range(0, len(line), 8)], dtype="<u4").tobytes()
        assert hashlib.sha256(raw).hexdigest() == case["sha256"]


def test_numbers_round_to_the_nearest_double_under_any_locale(core, tmp_path):
    numbers = list(open_spec(UNET).alphas_cumprod)
    rng = random.Random(0)
    numbers += [struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64)))[0] for _ in range(2000)]
    numbers += [5e-324, 2.2250738585072011e-308, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, 1e23, 2**53 + 1]
    numbers = [x for x in numbers if math.isfinite(x)]
    texts = [repr(x) for x in numbers] + ["9007199254740993.0", "1e-400", "-0.0", "1234567.5E+2"]
    path = tmp_path / "numbers.json"
    path.write_text(f"[{', '.join(texts)}]")
    found = output_of(core, "numbers", path).split()
    assert [int(word, 16) for word in found] == [struct.unpack("<Q", struct.pack("<d", float(x)))[0] for x in texts]


def half_of_x_t(x_t, _t):
    return {"eps": np.float32(0.5) * x_t}


def open_spec(path):
    return open_model(path, provider="cpu")[1]


EVERY_INPUT = (
    Input("y", "label", none=3, classes=("a", "b", "c")),
    Input("strength", "vector", (2,), none=0.5),
    Input("low_res", "image", (3, 2, 2)),
    Input("x_0_prev", "previous", GREY),
    Input("guidance", "vector", (1,), none=1.0),
)


def third_order(spec):
    """Return a plan of four rows that looks back, adds noise, and repeats a time."""
    a = spec.alphas_cumprod
    rows = [
        Row(1, 39, a[39], (0.5,), (0.75,)),
        Row(2, 20, a[20], (0.875, -0.125), (0.625,), (0.25,)),
        Row(3, 20, a[20], (1.0, -0.25, 0.0625), (0.5, 0.125)),
        Row(4, 3, a[3], (1.125, -0.125), (), (0.125,)),
    ]
    return Plan(tuple(rows), start=1.25)


def spec_of_now(**changes):
    """Return a spec with inputs, plans and default times."""
    spec = tiny_spec()
    fields = {
        "inputs": EVERY_INPUT,
        "plans": {"third": third_order(spec), "two": Plan(tuple(dpmpp_2m(time_grid(spec, 3))))},
        "defaults": Defaults(num_steps=4, times=(30, 20, 3), plan="third", guidance=Guidance(2.5, (3, 20.5))),
        "requires": ("inputs", "times", "plan", "guidance"),
    }
    return tiny_spec(**{**fields, **changes})


STRANGE = [None, True, 0, -1, 1, 1.5, 0.25, 3, 4, 20, 39, 40, 1e300, 10**400, "", "x", "y", "t", "x_0_prev", "a b", "é"]
STRANGE += ["learned", "label", "vector", "image", "previous", "third", "_1", "1_", [], {}, [[]], [0], [1], [2], [-1]]
STRANGE += [
    [0.0],
    [True],
    ["a"],
    ["y"],
    ["a", "a"],
    ["a", 1],
    ["variance_fraction"],
    [0.5, 0.5],
    [1.0, 0.5],
    [0.5, 0.0],
]
STRANGE += [[3, 3], [9, 3], [-1, 1], [-1, True], [1, 6, 5], [1, 6, 5.0], [1, -6, 5], [1, 6, 2**26], [0.1] * 17]


def paths_of(value, path=()):
    """Yield the paths to all parts of a spec: of a list, to its first two entries, and of plans, to the third's."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, entry in entries:
        if key != "two":
            yield (*path, key)
            yield from paths_of(entry, (*path, key))


def changed(value, path, new):
    """Return a spec with a new value at a path, or without that part where the value is `...`."""
    key, *rest = path
    copied = copy.copy(value)
    if rest:
        copied[key] = changed(value[key], rest, new)
    elif new is ...:
        del copied[key]
    else:
        copied[key] = new
    return copied


def faults():
    """Yield specs as JSON: sound ones, and each with one part absent, or with a strange value in its place."""
    now = spec_of_now()
    for spec in (tiny_spec(), now, spec_of_now(requires=(*now.requires, "fractional_t", "variance_fraction"))):
        sound = json.loads(json_from_spec(spec))
        yield json.dumps(sound)
        for path in paths_of(sound):
            if spec is now or path[0] == "plans" or not spec.plans:
                yield from (json.dumps(changed(sound, path, value)) for value in (..., *STRANGE))
    twice, third = json.dumps(sound), json.dumps(sound["plans"]["third"])
    for first in ("7", third):  # of equal names the last counts
        yield twice.replace('"plans": {', f'"plans": {{"third": {first}, ', 1)


def mutants():
    """Return the shipped spec with a few bytes changed, as bytes; none has a NUL, which separates them."""
    rng = random.Random(1)
    first = json_from_spec(tiny_spec(name="é \u20ac", source={"x": 1.5})).encode()
    now = json_from_spec(spec_of_now()).encode()
    result = []
    for k in range(2000):
        changed = bytearray(now if k % 2 else first)
        # one fault in a spec with inputs and plans: which of two is told first is not promised there
        for _ in range(1 if k % 2 else rng.choice((1, 1, 2, 3))):
            changed[rng.randrange(len(changed))] = rng.choice(b'0123456789eE+-.,:"[]{}\\ntu \x80\xc3\xff')
        result.append(bytes(changed))
    return result


def verdict_of(text):
    """Return the line that core.cpp prints of a spec."""
    try:
        spec = spec_from_json(text.decode("utf-8"))
    except UnicodeDecodeError:
        return str(BadFileError.exit_code).encode()
    except DdpmExportError as exc:
        return str(exc.exit_code).encode()
    numbers = [
        ("eps", "x_0", "v").index(spec.prediction),
        ("fixed_small", "fixed_large", "learned").index(spec.variance),
        len(spec.outputs) - 1,
        spec.num_train_timesteps,
        spec.defaults.num_steps,
        int(spec.t_dtype == "float32"),
        sum(spec.defaults.times or ()),
        len(spec.defaults.plan or ""),
    ]
    if (given_inputs := spec.defaults.guidance) is not None:
        numbers += [f"{number:g}" for number in (given_inputs.scale, *(given_inputs.interval or ()))]
    texts = [spec.name, *map(str, numbers)]
    for entry in spec.inputs:
        texts += [
            entry.name,
            entry.kind,
            str(math.prod(entry.shape)),
            "null" if entry.none is None else f"{entry.none:g}",
        ]
        texts += [str(len(entry.classes))]
    for name, entry in sorted(spec.plans.items()):
        weights = math.fsum(sum(row.x_0) + 2 * sum(row.eps) + 3 * sum(row.noise) + row.t + row.a for row in entry.rows)
        texts += [name, str(len(entry.rows)), f"{weights:.5g}", f"{entry.start:g}"]
    return f"0 {' '.join(texts)}".encode("utf-8", "surrogatepass")


@pytest.mark.torch
def test_specs_get_the_verdict_that_python_gives(core, tmp_path):
    texts = [text.encode() for text in faults()] + mutants()
    expected = [verdict_of(text) for text in texts]
    assert {line[:1] for line in expected} == {b"0", b"3", b"4"}
    assert sum(line[:1] == b"0" for line in expected) > 100  # the comparison is not of refusals alone
    path = tmp_path / "texts"
    path.write_bytes(b"\0".join(text or b" " for text in texts) + b"\0")
    found = output_of(core, "verdicts", path)
    names = b"".join(line + b"\n" for line in expected)
    assert found == names


@pytest.mark.torch
def test_the_corpus_of_hostile_specs_is_accepted_or_refused_alike(core, tmp_path):
    texts = [text for text in shared_specs() if "\0" not in text]  # which separates them
    cases = [(text, is_accepted(text)) for text in texts]
    cases = [(text, accepted) for text, accepted in cases if not accepted or "\n" not in json.loads(text)["name"]]
    (tmp_path / "texts").write_bytes(
        b"\0".join(text.encode("utf-8", "surrogatepass") or b" " for text, _ in cases) + b"\0"
    )
    lines = output_of(core, "verdicts", tmp_path / "texts").split(b"\n")[:-1]
    assert len(lines) == len(cases)
    wrong = [
        (text, line) for (text, accepted), line in zip(cases, lines, strict=True) if line.startswith(b"0") != accepted
    ]
    assert wrong == []


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_hostile_bytes_are_refused_without_a_crash(core_of, compiler, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json_from_spec(open_spec(UNET)))
    output_of(core_of(compiler, "sanitized"), "fuzz", path)


@representative("compiler", ["g++", "clang++"])
def test_fast_math_is_refused(compiler, tmp_path):
    source = tmp_path / "empty.cpp"
    source.write_text('#include "ddpm.hpp"\n')
    command = [tool(compiler), "-std=c++17", "-I", CPP, "-E", source, "-o", tmp_path / "preprocessed"]
    assert run(command).returncode == 0
    for flag in ("-ffast-math", "-Ofast", "-ffinite-math-only"):
        done = run([*command, flag])
        assert done.returncode != 0
        assert b"must not be compiled with -ffast-math" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("standard", ["-std=c++17", "-std=c++20"])
def test_header_is_clean_under_stricter_warnings(compiler, standard, tmp_path):
    source = tmp_path / "empty.cpp"
    source.write_text('#include "ddpm.hpp"\n#include "ddpm.h"\n')
    done = run(
        [tool(compiler), standard, *WARNINGS, "-Wconversion", "-Wshadow", "-I", CPP, "-fsyntax-only", source, "-O1"]
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


def test_the_block_at_the_top_of_the_header_runs(tmp_path):
    text = (CPP / "ddpm.hpp").read_text(encoding="utf-8")
    block = re.search(r"^//   #include <cstdio>\n(?:^//.*\n)*?^//   }\n", text, re.M).group(0)
    spec = tiny_spec(alphas_cumprod=tuple(np.linspace(0.999, 0.01, 60).tolist()))
    source = tmp_path / "usage.cpp"
    source.write_text(
        re.sub(r"^// {0,3}", "", block, flags=re.M)
        + "int main() {\n"
        + f'    const std::string json = R"({json_from_spec(spec)})";\n'
        + "    const auto network = [](const ddpm::Evaluation& asked) {\n"
        + "        for (std::size_t k = 0; k < asked.batch * 30; ++k) asked.prediction[k] = 0.5f * asked.x_t[k];\n"
        + "    };\n"
        + '    for (const int pixel : make_images(json, network)) std::printf("%d\\n", pixel);\n'
        + "}\n"
    )
    compile_with("g++", "-O0", source, "-o", tmp_path / "usage")
    lines = output_of(tmp_path / "usage").decode().splitlines()
    states = list(walk(denoiser(half_of_x_t, spec), noise_stream(7, range(4), GREY), plan(spec, num_steps=50)))
    assert [line.split(",")[0] for line in lines[:50]] == [f"t = {state.row.t}" for state in states]
    pixels = np.array(lines[50:], dtype=np.int64).reshape(4, 6, 5, 1)
    assert np.abs(pixels - to_uint8(states[-1].x)).max() <= 1


# ------------------------------------------------------------------------------------------------------ the C interface


FLOATS = ctypes.POINTER(ctypes.c_float)
INTEGERS = ctypes.POINTER(ctypes.c_int64)
MAX_REACH = 16


class CRow(ctypes.Structure):
    _fields_ = [
        ("i", ctypes.c_uint32),
        ("t", ctypes.c_double),
        ("a", ctypes.c_double),
        ("num_x_0", ctypes.c_size_t),
        ("num_eps", ctypes.c_size_t),
        ("num_noise", ctypes.c_size_t),
        ("x_0", ctypes.c_double * MAX_REACH),
        ("eps", ctypes.c_double * MAX_REACH),
        ("noise", ctypes.c_double * 2),
        ("raw_eps", ctypes.c_int),
    ]

    @classmethod
    def of(cls, row):
        counts = (len(row.x_0), len(row.eps), len(row.noise))
        return cls(row.i, row.t, row.a, *counts, row.x_0, row.eps, row.noise, row.raw_eps)

    @property
    def row(self):
        return Row(
            self.i,
            self.t,
            self.a,
            tuple(self.x_0[: self.num_x_0]),
            tuple(self.eps[: self.num_eps]),
            tuple(self.noise[: self.num_noise]),
            bool(self.raw_eps),
        )


class CInput(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("labels", INTEGERS),
        ("numbers", FLOATS),
        ("count", ctypes.c_size_t),
        ("shape", INTEGERS),
        ("num_dimensions", ctypes.c_size_t),
    ]


class Evaluation(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_size_t),
        ("x_t", FLOATS),
        ("t", ctypes.c_double),
        ("inputs", ctypes.POINTER(CInput)),
        ("num_inputs", ctypes.c_size_t),
        ("prediction", FLOATS),
        ("variance_fraction", FLOATS),
    ]


class CState(ctypes.Structure):
    _fields_ = [
        ("row", CRow),
        ("x", FLOATS),
        ("x_0", FLOATS),
        ("eps", FLOATS),
        ("num_history", ctypes.c_size_t),
        ("history_x_0", FLOATS * MAX_REACH),
        ("history_eps", FLOATS * MAX_REACH),
    ]


class CGuidance(ctypes.Structure):
    _fields_ = [("scale", ctypes.c_double), ("interval", ctypes.POINTER(ctypes.c_double))]

    @classmethod
    def of(cls, guidance):
        return cls(guidance.scale, guidance.interval and (ctypes.c_double * 2)(*guidance.interval))


class Settings(ctypes.Structure):
    _fields_ = [
        ("n", ctypes.c_int64),
        ("num_steps", ctypes.c_int64),
        ("times", INTEGERS),
        ("num_times", ctypes.c_size_t),
        ("sampler", ctypes.c_char_p),
        ("eta", ctypes.c_double),
        ("variance", ctypes.c_char_p),
        ("plan", ctypes.c_char_p),
        ("seed", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("label", ctypes.POINTER(ctypes.c_char_p)),
        ("num_labels", ctypes.c_size_t),
        ("guidance", ctypes.POINTER(CGuidance)),
        ("inputs", ctypes.POINTER(CInput)),
        ("num_inputs", ctypes.c_size_t),
    ]


class CGiven(ctypes.Structure):
    _fields_ = [
        ("images", FLOATS),
        ("num_numbers", ctypes.c_size_t),
        ("mask", FLOATS),
        ("mask_size", ctypes.c_size_t),
        ("measure", ctypes.c_char_p),
        ("strength", ctypes.c_double),
        ("returns", ctypes.c_int64),
        ("jump", ctypes.c_int64),
        ("between", ctypes.c_int),
    ]


MODEL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Evaluation))
PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, FLOATS, FLOATS)
SHAPE = (1, 6, 5)
SIZE = math.prod(SHAPE)


def fractions_of(x_t):
    return 1 / (1 + np.exp(-x_t))


def python_model(x_t, t, y=None, strength=None):
    shift = 0 if y is None else (y + strength.sum(axis=1)).astype(np.float32).reshape(-1, 1, 1, 1) / 8
    return {"eps": np.tanh(x_t) / 2 + shift, "variance_fraction": fractions_of(x_t)}


@MODEL
def network(context, evaluation):
    """`python_model` as a C callback; a context means a network that cannot answer."""
    if context:
        return 7
    asked = evaluation.contents
    given = {}
    for entry in asked.inputs[: asked.num_inputs]:
        shape = (asked.batch, *entry.shape[: entry.num_dimensions])
        assert entry.count == math.prod(shape)
        given[entry.name.decode()] = np.ctypeslib.as_array(entry.labels or entry.numbers, shape=shape)
    x_t = np.ctypeslib.as_array(asked.x_t, shape=(asked.batch, *SHAPE))
    outputs = python_model(x_t, asked.t, **given)
    np.ctypeslib.as_array(asked.prediction, shape=x_t.shape)[:] = outputs["eps"]
    if asked.variance_fraction:
        np.ctypeslib.as_array(asked.variance_fraction, shape=x_t.shape)[:] = outputs["variance_fraction"]
    return 0


@pytest.fixture(scope="module")
def library_path(made_once):
    def make(folder):
        compile_with(
            "g++", "-O0", "-Wconversion", "-Wshadow", "-shared", "-fPIC", CPP / "ddpm.cpp", "-o", folder / "libddpm.so"
        )

    return made_once("c-library", make, CPP, which("g++")) / "libddpm.so"


@pytest.fixture(scope="module")
def library(library_path):
    found = ctypes.CDLL(str(library_path))
    found.ddpm_spec_state_shape.restype = ctypes.POINTER(ctypes.c_int64)
    found.ddpm_spec_prediction.restype = ctypes.c_char_p
    found.ddpm_spec_class.restype = ctypes.c_char_p
    found.ddpm_spec_alphas_cumprod.restype = ctypes.POINTER(ctypes.c_double)
    found.ddpm_plan_start.restype = ctypes.c_double
    found.ddpm_plan_num_rows.restype = ctypes.c_size_t
    return found


def learned_spec(**changes):
    """Return a spec that learned its variance, with a plan of four rows."""
    fields = {"variance": "learned", "requires": ("variance_fraction",), "plans": {"third": third_order(tiny_spec())}}
    return tiny_spec(SHAPE, **{**fields, **changes})


@pytest.fixture
def spec():
    return learned_spec()


@contextlib.contextmanager
def opened(library, spec):
    """Yield the spec as the library holds it."""
    text = json_from_spec(spec).encode()
    pointer = ctypes.c_void_p()
    assert library.ddpm_spec_from_json(text, ctypes.c_size_t(len(text)), ctypes.byref(pointer), None) == 0
    yield pointer
    library.ddpm_spec_free(pointer)


@pytest.fixture
def handle(library, spec):
    with opened(library, spec) as pointer:
        yield pointer


class Message(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char * 512)]

    def __str__(self):
        return self.text.decode()


def floats(array):
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    return array.ctypes.data_as(FLOATS)


def draw_of(library, images, draw):
    numbers = (ctypes.c_int64 * len(images))(*images)
    z = np.empty((len(images), *SHAPE), dtype=np.float32)
    shape = (ctypes.c_int64 * 3)(*SHAPE)
    assert (
        library.ddpm_noise_stream(
            ctypes.c_int64(5),
            numbers,
            ctypes.c_size_t(len(images)),
            shape,
            ctypes.c_size_t(3),
            0,
            ctypes.c_uint32(draw),
            floats(z),
            None,
        )
        == 0
    )
    return z


def settings_of(library, **changes):
    settings = Settings()
    library.ddpm_settings_init(ctypes.byref(settings))
    for name, value in changes.items():
        if name == "times":
            settings.times, settings.num_times = (ctypes.c_int64 * len(value))(*value), len(value)
        elif name == "label":
            texts = (ctypes.c_char_p * len(value))(*(text.encode() for text in value))
            settings.label, settings.num_labels = texts, len(value)
        elif name == "guidance":
            settings.guidance = ctypes.pointer(CGuidance.of(value))
        elif name == "inputs":
            settings.inputs, settings.num_inputs = value
        else:
            setattr(settings, name, value.encode() if isinstance(value, str) else value)
    return settings


def plan_of(library, handle, **choice):
    """Return a plan as the library makes it of settings, and as Python reads it out."""
    pointer, message = ctypes.c_void_p(), Message()
    settings = settings_of(library, **choice)
    code = library.ddpm_plan_from_spec(handle, ctypes.byref(settings), ctypes.byref(pointer), ctypes.byref(message))
    assert code == 0, str(message)
    rows = []
    for k in range(library.ddpm_plan_num_rows(pointer)):
        row = CRow()
        library.ddpm_plan_row(pointer, ctypes.c_size_t(k), ctypes.byref(row))
        rows.append(row.row)
    return pointer, Plan(tuple(rows), library.ddpm_plan_start(pointer))


def inputs_of(**values):
    """Return inputs for the library: labels of int64 arrays, numbers of float32 ones."""
    given = []
    for name, value in values.items():
        is_label = value.dtype == np.int64
        pointer = value.ctypes.data_as(INTEGERS if is_label else FLOATS)
        entry = CInput(name=name.encode(), count=value.size)
        setattr(entry, "labels" if is_label else "numbers", pointer)
        given.append(entry)
    return (CInput * len(given))(*given), ctypes.c_size_t(len(given))


def begun(library, handle, images, made, *, x=None, state=None, context=None, seed=5, inputs=None, guidance=None):
    """Return code, states and message of a walk that begins."""
    numbers, states, message = (ctypes.c_int64 * len(images))(*images), ctypes.c_void_p(1), Message(b"not touched")
    code = library.ddpm_walk(
        handle,
        network,
        ctypes.c_void_p(context),
        *(inputs or (None, ctypes.c_size_t(0))),
        None if guidance is None else ctypes.byref(CGuidance.of(guidance)),
        ctypes.c_int64(seed),
        numbers,
        ctypes.c_size_t(len(images)),
        made,
        None if x is None else floats(x),
        None if state is None else ctypes.byref(state),
        ctypes.byref(states),
        ctypes.byref(message),
    )
    return code, states, str(message)


def array_of(pointer, batch):
    return np.ctypeslib.as_array(pointer, shape=(batch, *SHAPE)).copy()


def walked(library, states, batch):
    """Yield (code, message) and the states that are left, their arrays copied, as Python's `walk` has them."""
    left, message = ctypes.POINTER(CState)(), Message()
    while (code := library.ddpm_states_next(states, ctypes.byref(left), ctypes.byref(message))) == 0 and left:
        now = left.contents
        history = tuple(
            (array_of(now.history_x_0[age], batch), array_of(now.history_eps[age], batch))
            for age in range(now.num_history)
        )
        yield State(now.row.row, *(array_of(array, batch) for array in (now.x, now.x_0, now.eps)), history)
    library.ddpm_states_free(states)
    assert code == 0, str(message)


def assert_states_alike(found, expected, atol=1e-4):
    assert len(found) == len(expected)
    for entry, state in zip(found, expected, strict=True):
        np.testing.assert_allclose([*entry.row[:3]], [*state.row[:3]], rtol=1e-12)
        assert len(entry.history) == len(state.history)
        for array, wanted in zip(entry[1:4], state[1:4], strict=True):
            np.testing.assert_allclose(array, wanted, atol=atol)


def test_c_reads_the_spec(library, handle, spec):
    count = ctypes.c_size_t()
    shape = library.ddpm_spec_state_shape(handle, ctypes.byref(count))
    assert tuple(shape[: count.value]) == spec.state_shape
    assert library.ddpm_spec_prediction(handle) == b"eps"
    alphas = library.ddpm_spec_alphas_cumprod(handle, ctypes.byref(count))
    assert tuple(alphas[: count.value]) == spec.alphas_cumprod
    assert library.ddpm_spec_has_variance_fraction(handle) == 1
    assert library.ddpm_spec_has_fractional_t(handle) == 0
    with opened(library, tiny_spec(requires=("fractional_t",))) as other:
        assert library.ddpm_spec_has_variance_fraction(other) == 0
        assert library.ddpm_spec_has_fractional_t(other) == 1


def test_c_tells_errors_by_code_and_line(library):
    pointer, message = ctypes.c_void_p(1), Message()
    sound = json.loads(json_from_spec(tiny_spec()))
    for text, code, word in [
        ("{", 3, "not JSON"),
        (json.dumps({**sound, "noise": "dice\n" * 500}), 4, r"'dice\x0adice"),
        (json.dumps({**sound, "clip_x_0": -1}), 3, "In the model's spec, clip_x_0 must be a positive number or null"),
    ]:
        raw = text.encode()
        assert (
            library.ddpm_spec_from_json(raw, ctypes.c_size_t(len(raw)), ctypes.byref(pointer), ctypes.byref(message))
            == code
        )
        assert pointer.value is None
        assert word in str(message)
        assert "\n" not in str(message)
    library.ddpm_spec_free(pointer)  # null: nothing happens
    times = (ctypes.c_int64 * 4)()
    assert library.ddpm_spacing(ctypes.c_int64(10), ctypes.c_int64(11), times, ctypes.byref(message)) == 2
    assert str(message) == "The number of steps must be from 1 to 10, the model's own, got 11."
    assert library.ddpm_spacing(ctypes.c_int64(10), ctypes.c_int64(3), times, ctypes.byref(message)) == 0
    assert str(message) == ""
    assert list(times[:3]) == [9, 5, 2]
    one = ctypes.c_size_t(1)
    assert library.ddpm_noise_stream(ctypes.c_int64(-1), times, one, times, one, 0, 0, None, None) == 2


def test_c_words_and_normals(library):
    for case in json.loads((GOLDEN / "philox.json").read_text())["cases"]:
        words = (ctypes.c_uint32 * 4)()
        library.ddpm_philox4x32_10((ctypes.c_uint32 * 4)(*case["counter"]), (ctypes.c_uint32 * 2)(*case["key"]), words)
        assert list(words) == case["words"]
    cases = json.loads((GOLDEN / "normals.json").read_text())["cases"]
    words = (ctypes.c_uint32 * len(cases))(*[case["word"] for case in cases])
    normals = np.empty(len(cases), dtype=np.float32)
    library.ddpm_normals_from_words(words, ctypes.c_size_t(len(cases)), floats(normals))
    assert normals.view(np.uint32).tolist() == [case["bits"] for case in cases]
    many = np.random.default_rng(0).integers(0, 2**32, 10**6, dtype=np.uint32) >> np.arange(10**6, dtype=np.uint32) % 31
    normals = np.empty(many.size, dtype=np.float32)
    library.ddpm_normals_from_words(many.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(many.size), floats(normals))
    assert np.array_equal(normals, normals_from_words(many))
    expected = noise_stream(5, [3, 9], SHAPE)(2)
    assert np.array_equal(draw_of(library, [3, 9], 2), expected)


CHOICES = [
    {},
    {"sampler": "ddim", "num_steps": 9, "eta": 0.5},
    {"times": (33, 20, 7), "eta": 0.0},
    *({"sampler": "ddpm", "num_steps": 9, "variance": name} for name in ("fixed_small", "fixed_large", "learned")),
    {"sampler": "ddpm", "times": (39, 3)},
    {"plan": "third"},
]


def choice_of_python(choice):
    return {"name" if key == "plan" else key: value for key, value in choice.items()}


def test_a_number_of_steps_picks_the_default_plans_sibling_or_else_the_default_sampler(library):
    three, two = (plan(learned_spec(), sampler="ddim", times=times) for times in ((30, 20, 5), (39, 2)))
    spec = learned_spec()
    spec = dataclasses.replace(
        spec,
        plans={"tuned-3": three, "tuned-2": two},
        defaults=dataclasses.replace(spec.defaults, plan="tuned-3"),
        requires=(*spec.requires, "plan"),
    )
    with opened(library, spec) as handle:
        for num_steps, times in ((3, [30, 20, 5]), (2, [39, 2]), (4, [39, 29, 19, 9])):
            pointer, found = plan_of(library, handle, num_steps=num_steps)
            assert [row.t for row in found.rows] == times == [row.t for row in plan(spec, num_steps=num_steps).rows]
            library.ddpm_plan_free(pointer)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_c_plans_are_python_s(library, handle, spec, choice):
    pointer, found = plan_of(library, handle, **choice)
    expected = plan(spec, **choice_of_python(choice))
    assert found.start == expected.start
    assert len(found.rows) == len(expected.rows)
    for row, wanted in zip(found.rows, expected.rows, strict=True):
        assert row[:3] == wanted[:3]
        for numbers, others in zip(row[3:], wanted[3:], strict=True):
            np.testing.assert_allclose(numbers, others, rtol=1e-14)
    again, rows = ctypes.c_void_p(), (CRow * len(found.rows))(*map(CRow.of, found.rows))
    rows[0].raw_eps = 1
    arguments = (rows, ctypes.c_size_t(len(rows)), ctypes.c_double(found.start), ctypes.byref(again), None)
    assert library.ddpm_plan_from_rows(*arguments) == 0
    assert library.ddpm_plan_num_rows(again) == len(rows)
    row = CRow()
    library.ddpm_plan_row(again, ctypes.c_size_t(0), ctypes.byref(row))
    assert row.row == found.rows[0]._replace(raw_eps=True)
    library.ddpm_plan_free(again)
    library.ddpm_plan_free(pointer)
    rows[0].num_eps = MAX_REACH + 1
    assert library.ddpm_plan_from_rows(*arguments) == 2


@pytest.mark.parametrize("raw_eps", [False, True])
def test_c_denoiser_is_python_s(library, handle, spec, raw_eps):
    row = plan(spec, sampler="ddpm", num_steps=7).rows[0]._replace(raw_eps=raw_eps)
    x = draw_of(library, [0, 1], 0)
    x_0, eps, fraction = (np.empty_like(x) for _ in range(3))
    reference = denoiser(python_model, spec)(x, row)
    assert np.abs(reference.x_0).max() == spec.clip_x_0
    for wanted in (fraction, None):
        code = library.ddpm_denoiser(
            handle,
            network,
            None,
            None,
            ctypes.c_size_t(0),
            None,
            ctypes.c_size_t(2),
            floats(x),
            ctypes.byref(CRow.of(row)),
            None,
            floats(x_0),
            floats(eps),
            None if wanted is None else floats(wanted),
            None,
        )
        assert code == 0
        for found, expected in zip((x_0, eps, fraction), reference, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_c_walks_and_goes_on_as_python_does(library, handle, spec, choice):
    images = [4, 9]
    made, _ = plan_of(library, handle, **choice)
    noise = noise_stream(5, images, SHAPE)
    expected = list(walk(denoiser(python_model, spec), noise, plan(spec, **choice_of_python(choice))))
    code, states, message = begun(library, handle, images, made)
    assert (code, message) == (0, "")
    found = list(walked(library, states, 2))
    assert_states_alike(found, expected)
    x = np.ascontiguousarray(noise(0) * np.float32(plan(spec, **choice_of_python(choice)).start))
    from_x = list(walked(library, begun(library, handle, images, made, x=x)[1], 2))
    assert np.array_equal(from_x[-1].x, found[-1].x)
    for k, state in enumerate(found):
        saved = CState(CRow.of(state.row), *map(floats, state[1:4]), len(state.history))
        for age, (x_0, eps) in enumerate(state.history):
            saved.history_x_0[age], saved.history_eps[age] = floats(x_0), floats(eps)
        rest = list(walked(library, begun(library, handle, images, made, state=saved)[1], 2))
        assert len(rest) == len(found) - k - 1
        for entry, other in zip(rest, found[k + 1 :], strict=True):
            assert np.array_equal(entry.x, other.x)
    library.ddpm_plan_free(made)


def test_c_inputs(library):
    inputs = (Input("y", "label", none=2, classes=("a", "b")), Input("strength", "vector", (2,)))
    spec = learned_spec(inputs=inputs, requires=("inputs", "variance_fraction"))
    images = [4, 9]
    strength = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    with opened(library, spec) as handle:
        made, _ = plan_of(library, handle, num_steps=3)
        for given in ({}, {"y": np.array([1, 0])}, {"y": np.array([1])}):
            values = {**given, "strength": strength.reshape(2, 2)}
            given_inputs = {name: value[0] if value.shape == (1,) else value for name, value in values.items()}
            expected = list(
                walk(
                    denoiser(python_model, spec, **given_inputs),
                    noise_stream(5, images, SHAPE),
                    plan(spec, num_steps=3),
                )
            )
            code, states, message = begun(library, handle, images, made, inputs=inputs_of(**values))
            assert (code, message) == (0, "")
            assert_states_alike(list(walked(library, states, 2)), expected)
        for given, words in [
            ({}, "Input 'strength', of kind vector and shape (2,), must be given."),
            ({"strength": strength, "z": strength}, "The model has no input 'z'; it has y, strength."),
            ({"strength": strength, "y": np.array([3])}, "Input 'y' must be one of a, b or its index from 0 to 1"),
        ]:
            assert begun(library, handle, images, made, inputs=inputs_of(**given))[::2] == (2, mock.ANY)
            assert words in begun(library, handle, images, made, inputs=inputs_of(**given))[2]
        library.ddpm_plan_free(made)


def test_c_guidance_and_what_images_are_told(library):
    inputs = (Input("y", "label", none=2, classes=("a", "b")), Input("strength", "vector", (2,)))
    requires = ("inputs", "variance_fraction", "guidance")
    spec = learned_spec(
        inputs=inputs, requires=requires, defaults=Defaults(num_steps=3, guidance=Guidance(4.0, (0, 20)))
    )
    strength = np.array([[0.5, -1.0], [2.0, 0.25], [0.0, 1.0]], np.float32)
    with opened(library, spec) as handle:
        assert [library.ddpm_spec_class(handle, ctypes.c_size_t(k)) for k in range(3)] == [b"a", b"b", None]
        assert library.ddpm_spec_takes_guidance(handle) == 1
        made, _ = plan_of(library, handle)
        for guidance in (None, Guidance(0.0), Guidance(2.5), Guidance(2.5, (13, 26))):
            given_inputs = {"y": np.array([1, 0]), "strength": strength[:2]}
            denoise = denoiser(python_model, spec, guidance=guidance, **given_inputs)
            expected = list(walk(denoise, noise_stream(5, [4, 9], SHAPE), plan(spec)))
            code, states, message = begun(
                library, handle, [4, 9], made, inputs=inputs_of(**given_inputs), guidance=guidance
            )
            assert (code, message) == (0, "")
            assert_states_alike(list(walked(library, states, 2)), expected)
            (row, *_), x = plan(spec).rows, draw_of(library, [4, 9], 0)
            x_0, eps = np.empty_like(x), np.empty_like(x)
            given = None if guidance is None else ctypes.byref(CGuidance.of(guidance))
            where = (ctypes.c_size_t(2), floats(x), ctypes.byref(CRow.of(row)), None, floats(x_0), floats(eps))
            assert (
                library.ddpm_denoiser(handle, network, None, *inputs_of(**given_inputs), given, *where, None, None) == 0
            )
            np.testing.assert_allclose(x_0, expected[0].x_0, atol=1e-4)
        library.ddpm_plan_free(made)
        x, message = np.empty((5, *SHAPE), np.float32), Message()
        for changes in ({}, {"label": ("b", "none", "0")}, {"label": ("a",), "guidance": Guidance(3.0)}):
            settings = settings_of(library, n=5, first=3, inputs=inputs_of(strength=strength), **changes)
            call = (handle, network, None, ctypes.byref(settings), None, None, floats(x), ctypes.byref(message))
            assert library.ddpm_sample(*call) == 0, str(message)
            chosen = request_for(spec, n=5, first=3, seed=0, inputs={"strength": strength}, **changes)
            *_, (_, state) = sample(python_model, spec, chosen)
            np.testing.assert_allclose(x, state.x, atol=1e-4)
        too_strong = SimpleNamespace(scale=101.0, interval=None)  # which Guidance itself refuses
        for changes, words in [
            ({"label": ("c",)}, "Input 'y' must be one of a, b or its index from 0 to 1, got 'c'."),
            ({"guidance": too_strong}, "guidance must be a number from 0 to 100, got 101."),
            ({"inputs": (None, 0)}, "Input 'strength', of kind vector and shape (2,), must be given."),
        ]:
            settings = settings_of(library, **{"inputs": inputs_of(strength=strength), **changes})
            assert library.ddpm_sample(*call[:3], ctypes.byref(settings), *call[4:]) == 2
            assert str(message) == words
    with opened(library, tiny_spec()) as other:
        assert library.ddpm_spec_class(other, ctypes.c_size_t(0)) is None
        assert library.ddpm_spec_takes_guidance(other) == 0
    for requires in (("inputs",), ("inputs", "guidance")):  # a graph combines only where it says so
        with opened(library, tiny_spec(inputs=inputs, requires=requires, graph="slice")) as other:
            assert library.ddpm_spec_takes_guidance(other) == ("guidance" in requires)


def test_c_walks_stop_where_they_must(library, handle):
    made, _ = plan_of(library, handle, num_steps=3)
    code, states, message = begun(library, handle, [0], made, seed=-1)
    assert (code, states.value) == (2, None)
    assert message == "seed must be from 0 to 2^63 - 1, got -1."
    _, states, _ = begun(library, handle, [0], made, context=1)
    left, message = ctypes.POINTER(CState)(), Message()
    assert library.ddpm_states_next(states, ctypes.byref(left), ctypes.byref(message)) == 5
    assert not left
    assert str(message) == "The model's callback must return 0, got 7."
    library.ddpm_states_free(states)
    library.ddpm_plan_free(made)
    for change, words in [
        ({"eta": 1.5}, "eta must be between 0 and 1, got 1.5."),
        (
            {"sampler": "ddpm", "variance": "none"},
            "variance must be one of fixed_small, fixed_large, learned, got 'none'.",
        ),
        ({"plan": "other"}, "plan must be one of third, got 'other'."),
        ({"plan": "third", "num_steps": 3}, "plan third already fixes the steps. Drop num_steps."),
    ]:
        pointer, message = ctypes.c_void_p(1), Message()
        settings = settings_of(library, **change)
        made = library.ddpm_plan_from_spec(handle, ctypes.byref(settings), ctypes.byref(pointer), ctypes.byref(message))
        assert (made, pointer.value, str(message)) == (2, None, words)


def test_c_sample_is_python_s(library, handle, spec):
    settings, message = settings_of(library, seed=5, first=3, n=2, num_steps=6, sampler="ddpm"), Message()
    x = np.empty((2, *SHAPE), dtype=np.float32)
    seen = []

    @PROGRESS
    def progress(_context, step, num_steps, now, x_0):
        seen.append((step, num_steps, array_of(now, 2), array_of(x_0, 2)))
        return int(step == stop_at)

    def call(progress=None):
        return library.ddpm_sample(
            handle, network, None, ctypes.byref(settings), progress, None, floats(x), ctypes.byref(message)
        )

    stop_at = None
    assert call(progress) == 0
    chosen = request_for(spec, n=2, num_steps=6, sampler="ddpm", seed=5, first=3)
    states = [state for _, state in sample(python_model, spec, chosen)]
    assert [(step, count) for step, count, _, _ in seen] == [(i, 6) for i in range(1, 7)]
    for (_, _, now, x_0), state in zip(seen, states, strict=True):
        np.testing.assert_allclose(now, state.x, atol=1e-4)
        np.testing.assert_allclose(x_0, state.x_0, atol=1e-4)
    assert np.array_equal(x, seen[-1][2])
    stop_at = 3
    assert call(progress) == 130
    assert str(message) == "Sampling was cancelled after step 3 of 6."
    pixels = np.empty((2, 6, 5, 1), dtype=np.uint8)
    library.ddpm_to_uint8(
        floats(x), ctypes.c_size_t(2), (ctypes.c_int64 * 3)(*SHAPE), pixels.ctypes.data_as(ctypes.c_void_p)
    )
    assert np.array_equal(pixels, to_uint8(x))
    for change, words in [
        ({"n": 0}, "n must be at least 1, got 0."),
        ({"seed": -1}, "seed must be from 0 to 2^63 - 1, got -1."),
        ({"sampler": "x"}, "sampler must be one of ddpm, ddim, got 'x'."),
        ({"eta": 2.0}, "eta must be between 0 and 1, got 2."),
    ]:
        settings = settings_of(library, **change)
        assert call() == 2
        assert str(message) == words


LEVELS = np.random.default_rng(0).integers(0, 256, (2, *SHAPE[1:], SHAPE[0]), dtype=np.uint8)
MASK = np.random.default_rng(1).choice(np.array([0, 0, 100, 255], np.uint8), SHAPE[1:])


def floats_of(library, levels):
    """Return pictures as the library makes states of them."""
    x = np.empty((len(levels), *SHAPE), dtype=np.float32)
    pixels = np.ascontiguousarray(levels).ctypes.data_as(ctypes.c_void_p)
    library.ddpm_from_uint8(pixels, ctypes.c_size_t(len(levels)), (ctypes.c_int64 * 3)(*SHAPE), floats(x))
    return x


@pytest.mark.parametrize(
    "how",
    [
        {"mask": MASK, "returns": 2, "jump": 2},
        {"measure": "average:1"},
        {"measure": "mask", "mask": MASK},
        {"strength": 0.6},
        {"between": True, "strength": 0.6},
    ],
    ids=lambda how: ", ".join(how),
)
def test_c_edits_as_python_does(library, handle, spec, how):
    made = edit((python_model, spec), LEVELS, seed=5, first=3, num_steps=6, sampler="ddim", eta=1.0, **how)
    settings, given, message = settings_of(library, seed=5, first=3, n=len(made), num_steps=6), CGiven(), Message()
    settings.sampler, settings.eta = b"ddim", 1.0
    library.ddpm_given_init(ctypes.byref(given))
    assert (math.isnan(given.strength), given.jump, given.returns) == (True, 1, 0)
    images = floats_of(library, LEVELS)
    x = np.empty((len(made), *SHAPE), dtype=np.float32)
    if "between" in how:
        ends, count = [floats(image) for image in images], ctypes.c_size_t(len(made))
        assert library.ddpm_crossfade(*ends, ctypes.c_size_t(SIZE), count, floats(x), None) == 0
        images = x.copy()
    mask = (MASK / 255).astype(np.float32)
    given.images, given.num_numbers = floats(images), images.size
    for name, value in how.items():
        if name == "mask":
            given.mask, given.mask_size = floats(mask), mask.size
        else:
            setattr(given, name, value.encode() if isinstance(value, str) else value)

    def call():
        return library.ddpm_edit(
            *(handle, network, None, ctypes.byref(given), ctypes.byref(settings), None, None, floats(x)),
            ctypes.byref(message),
        )

    assert call() == 0, str(message)
    assert np.abs(to_uint8(x).astype(int) - made).max() <= 1
    given.num_numbers -= 1
    assert call() == 2
    assert str(message).startswith("There must be 30 numbers in a picture")


def test_every_function_of_the_c_header_is_tried():
    declared = set(re.findall(r"^DDPM_API .*?(ddpm_\w+)\(", (CPP / "ddpm.h").read_text(), re.M))
    text = "".join(Path(__file__).with_name(name).read_text() for name in ("test_cpp.py", "test_policies.py"))
    tried = {f"ddpm_{name}" for name in re.findall(r"library\.ddpm_(\w+)\(", text)}
    assert declared == tried


@representative("compiler", ["gcc", "clang"])
def test_the_block_at_the_top_of_the_c_header_runs(compiler, library_path, tmp_path):
    """As C11, linked to the library: what a program in C does."""
    text = (CPP / "ddpm.h").read_text(encoding="utf-8")
    block = re.search(r"^       ddpm_error error;\n(?:^ .*\n)*", text, re.M).group(0)
    literal = json.dumps(json_from_spec(tiny_spec(SHAPE)))
    source = tmp_path / "usage.c"
    source.write_text(
        '#include "ddpm.h"\n#include <stdio.h>\n#include <string.h>\n'
        "static int network(void *session, const ddpm_evaluation *asked) {\n"
        f"    for (size_t k = 0; k < asked->batch * {SIZE}; ++k) asked->prediction[k] = 0.5f * asked->x_t[k];\n"
        "    return session == NULL ? 0 : 1;\n}\n"
        f"int main(void) {{\n    const char *json = {literal};\n    void *session = NULL;\n    float x[4 * {SIZE}];\n"
        f'{block}    for (int k = 0; k < 4 * {SIZE}; ++k) printf("%.9g\\n", x[k]);\n    return 0;\n}}\n'
    )
    compile_with(compiler, "-O0", "-Wstrict-prototypes", "-c", source, "-o", tmp_path / "usage.o")
    rpath = f"-Wl,-rpath,{library_path.parent}"
    compile_with("g++", tmp_path / "usage.o", library_path, rpath, "-o", tmp_path / "usage")
    found = np.array(output_of(tmp_path / "usage").split(), dtype=np.float32).reshape(4, *SHAPE)
    spec = tiny_spec(SHAPE)
    *_, (_, state) = sample(half_of_x_t, spec, request_for(spec, n=4, seed=0))
    np.testing.assert_allclose(found, state.x, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- the programs


@pytest.fixture(scope="module")
def programs(made_once):
    """Return the folder with the programs, built by CMake, warnings as errors; unoptimised builds sooner."""
    headers = [path for path in [Path("/usr/include/onnxruntime")] if path.exists()]
    return made_once("c++-programs", build_programs, CPP, which("cmake"), which("g++"), *headers)


def build_programs(folder, kind="None"):
    configured = run(
        [
            tool("cmake"),
            "-S",
            CPP,
            "-B",
            folder,
            f"-DCMAKE_BUILD_TYPE={kind}",
            "-DCMAKE_CXX_FLAGS=-Werror -Og" if kind == "None" else "-DCMAKE_CXX_FLAGS=-Werror",
        ]
    )
    for package, debian in (("onnxruntime", "libonnxruntime-dev"), ("PNG", "libpng-dev")):
        if configured.returncode != 0 and re.search(rf"Could (not|NOT) find .*{package}", configured.stderr.decode()):
            pytest.skip(f"no {package} for C++: apt install {debian}")
    assert configured.returncode == 0, configured.stderr.decode()
    targets = ["--target", "ddpm_sample", "one_call", "control"] if kind == "None" else []
    built = run(["cmake", "--build", folder, "--parallel", "2", *targets])
    assert built.returncode == 0, (built.stdout + built.stderr).decode()


def complaints(done):
    return done.stderr.decode().splitlines()


def sampled(programs, path, out, *arguments):
    done = run([programs / "ddpm_sample", path, "--out", out, *arguments])
    assert done.returncode == 0, complaints(done)
    return json.loads(done.stdout)


def assert_within_a_level(path, images):
    expected = grid(images)
    found = read_image(path, expected.shape[2])
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found == expected).mean() > 0.99


@pytest.mark.torch
def test_the_block_of_the_readme_compiles(tmp_path):
    found = run([tool("pkg-config"), "--cflags", "libonnxruntime"])
    if found.returncode != 0:
        pytest.skip("no onnxruntime for C++: apt install libonnxruntime-dev")
    source = tmp_path / "embed.cpp"
    source.write_text(re.search(r"```cpp\n(.*?)```", (CPP / "README.md").read_text(), re.S).group(1))
    include = found.stdout.decode().split()[0].replace("-I", "-isystem")
    compile_with("g++", include, "-fsyntax-only", source)


@pytest.mark.torch
def test_the_grid_is_python_s(programs, tmp_path):
    out = tmp_path / "grid.png"
    given_inputs = sampled(
        programs, UNET, out, "--n", 18, "--steps", 5, "--seed", 7, "--first", 2
    )  # more than one batch
    assert set(given_inputs) == {"images", "seconds_load", "seconds"}
    assert given_inputs["images"] == 18
    assert 0 < given_inputs["seconds_load"] < given_inputs["seconds"]
    assert_within_a_level(out, generate(UNET, n=18, num_steps=5, seed=7, first=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png"]


@pytest.mark.long
def test_a_release_gives_the_same_grid(programs, tmp_path):
    build_programs(tmp_path, "Release")
    for folder in (programs, tmp_path):
        sampled(folder, UNET, folder / "grid.png", "--n", 2, "--steps", 5)
    assert np.abs(read_image(programs / "grid.png", 1).astype(int) - read_image(tmp_path / "grid.png", 1)).max() <= 1


@pytest.mark.torch
def test_the_golden_image(programs, tmp_path):
    case = json.loads((GOLDEN / "full_image.json").read_text())
    arguments = ["--n", 1, "--steps", case["num_steps"], "--sampler", case["sampler"], "--eta", case["eta"]]
    sampled(programs, UNET, tmp_path / "one.png", *arguments, "--seed", case["seed"], "--first", case["first"])
    found = read_image(tmp_path / "one.png", 1).astype(int)
    assert np.abs(found - np.array(case["pixels"]).reshape(case["shape"])).max() <= 1


LEARNED = {"variance": "learned", "requires": ("variance_fraction",)}
PLANNED = {"plans": {"third": third_order(tiny_spec())}}


def told_model(spec=None):
    """Return a file that is told all four kinds of input, each as data that nobody says, and time as a float."""
    inputs = (
        Input("y", "label", none=3, classes=("b", "b, c", "a/b c")),
        Input("strength", "vector", (2,), none=0.5),
        Input("low_res", "image", (3, 2, 2), none=-0.25),
        Input("x_0_prev", "previous", GREY),
    )
    spec = spec or tiny_spec(inputs=inputs, requires=("inputs", "fractional_t"), plans=PLANNED["plans"])
    shapes = {"x_t": (1, ["batch", *GREY]), "t": (1, ["batch"])}
    for entry in inputs:
        kind = TensorProto.INT64 if entry.kind == "label" else TensorProto.FLOAT
        shapes[entry.name] = (kind, ["batch", *entry.shape])
    nodes = [
        node("Cast", ["y"], "y_float", to=TensorProto.FLOAT),
        node("ReduceMean", ["strength", "axis"], "mean_strength", keepdims=0),
        node("ReduceMean", ["low_res", "axes"], "mean_low_res", keepdims=0),
        node("Mul", ["t", "hundredth"], "t_small"),
        node("Sum", ["y_float", "mean_strength", "mean_low_res", "t_small"], "told"),
        node("Reshape", ["told", "column"], "shift"),
        node("Mul", ["x_0_prev", "half"], "memory"),
        node("Sum", ["x_t", "memory", "shift"], "sum"),
        node("Tanh", ["sum"], "eps"),
    ]
    values = [constant("hundredth", 0.01), constant("half", 0.5), constant("column", [-1, 1, 1, 1], np.int64)]
    values += [constant("axis", [1], np.int64), constant("axes", [1, 2, 3], np.int64)]
    return onnx_file(nodes, values, spec, inputs=shapes)


@pytest.mark.torch
@representative(
    ("make", "spec", "settings"),
    [
        (mix_model, tiny_spec(), {}),
        (mix_model, tiny_spec(), {"num_steps": 9}),
        (mix_model, tiny_spec(COLOUR), {"eta": 0.5}),
        (mix_model, tiny_spec(COLOUR, prediction="v"), {"sampler": "ddpm"}),
        (mix_model, tiny_spec(prediction="x_0", variance="fixed_large"), {"sampler": "ddpm"}),
        (learned_model, tiny_spec(**LEARNED), {"sampler": "ddpm"}),
        (learned_model, tiny_spec(**LEARNED), {"sampler": "ddim"}),
        (mix_model, tiny_spec(), {"times": (33, 20, 7, 3)}),
        (mix_model, tiny_spec(COLOUR, defaults=Defaults(num_steps=3, times=(39, 20, 3)), requires=("times",)), {}),
        (mix_model, tiny_spec(**PLANNED), {"plan": "third"}),
        (mix_model, tiny_spec(defaults=Defaults(num_steps=4, plan="third"), requires=("plan",), **PLANNED), {}),
    ],
    by=lambda make, _spec, settings: (make, "plan" in settings),
)
def test_small_models_of_every_kind(programs, tmp_path, make, spec, settings):
    path = tmp_path / "model.onnx"
    path.write_bytes(make(spec))
    if settings and not {"times", "plan"} & set(settings):
        settings = {"num_steps": 9, **settings}
    arguments = []
    for name, value in settings.items():
        text = ",".join(map(str, value)) if name == "times" else value
        arguments += ["--steps" if name == "num_steps" else f"--{name}", text]
    sampled(programs, path, tmp_path / "grid.png", "--n", 5, "--seed", 2**63 - 1, *arguments)
    assert_within_a_level(tmp_path / "grid.png", generate(path, n=5, seed=2**63 - 1, **settings))


@pytest.mark.torch
@representative(
    "settings",
    [
        {"label": "a/b c, none,0 ", "guidance": 2.5, "first": 2},
        {},
        {"plan": "third"},
        {"label": "b", "guidance": 2.5},
        {"label": "b, c"},
        {"label": "none"},
        {"guidance": 0},
        {
            "label": "b",
            "guidance": 2.5,
            "interval": (5, 30),
            "inputs": {"strength": [0.25, -1, 0.5, 1], "low_res": [0.1] * 12},
        },
        {"label": "b", "picture": range(0, 240, 20)},
    ],
    by=lambda settings: "picture" in settings,
    ids=str,
)
def test_a_network_is_told_what_its_spec_lists(programs, tmp_path, settings):
    path = tmp_path / "model.onnx"
    path.write_bytes(told_model())
    session = onnxruntime.InferenceSession(path)

    def model(x_t, t, **inputs):
        return {"eps": session.run(["eps"], {"x_t": x_t, "t": t, **inputs})[0]}

    settings = dict(settings)
    arguments = []
    for name, numbers in settings.pop("inputs", {}).items():
        arguments += ["--input", f"{name}={','.join(map(str, numbers))}"]
    if picture := settings.pop("picture", ()):
        pixels = np.array(picture, np.uint8).reshape(1, 2, 2, 3)
        save_images(tmp_path / "low.png", pixels)
        arguments += ["--input", "low_res=1", "--input", f"low_res={tmp_path / 'low.png'}"]
    if interval := settings.pop("interval", ()):
        arguments += ["--guidance-interval", ",".join(map(str, interval))]
    arguments += [word for name, value in settings.items() for word in (f"--{name}", value)]
    sampled(programs, path, tmp_path / "grid.png", "--n", 5, "--seed", 3, *arguments)
    spec = spec_from_json(session.get_modelmeta().custom_metadata_map["ddpm_export"])
    if "label" in settings:
        settings = {**settings, "label": labels_from_text(spec, settings["label"])}
    if interval:
        inputs = {"strength": [[0.25, -1], [0.5, 1]], "low_res": np.full((3, 2, 2), 0.1)}
        settings |= {"guidance": Guidance(settings["guidance"], interval), "inputs": inputs}
    if picture:
        settings["inputs"] = {"low_res": from_uint8(pixels)[0]}
    assert_within_a_level(tmp_path / "grid.png", generate((model, spec), n=5, seed=3, **settings))


@pytest.fixture
def pictures(tmp_path):
    """A folder with a model, two pictures of its size, a mask, and what does not fit."""
    (tmp_path / "m.onnx").write_bytes(mix_model(tiny_spec(COLOUR)))
    rng = np.random.default_rng(0)
    for name, shape in {
        "a": (4, 4, 3),
        "b": (4, 4, 3),
        "small": (2, 2, 3),
        "mask": (4, 4, 1),
        "wide": (4, 5, 3),
    }.items():
        save_images(tmp_path / f"{name}.png", rng.integers(0, 256, (1, *shape), dtype=np.uint8))
    (tmp_path / "no.png").write_bytes(b"no PNG")
    mask = np.array([[0, 0, 100, 255]] * 4, dtype=np.uint8)
    save_images(tmp_path / "mask.png", mask[None, ..., None])
    return tmp_path


OF_PICTURES = {
    "a mask": ("--image a.png --mask mask.png --n 18 --returns 2 --jump 2", {"n": 18, "returns": 2, "jump": 2}),
    "a grey mask": ("--image a.png --mask b.png", {}),
    "strength": ("--image a.png --strength 0.5 --n 3", {"strength": 0.5, "n": 3}),
    "both": ("--image a.png --mask mask.png --strength 0.5", {"strength": 0.5}),
    "grey": ("--image a.png --measure grey", {"measure": "grey"}),
    "average": ("--image small.png --measure average:2", {"measure": "average:2"}),
    "average of all": ("--image a.png --measure average:2", {"measure": "average:2"}),
    "between": ("--between a.png b.png --strength 0.6 --n 18", {"between": True, "strength": 0.6, "n": 18}),
    "nine between": ("--between a.png b.png --strength 0.6", {"between": True, "strength": 0.6}),
}


@pytest.mark.torch
@representative("name", OF_PICTURES, by=lambda name: "between" in name)
def test_pictures_are_edited_as_in_python(programs, pictures, name):
    text, how = OF_PICTURES[name]
    words = [str(pictures / word) if word.endswith(".png") else word for word in text.split()]
    sampled(
        programs, pictures / "m.onnx", pictures / "o.png", *words, "--steps", 6, "--eta", 1, "--seed", 3, "--first", 2
    )
    read = [word for word in words if word.endswith(".png")]
    if "--mask" in words:
        how = {**how, "mask": read_image(read.pop(), 1)[..., 0]}
    images = np.stack([read_image(path, 3) for path in read])
    assert_within_a_level(
        pictures / "o.png",
        edit(pictures / "m.onnx", images, num_steps=6, sampler="ddim", eta=1.0, seed=3, first=2, **how),
    )


BAD_PICTURES = [
    ("--image wide.png --mask mask.png", 2, "wide.png must have 4 x 4 pixels, got 5 x 4."),
    ("--image small.png --strength 0.5", 2, "small.png must have 4 x 4 pixels, got 2 x 2."),
    ("--image a.png --mask small.png", 2, "small.png must have 4 x 4 pixels, got 2 x 2."),
    ("--image small.png --measure average:3", 2, "measure average:K must divide 4 x 4 pixels, got 3."),
    ("--image no.png --strength 0.5", 3, "no.png is not a picture that can be read"),
    ("--image none.png --strength 0.5", 3, "none.png: no such file."),
    ("--image a.png", 2, "There must be a picture, and a mask, a measure or a strength."),
    ("--strength 0.5", 2, "There must be a picture, and a mask, a measure or a strength."),
    ("--image a.png --strength 2", 2, "strength must be above 0 and at most 1, got 2."),
    ("--image a.png --strength x", 2, "--strength must be a number"),
    ("--image a.png --between a.png b.png", 2, "Of --image and --between there must be only one."),
    ("--between a.png", 2, "--between must name a picture."),
    ("--between a.png b.png --n 1 --strength 0.5", 2, "at least 2 images"),
]


@pytest.mark.torch
@representative(("text", "code", "words"), BAD_PICTURES, by=lambda _text, code, _words: code)
def test_bad_pictures_are_refused_in_one_line(programs, pictures, text, code, words):
    named = [str(pictures / word) if word.endswith(".png") else word for word in text.split()]
    done = run([programs / "ddpm_sample", pictures / "m.onnx", "--out", pictures / "o.png", *named])
    (line,) = complaints(done)
    assert (done.returncode, done.stdout) == (code, b""), line
    assert words in line
    assert not (pictures / "o.png").exists()


def refusals():
    sound = mix_model()
    wide = onnx_file([node("Concat", ["x_t", "x_t"], "eps", axis=3)], outputs={"eps": (1, ["batch", 1, 6, "width"])})
    return [
        (sound, ["--nonsense", "1"], 2, "There is no option '--nonsense'."),
        (sound, ["--n", "x"], 2, "--n must be a number within 64 bits, got 'x'."),
        (sound, ["--n", "3.5"], 2, "--n must be a number within 64 bits, got '3.5'."),
        (sound, ["--seed", str(2**63)], 2, "--seed must be a number within 64 bits"),
        (sound, ["--n"], 2, "--n must be a number within 64 bits, got ''."),
        (sound, ["--n", "0"], 2, "n must be at least 1, got 0."),
        (sound, ["--n", str(2**32), "--first", "1"], 2, "Numbers of images must be from 0 to 2^32 - 1"),
        (sound, ["--seed", "-1"], 2, "seed must be from 0 to 2^63 - 1, got -1."),
        (sound, ["--steps", "41"], 2, "The number of steps must be from 1 to 40, the model's own, got 41."),
        (sound, ["--times", "9,3,x"], 2, "--times must be a number within 64 bits, got 'x'."),
        (sound, ["--times", ""], 2, "--times must be a number within 64 bits, got ''."),
        (sound, ["--times", "3,9"], 2, "times must strictly fall from at most 39 to at least 0, got 3, 9."),
        (
            sound,
            ["--times", "9,3", "--steps", "3"],
            2,
            "num_steps must be left out or be the number of times, 2, got 3.",
        ),
        (sound, ["--plan", "two"], 2, "plan must be one of none, for the model carries none, got 'two'."),
        (
            mix_model(spec=tiny_spec(**PLANNED)),
            ["--plan", "third", "--eta", "0"],
            2,
            "plan third already fixes the steps. Drop eta.",
        ),
        (sound, ["--sampler", "euler"], 2, "sampler must be one of ddpm, ddim, got 'euler'."),
        (sound, ["--eta", "1.5"], 2, "eta must be between 0 and 1, got 1.5."),
        (sound, ["--sampler", "ddpm", "--eta", "0"], 2, "eta does not apply to ddpm."),
        (sound, ["another.onnx"], 2, "There must be one MODEL, got 'another.onnx' as a second one."),
        (mix_model(tiny_spec((2, 4, 4))), [], 2, "a PNG has 1 or 3 channels, got 2."),
        (b"not a model", [], 3, "it has no readable protobuf"),
        (onnx_file([], metadata=""), [], 3, "ONNX Runtime cannot load it"),
        (scale_model(metadata=""), [], 3, "no metadata 'ddpm_export'"),
        (scale_model(metadata="{"), [], 3, "The model's spec is not JSON"),
        (scale_model(metadata=json_from_spec(tiny_spec(prediction="v"))), [], 3, "graph and spec disagree"),
        (scale_model(metadata=json_from_spec(tiny_spec((1, 5, 6)))), [], 3, "graph and spec disagree"),
        (told_model(tiny_spec()), [], 3, "graph and spec disagree"),
        (told_model(tiny_spec(inputs=EVERY_INPUT[:4], requires=("inputs",))), [], 3, "graph and spec disagree"),
        (
            told_model(tiny_spec(inputs=EVERY_INPUT[:4], requires=("inputs", "fractional_t"))),
            [],
            2,
            "Input 'low_res', of",
        ),
        (
            told_model(),
            ["--label", "d"],
            2,
            "Input 'y' must be one of b, b, c, a/b c or its index from 0 to 2, got 'd'.",
        ),
        (told_model(), ["--guidance", "x"], 2, "--guidance must be a number within 64 bits, got 'x'."),
        (
            told_model(),
            ["--guidance-interval", "1,9"],
            2,
            "--guidance-interval needs --guidance, since the model has no",
        ),
        (told_model(), ["--guidance-interval", "1"], 2, "--guidance-interval must be two times, such as 100,800, got"),
        (told_model(), ["--input", "strength"], 2, "--input must be given as NAME=NUMBERS or NAME=X.png, got 'stre"),
        (
            told_model(),
            ["--input", "strength=a.png"],
            2,
            "--input 'strength' must be an image of 1 or 3 channels to be",
        ),
        (told_model(), ["--input", "low_res=nowhere.png"], 3, "nowhere.png: "),
        (told_model(), ["--input", f"low_res={PICTURE}"], 2, " must have 2 x 2 pixels, got 28 x 28."),
        (told_model(), ["--input", "strength=x"], 2, "--input must be a number within 64 bits, got 'x'."),
        (told_model(), ["--input", "other=1"], 2, "The model has no input 'other'"),
        (told_model(), ["--guidance", "101"], 2, "guidance must be a number from 0 to 100, got 101."),
        (sound, ["--guidance", "2"], 2, "guidance must be 1 for a network that has not learned to do without a class"),
        (sound, ["--label", "a"], 2, "label does not apply to a network that is told no class."),
        (wide, [], 3, "the graph does not run"),
        (scale_model(metadata=refused_json()), [], 4, "The model needs a reader of 'audio', and this version knows"),
        (
            scale_model(spec=tiny_spec(defaults=Defaults(sampler="euler", num_steps=4))),
            [],
            4,
            "default sampler, 'euler'",
        ),
        (sick_model(29), [], 6, "At step 2 (t = 29), image 0 became NaN or infinite."),
        (sick_model(9, sick=np.inf), ["--first", "7"], 6, "At step 4 (t = 9), image 7 became NaN or infinite."),
    ]


def refused_json():
    return json.dumps({**json.loads(json_from_spec(tiny_spec())), "requires": ["audio"]})


@pytest.mark.torch
@representative(
    ("file", "arguments", "code", "words"),
    [pytest.param(*case, id=f"{case[2]} {case[3][:30]}") for case in refusals()],
    by=lambda _file, _arguments, code, _words: code,
)
def test_refusals_are_one_line(programs, tmp_path, file, arguments, code, words):
    path = tmp_path / "model.onnx"
    path.write_bytes(file)
    done = run([programs / "ddpm_sample", path, "--out", tmp_path / "grid.png", *arguments])
    assert done.returncode == code, complaints(done)
    assert done.stdout == b""
    (line,) = complaints(done)
    assert words in line
    assert line.endswith(".")
    assert line.removeprefix("error: ").count(". ") <= 1  # a sentence or two
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]  # nothing half done is left


@pytest.mark.torch
def test_places_that_cannot_be(programs, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(mix_model())
    for arguments, code, words in [
        ([tmp_path / "none.onnx", "--out", tmp_path / "a.png"], 3, "no such file"),
        ([tmp_path / "\x1b[2J\x07.onnx", "--out", tmp_path / "a.png"], 3, r"\x1b[2J\x07.onnx"),
        ([path, "--out", tmp_path / "none" / "a.png"], 5, "cannot be written"),
        ([path, "--out", tmp_path], 5, "cannot be written"),
        ([], 2, "MODEL is missing"),
    ]:
        done = run([programs / "ddpm_sample", *arguments])
        assert done.returncode == code
        assert done.stdout == b""
        (line,) = complaints(done)
        assert words in line
    done = run([programs / "ddpm_sample", "--help"])
    assert (done.returncode, done.stdout[:6]) == (0, b"usage:")


@pytest.fixture(scope="module")
def sampler_file(shipped_exports):
    return shipped_exports / "closed.sampler.onnx"


@pytest.mark.torch
def test_one_call_gives_python_s_grid(programs, sampler_file, tmp_path):
    assert len((CPP / "one_call.cpp").read_text().splitlines()) < 60
    out = tmp_path / "grid.png"
    done = run([programs / "one_call", sampler_file, 3, 7, out, 2])
    assert done.returncode == 0, complaints(done)
    assert_within_a_level(out, generate(sampler_file, n=3, seed=7, label=2))


@pytest.mark.torch
@representative("label", [1, None, 2])
def test_one_call_with_and_without_a_class(programs, tmp_path, label):
    own = Input("y", "label", none=3, classes=("a", "b", "c"))
    spec = tiny_spec(**({} if label is None else {"inputs": (own,), "requires": ("inputs",)}))
    content = mix_model(spec) if label is None else classes_file(spec, [-0.75, 0.5, 0.75, 0.125], 0.5)
    path = tmp_path / "unet.sampler.onnx"
    onnx.save(sampler_from_denoiser(onnx.load_from_string(content), spec_of_graph(spec, "sampler", ())), path)
    done = run([programs / "one_call", path, 3, 7, tmp_path / "grid.png", *([] if label is None else [label])])
    assert done.returncode == 0, complaints(done)
    assert_within_a_level(tmp_path / "grid.png", generate(path, n=3, seed=7, label=label))


def test_one_call_refuses(programs, sampler_file, tmp_path):
    out = tmp_path / "grid.png"
    for arguments, code, words in [
        ([sampler_file, 1, 7], 2, "3 arguments"),
        ([sampler_file, "x", 7, out], 2, "no number"),
        ([tmp_path / "none.onnx", 1, 7, out], 3, "none.onnx"),
        ([UNET, 1, 7, out], 3, "seed"),
        ([sampler_file, 1, 7, out], 3, "y"),
        ([sampler_file, 1, 7, out, 11], 3, "y must be 0 to 10"),
        ([sampler_file, 0, 7, out, 1], 3, "n must be 1 or more"),
        ([sampler_file, 1, 7, tmp_path / "none" / "grid.png", 1], 5, "cannot be written"),
    ]:
        done = run([programs / "one_call", *arguments])
        assert done.returncode == code, complaints(done)
        (line,) = complaints(done)
        assert words in line
        assert not out.exists()


folder = pytest.fixture(folder_with_secret)


@pytest.fixture(scope="module", params=BUILDS)
def trouble(made_once, request):
    """Return path -> what external_data.hpp says of a file."""

    def make(folder):
        source = "int main(int, char** argv) { std::fputs(external_data::trouble(argv[1]).c_str(), stdout); }"
        (folder / "trouble.cpp").write_text(f'#include "external_data.hpp"\n#include <cstdio>\n{source}\n')
        compile_with("g++", *FLAGS[request.param], folder / "trouble.cpp", "-o", folder / "trouble")

    folder = made_once(f"trouble-{request.param}", make, CPP / "external_data.hpp", Path(__file__), which("g++"))
    return lambda path: output_of(folder / "trouble", path).decode()


def assert_refused_as_unsafe(programs, path, out, words):
    for command in (["ddpm_sample", path, "--n", 1, "--steps", 1, "--out", out], ["one_call", path, 1, 1, out]):
        done = run([programs / command[0], *command[1:]])
        (line,) = complaints(done)
        assert (done.returncode, done.stdout) == (3, b""), line
        assert words in line
        assert line.isprintable()
        assert not out.exists()


@pytest.mark.torch
def test_weights_in_a_file_beside_are_read(programs, folder, tmp_path):
    (folder / "m.onnx").write_bytes(scale_model(weight=external("m.onnx.data")))
    (folder / "whole.onnx").write_bytes(scale_model())
    for name in ("m", "whole"):
        sampled(programs, folder / f"{name}.onnx", tmp_path / f"{name}.png", "--n", 2, "--steps", 2)
    assert (tmp_path / "m.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


@pytest.mark.parametrize("location", [*OUTSIDE, "../\x1b[31m\n\u00e9"])
def test_weights_outside_the_folder_are_found(trouble, folder, location):
    location = location.replace("{absolute}", str(folder.parent / "secret"))
    (folder / "m.onnx").write_bytes(scale_model(weight=external(location)))
    given_inputs = trouble(folder / "m.onnx")
    assert given_inputs.startswith("weights outside the model's folder, in '")
    assert given_inputs.isprintable()


OTHER_TROUBLES = {
    "a pipe": ("pipe", 120, 0, {}, "weights in 'pipe', which is not a file"),
    "the folder": (".", 120, 0, {}, "weights in '.', which is not a file"),
    "beyond the end": ("m.onnx.data", 120, 4, {}, "weights that go beyond the end of 'm.onnx.data'"),
    "an overflow": ("m.onnx.data", 2**63, 2**63, {}, "weights that go beyond the end of 'm.onnx.data'"),
    "a long number": ("m.onnx.data", 2**64, 0, {}, "weights whose length or offset is not an integer from 0"),
    "a negative one": ("m.onnx.data", 120, -4, {}, "weights whose length or offset is not an integer from 0"),
    "two locations": ("m.onnx.data", 120, 0, {"location": ""}, "weights that do not say plainly where they are"),
    "prepacked": ("m.onnx.data", 120, 0, {"prepacked_0": "x"}, "weights that do not say plainly where they are"),
}


@pytest.mark.parametrize(("location", "length", "offset", "more", "words"), OTHER_TROUBLES.values(), ids=OTHER_TROUBLES)
def test_weights_that_lie_are_found(trouble, folder, location, length, offset, more, words):
    os.mkfifo(folder / "pipe")
    weight = external(location, length, offset)
    for key, value in more.items():
        weight.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(scale_model(weight=weight))
    with pytest.raises(BadFileError):
        check_external_data(folder / "m.onnx")
    assert trouble(folder / "m.onnx") == words


@pytest.mark.parametrize("operator", ["RegexFullMatch", "Tokenizer"])
def test_an_operator_that_matches_text_is_found(trouble, folder, operator):
    (folder / "m.onnx").write_bytes(text_model(operator, "(\x1b[2J"))
    assert trouble(folder / "m.onnx") == f"the operator {operator}, which matches text, as no image model needs"


@pytest.mark.parametrize("location", ["m.onnx.data", "./m.onnx.data", "up/inside/x", "..x", "missing"])
def test_weights_inside_the_folder_are_no_trouble(trouble, folder, location):
    (folder / "m.onnx").write_bytes(scale_model(weight=external(location)))
    check_external_data(folder / "m.onnx")
    assert trouble(folder / "m.onnx") == ""


@pytest.mark.torch
@representative("location", ["../secret", "link", "*/_ORT_MEM_ADDR_/*"])
def test_programs_refuse_weights_outside_the_folder(programs, folder, location):
    (folder / "m.onnx").write_bytes(scale_model(weight=external(location)))
    words = f"weights outside the model's folder, in '{location}'"
    assert_refused_as_unsafe(programs, folder / "m.onnx", folder / "a.png", words)


def ways(message, goal):
    """Yield the field numbers on the way from one message to another, the shortest way first."""
    waiting = [(message, ())]
    for at, way in waiting:
        if at == goal:
            yield way
        elif len(way) < 5:
            waiting += [(to, (*way, number)) for number, to in LEADS.get(at, {}).items()]


@pytest.mark.parametrize(("message", "number"), [(message, number) for message in LEADS for number in LEADS[message]])
def test_weights_are_found_wherever_onnx_may_have_them(trouble, folder, message, number):
    way = (*next(ways("Model", message)), number, *next(ways(LEADS[message][number], "Entry")))
    content = field(1, b"location") + field(2, b"../secret")
    for entry in reversed(way):
        content = field(99, b"before") + field(entry, content) + field(99, b"behind")
    (folder / "m.onnx").write_bytes(content)
    with pytest.raises(BadFileError, match="weights lie outside"):
        check_external_data(folder / "m.onnx")
    assert trouble(folder / "m.onnx") == "weights outside the model's folder, in '../secret'"


@pytest.mark.parametrize(
    "content",
    [
        b"\x07",
        b"\x00\x00",
        b"\x3a",
        b"\x3a\x05x",
        b"\x3b",
        b"\x09x",
        b"\x08" + b"\xff" * 11,
        field(7, b"\x0a\x09x"),
        *TWICE.values(),
    ],
)
def test_what_cannot_be_read_is_refused_too(trouble, folder, content):
    (folder / "m.onnx").write_bytes(content)
    with pytest.raises(BadFileError, match="not an ONNX file"):
        check_external_data(folder / "m.onnx")
    assert trouble(folder / "m.onnx") == "no readable protobuf"
    assert trouble(folder) == "no readable protobuf"


def test_mutants_are_judged_as_in_python(trouble, folder):
    rng = random.Random(3)
    sound = scale_model(weight=external("../secret"))
    verdicts = set()
    for _ in range(150):
        mutant = bytearray(sound)
        for _ in range(rng.randint(1, 3)):
            mutant[rng.randrange(len(mutant))] = rng.choice([0, 1, 10, 58, 127, 128, 255, rng.randrange(256)])
        (folder / "m.onnx").write_bytes(mutant)
        try:
            check_external_data(folder / "m.onnx")
            expected = ""
        except BadFileError as exc:
            expected = "no readable protobuf" if "not an ONNX file" in str(exc) else "weights"
        found = trouble(folder / "m.onnx")
        assert found.startswith(expected), (bytes(mutant), found)
        assert bool(found) == bool(expected), (bytes(mutant), found)
        verdicts.add(expected)
    assert len(verdicts) == 3


@pytest.mark.torch
def test_a_tag_that_hides_the_graph_is_refused(programs, folder):
    content = scale_model(weight=external("../secret"))
    at = content.index(b"\x3a")  # field 7, the graph
    hidden = content[:at] + bytes([0xBA, 0x80, 0x80, 0x80, 0x10]) + content[at + 1 :]  # protobuf drops bit 32
    (folder / "m.onnx").write_bytes(hidden)
    assert_refused_as_unsafe(programs, folder / "m.onnx", folder / "a.png", "no readable protobuf")


@pytest.mark.torch
@representative("kind", ["device", "pipe"])
def test_a_device_or_a_pipe_is_not_replaced(programs, sampler_file, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to("/dev/full")  # not itself: it would be gone if this test failed
    before = os.lstat(out)
    for command in (
        ["ddpm_sample", UNET, "--n", 1, "--steps", 1, "--out", out],
        ["one_call", sampler_file, 1, 1, out, 1],
    ):
        done = run([programs / command[0], *command[1:]])
        (line,) = complaints(done)
        assert (done.returncode, done.stdout) == (5, b"")
        assert "cannot be written" in line
        assert (os.lstat(out).st_ino, os.lstat(out).st_mode) == (before.st_ino, before.st_mode)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
