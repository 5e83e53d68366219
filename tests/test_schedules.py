import math

import numpy as np
import pytest
from representative import representative

from ddpm_export.errors import UsageError
from ddpm_export.process.schedules import (
    GRIDS,
    SCHEDULES,
    alphas_cumprod_from_betas,
    betas_from_name,
    log_snr,
    spacing,
    times_from_grid,
)

T = 1000


# Each paper's formula for one beta, in plain floats, t from 0.
def _linear(t, T, start=1e-4, end=0.02):
    return start + (end - start) * t / (T - 1)


def _quadratic(t, T, start=1e-4, end=0.02):
    return _linear(t, T, start**0.5, end**0.5) ** 2


def _sigmoid(t, T, start=1e-4, end=0.02, logit_range=6.0):
    return start + (end - start) / (1.0 + math.exp(logit_range - 2.0 * logit_range * t / (T - 1)))


def _cosine(t, T, offset=0.008, beta_max=0.999):
    def a(t):
        return math.cos((t / T + offset) / (1.0 + offset) * math.pi / 2.0) ** 2

    return min(1.0 - a(t + 1) / a(t), beta_max)


FORMULAS = {"linear": _linear, "quadratic": _quadratic, "sigmoid": _sigmoid, "cosine": _cosine}
PARAMETERS = {
    "linear": {"start": 1e-3, "end": 0.3},
    "quadratic": {"start": 1e-3, "end": 0.3},
    "sigmoid": {"start": 1e-3, "end": 0.3, "logit_range": 3.0},
    "cosine": {"offset": 0.02, "beta_max": 0.5},
}
OURS = {"start": "beta_start", "end": "beta_end"}


@pytest.mark.parametrize("num_train_timesteps", [2, 7, 1000, 4000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_betas_are_the_formula(name, num_train_timesteps):
    expected = [FORMULAS[name](t, num_train_timesteps) for t in range(num_train_timesteps)]
    np.testing.assert_allclose(betas_from_name(name, num_train_timesteps), expected, rtol=1e-11)


@pytest.mark.parametrize("name", SCHEDULES)
def test_parameters_reach_the_formula(name):
    theirs = PARAMETERS[name]
    betas = betas_from_name(name, 50, **{OURS.get(key, key): value for key, value in theirs.items()})
    np.testing.assert_allclose(betas, [FORMULAS[name](t, 50, **theirs) for t in range(50)], rtol=1e-11)
    assert not np.allclose(betas, betas_from_name(name, 50), rtol=1e-2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_keeps_the_contract(name):
    betas = betas_from_name(name, T)
    a = alphas_cumprod_from_betas(betas)
    assert betas.shape == a.shape == (T,)
    assert betas.dtype == a.dtype == np.float64
    assert 0 < betas.min() <= betas.max() < 1
    assert 0 < a[-1] < a[0] < 1
    assert (np.diff(a) < 0).all(), "alphas_cumprod must strictly fall"
    assert a[-1] < 2e-2, "the last x_t must be close to pure noise"
    np.testing.assert_allclose(a[1:] / a[:-1], 1.0 - betas[1:], rtol=1e-12)
    assert a[0] == 1.0 - betas[0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_inverts(name):
    a = alphas_cumprod_from_betas(betas_from_name(name, T))
    np.testing.assert_allclose(1.0 / (1.0 + np.exp(-log_snr(a))), a, rtol=1e-12)
    assert (np.diff(log_snr(a)) < 0).all()


def test_log_snr_at_half_and_at_zero():
    np.testing.assert_array_equal(log_snr(np.array([0.5, 0.0])), [0.0, -np.inf])


def test_cosine_before_its_cap_is_nichols_alphas_cumprod():
    def squared_cosine(t):
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2.0) ** 2

    a = alphas_cumprod_from_betas(betas_from_name("cosine", T))
    expected = [squared_cosine(t + 1) / squared_cosine(0) for t in range(T - 1)]  # eq. 17; the cap acts on the last
    np.testing.assert_allclose(a[:-1], expected, rtol=1e-9)


def test_karras_is_eq_5_of_its_paper_from_the_least_sigma_on():
    sigma_min, sigma_max, rho, T = 0.01, 50.0, 5.0, 9
    a = alphas_cumprod_from_betas(betas_from_name("karras", T, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho))
    roots = [sigma_max ** (1 / rho) + i / (T - 1) * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho)) for i in range(T)]
    np.testing.assert_allclose(np.sqrt((1.0 - a) / a)[::-1], np.power(roots, rho), rtol=1e-10)
    usual = alphas_cumprod_from_betas(betas_from_name("karras", 1000))
    np.testing.assert_allclose(np.sqrt((1.0 - usual) / usual)[[0, -1]], [0.002, 80.0], rtol=1e-9)


@representative("num_train_timesteps", [97, 1, 2, 3, 1000])
def test_spacing_for_every_number_of_steps(num_train_timesteps):
    for num_steps in range(1, num_train_timesteps + 1):
        t = spacing(num_train_timesteps, num_steps)
        assert t.dtype == np.int64
        assert t.shape == (num_steps,)
        assert t[0] == num_train_timesteps - 1
        assert t[-1] >= 0
        gaps = -np.diff(t)
        assert (gaps > 0).all(), num_steps
        # even: no two gaps differ by more than one, and what is left below the last is one of them
        gaps = np.append(gaps, t[-1] + 1)
        assert gaps.max() - gaps.min() <= 1, num_steps


def test_spacing_at_and_beyond_its_ends():
    np.testing.assert_array_equal(spacing(T, T), np.arange(T)[::-1])
    for num_steps in (0, -1, T + 1):
        with pytest.raises(UsageError, match=f"must be from 1 to {T}, the model's own, got {num_steps}"):
            spacing(T, num_steps)


@pytest.mark.parametrize(
    ("name", "num_train_timesteps", "parameters", "says"),
    [
        ("exponential", T, {}, "schedule must be one of linear, .*, got 'exponential'"),
        ("linear", 0, {}, "num_train_timesteps must be at least 1, got 0"),
        ("linear", -1, {}, "num_train_timesteps must be at least 1, got -1"),
        ("linear", T, {"beta_begin": 0.1}, "beta_begin"),
        ("cosine", T, {"beta_start": 0.1}, "beta_start"),
        ("linear", T, {"beta_start": "small"}, "beta_start"),
        ("linear", T, {"beta_end": 1.0}, "got 1.0"),
        ("linear", T, {"beta_start": 0.0}, "got 0.0"),
        ("linear", T, {"beta_start": float("nan")}, "got nan"),
        ("quadratic", T, {"beta_start": -0.1}, "got nan"),
        ("cosine", T, {"beta_max": 1.0}, "got 1.0"),
        ("cosine", T, {"offset": -1.0}, "beta of cosine"),
        ("karras", T, {"sigma_min": 0.0}, "beta of karras must lie within"),
        ("karras", T, {"sigma_min": 2.0, "sigma_max": 1.0}, "beta of karras"),
        ("karras", T, {"rho": 0.0}, "beta of karras"),
        ("karras", T, {"rho": "seven"}, "must be numbers for sigma_min, sigma_max, rho"),
    ],
)
def test_what_a_schedule_refuses(name, num_train_timesteps, parameters, says):
    with pytest.raises(UsageError, match=says):
        betas_from_name(name, num_train_timesteps, **parameters)


# --- grids ---


def a_of(schedule, num_train_timesteps=T):
    return alphas_cumprod_from_betas(betas_from_name(schedule, num_train_timesteps))


@representative("num_train_timesteps", [100, 1, 10, 1000, 4000])
@representative("schedule", SCHEDULES)
@pytest.mark.parametrize("name", GRIDS)
def test_every_number_of_steps_has_a_grid_of_distinct_times(name, schedule, num_train_timesteps):
    a = a_of(schedule, num_train_timesteps)
    for num_steps in range(1, num_train_timesteps + 1):
        if num_train_timesteps >= 1000 and 60 < num_steps < num_train_timesteps - 3 and num_steps % 97:
            continue  # these are a few hundred already
        t = times_from_grid(name, a, num_steps)
        assert (t.dtype, t.shape) == (np.int64, (num_steps,))
        assert (t[0], t[-1] >= 0) == (num_train_timesteps - 1, True)
        assert (np.diff(t) < 0).all(), num_steps
    np.testing.assert_array_equal(t, np.arange(num_train_timesteps)[::-1])  # all T of them


def test_the_uniform_grid_is_spacing():
    for num_steps in (1, 2, 7, 50, 999, T):
        np.testing.assert_array_equal(times_from_grid("uniform", a_of("linear"), num_steps), spacing(T, num_steps))


def test_the_quadratic_grid():
    np.testing.assert_array_equal(times_from_grid("quadratic", a_of("linear"), 5), [999, 639, 359, 159, 39])


@pytest.mark.parametrize("schedule", ["linear", "quadratic", "sigmoid"])
def test_where_log_snr_and_karras_times_lie(schedule):
    a = a_of(schedule)
    levels, n = log_snr(a), 8
    wanted = np.linspace(levels[-1], levels[0], n)
    sigma = np.sqrt((1.0 - a) / a)
    i = np.arange(n)  # Karras et al. 2022, eq. 5
    wanted_sigma = (sigma[-1] ** (1 / 7) + i / (n - 1) * (sigma[0] ** (1 / 7) - sigma[-1] ** (1 / 7))) ** 7
    for name, over_t, targets in (("log_snr", levels, wanted), ("karras", np.log(sigma), np.log(wanted_sigma))):
        t = times_from_grid(name, a, n)
        assert (t[0], t[-1]) == (T - 1, 0)
        for time, target in zip(t[1:-1], targets[1:-1], strict=True):
            # no time is nearer, but for the bend of the curve between two times
            assert abs(over_t[time] - target) <= 0.55 * abs(over_t[time + 1] - over_t[time - 1])
            assert abs(over_t - target).argmin() in (time - 1, time, time + 1)


@pytest.mark.parametrize("name", ["log_snr", "karras"])
def test_grids_where_the_image_is_lost_in_noise(name):
    a = a_of("cosine")
    lost = (a < 1e-5).sum()
    assert lost >= 1
    for ends_in in (a, np.append(a[:-1], 0.0)):
        t = times_from_grid(name, ends_in, 10)
        assert t[0] == T - 1
        assert (a[t[1:]] > 1e-5).all(), "one time for all that noise"


def test_what_is_no_grid():
    with pytest.raises(UsageError, match="grid must be one of uniform, quadratic, log_snr, karras, got 'even'"):
        times_from_grid("even", a_of("linear"), 5)
    for num_steps in (0, T + 1):
        with pytest.raises(UsageError, match=f"must be from 1 to {T}"):
            times_from_grid("karras", a_of("linear"), num_steps)
