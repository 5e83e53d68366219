"""`python -m tests.campaign [NAME ...] [--minutes M] [--seed S]`: every part, or those named, in its long form."""

import argparse
import importlib
import sys
import time

from . import PARTS
from .tally import Tally


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PARTS)}; all of them by default.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="At most so long, for each part.")
    parser.add_argument("--seed", type=int, default=0, help="Of whatever is drawn at random.")
    parser.add_argument("--only", action="append", help="A family, a target or a work, by its name; may be repeated.")
    told = parser.parse_args()
    unknown = sorted(set(told.names) - set(PARTS))
    if unknown:
        parser.error(f"NAME must be one of {', '.join(PARTS)}, got {', '.join(unknown)}.")
    fallen = 0
    for name in told.names or PARTS:
        tally, since = Tally(told.minutes), time.monotonic()
        chosen = {"names": set(told.only)} if told.only else {}  # of numbers there is nothing to choose
        importlib.import_module(f".{name}", __package__).run(tally, told.seed, **chosen)
        fallen += len(tally.fallen)
        print(tally.table())
        print(f"{name}: {tally.tried:,} tried, {len(tally.fallen)} fell, {time.monotonic() - since:.0f} s", flush=True)
    sys.exit(1 if fallen else 0)


if __name__ == "__main__":
    main()
