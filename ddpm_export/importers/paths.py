"""Networks of other Gaussian paths, in this file's form: x = alpha x_0 + sigma eps, divided by its own length.

What is left then is alpha^2 + sigma^2 = 1 at every level, a = alpha^2. NumPy and torch alike: formulas take the module
whose numbers they are given. Knows no network and opens no file.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ddpm_export.importers import choices
from ddpm_export.process.equations import Array

LEAST = 1e-5  # of a flow's and TrigFlow's time: at 0 itself there is no noise to weigh
FLOWS = ("flow", "flow_x_0", "flow_eps")  # by what the network says: the velocity, the picture, the noise
MOST = {"flow": 1.0, "flow_x_0": 1.0, "flow_eps": 1.0 - LEAST, "trigflow": math.pi / 2.0}  # all others have a sigma_max
ANGLES = ("trigflow", "v")  # by sines and arcs, which runtimes have in float32 alone
VP_BETA_D, VP_BETA_MIN, VP_TIMES = 19.9, 0.1, 1000  # Karras et al. 2022, table 1
OPTIONS: dict[str, choices.Option] = {
    "sigma_data": choices.above_0(0.5),
    "sigma_min": choices.above_0(0.002),
    "sigma_max": choices.above_0(80.0),
    "rho": choices.above_0(7.0),
    "time_scale": choices.above_0(1.0),
    "reverse": choices.Option("true or false", lambda value: type(value) is bool, False),
}


class Level(NamedTuple):
    """Hold a path, alpha and sigma of a level, and the module, NumPy or torch, whose numbers these are."""

    path: "Path"
    alpha: Any
    sigma: Any
    xp: Any

    @property
    def length(self) -> Any:
        """Return the deviation of the path's state over alpha, for pictures of deviation sigma_data."""
        return self.xp.sqrt(self.sigma * self.sigma + (self.path.sigma_data * self.alpha) ** 2)

    @property
    def ratio(self) -> Any:
        """Return Karras's sigma."""
        return self.sigma / self.alpha

    @property
    def quarter_log(self) -> Any:
        """Return Karras's c_noise."""
        return self.xp.log(self.ratio) / 4.0


class Form(NamedTuple):
    """Describe a kind of network, by formulas from a level to numbers like its alpha.

    prediction: what comes of it. told: the time that it is told, before `time_scale`. scale: what the state is
    multiplied by for it. skip, out: the weights, in the prediction, of the state and of what the network says.
    """

    prediction: str
    told: "Formula"
    scale: "Formula"
    skip: "Formula"
    out: "Formula"


Formula = Callable[[Level], Any]


def _flow_time(at: Level) -> Any:
    return (at.alpha if at.path.reverse else at.sigma) / (at.alpha + at.sigma)


def _vp_time(at: Level) -> Any:
    # (sqrt(beta_min^2 + x) - beta_min) / beta_d, without the difference of nearly equal numbers
    # float64 alone has log(1 + ratio^2) at sigma 0.002
    x = 2.0 * VP_BETA_D * at.xp.log(1.0 + at.ratio**2)
    return (VP_TIMES - 1) / VP_BETA_D * x / (at.xp.sqrt(VP_BETA_MIN**2 + x) + VP_BETA_MIN)


@cache
def iddpm_sigmas() -> Array:
    """Return sigma of improved DDPM's times 999 to 0, and 0, (1001,) float64 (Karras et al. 2022, table 1)."""
    signal = np.sin(0.5 * math.pi * np.arange(1001) / 1000 / 1.008) ** 2
    sigmas = [0.0]
    for more, less in zip(signal[:0:-1], signal[-2::-1], strict=True):
        sigmas.append(math.sqrt((sigmas[-1] ** 2 + 1.0) / max(less / more, 0.001) - 1.0))
    return np.array(sigmas[::-1])


def _iddpm_time(at: Level) -> Any:
    """Return the time of the nearest sigma, or of NumPy's numbers the time between two, by which levels are found."""
    sigmas = iddpm_sigmas()
    if at.xp is np:
        return 999.0 - np.interp(at.ratio, sigmas[::-1], np.arange(1000.0, -1.0, -1.0))
    nearest = at.xp.argmin(at.xp.abs(at.ratio[..., None] - at.xp.asarray(sigmas)), -1)
    return 999.0 - nearest * 1.0


def _one(at: Level) -> Any:
    return at.alpha * 0.0 + 1.0


def _none(at: Level) -> Any:
    return at.alpha * 0.0


def _preconditioned(told: Formula, sign: float) -> Form:
    """Return the v of a network whose input and target have a variance of 1 (Karras et al. 2022, section 5)."""
    return Form(
        "v",
        told,
        lambda at: 1.0 / at.length,
        lambda at: at.alpha * at.sigma * (1.0 - at.path.sigma_data**2) / at.length**2,
        lambda at: (-sign if at.path.reverse else sign) * at.path.sigma_data / at.length,
    )


FORMS: dict[str, Form] = {
    # (1 - s) x_0 + s eps, told s, says eps - x_0 (Lipman et al. 2023; Liu et al. 2023); in reverse, 1 - s and x_0 - eps
    "flow": Form(
        "v",
        _flow_time,
        lambda at: 1.0 / (at.alpha + at.sigma),
        lambda at: (at.alpha - at.sigma) / (at.alpha + at.sigma),
        lambda at: (-1.0 if at.path.reverse else 1.0) / (at.alpha + at.sigma),
    ),
    "flow_x_0": Form("x_0", _flow_time, lambda at: 1.0 / (at.alpha + at.sigma), _none, _one),
    "flow_eps": Form("eps", _flow_time, lambda at: 1.0 / (at.alpha + at.sigma), _none, _one),
    # Karras et al. 2022, table 1; edm with a negated output is diffusers' v_prediction
    "edm": _preconditioned(lambda at: at.quarter_log, -1.0),
    "vp": Form("eps", _vp_time, _one, _none, _one),
    "ve": Form("eps", lambda at: at.xp.log(at.ratio / 2.0), lambda at: 1.0 / at.alpha, _none, lambda at: -_one(at)),
    "iddpm": Form("eps", _iddpm_time, _one, _none, _one),
    # Lu and Song 2024: cos(t) x_0 + sin(t) eps, eps with a deviation of sigma_data
    "trigflow": _preconditioned(lambda at: at.xp.arctan2(at.sigma, at.path.sigma_data * at.alpha), 1.0),
    # Song et al. 2023, appendix C: the picture itself at sigma_min
    "consistency": Form(
        "x_0",
        lambda at: at.quarter_log,
        lambda at: 1.0 / at.length,
        lambda at: at.path.sigma_data**2 / ((at.ratio - at.path.sigma_min) ** 2 + at.path.sigma_data**2) / at.alpha,
        lambda at: (at.sigma - at.path.sigma_min * at.alpha) * at.path.sigma_data / at.length,
    ),
    # k-diffusion's VDenoiser: v itself, told the angle as a share of a right one
    "v": Form("v", lambda at: at.xp.arctan2(at.sigma, at.alpha) * (2.0 / math.pi), _one, _none, _one),
    "denoiser": Form("x_0", lambda at: at.ratio, lambda at: 1.0 / at.alpha, _none, _one),
    "noise": Form("eps", lambda at: at.ratio, lambda at: 1.0 / at.alpha, _none, _one),
    # edm by what it says of the picture
    "c_noise": Form(
        "x_0",
        lambda at: at.quarter_log,
        lambda at: 1.0 / at.length,
        lambda at: at.path.sigma_data**2 * at.alpha / at.length**2,
        lambda at: at.sigma * at.path.sigma_data / at.length,
    ),
}
NAMES = {
    "path": FLOWS,
    "preconditioner": ("edm", "vp", "ve", "iddpm", "trigflow", "consistency", "v", "denoiser", "noise"),
}


@dataclass(frozen=True)
class Path:
    """Say how a network of another path is called, and where its levels lie over t, 0 to T - 1.

    Of a flow the levels are even in s, of TrigFlow in its angle, of all others in sigma^(1/rho) between sigma_min and
    sigma_max (Karras et al. 2022, eq. 5). time_scale: what the network's time is multiplied by. reverse: of a flow
    whose time runs from noise to picture; of edm and trigflow, a network that says the negative.
    """

    name: str
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    time_scale: float = 1.0
    reverse: bool = False

    @property
    def form(self) -> Form:
        """Return the kind of network."""
        return FORMS[self.name]

    @property
    def _ends(self) -> tuple[float, float]:
        """Return the numbers of the least and the most noise, on the scale on which they are even over t."""
        if self.name in MOST:
            return LEAST, MOST[self.name]
        return self.sigma_min ** (1.0 / self.rho), self.sigma_max ** (1.0 / self.rho)

    def number_at(self, t: Any, T: int) -> Any:
        """Return the path's own number of a level at any t from 0 to T - 1: s of a flow, TrigFlow's angle, or sigma."""
        least, most = self._ends
        share = t / max(1, T - 1)
        number = most * share + least * (1.0 - share)
        return number if self.name in MOST else number**self.rho

    def t_of(self, number: float, T: int) -> float:
        """Return the t at which the path has a number of its own; it may lie outside of 0..T - 1."""
        least, most = self._ends
        number = number if self.name in MOST else number ** (1.0 / self.rho)
        return (number - least) / (most - least) * (T - 1)

    def rounded(self, sigma: float) -> float:
        """Return the sigma nearest to this one that the network is called at."""
        if self.name != "iddpm":
            return sigma
        sigmas = iddpm_sigmas()
        return float(sigmas[np.argmin(np.abs(sigmas - sigma))])

    def weights(self, number: Any, xp: Any = np) -> tuple[Any, Any]:
        """Return what x_0 and eps weigh in the path's own state, at a number of its own."""
        if self.name in FLOWS:
            return 1.0 - number, number
        if self.name == "trigflow":
            return xp.sin(math.pi / 2.0 - number), self.sigma_data * xp.sin(number)
        return number * 0.0 + 1.0, number

    def level_of(self, number: Any, xp: Any = np) -> tuple[Any, Any, Any]:
        """Return alpha and sigma, of which the squares sum to 1, and the length that the path's own weights have."""
        signal, noise = self.weights(number, xp)
        length = xp.sqrt(signal * signal + noise * noise)
        return signal / length, noise / length, length

    def alphas_cumprod(self, T: int) -> tuple[float, ...]:
        """Return alpha^2 at t = 0, ..., T - 1."""
        alpha = self.level_of(self.number_at(np.arange(T, dtype=np.float64), T))[0]
        return tuple(np.square(alpha).tolist())

    def numbers(self, alpha: Any, sigma: Any, xp: Any = np) -> tuple[Any, Any, Any, Any]:
        """Return what the network is told at a level, and the form's scale, skip and out."""
        told, *others = (formula(Level(self, alpha, sigma, xp)) for formula in self.form[1:])
        return told * self.time_scale, *others

    def tables(self, alphas_cumprod: tuple[float, ...]) -> tuple[Array, Array, Array, Array]:
        """Return `numbers` over t, each (T,) float64."""
        a = np.array(alphas_cumprod)
        return self.numbers(np.sqrt(a), np.sqrt(1.0 - a))


def path_from_options(options: Mapping[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """Return the path that options name by `path` or `preconditioner`, and the other options.

    Raises UsageError for an unknown name and for values that do not fit. Without a name all options are others.
    """
    named = [key for key in NAMES if key in options]
    if not named:
        return None, dict(options)
    table = {**OPTIONS, **{key: choices.one_of(NAMES[key]) for key in named}}
    chosen = choices.read_options({key: value for key, value in options.items() if key in table}, table)
    names = [chosen.pop(key) for key in named]
    if len(names) > 1:
        raise choices.misused("preconditioner", "left out beside path", options["preconditioner"])
    if chosen["sigma_min"] >= chosen["sigma_max"]:
        raise choices.misused("sigma_min", f"below sigma_max, {chosen['sigma_max']}", chosen["sigma_min"])
    return Path(names[0], **chosen), {key: value for key, value in options.items() if key not in table}
