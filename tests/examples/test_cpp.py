"""The C++ core, its C interface and its programs: against the golden files, against Python, and against bad input."""

import copy
import ctypes
import functools
import hashlib
import json
import math
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import run_apart
from models import COLOUR, learned_model, mix_model, node, onnx_file, scale_model, sick_model, tiny_spec

from ddpm_export import generate
from ddpm_export.diffusion import denoiser, noise_std, trajectory
from ddpm_export.errors import BadFileError, DdpmExportError
from ddpm_export.generation import sample, settings_for
from ddpm_export.images import grid, read_image, to_uint8
from ddpm_export.noise import noise_stream, normal_table, normals_from_words
from ddpm_export.runtimes import open_model
from ddpm_export.samplers import ddim, ddpm
from ddpm_export.spec import json_from_spec, spec_from_json

ROOT = Path(__file__).parent.parent.parent
CPP = ROOT / "examples" / "cpp"
CORE = Path(__file__).parent / "cpp" / "core.cpp"
GOLDEN = ROOT / "tests" / "golden"
UNET = ROOT / "exported" / "unet.onnx"

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
SANITIZED = ["-O0", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
FLAGS = {"O0": ["-O0"], "O3": ["-O3"], "native": ["-O3", "-march=native"], "sanitized": SANITIZED}
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


def run(command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, timeout=300, check=False, **options)


def compile_with(compiler, *arguments):
    """Run a compiler; assert that it neither fails nor warns."""
    standard = "-std=c11" if compiler in ("gcc", "clang") else "-std=c++17"
    done = run([tool(compiler), standard, *WARNINGS, "-I", CPP, *arguments])
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Return compiler, flags -> core.cpp built so; each kind is built once."""
    folder = tmp_path_factory.mktemp("core")

    @functools.cache
    def build(compiler, flags):
        program = folder / f"core-{compiler}-{flags}"
        compile_with(compiler, *FLAGS[flags], CORE, "-o", program)
        return program

    return build


def output_of(program, *arguments):
    done = run([program, *arguments])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


# ------------------------------------------------------------------------------------------------------------- the core


@pytest.mark.torch
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_core_keeps_its_promises(core, compiler, flags):
    output_of(core(compiler, flags), "check", GOLDEN)


def test_core_holds_the_table(core):
    entries = np.array(output_of(core("g++", "O0"), "table").split(), dtype="<i4")
    golden = json.loads((GOLDEN / "normals.json").read_text())
    assert entries.size == math.prod(golden["table_shape"])
    assert hashlib.sha256(entries.tobytes()).hexdigest() == golden["table_sha256"]
    assert np.array_equal(entries.reshape(32, 257), normal_table())


def test_noise_is_equal_to_the_bit(core):
    lines = output_of(core("g++", "O0"), "noise", GOLDEN).decode().split()
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
    found = output_of(core("g++", "O0"), "numbers", path).split()
    assert [int(word, 16) for word in found] == [struct.unpack("<Q", struct.pack("<d", float(x)))[0] for x in texts]


def half_of_x_t(x_t, _t):
    return {"eps": np.float32(0.5) * x_t}


def open_spec(path):
    return open_model(path, provider="cpu")[1]


STRANGE = [None, True, 0, -1, 1, 1.5, 0.25, 1e300, 10**400, "x", "", "learned", [], [1], [0.5, 0.5], ["y"], [[]], {}]
STRANGE += [[1, 6, 5.0], [1, -6, 5], [1, 6, 2**26], [-1, 1], [-1, True], ["variance_fraction"], [1.0, 0.5], [0.5, 0.0]]


def faults():
    """Return specs as JSON: each key absent, and each in turn with each strange value."""
    sound = json.loads(json_from_spec(tiny_spec()))
    texts = [json.dumps(sound), json.dumps({**sound, "a key of later": [1, {"x": None}]}), json.dumps([sound])]
    for prediction in ("v", "x_0"):
        texts.append(
            json.dumps({**sound, "prediction": prediction, "alphas_cumprod": [0.5, 0.0], "defaults": ONE_STEP})
        )
    texts.append(json.dumps({**sound, "variance": "learned", "requires": ["variance_fraction"]}))
    texts += [json.dumps({**sound, "name": name}) for name in ("é" * 200, "é" * 201, '\U0001f600\u2028\\"/\b\f\n\r\t')]
    texts += [
        json.dumps({**sound, "format": name}) for name in ("ddpm-export/1.7", "ddpm-export/2", "ddpm-export/", "x")
    ]
    texts += [json.dumps({**sound, "noise": name}) for name in ("philox4x32-10/icdf-q20/2", 1)]
    for key in sound:
        texts.append(json.dumps({name: value for name, value in sound.items() if name != key}))
        texts += [json.dumps({**sound, key: value}) for value in STRANGE]
    for key in sound["defaults"]:
        texts.append(json.dumps({**sound, "defaults": {k: v for k, v in sound["defaults"].items() if k != key}}))
        for value in STRANGE:
            changed = copy.deepcopy(sound)
            changed["defaults"][key] = value
            texts.append(json.dumps(changed))
    nested = [f'{{"x": {"[" * depth}{"]" * depth}, {texts[0][1:]}' for depth in (30, 31, 32, 100)]
    numbers = [
        texts[0].replace("1.0,", f"{text},", 1) for text in ("01", "1.", ".5", "+1", "1e", "1e999", "NaN", "1E0")
    ]
    endings = [texts[0] + ending for ending in (" \n\r\t", "x", "{}", ",")]
    strings = [texts[0].replace('"tiny"', text) for text in (r'"\x"', r'"\u12g4"', r'"\ud83d\ude00"', '"\t"', "'a'")]
    return texts + nested + numbers + endings + strings + ["", " ", "{", "[]", "nul", '"', "{,}", '{"a" 1}', "[1,]"]


ONE_STEP = {"sampler": "ddim", "num_steps": 1, "eta": 0}


def mutants():
    """Return the shipped spec with a few bytes changed, as bytes; none has a NUL, which separates them."""
    rng = random.Random(1)
    sound = json_from_spec(tiny_spec(name="é \u20ac", source={"x": 1.5})).encode()
    result = []
    for _ in range(1500):
        changed = bytearray(sound)
        for _ in range(rng.choice((1, 1, 2, 3))):
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
    ]
    return f"0 {spec.name} {' '.join(map(str, numbers))}".encode("utf-8", "surrogatepass")


@pytest.mark.torch
def test_specs_get_the_verdict_that_python_gives(core, tmp_path):
    texts = [text.encode() for text in faults()] + mutants()
    expected = [verdict_of(text) for text in texts]
    assert {line[:1] for line in expected} == {b"0", b"3", b"4"}
    assert sum(line[:1] == b"0" for line in expected) > 100  # the comparison is not of refusals alone
    path = tmp_path / "texts"
    path.write_bytes(b"\0".join(text or b" " for text in texts) + b"\0")
    found = output_of(core("g++", "sanitized"), "verdicts", path)
    names = b"".join(line + b"\n" for line in expected)
    assert found == names


@pytest.mark.torch
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_hostile_bytes_are_refused_without_a_crash(core, compiler, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json_from_spec(open_spec(UNET)))
    output_of(core(compiler, "sanitized"), "fuzz", path)


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_fast_math_is_refused(compiler, tmp_path):
    source = tmp_path / "empty.cpp"
    source.write_text('#include "ddpm.hpp"\n')
    command = [tool(compiler), "-std=c++17", "-I", CPP, "-E", source, "-o", tmp_path / "preprocessed"]
    assert run(command).returncode == 0
    for flag in ("-ffast-math", "-Ofast", "-ffinite-math-only"):
        done = run([*command, flag])
        assert done.returncode != 0
        assert b"compiled with -ffast-math" in done.stderr


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
    compile_with("g++", "-O1", source, "-o", tmp_path / "usage")
    lines = output_of(tmp_path / "usage").decode().splitlines()
    states = list(
        ddim(
            denoiser(half_of_x_t, spec),
            noise_stream(7, range(4), spec.image_shape),
            trajectory(spec, 50),
        )
    )
    assert [line.split(",")[0] for line in lines[:50]] == [f"t = {state.step.t}" for state in states]
    pixels = np.array(lines[50:], dtype=np.int64).reshape(4, 6, 5, 1)
    assert np.abs(pixels - to_uint8(states[-1].x)).max() <= 1


# ------------------------------------------------------------------------------------------------------ the C interface


class Step(ctypes.Structure):
    _fields_ = [("i", ctypes.c_uint32), ("t", ctypes.c_int64), ("a", ctypes.c_double), ("a_prev", ctypes.c_double)]


class Evaluation(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_size_t),
        ("x_t", ctypes.POINTER(ctypes.c_float)),
        ("t", ctypes.c_int64),
        ("prediction", ctypes.POINTER(ctypes.c_float)),
        ("variance_fraction", ctypes.POINTER(ctypes.c_float)),
    ]


class Settings(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("num_steps", ctypes.c_int64),
        ("sampler", ctypes.c_char_p),
        ("eta", ctypes.c_double),
    ]


FLOATS = ctypes.POINTER(ctypes.c_float)
MODEL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Evaluation))
PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, FLOATS, FLOATS)
SHAPE = (1, 6, 5)
SIZE = math.prod(SHAPE)


def fractions_of(x_t):
    return 1 / (1 + np.exp(-x_t))


def python_model(x_t, t):
    return {"eps": np.tanh(x_t) / 2, "variance_fraction": fractions_of(x_t)}


@MODEL
def network(context, evaluation):
    """`python_model` as a C callback; a context means a network that cannot answer."""
    if context:
        return 7
    asked = evaluation.contents
    x_t = np.ctypeslib.as_array(asked.x_t, shape=(asked.batch * SIZE,))
    np.ctypeslib.as_array(asked.prediction, shape=x_t.shape)[:] = np.tanh(x_t) / 2
    if asked.variance_fraction:
        np.ctypeslib.as_array(asked.variance_fraction, shape=x_t.shape)[:] = fractions_of(x_t)
    return 0


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "libddpm.so"
    compile_with("g++", "-O2", "-shared", "-fPIC", CPP / "ddpm.cpp", "-o", path)
    found = ctypes.CDLL(str(path))
    found.ddpm_spec_prediction.restype = ctypes.c_char_p
    found.ddpm_spec_alphas_cumprod.restype = ctypes.POINTER(ctypes.c_double)
    found.ddpm_noise_std.restype = ctypes.c_double
    return found


@pytest.fixture
def spec():
    return tiny_spec(SHAPE, variance="learned", requires=("variance_fraction",))


@pytest.fixture
def handle(library, spec):
    text = json_from_spec(spec).encode()
    pointer = ctypes.c_void_p()
    assert library.ddpm_spec_from_json(text, ctypes.c_size_t(len(text)), ctypes.byref(pointer), None) == 0
    yield pointer
    library.ddpm_spec_free(pointer)


class Message(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char * 512)]

    def __str__(self):
        return self.text.decode()


def floats(array):
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    return array.ctypes.data_as(FLOATS)


def steps_of(library, handle, num_steps):
    steps = (Step * num_steps)()
    assert library.ddpm_trajectory(handle, ctypes.c_int64(num_steps), steps, None) == 0
    return steps


def draw_of(library, images, draw):
    numbers = (ctypes.c_int64 * len(images))(*images)
    z = np.empty((len(images), *SHAPE), dtype=np.float32)
    shape = (ctypes.c_int64 * 3)(*SHAPE)
    assert (
        library.ddpm_noise_stream(
            ctypes.c_int64(5), numbers, ctypes.c_size_t(len(images)), shape, 0, ctypes.c_uint32(draw), floats(z), None
        )
        == 0
    )
    return z


def walk(library, name, handle, images, steps, knob, x, *, progress=None, context=None):
    numbers = (ctypes.c_int64 * len(images))(*images)
    knob = ctypes.c_double(knob) if name == "ddim" else knob.encode()
    message = Message(b"not touched")
    code = getattr(library, f"ddpm_{name}")(
        handle,
        network,
        ctypes.c_void_p(context),
        ctypes.c_int64(5),
        numbers,
        ctypes.c_size_t(len(images)),
        steps,
        ctypes.c_size_t(len(steps)),
        knob,
        progress,
        None,
        floats(x),
        ctypes.byref(message),
    )
    return code, str(message)


def test_c_reads_the_spec(library, handle, spec):
    shape, count, settings = (ctypes.c_int64 * 3)(), ctypes.c_size_t(), Settings()
    library.ddpm_spec_image_shape(handle, shape)
    assert tuple(shape) == spec.image_shape
    assert library.ddpm_spec_prediction(handle) == b"eps"
    alphas = library.ddpm_spec_alphas_cumprod(handle, ctypes.byref(count))
    assert tuple(alphas[: count.value]) == spec.alphas_cumprod
    assert library.ddpm_spec_has_variance_fraction(handle) == 1
    library.ddpm_settings_from_spec(handle, ctypes.byref(settings))
    found = [getattr(settings, name) for name, _ in Settings._fields_]
    assert found == [0, 0, 16, spec.defaults.num_steps, spec.defaults.sampler.encode(), spec.defaults.eta]


def test_c_tells_errors_by_code_and_line(library):
    pointer, message = ctypes.c_void_p(1), Message()
    sound = json.loads(json_from_spec(tiny_spec()))
    for text, code, word in [
        ("{", 3, "not JSON"),
        (json.dumps({**sound, "noise": "dice\n" * 500}), 4, r"'dice\x0adice"),
        (json.dumps({**sound, "clip_x_0": -1}), 3, "clip_x_0"),
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
    assert str(message).startswith("steps: out of range. got 11, expected 1 to 10 ")
    assert library.ddpm_spacing(ctypes.c_int64(10), ctypes.c_int64(3), times, ctypes.byref(message)) == 0
    assert str(message) == ""
    assert list(times[:3]) == [9, 5, 2]
    assert library.ddpm_noise_stream(ctypes.c_int64(-1), times, ctypes.c_size_t(1), times, 0, 0, None, None) == 2


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


def test_c_steps_and_denoiser(library, handle, spec):
    expected = trajectory(spec, 7)
    steps = steps_of(library, handle, 7)
    assert [(s.i, s.t, s.a, s.a_prev) for s in steps] == [tuple(step) for step in expected]
    for step, reference in zip(steps, expected, strict=True):
        assert math.isclose(library.ddpm_noise_std(ctypes.byref(step), ctypes.c_double(0.5)), noise_std(reference, 0.5))
    x = draw_of(library, [0, 1], 0)
    x_0, eps, fraction = (np.empty_like(x) for _ in range(3))
    assert (
        library.ddpm_denoiser(
            handle,
            network,
            None,
            ctypes.byref(steps[3]),
            ctypes.c_size_t(2),
            floats(x),
            floats(x_0),
            floats(eps),
            floats(fraction),
            None,
        )
        == 0
    )
    reference = denoiser(python_model, spec)(x, expected[3])
    for found, wanted in zip((x_0, eps, fraction), reference, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


SAMPLERS = [("ddim", 0.0), ("ddim", 0.5), ("ddpm", "fixed_small"), ("ddpm", "fixed_large"), ("ddpm", "learned")]


@pytest.mark.parametrize(("name", "knob"), SAMPLERS)
def test_c_samplers_walk_and_resume_as_python_does(library, handle, spec, name, knob):
    images, steps = [4, 9], steps_of(library, handle, 9)
    noise = noise_stream(5, images, SHAPE)
    knobs = {"eta": knob} if name == "ddim" else {"variance": knob}
    expected = list(
        {"ddim": ddim, "ddpm": ddpm}[name](denoiser(python_model, spec), noise, trajectory(spec, 9), **knobs)
    )
    seen = []

    @PROGRESS
    def progress(_context, step, num_steps, x, x_0):
        flat = 2 * SIZE
        seen.append((step, num_steps, list(x[:flat]), list(x_0[:flat])))
        return 0

    x = draw_of(library, images, 0)
    assert walk(library, name, handle, images, steps, knob, x, progress=progress) == (0, "")
    assert [(step, count) for step, count, _, _ in seen] == [(i, 9) for i in range(1, 10)]
    for (_, _, found, x_0), state in zip(seen, expected, strict=True):
        np.testing.assert_allclose(found, state.x.ravel(), atol=1e-4)
        np.testing.assert_allclose(x_0, state.x_0.ravel(), atol=1e-4)
    assert np.array_equal(x.ravel(), np.array(seen[-1][2], dtype=np.float32))
    again = np.array(seen[3][2], dtype=np.float32).reshape(x.shape)  # the state after step 4
    rest = (Step * 5)(*steps[4:])
    assert walk(library, name, handle, images, rest, knob, again) == (0, "")
    assert np.array_equal(again, x)


def test_c_samplers_stop_where_they_are_told(library, handle):
    images, steps, x = [0], steps_of(library, handle, 9), draw_of(library, [0], 0)
    seen = []

    @PROGRESS
    def stop(_context, step, _num_steps, now, _x_0):
        seen.append(list(now[:SIZE]))
        return int(step == 3)

    code, message = walk(library, "ddim", handle, images, steps, 0.0, x, progress=stop)
    assert code == 130
    assert message.startswith("sampler: cancelled. got a stop after step 3 of 9")
    assert len(seen) == 3
    assert np.array_equal(x.ravel(), np.array(seen[-1], dtype=np.float32))
    for name, knob, context, code, word in [
        ("ddim", 1.5, None, 2, "eta: out of range"),
        ("ddpm", "none", None, 2, "variance: unknown"),
        ("ddim", 0.0, 1, 5, "model: the callback failed. got 7"),
    ]:
        found = walk(library, name, handle, images, steps, knob, draw_of(library, [0], 0), context=context)
        assert found[0] == code
        assert word in found[1]


def test_c_sample_is_python_s(library, handle, spec):
    settings, message = Settings(seed=5, first=3, n=2, num_steps=6, sampler=b"ddpm", eta=0.5), Message()
    x = np.empty((2, *SHAPE), dtype=np.float32)

    def call(progress=None):
        return library.ddpm_sample(
            handle, network, None, ctypes.byref(settings), progress, None, floats(x), ctypes.byref(message)
        )

    assert call() == 0
    chosen = settings_for(spec, n=2, num_steps=6, sampler="ddpm", seed=5, first=3)
    *_, (_, state) = sample(python_model, spec, chosen)
    np.testing.assert_allclose(x, state.x, atol=1e-4)
    pixels = np.empty((2, 6, 5, 1), dtype=np.uint8)
    library.ddpm_to_uint8(
        floats(x), ctypes.c_size_t(2), (ctypes.c_int64 * 3)(*SHAPE), pixels.ctypes.data_as(ctypes.c_void_p)
    )
    assert np.array_equal(pixels, to_uint8(x))
    assert call(PROGRESS(lambda *_: 1)) == 130
    for change, word in [
        ({"n": 0}, "n: too few"),
        ({"seed": -1}, "seed: out"),
        ({"sampler": b"x"}, "sampler: unknown"),
    ]:
        kept = {name: getattr(settings, name) for name in change}
        for name, value in change.items():
            setattr(settings, name, value)
        assert call() == 2
        assert str(message).startswith(word)
        for name, value in kept.items():
            setattr(settings, name, value)
    settings.sampler = None  # the file's own: ddim, which reads eta
    settings.eta = 2.0
    assert call() == 2
    assert str(message).startswith("eta: out of range")


def test_every_function_of_the_c_header_is_tried():
    declared = set(re.findall(r"^DDPM_API .*?(ddpm_\w+)\(", (CPP / "ddpm.h").read_text(), re.M))
    text = Path(__file__).read_text(encoding="utf-8")
    tried = {f"ddpm_{name}" for name in re.findall(r"library\.ddpm_(\w+)\(", text)} | {"ddpm_ddim", "ddpm_ddpm"}
    assert declared == tried


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_block_at_the_top_of_the_c_header_runs(compiler, tmp_path):
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
    compile_with("g++", "-O0", CPP / "ddpm.cpp", tmp_path / "usage.o", "-o", tmp_path / "usage")
    found = np.array(output_of(tmp_path / "usage").split(), dtype=np.float32).reshape(4, *SHAPE)
    spec = tiny_spec(SHAPE)
    *_, (_, state) = sample(half_of_x_t, spec, settings_for(spec, n=4, seed=0))
    np.testing.assert_allclose(found, state.x, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- the programs


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Return the folder with ddpm_sample and one_call, built by CMake with warnings as errors."""
    folder = tmp_path_factory.mktemp("build")
    configured = run([tool("cmake"), "-S", CPP, "-B", folder, "-DCMAKE_CXX_FLAGS=-Werror"])
    for package, debian in (("onnxruntime", "libonnxruntime-dev"), ("PNG", "libpng-dev")):
        if configured.returncode != 0 and re.search(rf"Could (not|NOT) find .*{package}", configured.stderr.decode()):
            pytest.skip(f"no {package} for C++: apt install {debian}")
    assert configured.returncode == 0, configured.stderr.decode()
    built = run(["cmake", "--build", folder, "--parallel", "2"])
    assert built.returncode == 0, (built.stdout + built.stderr).decode()
    return folder


def complaints(done):
    """Return a program's own lines on stderr: Debian's ONNX Runtime adds some about schemas."""
    return [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]


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
    told = sampled(programs, UNET, out, "--n", 18, "--steps", 5, "--seed", 7, "--first", 2)  # more than one batch
    assert set(told) == {"images", "seconds_load", "seconds"}
    assert told["images"] == 18
    assert 0 < told["seconds_load"] < told["seconds"]
    assert_within_a_level(out, generate(UNET, n=18, num_steps=5, seed=7, first=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png"]


@pytest.mark.torch
def test_the_golden_image(programs, tmp_path):
    case = json.loads((GOLDEN / "full_image.json").read_text())
    arguments = ["--n", 1, "--steps", case["num_steps"], "--sampler", case["sampler"], "--eta", case["eta"]]
    sampled(programs, UNET, tmp_path / "one.png", *arguments, "--seed", case["seed"], "--first", case["first"])
    found = read_image(tmp_path / "one.png", 1).astype(int)
    assert np.abs(found - np.array(case["pixels"]).reshape(case["shape"])).max() <= 1


LEARNED = {"variance": "learned", "requires": ("variance_fraction",)}


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "spec", "settings"),
    [
        (mix_model, tiny_spec(), {}),
        (mix_model, tiny_spec(COLOUR), {"eta": 0.5}),
        (mix_model, tiny_spec(COLOUR, prediction="v"), {"sampler": "ddpm"}),
        (mix_model, tiny_spec(prediction="x_0", variance="fixed_large"), {"sampler": "ddpm"}),
        (learned_model, tiny_spec(**LEARNED), {"sampler": "ddpm"}),
        (learned_model, tiny_spec(**LEARNED), {"sampler": "ddim"}),
    ],
)
def test_small_models_of_every_kind(programs, tmp_path, make, spec, settings):
    path = tmp_path / "model.onnx"
    path.write_bytes(make(spec))
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    sampled(programs, path, tmp_path / "grid.png", "--n", 5, "--steps", 9, "--seed", 2**63 - 1, *arguments)
    assert_within_a_level(tmp_path / "grid.png", generate(path, n=5, num_steps=9, seed=2**63 - 1, **settings))


def refusals():
    sound = mix_model()
    wide = onnx_file([node("Concat", ["x_t", "x_t"], "eps", axis=3)], outputs={"eps": (1, ["batch", 1, 6, "width"])})
    return [
        (sound, ["--nonsense", "1"], 2, "option: unknown. got '--nonsense'"),
        (sound, ["--n", "x"], 2, "--n: not a number. got 'x'"),
        (sound, ["--n", "3.5"], 2, "--n: not a number. got '3.5'"),
        (sound, ["--seed", str(2**63)], 2, "--seed: not a number"),
        (sound, ["--n"], 2, "--n: not a number. got ''"),
        (sound, ["--n", "0"], 2, "n: too few. got 0"),
        (sound, ["--n", str(2**32), "--first", "1"], 2, "images: a number is out of range"),
        (sound, ["--seed", "-1"], 2, "seed: out of range. got -1"),
        (sound, ["--steps", "41"], 2, "steps: out of range. got 41, expected 1 to 40"),
        (sound, ["--sampler", "euler"], 2, "sampler: unknown. got 'euler'"),
        (sound, ["--eta", "1.5"], 2, "eta: out of range. got 1.5"),
        (sound, ["--sampler", "ddpm", "--eta", "0"], 2, "eta: has no meaning for ddpm"),
        (sound, ["another.onnx"], 2, "MODEL: given twice"),
        (mix_model(tiny_spec((2, 4, 4))), [], 2, "cannot show 2 channels"),
        (b"not a model", [], 3, "ONNX Runtime cannot load it"),
        (onnx_file([], metadata=""), [], 3, "ONNX Runtime cannot load it"),
        (scale_model(metadata=""), [], 3, "without metadata 'ddpm_export'"),
        (scale_model(metadata="{"), [], 3, "spec: not JSON"),
        (scale_model(metadata=json_from_spec(tiny_spec(prediction="v"))), [], 3, "graph and spec disagree"),
        (scale_model(metadata=json_from_spec(tiny_spec((1, 5, 6)))), [], 3, "graph and spec disagree"),
        (wide, [], 3, "the graph does not run"),
        (
            scale_model(weight=None, spec=tiny_spec(), metadata=refused_json()),
            [],
            4,
            "asks for what this version cannot",
        ),
        (sick_model(29), [], 6, "step 2 (t = 29), image 0: a number is not finite"),
        (sick_model(9, sick=np.inf), [], 6, "step 4 (t = 9), image 0: a number is not finite"),
    ]


def refused_json():
    return json.dumps({**json.loads(json_from_spec(tiny_spec())), "requires": ["y"]})


@pytest.mark.torch
@pytest.mark.parametrize(
    ("file", "arguments", "code", "words"), [pytest.param(*case, id=f"{case[2]} {case[3][:30]}") for case in refusals()]
)
def test_what_cannot_be_is_told_in_one_line(programs, tmp_path, file, arguments, code, words):
    path = tmp_path / "model.onnx"
    path.write_bytes(file)
    done = run([programs / "ddpm_sample", path, "--out", tmp_path / "grid.png", *arguments])
    assert done.returncode == code, complaints(done)
    assert done.stdout == b""
    (line,) = complaints(done)
    assert words in line
    for part in (" got ", ", expected ", " Do "):
        assert part in line
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]  # nothing half done is left


@pytest.mark.torch
def test_places_that_cannot_be(programs, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(mix_model())
    for arguments, code, words in [
        ([tmp_path / "none.onnx", "--out", tmp_path / "a.png"], 3, "no such file"),
        ([path, "--out", tmp_path / "none" / "a.png"], 5, "cannot be written"),
        ([path, "--out", tmp_path], 5, "cannot be written"),
        ([], 2, "MODEL: missing"),
    ]:
        done = run([programs / "ddpm_sample", *arguments])
        assert done.returncode == code
        assert done.stdout == b""
        (line,) = complaints(done)
        assert words in line
    done = run([programs / "ddpm_sample", "--help"])
    assert (done.returncode, done.stdout[:6]) == (0, b"usage:")


@pytest.fixture(scope="module")
def sampler_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampler") / "unet.sampler.onnx"
    made = run_apart(UNET, "--format", "sampler", "--out", path, code="from ddpm_export.cli.export import main; main()")
    assert made.code == 0, made.err
    return path


@pytest.mark.torch
def test_one_call_gives_python_s_grid(programs, sampler_file, tmp_path):
    assert len((CPP / "one_call.cpp").read_text().splitlines()) < 40
    out = tmp_path / "grid.png"
    done = run([programs / "one_call", sampler_file, 3, 5, 7, out])
    assert done.returncode == 0, complaints(done)
    assert_within_a_level(out, generate(UNET, n=3, num_steps=5, seed=7, sampler="ddim", eta=0.0))


@pytest.mark.torch
def test_one_call_refuses(programs, sampler_file, tmp_path):
    out = tmp_path / "grid.png"
    for arguments, code, words in [
        ([sampler_file, 1, 5, 7], 2, "4 arguments"),
        ([sampler_file, "x", 5, 7, out], 2, "no number"),
        ([tmp_path / "none.onnx", 1, 5, 7, out], 3, "none.onnx"),
        ([UNET, 1, 5, 7, out], 3, "seed"),
        ([sampler_file, 1, 1001, 7, out], 3, "steps must be 1 to 1000"),
        ([sampler_file, 1, 1, 7, tmp_path / "none" / "grid.png"], 5, "cannot be written"),
    ]:
        done = run([programs / "one_call", *arguments])
        assert done.returncode == code, complaints(done)
        (line,) = complaints(done)
        assert words in line
        assert not out.exists()
