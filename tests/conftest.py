"""What every test shares: no network, a small data set, random numbers by pytest-randomly's seed, SIGINT."""

import importlib.util
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

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
