"""How far each method of docs/editing-methods.md is from the truth, for two correlated normal pixels.

The best denoiser is linear there, so walks are affine in their noise: mean and variance follow without sampling.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_export.process.equations import Array, Denoised, Denoiser
from ddpm_export.process.given import known_pixels, masked, measured, with_returns
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name, spacing
from ddpm_export.process.solvers import Grid, ddim
from ddpm_export.process.walk import State, walk
from train.pages import markdown_from_table, write_between_marks

__all__ = ["METHODS", "TRUTH", "Method", "Moments", "correlated_denoiser", "moments", "plan_of", "table"]

CORRELATION, KNOWN = 0.9, 1.5
ALPHAS_CUMPROD = alphas_cumprod_from_betas(betas_from_name("linear", 1000))
STEPS = (10, 50, 250, 1000)


class Moments(NamedTuple):
    """Hold mean and variance of the pixel that is not known."""

    mean: float
    variance: float


TRUTH = Moments(CORRELATION * KNOWN, 1.0 - CORRELATION**2)


class Method(NamedTuple):
    """A way to make the second pixel, given the first."""

    eta: float = 1.0
    returns: int = 0
    jump: int = 1
    measures: bool = False


METHODS = {
    "replacement, eta 1": Method(),
    "replacement, eta 0": Method(eta=0.0),
    "replacement, 1 return": Method(returns=1),
    "replacement, 9 returns": Method(returns=9),
    "replacement, 49 returns": Method(returns=49),
    "RePaint's: 9 returns, jump 10": Method(returns=9, jump=10),
    "DDNM, eta 1": Method(measures=True),
    "DDNM, eta 0": Method(eta=0.0, measures=True),
}


def correlated_denoiser(correlation: float = CORRELATION) -> Denoiser:
    """Return the best denoiser of images (1, 1, 2) of two normal pixels with mean 0 and variance 1, in float64."""
    covariance = np.array([[1.0, correlation], [correlation, 1.0]])

    def denoise(x_t: Array, row: Row, x_0_before: Array | None = None) -> Denoised:
        gain = math.sqrt(row.a) * covariance @ np.linalg.inv(row.a * covariance + (1.0 - row.a) * np.eye(2))
        x_0 = x_t @ gain.T
        return Denoised(x_0, (x_t - math.sqrt(row.a) * x_0) / math.sqrt(1.0 - row.a))

    return denoise


def plan_of(method: Method, num_steps: int) -> Plan:
    """Return the rows of a method, evenly spaced."""
    times = spacing(len(ALPHAS_CUMPROD), num_steps).tolist()
    where = Grid(tuple(times), (*(float(ALPHAS_CUMPROD[t]) for t in times), 1.0))
    return with_returns(Plan(tuple(ddim(where, eta=method.eta))), method.returns, method.jump)


def moments(method: Method, num_steps: int) -> Moments:
    """Return the moments of the second pixel, exactly, carried from row to row: each is affine in state and noise."""
    plan = plan_of(method, num_steps)
    known, mask = np.array([KNOWN, 0.0]).reshape(1, 1, 1, 2), np.array([0.0, 1.0])
    denoise, keep = correlated_denoiser(), None
    # images of a batch: one for each number that can enter, the two of the state, two of noise, two of the known
    # pixels' noise, that have this number 1 and the others 0; and one of which all are 0
    units = np.eye(7, 6).reshape(7, 3, 1, 1, 2)
    if method.measures:
        denoise = measured(denoise, masked(mask), (1.0 - mask) * known)
    else:
        keep = known_pixels(known, mask, lambda _draw: units[:, 2])
    mean, covariance = np.zeros(2), np.eye(2)
    if keep is not None:
        mean, covariance = _carried(keep(units[:, 0], 0, plan.rows[0].a), mean, covariance)
    for k, row in enumerate(plan.rows):
        before = State(row._replace(i=row.i - 1), units[:, 0], units[:, 0], units[:, 0])
        after = next(walk(denoise, lambda _draw: units[:, 1], Plan(plan.rows[k : k + 2]), keep=keep, state=before))
        mean, covariance = _carried(after.x, mean, covariance)
    return Moments(float(mean[1]), float(covariance[1, 1]))


def _carried(x: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Return mean and covariance after an affine map, of which x (7, 1, 1, 2) says what it makes of the units."""
    x = x.reshape(7, 2)
    of_state, of_noise = (x[:2] - x[6]).T, (x[2:6] - x[6]).T
    return of_state @ mean + x[6], of_state @ covariance @ of_state.T + of_noise @ of_noise.T


def table() -> str:
    """Return the table of all methods over the number of steps, as Markdown."""
    rows = [["truth", *([_text(TRUTH)] * len(STEPS))]]
    for name, method in METHODS.items():
        rows.append([name, *(_text(moments(method, n)) if n > method.jump else "-" for n in STEPS)])
    return markdown_from_table("Mean / variance of the second pixel", ["method", *(f"{n} steps" for n in STEPS)], rows)


def _text(found: Moments) -> str:
    return f"{found.mean:.2f} / {found.variance:.2f}"


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    page = options.parse_args().write
    if page is None:
        print(table())
    else:
        write_between_marks(page, table(), "<!-- bias: begin -->", "<!-- bias: end -->")
