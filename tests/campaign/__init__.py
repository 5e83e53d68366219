"""The campaign against this package: hostile files, fuzzing, faults, signals, flipped numbers, load.

`python -m tests.campaign [NAME ...] [--minutes M] [--seed S]` is the long form, `test_short.py` the short one;
docs/reliability.md holds what the long form found.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
sys.path[:0] = [
    place for place in (str(ROOT), str(TESTS)) if place not in sys.path
]  # `models` and `commands` are there
PARTS = ("files", "fuzz", "faults", "signals", "numbers", "load", "serving", "soak", "traces")
