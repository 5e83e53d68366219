"""What every test shares: random numbers that follow from the seed pytest-randomly prints, quiet hypothesis, SIGINT."""

import random
import signal
import sys

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("ddpm-export", deadline=None, database=None)
settings.load_profile("ddpm-export")
# a shell's background jobs ignore it, and so would the commands that are interrupted here
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng():
    return np.random.default_rng(random.getrandbits(64))  # pytest-randomly seeds `random` before each test


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
