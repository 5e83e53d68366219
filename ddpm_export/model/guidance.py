"""Classifier-free guidance as data: how far predictions are carried towards what was asked for, and at which times.

NumPy only; knows no network. `diffusion.combine` is the arithmetic.
"""

from dataclasses import dataclass
from typing import Any

from ddpm_export.errors import shown
from ddpm_export.process.rows import is_number

MAX_SCALE = 100.0


@dataclass(frozen=True)
class Guidance:
    """Say how strongly a network follows its label: u + scale (c - u), u and c its predictions without and with it.

    scale is 1 + w of Ho and Salimans 2022 (eq. 6), 0 to 100: 0 ignores the label, 1 is the network as it is, and both
    cost one evaluation. interval: (low, high), the times t that are guided, both ends among them; at others the scale
    is 1 (Kynkaanniemi et al. 2024). None guides at all of them.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return the scale in words, and where not all times are guided, which ones are: "4 at t 200 to 700"."""
        times = "" if self.interval is None else " at t {:g} to {:g}".format(*self.interval)
        return f"{self.scale:g}{times}"

    def at(self, t: float) -> float:
        """Return the scale at a time."""
        return self.scale if self.interval is None or self.interval[0] <= t <= self.interval[1] else 1.0


def check_guidance(guidance: Guidance) -> None:
    """Raise ValueError, which says what is wrong, for a scale or an interval out of its range."""
    if not is_number(guidance.scale) or not 0 <= guidance.scale <= MAX_SCALE:
        raise ValueError(f"guidance must be a number from 0 to {MAX_SCALE:g}, got {shown(guidance.scale)}")
    interval = guidance.interval
    if interval is not None and not (
        isinstance(interval, tuple)
        and len(interval) == 2
        and all(map(is_number, interval))
        and 0 <= interval[0] <= interval[1]
    ):
        raise ValueError(
            f"the interval of guidance must be two times, the lower first, from 0 on, got {shown(interval)}"
        )


def json_from_guidance(guidance: Guidance) -> dict[str, Any]:
    """Return guidance as JSON values; the interval only where there is one."""
    interval = {} if guidance.interval is None else {"interval": list(guidance.interval)}
    return {"scale": guidance.scale, **interval}


def guidance_from_json(values: Any) -> Guidance:
    """Read the guidance of a file. Raises ValueError, which says what is wrong."""
    if not isinstance(values, dict) or "scale" not in values:
        raise ValueError(f"guidance must be an object with scale, got {shown(values)}")
    interval = values.get("interval")
    guidance = Guidance(values["scale"], tuple(interval) if isinstance(interval, list) else interval)
    check_guidance(guidance)
    return guidance
