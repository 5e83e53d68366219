"""`python -m tests.campaign [NAME ...] [--minutes M] [--seed S]`: every part, or those named, in its long form."""

import argparse
import importlib
import signal
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was tried until then is told
    fallen = 0
    for name in told.names or PARTS:
        tally, since, is_stopped = Tally(told.minutes), time.monotonic(), False
        chosen = {"names": set(told.only)} if told.only else {}  # of numbers there is nothing to choose
        try:
            importlib.import_module(f".{name}", __package__).run(tally, told.seed, **chosen)
        except KeyboardInterrupt:
            tally.notes.append("\nStopped before its end.")
            is_stopped = True
        fallen += len(tally.fallen)
        print(tally.table())
        print(f"{name}: {tally.tried:,} tried, {len(tally.fallen)} fell, {time.monotonic() - since:.0f} s", flush=True)
        if is_stopped:
            sys.exit(130)
    sys.exit(1 if fallen else 0)


if __name__ == "__main__":
    main()
