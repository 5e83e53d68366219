"""Noise schedules and time grids by name, and the numbers that follow. NumPy only; knows no model and no file."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError, shown

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

MIN_A = 1e-5  # an alphas_cumprod below it is one where the image is lost in its noise


def linear(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Float64:
    """Return betas that grow linearly (Ho et al. 2020, section 4)."""
    return np.linspace(beta_start, beta_end, num_train_timesteps)


def quadratic(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Float64:
    """Return betas whose square roots grow linearly (Song et al. 2020, the DDIM paper's code and the 2022 study)."""
    roots: Float64 = np.linspace(np.sqrt(beta_start), np.sqrt(beta_end), num_train_timesteps)
    return roots * roots


def sigmoid(
    num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02, logit_range: float = 6.0
) -> Float64:
    """Return betas along a logistic curve from -logit_range to logit_range (the 2022 study)."""
    logits: Float64 = np.linspace(-logit_range, logit_range, num_train_timesteps)
    return beta_start + (beta_end - beta_start) / (1.0 + np.exp(-logits))


def cosine(num_train_timesteps: int, offset: float = 0.008, beta_max: float = 0.999) -> Float64:
    """Return betas of a squared-cosine alphas_cumprod (Nichol and Dhariwal 2021, eq. 17)."""
    u = np.arange(num_train_timesteps + 1) / num_train_timesteps
    a = np.square(np.cos((u + offset) / (1.0 + offset) * (np.pi / 2.0)))
    return np.minimum(1.0 - a[1:] / a[:-1], beta_max)


def karras(num_train_timesteps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Float64:
    """Return the betas of noise levels evenly spaced in sigma^(1/rho), those that EDM samples at.

    Karras et al. 2022, eq. 5: t = 0 is sigma_min, T - 1 is sigma_max; sigma = sqrt((1 - a) / a), a = alphas_cumprod.
    """
    least, most = np.power([sigma_min, sigma_max], np.divide(1.0, rho))
    a = 1.0 / (1.0 + np.linspace(least, most, num_train_timesteps) ** (2.0 * rho))
    betas: Float64 = 1.0 - a / np.append(1.0, a[:-1])
    return betas


SCHEDULES: dict[str, Callable[..., Float64]] = {
    "linear": linear,
    "cosine": cosine,
    "quadratic": quadratic,
    "sigmoid": sigmoid,
}
IMPORTED = {"karras": karras}  # of networks trained elsewhere only


def betas_from_name(name: str, num_train_timesteps: int, **parameters: Any) -> Float64:
    """Return the betas of a named schedule, (T,) float64, each in (0, 1).

    Raises UsageError for an unknown name or parameter, for T < 1, and where a beta leaves (0, 1).
    """
    known = {**SCHEDULES, **IMPORTED}
    if name not in known:
        raise UsageError(f"schedule must be one of {', '.join(known)}, got {shown(name)}.")
    if num_train_timesteps < 1:
        raise UsageError(f"num_train_timesteps must be at least 1, got {num_train_timesteps!r}.")
    try:
        with np.errstate(all="ignore"):  # what goes wrong shows in the betas, and is refused below
            betas = known[name](num_train_timesteps, **parameters)
    except TypeError as exc:
        names = ", ".join(list(inspect.signature(known[name]).parameters)[1:])
        raise UsageError(f"The parameters of {name} must be numbers for {names}, got {shown(parameters)}.") from exc
    if not ((betas > 0) & (betas < 1)).all():
        worst = betas[~((betas > 0) & (betas < 1))][0]
        raise UsageError(f"Every beta of {name} must lie within (0, 1), got {float(worst)!r}. Change its parameters.")
    return betas


def alphas_cumprod_from_betas(betas: Float64) -> Float64:
    """Return the product of (1 - beta) up to each t (Ho et al. 2020, eq. 4), (T,) float64."""
    return np.cumprod(1.0 - np.asarray(betas), dtype=np.float64)


def log_snr(alphas_cumprod: Float64) -> Float64:
    """Return log(a / (1 - a)), the log signal-to-noise ratio (Kingma et al. 2021, eq. 3), (T,) float64."""
    a = np.asarray(alphas_cumprod, dtype=np.float64)
    with np.errstate(divide="ignore"):  # a may end in 0: minus infinity is the answer
        result: Float64 = np.log(a) - np.log1p(-a)
    return result


def spacing(num_train_timesteps: int, num_steps: int) -> Int64:
    """Return the times of a trajectory, `T (n - i) // n - 1`: (n,) int64, strictly falling from T - 1.

    Integer arithmetic gives exactly num_steps distinct times for every 1 <= num_steps <= T.
    Raises UsageError outside that range.
    """
    if not 1 <= num_steps <= num_train_timesteps:
        raise UsageError(
            f"The number of steps must be from 1 to {num_train_timesteps}, the model's own, got {num_steps!r}."
        )
    i = np.arange(num_steps, dtype=np.int64)
    return num_train_timesteps * (num_steps - i) // num_steps - 1


# --- grids: where n falling positions lie between T - 1 and 0, before they are rounded to times ---


def uniform_positions(alphas_cumprod: Float64, num_steps: int) -> Float64:
    """Return evenly spaced times, those of `spacing`."""
    return spacing(len(alphas_cumprod), num_steps).astype(np.float64)


def quadratic_positions(alphas_cumprod: Float64, num_steps: int) -> Float64:
    """Return times whose square roots are evenly spaced (Song et al. 2020, appendix D.2)."""
    left = np.arange(num_steps, 0, -1) / num_steps
    positions: Float64 = len(alphas_cumprod) * left * left - 1.0
    return positions


def log_snr_positions(alphas_cumprod: Float64, num_steps: int) -> Float64:
    """Return times evenly spaced in log SNR (Lu et al. 2022), from where a is MIN_A if T - 1 lies below."""
    levels = log_snr(np.maximum(alphas_cumprod, MIN_A))
    return _positions(levels, np.linspace(levels[-1], levels[0], num_steps))


def karras_positions(alphas_cumprod: Float64, num_steps: int, rho: float = 7.0) -> Float64:
    """Return times evenly spaced in sigma^(1/rho), sigma = sqrt((1 - a) / a) (Karras et al. 2022, eq. 5).

    From where a is MIN_A if T - 1 lies below.
    """
    levels = log_snr(np.maximum(alphas_cumprod, MIN_A))
    most, least = np.exp(-0.5 * levels[[-1, 0]] / rho)
    roots = np.linspace(most, least, num_steps)
    return _positions(levels, -2.0 * rho * np.log(roots))


def _positions(levels: Float64, wanted: Float64) -> Float64:
    """Return where levels over t, which fall, take the wanted values, rising; straight between two times."""
    positions: Float64 = np.interp(wanted, levels[::-1], np.arange(len(levels))[::-1])
    return positions


GRIDS: dict[str, Callable[..., Float64]] = {
    "uniform": uniform_positions,
    "quadratic": quadratic_positions,
    "log_snr": log_snr_positions,
    "karras": karras_positions,
}


def times_from_grid(name: str, alphas_cumprod: Float64, num_steps: int) -> Int64:
    """Return the times of a named grid: (n,) int64, strictly falling from T - 1, for every n from 1 to T.

    The nearest time to each position, or the nearest that is free below the one before it and leaves room for the rest.
    Raises UsageError for an unknown name and a number of steps outside that range.
    """
    if name not in GRIDS:
        raise UsageError(f"grid must be one of {', '.join(GRIDS)}, got {shown(name)}.")
    alphas_cumprod = np.asarray(alphas_cumprod, dtype=np.float64)
    times = spacing(len(alphas_cumprod), num_steps)  # refuses what is no number of steps
    nearest = np.rint(GRIDS[name](alphas_cumprod, num_steps)).astype(np.int64)
    for i in range(1, num_steps):
        times[i] = max(min(nearest[i], times[i - 1] - 1), num_steps - 1 - i)
    return times
