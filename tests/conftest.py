"""What every test shares: no network, a small data set, random numbers by pytest-randomly's seed, files made once."""

# ruff: noqa: E402  (the number of threads comes before what starts them)

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import pkgutil
import random
import shutil
import signal
import sys
from pathlib import Path

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
if CORES and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
    # one core for each of several processes, and what it starts; before torch and NumPy start a thread for every core
    os.sched_setaffinity(0, {sorted(CORES)[int(worker.removeprefix("gw")) % len(CORES)]})
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from hypothesis import settings

import ddpm_export
from ddpm_export.importers import apart, folders
from ddpm_export.importers.apart import TorchFile
from ddpm_export.importers.checkpoint import check_is_file, load_torch_file

# a module first imported while a test has replaced something it imports would keep the replacement after the test
for module in pkgutil.walk_packages(ddpm_export.__path__, "ddpm_export."):
    with contextlib.suppress(ImportError):  # of a package that is not installed
        importlib.import_module(module.name)
settings.register_profile("ddpm-export", deadline=None, database=None)
settings.load_profile("ddpm-export")
HERE = Path(__file__).parent
# what tests and the docs' code blocks train on and score against; a check of the whole data set names its own folder
os.environ["DDPM_EXPORT_FASHION_MNIST"] = str(HERE / "data" / "fashion-mnist")
# the guard, here and in the processes that tests start; a proxy on this machine would get around it
offline = sys.modules.get("sitecustomize")
if not hasattr(offline, "attempts"):  # a worker of xdist has it already: Python loaded it from PYTHONPATH
    guard = importlib.util.spec_from_file_location("offline", HERE / "offline" / "sitecustomize.py")
    offline = importlib.util.module_from_spec(guard)
    guard.loader.exec_module(offline)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE / "offline"), os.environ.get("PYTHONPATH"))))
for proxy in [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]:
    del os.environ[proxy]
# a shell's background jobs ignore it, and so would the commands that are interrupted here
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def all_cores():
    """Give a test that needs threads the cores that the other processes have."""
    if not CORES:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, before)


class ReadHere(contextlib.nullcontext):
    """Stand for TorchFile without its child, which costs a second of a core."""

    def __init__(self, path):
        check_is_file(path)
        super().__init__(self)
        self.path = path

    def contents(self):
        return load_torch_file(self.path)


@pytest.fixture(scope="session", autouse=True)
def read_torch_files_here():
    """Read files of torch.save in this process; commands in processes of their own and `in_a_child` have the child."""
    with pytest.MonkeyPatch.context() as patch:
        for place in (apart, folders):
            patch.setattr(place, "TorchFile", ReadHere)
        yield


@pytest.fixture(scope="session", autouse=True)
def operators_of_torch_once():
    """Keep the table of operators that torch.onnx makes anew for each graph, a third of a second each time."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def in_a_child(monkeypatch):
    """Read files of torch.save as users do."""
    for place in (apart, folders):
        monkeypatch.setattr(place, "TorchFile", TorchFile)


def digest_of(*sources):
    """Return a digest of these files and folders of the repository, and of the packages that are installed."""
    found = hashlib.sha256()
    packages = {str(path) for place in sys.path for path in Path(place).glob("*.dist-info")}
    for name in sorted({*packages, sys.version}):
        found.update(name.encode() + b"\0")
    for source in map(Path, sources):
        inside = (
            path for path in source.rglob("*") if path.is_file() and not {"__pycache__", "node_modules"} & {*path.parts}
        )
        for path in sorted(inside) if source.is_dir() else [source]:
            found.update(str(path).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


@pytest.fixture(scope="session")
def made_once(request, tmp_path_factory):
    """Return (name, make, *sources) -> a folder that `make(folder)` filled, once for all processes and later runs.

    It is made again where a source, a file or folder of the repository, has changed. Tests only read what lies in it.
    """
    cache = getattr(request.config, "cache", None)
    place = Path(cache.mkdir("made")) if cache else tmp_path_factory.mktemp("made")

    def folder_of(name, make, *sources):
        folder = place / f"{name}-{digest_of(*sources)}"
        with open(place / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                for old in place.glob(f"{name}-{16 * '[0-9a-f]'}"):  # not those of a longer name
                    shutil.rmtree(old)
                part = place / f"part.{name}"
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(part)
                part.mkdir()
                make(part)
                part.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def shipped_exports(made_once):
    """Return a folder of one-call files (unet.sampler, unet.slice: all open; closed.sampler) and unet.float16.onnx."""
    unet = HERE.parent / "exported" / "unet.onnx"

    def make(folder):
        from ddpm_export.exporting.export import export

        for kind in ("sampler", "slice"):
            export(unet, folder / f"unet.{kind}.onnx", format=kind, opens="all")
        export(unet, folder / "closed.sampler.onnx", format="sampler")
        export(unet, folder / "unet.float16.onnx", format="onnx", storage="float16")

    return made_once("shipped-exports", make, unet, HERE.parent / "ddpm_export")


@pytest.fixture
def rng():
    return np.random.default_rng(random.getrandbits(64))  # pytest-randomly seeds `random` before each test


@pytest.fixture(autouse=True)
def attempts():
    """Fail a test that reaches for another machine, even where the program swallows the refusal."""
    offline.attempts.clear()
    yield offline.attempts
    assert offline.attempts == []


@pytest.fixture(autouse=True)
def signals_as_before():
    """Give back the handlers that a command run within a test leaves: at its end it ignores signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def accelerate_as_before():
    """Forget the device and precision that accelerate holds for a process: the next test may ask for another."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
