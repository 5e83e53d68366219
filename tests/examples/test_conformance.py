"""The conformance kit: it passes programs that do what the format says, in any language, and no others."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Ending
from representative import representative

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "examples" / "conformance"
WITHOUT_SPEC = "words,normals,noise,times,levels,trajectory"
ANSWERS = """
import sys
import numpy as np
from ddpm_export.errors import DdpmExportError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec_json import spec_from_json
from ddpm_export.model.steps import plan
from ddpm_export.process.noise import noise_stream, normals_from_words, philox4x32_10
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.schedules import spacing
from ddpm_export.process.walk import walk

sys.path.insert(0, "tests")
from gaussian import gaussian_model, gaussian_spec

def bits(values):
    return values.astype(np.float32).view(np.uint32).ravel()

def trajectory(seed, image, count, steps, eta, clip, mean, std, *alphas):
    alphas = [float(a) for a in alphas]
    spec = gaussian_spec(alphas, "eps", None if clip == "none" else float(clip), (1, 1, int(count)))
    noise = noise_stream(int(seed), [int(image)], spec.state_shape)
    rows = plan(spec, sampler="ddim", num_steps=int(steps), eta=float(eta))
    denoise = denoiser(gaussian_model(alphas, float(mean), float(std)), spec)
    return [f"{x:.9g}" for state in walk(denoise, noise, rows) for x in state.x.ravel()]

def spec(text):
    try:
        spec_from_json(bytes.fromhex(text.strip("-")).decode())
    except DdpmExportError:
        return ["no"]
    return ["yes"]

FAMILIES = {
    "words": lambda *n: philox4x32_10(tuple(np.uint32([w]) for w in n[:4]), (int(n[4]), int(n[5]))),
    "normals": lambda word: bits(normals_from_words(np.uint32([int(word)]))),
    "noise": lambda seed, image, draw, domain, n: bits(
        noise_stream(int(seed), [int(image)], (int(n),), domain=int(domain))(int(draw))
    ),
    "times": lambda T, n: spacing(int(T), int(n)),
    "levels": lambda n: to_uint8(np.uint32([int(n)]).view(np.float32).reshape(1, 1, 1, 1)).ravel(),
    "trajectory": trajectory,
    "spec": spec,
}
for line in sys.stdin:
    family, *words = line.split()
    print(*(int(v[0]) if isinstance(v, np.ndarray) else v for v in FAMILIES[family](*words)))
"""


def scored(*arguments):
    command = [sys.executable, "-m", "ddpm_export.conformance", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    return Ending(done.returncode, done.stdout, done.stderr)


def program(code):
    return ("--", sys.executable, "-c", code)


def test_the_package_itself_passes_every_family():
    ending = scored(*program(ANSWERS))
    assert ending.code == 0, ending
    assert [line.split(": ")[0] for line in ending.out.splitlines()] == [*WITHOUT_SPEC.split(","), "spec"]
    for line in ending.out.splitlines():
        passed, cases = line.split(": ")[1].split("/")
        assert int(passed) == int(cases) > 4
    assert ending.err == ""


WRONG = [  # what is wrong, the family that shows it, what is said of it
    ('"words": lambda *n:', '"words": lambda *n: n[:4] or', "words", "value 0 is '0', expected 1713891541"),
    ("[int(word)]", "[int(word) ^ 1]", "normals", "expected"),
    ("(int(draw))", "(int(draw))[..., ::-1]", "noise", "value 0 is"),
    ("domain=int(domain))", "domain=0)", "noise", "case 5: value 0 is"),
    ("(int(draw))\n", "(int(draw)) * (1 - (np.arange(int(n)) == 20))\n", "noise", "a value from 8 to"),
    ("(int(n),), ", "(int(n) + 1,), ", "noise", "785 values in place of 784"),
    ("spacing(int(T), int(n))", "range(0, int(T), int(T) // int(n))", "times", "expected"),
    ("to_uint8(", "to_uint8(0.99 * ", "levels", "expected"),
    ("eta=float(eta)", "eta=0.0", "trajectory", "2/8; case 3: value 0 is"),
    ("state.x.ravel()", "state.x_0.ravel()", "trajectory", "0/8; case 1: value 0 is"),
    ('f"{x:.9g}"', '"nan"', "trajectory", "0/8; case 1: value 0 is nan"),
    ('f"{x:.9g}"', '"x"', "trajectory", "0/8; case 1: 'x x x"),
    ('return ["no"]', 'return ["yes"]', "spec", "value 0 is 'yes', expected no"),
]


@representative(("right", "wrong", "family", "said"), WRONG, by=lambda _right, _wrong, family, _said: family)
def test_what_is_wrong_is_said_and_fails(right, wrong, family, said):
    assert right in ANSWERS
    ending = scored("--families", family, *program(ANSWERS.replace(right, wrong)))
    assert ending.code == 4, ending
    assert said in ending.out
    assert ending.err.endswith(f"fails 1 of 1 families: {family}.\n")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("pass", "0/6; case 1: no answer; the program ended with code 0"),
        ("import sys; sys.exit(3)", "0/6; case 1: no answer; the program ended with code 3"),
        ("import sys; [print('skip') for line in sys.stdin]", "0/6; case 1: skipped"),
        ("import os; os.write(1, b'\\xff\\0 1 2 3')", "0/6; case 1: value 0 is"),
    ],
)
def test_programs_that_do_not_answer_fail(code, said):
    ending = scored("--families", "words", *program(code))
    assert ending.code == 4, ending
    assert said in ending.out


def test_json_a_missing_program_and_an_unknown_family():
    ending = scored("--json", "--families", "words,times", *program(ANSWERS))
    assert json.loads(ending.out)["families"]["words"] == {"cases": 6, "passed": 6, "skipped": 0, "first_wrong": None}
    assert json.loads(ending.out)["passed"] is True
    assert scored("--", "./no-such-program") == (
        3,
        "",
        "error: ./no-such-program cannot be opened: No such file or directory.\n",
    )
    ending = scored("--families", "words,sound", "--", "true")
    assert ending.code == 2
    assert ending.err == f"error: --families must be of {WITHOUT_SPEC.replace(',', ', ')}, spec, got 'sound'.\n"


LANGUAGES = {  # the tools it needs, how it is built, how it is run
    "rust": ({"rustc": "rustc"}, "rustc --edition 2021 -O -D warnings -o {out} main.rs", "{out}"),
    "go": ({"go": "golang-go"}, "go build -o {out} main.go", "{out}"),
    "csharp": ({"mcs": "mono-mcs", "mono": "mono-runtime"}, "mcs -warnaserror -out:{out} Program.cs", "mono {out}"),
}


@pytest.mark.torch  # no torch, but a compiler
@pytest.mark.parametrize("language", LANGUAGES)
def test_programs_in_other_languages_pass(language, tmp_path):
    tools, build, run = LANGUAGES[language]
    for tool, package in tools.items():
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt install {package}")
    out = tmp_path / "program.exe"
    subprocess.run(build.format(out=out).split(), cwd=PROGRAMS / language, check=True, timeout=300)
    ending = scored("--families", WITHOUT_SPEC, "--", *run.format(out=out).split())
    assert ending == (0, ending.out, "")
    assert ending.out.count("\n") == 6
