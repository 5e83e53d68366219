"""What was tried, what held and what fell, by family."""

import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Row:
    tried: int = 0
    fell: list = field(default_factory=list)  # (case, why)
    slowest_s: float = 0.0


class Tally:
    """Counts cases by (part, family); a part stops when `is_over` says that its time is up."""

    def __init__(self, minutes=float("inf")):
        self.rows = defaultdict(Row)
        self.notes = []
        self.minutes = minutes
        self.since = time.monotonic()

    def is_over(self):
        return time.monotonic() - self.since > 60 * self.minutes

    def count(self, part, family, case, why=None, *, seconds=0.0, times=1):
        """Count a case that held, or one that fell where `why` says how."""
        row = self.rows[part, family]
        row.tried += times
        row.slowest_s = max(row.slowest_s, seconds)
        if why is not None:
            row.fell.append((case, why))
            print(f"FELL {told(part, family, case, why)}", file=sys.stderr, flush=True)

    @property
    def fallen(self):
        return [told(*key, *one) for key, row in self.rows.items() for one in row.fell]

    @property
    def tried(self):
        return sum(row.tried for row in self.rows.values())

    def table(self):
        lines = ["| part | family | tried | held | fell | slowest, s |", "|---|---|---|---|---|---|"]
        for (part, family), row in sorted(self.rows.items()):
            counts = f"{row.tried:,} | {row.tried - len(row.fell):,} | {len(row.fell)}"
            lines.append(f"| {part} | {family} | {counts} | {row.slowest_s:.1f} |")
        return "\n".join([*lines, *self.notes])


def told(part, family, case, why):
    return f"{part}, {family}, {case}: {why}"
