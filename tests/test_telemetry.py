"""ONNX Runtime's telemetry is off: nothing is kept in the user's folders, and no host is looked up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from models import mix_model
from representative import representative

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
NODE = EXAMPLES / "web" / "node_modules" / "onnxruntime-node"
NAME = "ORT_DISABLE_TELEMETRY"
SECONDS = 12  # ONNX Runtime 1.32 looks its host up some 9 s after it was loaded

SAMPLE = """
import sys, time
from ddpm_export import generate
generate(sys.argv[1], n=1, num_steps=2)
time.sleep(float(sys.argv[2]))
"""
OPEN = """
import os, sys
import ddpm_export
ddpm_export.open_model(sys.argv[1])
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    return tmp_path / "m.onnx"


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def run(home, *command, code=0, **more):
    """Run a program whose user has an empty home and has not said what telemetry may do."""
    kept = {name: value for name, value in os.environ.items() if name != NAME}
    env = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **more}
    done = subprocess.run(
        list(map(str, command)), env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def kept_in(home):
    return [path.name for path in home.rglob("*")]


def test_sampling_keeps_nothing_in_the_user_s_folders(model, home):
    run(home, sys.executable, "-c", SAMPLE, model, 0)
    assert kept_in(home) == []


@pytest.mark.torch  # not of torch, but slow
def test_sampling_opens_no_socket(model, home):
    if shutil.which("strace") is None:
        pytest.skip("no strace: apt install strace")
    trace = home.parent / "trace"
    run(home, "strace", "-f", "-o", trace, "-e", "trace=network", sys.executable, "-c", SAMPLE, model, SECONDS)
    assert [line for line in trace.read_text().splitlines() if "socket(" in line or "connect(" in line] == []


@pytest.mark.parametrize("value", ["0", ""])
def test_what_the_user_set_stays(model, home, value):
    assert run(home, sys.executable, "-c", OPEN, model, **{NAME: value}) == f"{value}\n"


def test_the_one_call_example_keeps_nothing(model, home):
    # a denoiser has no images to give, so that it ends with an error: after ONNX Runtime was imported and opened it
    run(home, sys.executable, EXAMPLES / "python" / "one_call.py", model, 1, 1, 1, home.parent / "a.npy", code=1)
    assert kept_in(home) == []


def test_sampling_on_node_keeps_nothing(model, home):
    if shutil.which("node") is None or not NODE.exists():
        pytest.skip("no node, or no onnxruntime-node: make examples/web/node_modules")
    run(home, "node", EXAMPLES / "web" / "sample.js", model, "--steps", 2, "--n", 1, "--out", home.parent / "a.png")
    assert kept_in(home) == []


@pytest.mark.torch  # not of torch, but slow
@representative(
    ("program", "arguments"), [("one_call", ["1", "1"]), ("ddpm_sample", ["--n", "1", "--steps", "2", "--out"])]
)
def test_the_programs_in_cpp_keep_nothing(model, home, program, arguments):
    # Debian's ONNX Runtime has no telemetry yet: node's package brings a newer library of the same interface
    libraries = NODE / "bin" / "napi-v6" / "linux" / "x64"
    if shutil.which("g++") is None or not Path("/usr/include/onnxruntime").exists() or not libraries.exists():
        pytest.skip("no g++, libonnxruntime-dev or onnxruntime-node")
    built = home.parent / program
    flags = ["-std=c++17", "-isystem", "/usr/include/onnxruntime", f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    source = EXAMPLES / "cpp" / f"{program}.cpp"
    run(home, "g++", *flags, source, "-o", built, "-l:libonnxruntime.so.1", "-lpng", "-lpthread")
    code = 0 if program == "ddpm_sample" else 3  # a denoiser is opened, and then has no inputs of these names
    run(home, built, model, *arguments, home.parent / "a.png", code=code)
    assert kept_in(home) == []
