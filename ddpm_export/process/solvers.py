"""Samplers: each a pure function from a time grid to rows, which weigh what the last few evaluations found."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ddpm_export.errors import UsageError, shown
from ddpm_export.process.elementwise import maximum, sqrt
from ddpm_export.process.equations import VARIANCES
from ddpm_export.process.rows import Row
from ddpm_export.process.schedules import MIN_A


class Grid(NamedTuple):
    """Where a solver evaluates: times, and alphas_cumprod there and, one number more, where the last row ends."""

    t: tuple[float, ...]
    a: tuple[float, ...]


Solver = Callable[..., list[Row]]  # (grid, *, knobs) -> rows

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def half_log_snr(a: float) -> float:
    """Return lambda = log(sqrt(a) / sqrt(1 - a)), half the log signal-to-noise ratio (Lu et al. 2022, section 2)."""
    return 0.5 * (math.log(a) - math.log1p(-a))


def ddim_weights(a: Any, a_prev: Any, eta: Any) -> tuple[Any, Any, Any]:
    """Return a DDIM step's weights of x_0, eps and fresh noise (Song et al. 2020, eq. 12 and 16)."""
    noise_std = eta * sqrt((1.0 - a_prev) / (1.0 - a)) * sqrt(1.0 - a / a_prev)
    return sqrt(a_prev), sqrt(maximum(1.0 - a_prev - noise_std * noise_std, 0.0)), noise_std


def ddim(grid: Grid, *, eta: float = 0.0) -> list[Row]:
    """Return the rows of DDIM (Song et al. 2020, eq. 12); eta = 0 adds no noise, eta = 1 is DDPM's fixed_small.

    eta is rounded to float32. Raises UsageError for eta outside 0..1.
    """
    if not 0.0 <= eta <= 1.0:
        raise UsageError(f"eta must be between 0 and 1, got {eta!r}.")
    eta = float(np.float32(eta))  # the one-call graph takes float32: the same eta everywhere
    rows = []
    for i, (t, (a, a_prev)) in enumerate(zip(grid.t, pairwise(grid.a), strict=True), start=1):
        x_0, eps, noise_std = ddim_weights(a, a_prev, eta)
        rows.append(Row(i, t, a, (x_0,), (eps,), (noise_std,) if noise_std > 0.0 else ()))
    return rows


def ddpm(grid: Grid, *, variance: str = "fixed_small") -> list[Row]:
    """Return the rows of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where the grid leaves times out.

    variance: fixed_small is the posterior's (eq. 7), fixed_large is beta's, sigma_t^2 = beta_t (section 3.2), learned
    lies where the network says between the two of the steps taken (Nichol and Dhariwal 2021, eq. 15). Raises
    UsageError for another variance.
    """
    if variance not in VARIANCES:
        raise UsageError(f"variance must be one of {', '.join(VARIANCES)}, got {shown(variance)}.")
    rows = []
    for row, (a, a_prev) in zip(ddim(grid, eta=1.0), pairwise(grid.a), strict=True):
        small, large = row.noise, (sqrt(1.0 - a / a_prev),)
        noise = {"fixed_small": small, "fixed_large": large, "learned": small + large}[variance] if small else ()
        rows.append(row._replace(noise=noise))
    return rows


def dpmpp_2m(grid: Grid) -> list[Row]:
    """Return the rows of DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): second order, one evaluation a step.

    First order, which is ddim, at the start, at the picture, and where a is below 1e-5.
    """
    rows = ddim(grid)
    for k in range(1, len(rows)):
        a_before, a, a_next = grid.a[k - 1 : k + 2]
        if a_before < MIN_A or a_next == 1.0:
            continue
        h_before, h = half_log_snr(a) - half_log_snr(a_before), half_log_snr(a_next) - half_log_snr(a)
        # alpha (1 - e^-h) / 2r, with r = h_before / h: what the slope between the last two clean images weighs
        slope = (sqrt(a_next) - sqrt(1.0 - a_next) * sqrt(a) / sqrt(1.0 - a)) * h / (2.0 * h_before)
        rows[k] = rows[k]._replace(x_0=(sqrt(a_next) + slope, -slope))
    return rows


def ipndm(grid: Grid) -> list[Row]:
    """Return the rows of improved PNDM (Zhang and Chen 2022): Adams-Bashforth of order 4 on ddim's step.

    The noises found are extrapolated as if their times were even (Liu et al. 2022, eq. 12); orders 1 to 3 at the
    start. First order where a is below 1e-5.
    """
    rows, found = ddim(grid), 0
    for k, row in enumerate(rows):
        a, a_next = grid.a[k : k + 2]
        found = found + 1 if a >= MIN_A else 0
        if found < 2:
            continue
        adams = ADAMS_BASHFORTH[min(found, 4) - 1]
        # x / alpha moves by eps per unit of Karras's sigma; the state itself holds sigma eps besides x_0
        moved = sqrt(1.0 - a_next) - sqrt(a_next) * sqrt(1.0 - a) / sqrt(a)
        kept = sqrt(1.0 - a_next) - moved
        rows[k] = row._replace(eps=(kept + moved * adams[0], *(moved * weight for weight in adams[1:])))
    return rows


def heun(grid: Grid) -> list[Row]:
    """Return the rows of Heun's method (Karras et al. 2022, algorithm 1): second order, two evaluations a step.

    The second is at the next time, of the state that ddim's step leads to, and corrects it by half the difference of
    the noises. First order, of one evaluation, at the picture and where a is below 1e-5.
    """
    rows: list[Row] = []
    times = (*grid.t[1:], None)
    for row, t_next, a_next in zip(ddim(grid), times, grid.a[1:], strict=True):
        rows.append(row._replace(i=len(rows) + 1))
        if t_next is not None and row.a >= MIN_A:
            half = (sqrt(1.0 - a_next) - sqrt(a_next) * sqrt(1.0 - row.a) / sqrt(row.a)) / 2.0
            rows.append(Row(len(rows) + 1, t_next, a_next, row.x_0, (row.eps[0] + half, -half)))
    return rows


def dpmpp_2m_sde(grid: Grid) -> list[Row]:
    """Return the rows of SDE-DPM-Solver++(2M) (Lu et al. 2022b): dpmpp_2m for the SDE, with fresh noise in every row.

    First order, which is ddim with eta = 1, at the start, at the picture, and where a is below 1e-5.
    """
    rows = ddim(grid, eta=1.0)
    for k, h, (before, *_) in _looking_back(grid, 1):
        # alpha (1 - e^-2h) / 2r, with r = -before / h: what the slope between the last two clean images weighs
        slope = sqrt(grid.a[k + 1]) * math.expm1(-2.0 * h) * h / (2.0 * before)
        rows[k] = rows[k]._replace(x_0=(rows[k].x_0[0] + slope, -slope))
    return rows


def dpmpp_3m(grid: Grid) -> list[Row]:
    """Return the rows of DPM-Solver++(3M) (Lu et al. 2022b, section 4): third order, one evaluation a step.

    The integral of proposition 4.1, with the parabola in lambda through the last three clean images found, on unequal
    steps. diffusers' second difference lacks a factor of 2, which makes its solver one of order 2; this one has order
    3. Orders 1 and 2 at the start, first order at the picture and where a is below 1e-5.
    """
    rows = ddim(grid)
    for k, h, before in _looking_back(grid, 2):
        alpha_next = sqrt(grid.a[k + 1])
        own, *past = (alpha_next * weight for weight in _beyond_first_order(h, before))
        rows[k] = rows[k]._replace(x_0=(alpha_next + own, *past))
    return rows


def deis(grid: Grid) -> list[Row]:
    """Return the rows of DEIS (Zhang and Chen 2022), Adams-Bashforth of order 3 in log rho, rho = sqrt((1 - a) / a).

    The parabola in log rho, which is -lambda, goes through the last three noises found. Orders 1 and 2 at the start,
    first order at the picture and where a is below 1e-5.
    """
    rows = ddim(grid)
    for k, h, before in _looking_back(grid, 2):
        std_next = sqrt(1.0 - grid.a[k + 1])
        own, *past = (std_next * weight for weight in _beyond_first_order(-h, [-s for s in before]))
        rows[k] = rows[k]._replace(eps=(std_next + own, *past))
    return rows


def unipc(grid: Grid, *, order: int = 3) -> list[Row]:
    """Return the rows of UniPC (Zhao et al. 2023, algorithms 1 and 2, on x_0, with B_2(h) = e^h - 1).

    order: 2 or 3, of the predictor; the corrector adds one. A row corrects the state that it was given, by what the
    network found there, and predicts the next: one evaluation a step. Corrector and predictor start from the same
    earlier state, so that a row needs only what was found. Lower orders at the start; first order at the picture and
    where a is below 1e-5. Raises UsageError for another order.
    """
    if order not in (2, 3):
        raise UsageError(f"order must be 2 or 3, got {order!r}.")
    rows = ddim(grid)
    for k, h, before in _looking_back(grid, order):
        a, a_next = grid.a[k : k + 2]
        weights = [0.0] * (len(before) + 1)  # of what was found in this row, the last one, ...
        for age, weight in enumerate(_b_2(h, before[: order - 1])):
            weights[age] += sqrt(a_next) * weight
        # the step that led here, from before[0]: corrected less predicted, and carried on
        arrived, earlier = -before[0], [s - before[0] for s in before[1:]]
        last, own, *past = _b_2(arrived, [arrived, *earlier])
        stored = sqrt(a) * sqrt(1.0 - a_next) / sqrt(1.0 - a)
        for age, weight in enumerate((own, last, *past)):
            weights[age] += stored * weight
        for age, weight in enumerate(_b_2(arrived, earlier), start=1):
            weights[age] -= stored * weight
        rows[k] = rows[k]._replace(x_0=(rows[k].x_0[0] + weights[0], *weights[1:]))
    return rows


def consistency(grid: Grid) -> list[Row]:
    """Return the rows of multistep consistency sampling (Song et al. 2023, algorithm 1): jump, and add all new noise.

    For networks whose x_0 is where the flow ends (consistency models and other distilled ones), not the mean of all
    images that may have been there.
    """
    return [row._replace(eps=(), noise=_std(1.0 - a)) for row, a in zip(ddim(grid), grid.a[1:], strict=True)]


def _std(variance: float) -> tuple[float, ...]:
    """Return a row's noise: none where its variance is 0."""
    return (sqrt(variance),) if variance > 0.0 else ()


def _looking_back(grid: Grid, most: int) -> Iterator[tuple[int, float, list[float]]]:
    """Yield (k, h, before) of the rows that can be more than first order.

    h: how far the row goes in lambda. before: where the last evaluations, at most `most` of them, were in lambda, as
    seen from this one: negative, newest first, those with a below MIN_A left out. The row to the picture, infinitely
    far in lambda, is not among them. Below MIN_A a higher order would only weigh noise by thousands.
    """
    for k in range(1, len(grid.t)):
        a, a_next = grid.a[k : k + 2]
        clear = [before for before in reversed(grid.a[max(0, k - most) : k]) if before >= MIN_A]
        if clear and a_next < 1.0:
            here = half_log_snr(a)
            yield k, half_log_snr(a_next) - here, [half_log_snr(before) - here for before in clear]


def _moment(k: int, h: float) -> float:
    """Return the integral of e^(s - h) s^k over s from 0 to h."""
    if abs(h) < 1.0:  # the other form would subtract nearly equal numbers
        return math.factorial(k) * h ** (k + 1) * sum((-h) ** n / math.factorial(n + k + 1) for n in range(18))
    return -math.expm1(-h) if k == 0 else h**k - k * _moment(k - 1, h)


def _beyond_first_order(h: float, nodes: Sequence[float]) -> tuple[float, ...]:
    """Return what f(0) and f(s) at every node s, none of them 0, add to (1 - e^-h) f(0), weights whose sum is 0.

    So that all is the integral of e^(s - h) p(s) over 0..h, p the polynomial through these values.
    """
    weights = []
    for node in nodes:
        others = [s for s in nodes if s != node]
        polynomial = [1.0]  # the product of (s - other), lowest power first; times s it is 0 at all nodes but this
        for other in others:
            polynomial = [low - other * high for low, high in zip((0.0, *polynomial), (*polynomial, 0.0), strict=True)]
        integral = sum(factor * _moment(k, h) for k, factor in enumerate(polynomial, start=1))
        weights.append(integral / (node * math.prod(node - other for other in others)))
    return (-sum(weights), *weights)


def _b_2(h: float, nodes: Sequence[float]) -> tuple[float, ...]:
    """Return `_beyond_first_order`; for one node half of its slope, as of B_2(h) (Zhao et al. 2023)."""
    if len(nodes) == 1:
        half = -math.expm1(-h) * h / (2.0 * nodes[0])
        return -half, half
    return _beyond_first_order(h, nodes)


SAMPLERS: dict[str, Solver] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m": dpmpp_3m,
    "ipndm": ipndm,
    "deis": deis,
    "heun": heun,
    "unipc": unipc,
    "consistency": consistency,
}
FORMULAS = ("ddpm", "ddim")  # readers in every language, and one-call files, know these; others travel as plans
