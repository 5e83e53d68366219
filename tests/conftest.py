"""What every test shares: random numbers that follow from the seed pytest-randomly prints, and quiet hypothesis."""

import random

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("ddpm-export", deadline=None, database=None)
settings.load_profile("ddpm-export")


@pytest.fixture
def rng():
    return np.random.default_rng(random.getrandbits(64))  # pytest-randomly seeds `random` before each test
