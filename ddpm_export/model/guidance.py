"""Classifier-free guidance as data: its scale, and the times at which it applies.

NumPy only; knows no network. `equations.combine` is the arithmetic.
"""

from dataclasses import dataclass
from typing import Any

from ddpm_export.errors import UsageError
from ddpm_export.model.codec import Form, MisfitError, nullable, number, record, rule, tuple_of

MAX_SCALE = 100.0
SCALE = number(0, MAX_SCALE)
_ORDERED = rule(lambda ends: ends[0] <= ends[1], "two times, the lower first")
INTERVAL = nullable(tuple_of(number(0), 2, 2, _ORDERED))


@dataclass(frozen=True)
class Guidance:
    """Say how strongly a network follows its label: u + scale (c - u), u and c its predictions without and with it.

    scale is 1 + w of Ho and Salimans 2022 (eq. 6), 0 to 100: 0 ignores the label, 1 is the network as it is, and both
    cost one evaluation. interval: (low, high), the times t that are guided, both ends included; at others the scale
    is 1 (Kynkaanniemi et al. 2024). None guides at all of them. Raises UsageError for values out of range.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        try:
            SCALE(self.scale, "guidance")
            object.__setattr__(self, "interval", INTERVAL(self.interval, "guidance.interval"))
        except MisfitError as exc:
            raise UsageError(f"{exc}.") from exc

    def __str__(self) -> str:
        """Return the scale in words, and where not all times are guided, which ones are: "4 at t 200 to 700"."""
        times = "" if self.interval is None else " at t {:g} to {:g}".format(*self.interval)
        return f"{self.scale:g}{times}"

    def at(self, t: float) -> float:
        """Return the scale at a time."""
        return self.scale if self.interval is None or self.interval[0] <= t <= self.interval[1] else 1.0


GUIDANCE_FORM: Form = record({"scale": SCALE}, {"interval": INTERVAL}, into=Guidance)


def json_from_guidance(guidance: Guidance) -> dict[str, Any]:
    """Return guidance as JSON values; the interval only where there is one."""
    interval = {} if guidance.interval is None else {"interval": list(guidance.interval)}
    return {"scale": guidance.scale, **interval}
