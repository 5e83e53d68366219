import collections
import dataclasses
import inspect
import itertools
import math

import numpy as np
import pytest
from gaussian import flow, gaussian_model, gaussian_spec
from representative import representative

from ddpm_export.errors import ModelRefusedError, NonFiniteError, UsageError
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import Defaults
from ddpm_export.model.steps import choose, plan
from ddpm_export.model.steps import grid_of as grid
from ddpm_export.process.equations import Denoised
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.schedules import GRIDS, SCHEDULES, alphas_cumprod_from_betas, betas_from_name, times_from_grid
from ddpm_export.process.solvers import SAMPLERS, Grid, _beyond_first_order, ddim, ddpm, unipc
from ddpm_export.process.walk import State, walk

T = 1000
MEAN, STD = 0.3, 0.5
BETAS = betas_from_name("linear", T)
ALPHAS_CUMPROD = alphas_cumprod_from_betas(BETAS)
SPEC = gaussian_spec(ALPHAS_CUMPROD)
SHAPE = SPEC.state_shape
# A new entry of SAMPLERS is tested as it stands; its knobs, once they are listed here.
KNOBS = {
    "ddim": [{}, {"eta": 0.5}, {"eta": 1.0}],
    "ddpm": [{}, {"variance": "fixed_large"}, {"variance": "learned"}],
    "unipc": [{}, {"order": 2}],
}
CASES = [pytest.param(name, knobs, id=f"{name}-{knobs}") for name in SAMPLERS for knobs in KNOBS.get(name, [{}])]
every_sampler = representative(("name", "knobs"), CASES, by=lambda name, _: name)


def gaussian_denoiser(spec=SPEC, fraction=0.3, model=None):
    """The best denoiser for Gaussian data, which has learned a variance besides."""
    denoise = denoiser(model or gaussian_model(spec.alphas_cumprod, MEAN, STD, spec.prediction), spec)
    return lambda x_t, row, before=None: denoise(x_t, row, before)._replace(
        variance_fraction=np.full_like(x_t, fraction)
    )


def denoiser_for(name, spec=SPEC):
    """The denoiser that a sampler is for: consistency adds all noise anew to where a network has jumped."""
    if name != "consistency":
        return gaussian_denoiser(spec)
    model = gaussian_model(spec.alphas_cumprod, MEAN, STD, "x_0", jumps=True)
    return denoiser(model, gaussian_spec(spec.alphas_cumprod, "x_0"))


def rows_of(name, num_steps, knobs=None, spec=SPEC):
    """A sampler's plan, a learned variance included, whatever the spec has learned."""
    return Plan(tuple(SAMPLERS[name](grid(spec, num_steps), **(knobs or {}))))


def walked(name, num_steps, noise, knobs=None, spec=SPEC, denoise=None, **where):
    return walk(denoise or gaussian_denoiser(spec), noise, rows_of(name, num_steps, knobs, spec), **where)


def noise64(images, seed=1, shape=SHAPE):
    noise = noise_stream(seed, range(images), shape)
    return lambda draw: noise(draw).astype(np.float64)


def last(states):
    return collections.deque(states, maxlen=1)[0]


def moments(name, knobs, num_steps, alphas_cumprod=ALPHAS_CUMPROD):
    """Mean and standard deviation of the samples, exactly: with a Gaussian model a sampler is affine in its noise.

    Image k of the batch has draw k = 1 and all others 0, and the last has none at all.
    """
    spec = gaussian_spec(alphas_cumprod)
    draws = len(rows_of(name, num_steps, knobs, spec).rows) + 1

    def noise(draw):
        return np.eye(draws + 1)[draw].reshape(-1, 1, 1, 1)

    x = last(walked(name, num_steps, noise, knobs, spec, denoiser_for(name, spec))).x.ravel()
    return x[-1], math.sqrt(np.square(x[:-1] - x[-1]).sum())


@representative("schedule", SCHEDULES)
@every_sampler
def test_samples_have_the_datas_mean_and_deviation(name, knobs, schedule):
    alphas_cumprod = alphas_cumprod_from_betas(betas_from_name(schedule, T))
    mean, std = moments(name, knobs, T, alphas_cumprod)
    # x_T starts at mean 0 and not at sqrt(a_T) MEAN: that much may be left
    assert abs(mean - MEAN) < 1e-9 + math.sqrt(alphas_cumprod[-1]) * MEAN
    assert abs(std - STD) < 0.005
    coarse = abs(moments(name, knobs, T // 10, alphas_cumprod)[1] - STD)
    # nor at its deviation there: what an exact flow makes of that is left, too, and is less than a_T
    assert abs(std - STD) < 0.25 * coarse + alphas_cumprod[-1], "more steps are better"


@every_sampler
def test_sampled_moments(name, knobs):
    images, num_steps = 4096, 25
    n = images * math.prod(SHAPE)
    noise = noise_stream(2, range(images), SHAPE)
    x = last(walked(name, num_steps, noise, knobs, denoise=denoiser_for(name))).x.astype(np.float64)
    mean, std = moments(name, knobs, num_steps)
    assert abs(x.mean() - mean) < 5 * std / math.sqrt(n)
    assert abs(x.std() / std - 1) < 5 / math.sqrt(2 * n)


@representative("clip_x_0", [None, 0.5])
@pytest.mark.parametrize("num_steps", [1, 7, 50])
def test_ddpm_is_ddim_with_eta_1(num_steps, clip_x_0):
    spec = gaussian_spec(ALPHAS_CUMPROD, clip_x_0=clip_x_0)
    noise = noise64(2)
    ours = walked("ddpm", num_steps, noise, spec=spec)
    for a, b in zip(ours, walked("ddim", num_steps, noise, {"eta": 1.0}, spec), strict=True):
        np.testing.assert_allclose(a.x, b.x, rtol=0, atol=1e-12)


@representative("clip_x_0", [0.5, None])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_is_hos_algorithm_2(variance, clip_x_0):
    spec, noise = gaussian_spec(ALPHAS_CUMPROD, clip_x_0=clip_x_0), noise64(2)
    model = gaussian_model(ALPHAS_CUMPROD, MEAN, STD)
    states = walked("ddpm", T, noise, {"variance": variance}, spec)
    x = noise(0)
    for t, state in zip(reversed(range(T)), states, strict=True):
        alpha, alpha_bar = 1.0 - BETAS[t], ALPHAS_CUMPROD[t]
        alpha_bar_before = ALPHAS_CUMPROD[t - 1] if t > 0 else 1.0
        x_0 = (x - math.sqrt(1 - alpha_bar) * model(x, np.full(2, t))["eps"]) / math.sqrt(alpha_bar)
        if clip_x_0 is not None:
            x_0 = x_0.clip(-clip_x_0, clip_x_0)
        mean = (  # eq. 7
            math.sqrt(alpha_bar_before) * BETAS[t] / (1 - alpha_bar) * x_0
            + math.sqrt(alpha) * (1 - alpha_bar_before) / (1 - alpha_bar) * x
        )
        beta_tilde = (1 - alpha_bar_before) / (1 - alpha_bar) * BETAS[t]
        sigma = math.sqrt(beta_tilde if variance == "fixed_small" else BETAS[t])
        x = mean + (sigma * noise(T - t) if t > 0 else 0.0)
        np.testing.assert_allclose(state.x, x, rtol=0, atol=1e-10, err_msg=f"t = {t}")  # 1000 steps of 1e-16 each


def test_ho_without_clipping_is_algorithm_2s_own_line():
    # x = (x - beta / sqrt(1 - alpha_bar) eps) / sqrt(alpha) + sigma z
    noise, model = noise64(2), gaussian_model(ALPHAS_CUMPROD, MEAN, STD)
    x = noise(0)
    for t, state in zip(reversed(range(T)), walked("ddpm", T, noise), strict=True):
        eps = model(x, np.full(2, t))["eps"]
        np.testing.assert_allclose(state.eps, eps, rtol=0, atol=1e-10)
        mean = (x - BETAS[t] / math.sqrt(1 - ALPHAS_CUMPROD[t]) * eps) / math.sqrt(1 - BETAS[t])
        if t > 0:
            mean += math.sqrt((1 - ALPHAS_CUMPROD[t - 1]) / (1 - ALPHAS_CUMPROD[t]) * BETAS[t]) * noise(T - t)
        np.testing.assert_allclose(state.x, mean, rtol=0, atol=1e-10)
        x = state.x


def test_ddims_error_halves_when_steps_double():
    x_T = np.linspace(-3, 3, 13).reshape(-1, 1, 1, 1)
    exact = flow(x_T, ALPHAS_CUMPROD[-1], MEAN, STD)
    errors = [np.abs(last(walked("ddim", n, lambda _: x_T)).x - exact).max() for n in (25, 50, 100, 200, 400)]
    orders = np.log2(errors[:-1]) - np.log2(errors[1:])
    np.testing.assert_allclose(orders, 1.0, rtol=0, atol=0.07)
    assert errors[-1] < 0.02


def test_a_step_with_the_true_x_0_is_exact():
    # eta = 0 and data of one point: the flow is a straight line in these coordinates, and any one step is exact
    x_T = np.linspace(-3, 3, 13).reshape(-1, 1, 1, 1)
    denoise = denoiser(gaussian_model(ALPHAS_CUMPROD, MEAN, 0.0), SPEC)
    for num_steps in (1, 2, 30):
        state = last(walked("ddim", num_steps, lambda _: x_T, denoise=denoise))
        np.testing.assert_allclose(state.x, MEAN, rtol=0, atol=1e-12)


@representative("num_steps", [10, T])
def test_fixed_larges_mean_and_noise(num_steps):
    denoise, where = gaussian_denoiser(), grid(SPEC, num_steps)
    x = noise64(2)(0)
    ones, zeros = (lambda _: np.ones_like(x)), (lambda _: np.zeros_like(x))
    pairs = zip(ddpm(where, variance="fixed_large"), ddpm(where), where.a[1:], strict=True)
    for large, small, a_prev in pairs:
        (loud,) = walk(denoise, ones, Plan((large,)), x=x)
        (quiet,) = walk(denoise, zeros, Plan((large,)), x=x)
        (mean,) = walk(denoise, zeros, Plan((small,)), x=x)
        np.testing.assert_array_equal(quiet.x, mean.x)
        beta = 1.0 - large.a / a_prev
        np.testing.assert_allclose(loud.x - quiet.x, math.sqrt(beta) if a_prev < 1 else 0.0, rtol=0, atol=1e-12)


@representative("num_steps", [10, T])
def test_a_learned_variance_lies_between_the_fixed_ones_of_the_steps_taken(num_steps):
    where, noise = grid(SPEC, num_steps), noise64(2)

    def states(variance, fraction):
        denoise = gaussian_denoiser(fraction=fraction)
        return walked("ddpm", num_steps, noise, {"variance": variance}, denoise=denoise)

    for fraction, fixed in ((0.0, "fixed_small"), (1.0, "fixed_large")):
        for a, b in zip(states("learned", fraction), states(fixed, None), strict=True):
            np.testing.assert_allclose(a.x, b.x, rtol=0, atol=1e-12)
    x = noise(0)
    for row, a_prev in zip(ddpm(where, variance="learned"), where.a[1:], strict=True):
        beta = 1.0 - row.a / a_prev
        logs = [math.log(v) if v else -math.inf for v in (beta * (1.0 - a_prev) / (1.0 - row.a), beta)]
        for f in (0.3, -0.1, 1.2):  # an original does not clip, so nor do we
            ones, zeros = (lambda _: np.ones_like(x)), (lambda _: np.zeros_like(x))
            (loud,) = walk(gaussian_denoiser(fraction=f), ones, Plan((row,)), x=x)
            (quiet,) = walk(gaussian_denoiser(fraction=f), zeros, Plan((row,)), x=x)
            std = math.exp(0.5 * ((1.0 - f) * logs[0] + f * logs[1])) if a_prev < 1 else 0.0  # eq. 15
            np.testing.assert_allclose(loud.x - quiet.x, std, rtol=0, atol=1e-12)


def test_each_pixel_has_its_own_learned_variance():
    noise, row = noise64(2), ddpm(grid(SPEC, 10), variance="learned")[3]
    entry = Plan((row,))
    fraction = np.linspace(0.0, 1.0, noise(0).size).reshape(noise(0).shape)
    (state,) = walk(gaussian_denoiser(fraction=fraction), noise, entry)
    for k in np.ndindex(fraction.shape):
        (alone,) = walk(gaussian_denoiser(fraction=fraction[k]), noise, entry)
        assert state.x[k] == pytest.approx(alone.x[k], abs=1e-12)


def test_a_network_without_learned_variance_has_none_to_sample_with():
    without = denoiser(gaussian_model(ALPHAS_CUMPROD, MEAN, STD), SPEC)
    with pytest.raises(UsageError, match="the network has learned none"):
        last(walked("ddpm", 5, noise64(1), {"variance": "learned"}, denoise=without))
    with pytest.raises(UsageError, match="the network has learned none"):
        plan(SPEC, sampler="ddpm", variance="learned")


@every_sampler
def test_no_noise_where_the_grid_ends_at_the_picture(name, knobs):
    drawn = []

    def noise(draw):
        drawn.append(draw)
        return np.ones((1, *SHAPE))

    rows = SAMPLERS[name](Grid((500,), (ALPHAS_CUMPROD[500], 1.0)), **knobs)
    state = last(walk(gaussian_denoiser(), noise, Plan(tuple(rows))))
    assert drawn == [0]
    np.testing.assert_allclose(state.x, state.x_0, rtol=0, atol=1e-15)


@every_sampler
def test_row_i_uses_draw_i_once(name, knobs):
    drawn, noise = [], noise64(1)
    last(walked(name, 12, lambda draw: (drawn.append(draw), noise(draw))[1], knobs))
    assert drawn == [0, *(row.i for row in rows_of(name, 12, knobs).rows if row.noise)]
    assert [row.i for row in rows_of(name, 12, knobs).rows][:12] == list(range(1, 13))


@every_sampler
def test_cut_anywhere_and_resumed(name, knobs):
    noise = noise_stream(1, range(2), SHAPE, draws=rows_of(name, 12, knobs).draws)
    whole = list(walked(name, 12, noise, knobs))
    for a, b in zip(whole, walked(name, 12, noise_stream(1, range(2), SHAPE), knobs), strict=True):
        np.testing.assert_array_equal(a.x, b.x)  # whichever draws are made ahead
    for cut in range(1, len(whole)):
        kept = whole[cut - 1].x.copy()
        rest = list(walked(name, 12, noise, knobs, state=whole[cut - 1]))
        for a, b in zip(whole[cut:], rest, strict=True):
            assert a.row == b.row
            np.testing.assert_array_equal(a[1:4], b[1:4])
        np.testing.assert_array_equal(whole[cut - 1].x, kept)


@every_sampler
def test_walking_is_lazy_and_keeps_nothing_that_no_row_reads(name, knobs):
    evaluations = []
    model = gaussian_model(ALPHAS_CUMPROD, MEAN, STD)
    denoise = gaussian_denoiser(model=lambda x_t, t: (evaluations.append(int(t[0])), model(x_t, t))[1])
    noise, rows = noise_stream(1, range(2), SHAPE), rows_of(name, 8, knobs)
    states = walk(denoise, noise, rows)
    assert inspect.isgenerator(states)
    assert evaluations == []
    seen = []
    for number, state in enumerate(states, start=1):
        assert evaluations == [row.t for row in rows.rows[:number]], "one evaluation a row, none ahead"
        assert len(state.history) == rows.kept[number - 1]
        seen.append((state, [array.copy() for array in state[1:4]]))
    for state, copies in seen:
        np.testing.assert_array_equal(state[1:4], copies)
    arrays = [array for state, _ in seen for array in state[1:4]]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


@representative("clip_x_0", [1.0, None])
@representative("prediction", ["eps", "x_0", "v"])
@every_sampler
def test_float32_stays_float32(name, knobs, prediction, clip_x_0):
    spec = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0)
    noise = noise_stream(1, range(2), SHAPE)
    for state in walked(name, 20, noise, knobs, spec):
        assert [array.dtype for array in state[1:4]] == [np.float32] * 3, state.row


@every_sampler
def test_float32_agrees_with_float64(name, knobs):
    single = walked(name, 100, noise_stream(1, range(4), SHAPE), knobs)
    for a, b in zip(single, walked(name, 100, noise64(4), knobs), strict=True):
        np.testing.assert_allclose(a.x, b.x, rtol=0, atol=1e-5, err_msg=str(a.row))


@every_sampler
def test_an_image_does_not_depend_on_its_batch(name, knobs):
    batch = last(walked(name, 10, noise_stream(1, range(9), SHAPE), knobs))
    alone = last(walked(name, 10, noise_stream(1, [7], SHAPE), knobs))
    np.testing.assert_array_equal(alone.x[0], batch.x[7])


@every_sampler
def test_the_zero_at_the_end_of_alphas_cumprod(name, knobs):
    alphas_cumprod = (*ALPHAS_CUMPROD[:-1], 0.0)
    spec = gaussian_spec(alphas_cumprod, "v")
    for num_steps in (1, 10, T):
        for state in walked(name, num_steps, noise64(2), knobs, spec):
            assert np.isfinite(state[1:4]).all(), state.row


@pytest.mark.parametrize(
    ("sampler", "message", "knob", "values"),
    [
        (ddim, r"eta must be between 0 and 1, got ", "eta", [-0.001, 1.001, math.nan, math.inf, -math.inf]),
        (ddpm, "variance must be one of", "variance", ["small", "", "Learned", None]),
        (unipc, "order must be 2 or 3, got", "order", [1, 4, "3"]),
    ],
)
def test_a_knob_out_of_range(sampler, message, knob, values):
    for value in values:
        with pytest.raises(UsageError, match=message):
            sampler(grid(SPEC, 2), **{knob: value})


def test_eta_is_rounded_to_float32():
    assert ddim(grid(SPEC, 5), eta=0.1) == ddim(grid(SPEC, 5), eta=float(np.float32(0.1)))


def test_no_rows_is_no_state():
    assert list(walk(gaussian_denoiser(), noise64(1), Plan(()))) == []


# --- rows beyond the first order ---


def two_steps_back(where):
    """Made-up rows that read up to three evaluations, with and without noise."""
    first = ddim(where, eta=0.5)
    return Plan(
        tuple(
            row._replace(
                x_0=(*row.x_0, 0.1, -0.05)[: row.i],
                eps=(*row.eps, -0.02)[: row.i],
                noise=row.noise if row.i % 2 else (),
            )
            for row in first
        )
    )


def test_a_row_is_the_weighted_sum_of_what_was_found():
    rows, noise = two_steps_back(grid(SPEC, 7)), noise64(2)
    found = []
    for state in walk(gaussian_denoiser(), noise, rows):
        found.insert(0, state)
        x = sum(w * past.x_0 for w, past in zip(state.row.x_0, found, strict=False))
        x += sum(w * past.eps for w, past in zip(state.row.eps, found, strict=False))
        x += sum(std * noise(state.row.i) for std in state.row.noise)
        np.testing.assert_allclose(state.x, x, rtol=0, atol=1e-14)


def test_a_plan_that_looks_back_goes_on_exactly_and_keeps_what_it_reads():
    rows, noise = two_steps_back(grid(SPEC, 7)), noise_stream(1, range(2), SHAPE)
    whole = list(walk(gaussian_denoiser(), noise, rows))
    assert [len(state.history) for state in whole] == [1, 2, 2, 2, 2, 2, 0]
    for state in whole[:-1]:
        rest = list(walk(gaussian_denoiser(), noise, rows, state=state))
        for a, b in zip(whole[state.row.i :], rest, strict=True):
            np.testing.assert_array_equal(a[1:4], b[1:4])


def test_the_denoiser_gets_the_clean_image_found_before():
    given, found, denoise = [], [], gaussian_denoiser()

    def watching(x_t, row, before):
        given.append(before)
        found.append(denoise(x_t, row))
        return found[-1]

    states = list(walk(watching, noise64(1), rows_of("ddim", 4)))
    assert given[0] is None
    assert all(before is earlier.x_0 for before, earlier in zip(given[1:], found, strict=False))
    given.clear()
    list(walk(watching, noise64(1), rows_of("ddim", 4), state=states[1]))
    assert given[0] is states[1].x_0


def test_times_may_repeat_and_rise():
    a = ALPHAS_CUMPROD
    rows = [Row(1, 500, a[500], (1.0,), (0.5,)), Row(2, 500, a[500], (0.9,), (0.6,)), Row(3, 700, a[700], (1.0,))]
    states = list(walk(gaussian_denoiser(), noise64(1), Plan(tuple(rows))))
    assert [state.row.i for state in states] == [1, 2, 3]


def test_a_plans_start_weighs_draw_0():
    rows, noise = rows_of("ddim", 3), noise64(1)
    x_T = 1.5 * noise(0)
    a = last(walk(gaussian_denoiser(), noise, Plan(rows.rows, start=1.5)))
    b = last(walk(gaussian_denoiser(), noise, rows, x=x_T))
    np.testing.assert_array_equal(a.x, b.x)


@every_sampler
def test_weights_are_small_and_lead_from_level_to_level(name, knobs):
    for schedule in SCHEDULES:
        spec = gaussian_spec(alphas_cumprod_from_betas(betas_from_name(schedule, T)))
        for num_steps in (5, 10, 50):
            where = grid(spec, num_steps)
            rows = SAMPLERS[name](where, **knobs)
            assert all(abs(w) < 10 for row in rows for w in (*row.x_0, *row.eps, *row.noise))
            if not any(row.noise for row in rows) and len(rows) == num_steps:
                for row, a in zip(rows, where.a[1:], strict=True):
                    np.testing.assert_allclose(sum(row.x_0), math.sqrt(a), rtol=0, atol=1e-12)
                    np.testing.assert_allclose(sum(row.eps), math.sqrt(1 - a), rtol=0, atol=1e-12)


# --- from a spec to a plan ---


def test_what_is_left_out_is_the_specs():
    spec = gaussian_spec(ALPHAS_CUMPROD, defaults=Defaults("ddim", 7, 0.5))
    assert plan(spec).rows == tuple(ddim(grid(spec, 7), eta=0.5))
    assert plan(spec, num_steps=3).rows == tuple(ddim(grid(spec, 3), eta=0.5))
    assert plan(spec, eta=0.0).rows == tuple(ddim(grid(spec, 7), eta=0.0))
    assert plan(spec, sampler="ddpm").rows == tuple(ddpm(grid(spec, 7)))


def test_default_times_and_plans():
    own = Plan(tuple(ddim(grid(SPEC, 2))))
    spec = gaussian_spec(
        ALPHAS_CUMPROD, defaults=Defaults("ddim", 3, 0.0, times=(900, 50, 3)), requires=("times",), plans={"own": own}
    )
    assert [row.t for row in plan(spec).rows] == [900, 50, 3]
    assert len(plan(spec, num_steps=5).rows) == 5
    assert plan(spec, name="own") is own
    spec = gaussian_spec(ALPHAS_CUMPROD, defaults=Defaults(plan="own"), requires=("plan",), plans={"own": own})
    assert plan(spec) is own
    assert choose(spec).name == "own"
    assert len(plan(spec, num_steps=5).rows) == 5, "whoever names steps means them"


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_by_name(name):
    times = times_from_grid(name, np.array(ALPHAS_CUMPROD), 6).tolist()
    assert plan(SPEC, sampler="dpmpp_3m", grid=name, num_steps=6) == plan(SPEC, sampler="dpmpp_3m", times=times)
    chosen = choose(SPEC, grid=name, num_steps=6)
    assert (chosen.grid, chosen.times) == ((None, None) if name == "uniform" else (name, tuple(times)))


def test_a_number_of_steps_chooses_among_the_plans_of_the_default_ones_solver():
    plans = {f"PNDM-{n}": plan(gaussian_spec(ALPHAS_CUMPROD), sampler="ipndm", num_steps=n) for n in (10, 5)}
    plans["own-7"] = plans["PNDM-5"]
    spec = gaussian_spec(ALPHAS_CUMPROD, defaults=Defaults(plan="PNDM-10"), requires=("plan",), plans=plans)
    assert choose(spec).name == "PNDM-10"
    assert choose(spec, num_steps=5).name == "PNDM-5"
    assert choose(spec, num_steps=7, sampler="ddim").sampler == "ddim"
    assert choose(spec, num_steps=7) == choose(spec, num_steps=7, sampler="ddim")  # no plan has as many: the sampler's
    named = dataclasses.replace(spec, defaults=Defaults(plan="own"), plans={"own": plans["PNDM-5"]})
    assert choose(named, num_steps=7).sampler == "ddim"  # whose name says no number


def test_a_grid_by_name_takes_the_place_of_the_default_times_and_plan():
    own = Plan(tuple(ddim(grid(SPEC, 2))))
    for defaults, requires in (
        (Defaults(num_steps=3, times=(9, 5, 3)), "times"),
        (Defaults(num_steps=3, plan="own"), "plan"),
    ):
        spec = gaussian_spec(ALPHAS_CUMPROD, defaults=defaults, requires=(requires,), plans={"own": own})
        assert [row.t for row in plan(spec, grid="uniform").rows] == [999, 665, 332]
        assert [row.t for row in plan(spec, grid="quadratic").rows] == [999, 443, 110]


@pytest.mark.long
@every_sampler
def test_weights_are_small_on_every_grid(name, knobs):
    for schedule in SCHEDULES:
        spec = gaussian_spec(alphas_cumprod_from_betas(betas_from_name(schedule, T)))
        for grid_name in GRIDS:
            for num_steps in (5, 6, 8, 10, 20, 50, 400, T):
                rows = SAMPLERS[name](grid(spec, num_steps, name=grid_name), **knobs)
                # the one exception: Heun's first step of five there crosses half of all noise at once
                most = 17 if (name, schedule, grid_name, num_steps) == ("heun", "sigmoid", "quadratic", 5) else 10
                largest = max(abs(w) for row in rows for w in (*row.x_0, *row.eps, *row.noise))
                assert largest < most, (schedule, grid_name, num_steps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "nonsense"}, "sampler must be one of ddpm, ddim"),
        ({"sampler": "ddpm", "eta": 0.0}, "eta does not apply to ddpm"),
        ({"sampler": "ddim", "variance": "fixed_large"}, "variance does not apply to ddim"),
        ({"num_steps": T + 1}, "steps"),
        ({"times": []}, "times must strictly fall"),
        ({"times": [5, 5]}, "times must strictly fall"),
        ({"times": [5, 7]}, "times must strictly fall"),
        ({"times": [T]}, "times must strictly fall"),
        ({"times": [3, -1]}, "times must strictly fall"),
        ({"times": [9, 5], "grid": "karras"}, "Give grid or times, not both"),
        ({"grid": "even"}, "grid must be one of uniform, quadratic, log_snr, karras, got 'even'"),
        ({"times": [9, 5], "num_steps": 3}, "There are 2 times, but num_steps is 3. Drop it"),
        ({"name": "own"}, "plan must be one of none, for the model carries none, got 'own'"),
    ],
)
def test_what_is_no_plan_is_refused_before_anything_is_computed(settings, message):
    with pytest.raises(UsageError, match=message):
        plan(SPEC, **settings)


def test_a_plan_of_a_file_fixes_the_steps():
    spec = gaussian_spec(ALPHAS_CUMPROD, plans={"own": Plan(tuple(ddim(grid(SPEC, 2))))})
    for how in ({"eta": 0.0}, {"num_steps": 2}):
        with pytest.raises(UsageError, match="plan own already fixes the steps"):
            plan(spec, name="own", **how)


def test_a_default_sampler_that_is_unknown_refuses_the_model():
    spec = gaussian_spec(ALPHAS_CUMPROD, defaults=Defaults("dpm++"))
    with pytest.raises(ModelRefusedError, match="default sampler, 'dpm\\+\\+', is unknown"):
        plan(spec)
    assert plan(spec, sampler="ddim")


@pytest.mark.parametrize("sick", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_told_in_its_row(sick):
    spec = gaussian_spec(ALPHAS_CUMPROD, clip_x_0=1.0)  # clipping hides an infinity
    healthy = gaussian_model(ALPHAS_CUMPROD, MEAN, STD)

    def model(x_t, t):
        eps = healthy(x_t, t)["eps"]
        if t[0] == grid(spec, 5).t[2]:
            eps[1, 0, 0, 0] = sick
        return {"eps": eps}

    with pytest.raises(NonFiniteError, match=r"At step 3 .* image 1 of its batch became NaN or infinite") as inputs:
        list(walk(denoiser(model, spec), noise64(2), rows_of("ddim", 5, spec=spec)))
    assert inputs.value.index == 1


# --- orders, against the exact flow of Gaussian data, on grids of any (t, a) ---


def exact(x, a, a_next):
    """Where the probability-flow ODE carries x from a to a_next."""

    def std_at(level):
        return math.sqrt(level * STD**2 + 1.0 - level)

    return math.sqrt(a_next) * MEAN + std_at(a_next) * (x - math.sqrt(a) * MEAN) / std_at(a)


def best(x, row, _before=None):
    """The best denoiser for Gaussian data at any a, of which no table is needed."""
    eps = math.sqrt(1.0 - row.a) / (row.a * STD**2 + 1.0 - row.a) * (x - math.sqrt(row.a) * MEAN)
    return Denoised((x - math.sqrt(1.0 - row.a) * eps) / math.sqrt(row.a), eps)


def even_in_sigma(n):
    return 1.0 / (1.0 + np.linspace(3.0, 0.3, n + 1) ** 2)


def even_in_log_snr(n):
    return 1.0 / (1.0 + np.geomspace(3.0, 0.3, n + 1) ** 2)


def uneven_in_log_snr(n):
    return 1.0 / (1.0 + 3.0**2 * 0.1 ** (2.0 * np.linspace(0.1, 1.0, n + 1) ** 0.8))


def order_of(name, a_of, knobs, ahead=3):
    """How the error falls when steps double, from exact values at the first `ahead` points."""
    errors = []
    for n in (80, 160, 320):
        a = a_of(n)
        where = Grid(tuple(float(n - k) for k in range(n)), tuple(a.tolist()))
        rows = SAMPLERS[name](where, **knobs)
        x = np.array([[[[-1.5]]], [[[2.0]]]])
        starts = [exact(x, a[0], level) for level in a[: ahead + 1]]
        found = [best(start, Row(1, 0.0, float(level)))[:2] for start, level in zip(starts, a, strict=False)]
        skipped = next(k for k, row in enumerate(rows) if row.t == where.t[ahead])  # Heun has two rows a step
        state = State(rows[skipped - 1], starts[ahead], *found[ahead - 1], tuple(reversed(found[:ahead])))
        end = last(walk(best, noise64(2), Plan(tuple(rows)), state=state)).x
        errors.append(np.abs(end - exact(x, a[0], a[-1])).max())
    return np.log2(errors[0] / errors[1]), np.log2(errors[1] / errors[2])


@pytest.mark.parametrize(
    ("name", "a_of", "order"),
    [
        ("ddim", even_in_sigma, 1),
        ("ddim", even_in_log_snr, 1),
        ("dpmpp_2m", even_in_log_snr, 2),
        ("dpmpp_2m", even_in_sigma, 2),
        ("heun", even_in_sigma, 2),
        ("heun", even_in_log_snr, 2),
        ("ipndm", even_in_sigma, 4),
        ("ipndm", even_in_log_snr, 2),
        ("dpmpp_3m", even_in_sigma, 3),
        ("dpmpp_3m", even_in_log_snr, 3),
        ("dpmpp_3m", uneven_in_log_snr, 3),
        ("deis", even_in_sigma, 3),
        ("deis", even_in_log_snr, 3),
        ("deis", uneven_in_log_snr, 3),
        # the predictor's order and one more (Zhao et al. 2023, section 3)
        ("unipc", uneven_in_log_snr, 4),
        ("unipc", even_in_log_snr, 4),
        ("unipc-2", even_in_sigma, 3),
        ("unipc-2", even_in_log_snr, 3),
        ("unipc-2", uneven_in_log_snr, 3),
    ],
)
def test_the_order_of_a_solver(name, a_of, order):
    name, _, solver_order = name.partition("-")
    for measured in order_of(name, a_of, {"order": int(solver_order)} if solver_order else {}):
        assert measured == pytest.approx(order, abs=0.45), "the next order is 1 away"


@pytest.mark.parametrize(("name", "eta"), [("dpmpp_2m", 0.0), ("dpmpp_2m_sde", 1.0)])
def test_a_solver_without_its_second_order_term_is_ddim(name, eta):
    for row, first in zip(SAMPLERS[name](grid(SPEC, 20)), ddim(grid(SPEC, 20), eta=eta), strict=True):
        assert sum(row.x_0) == pytest.approx(first.x_0[0], abs=1e-14)
        assert (row.eps, row.noise) == (first.eps, first.noise)
        assert row.reach == 1 or row.x_0[1] < 0, "a slope is extrapolated, not interpolated"


def test_higher_orders_are_first_order_where_the_image_is_lost_in_noise():
    spec = gaussian_spec(alphas_cumprod_from_betas(betas_from_name("cosine", T)))
    assert spec.alphas_cumprod[-1] < 1e-8
    for name in set(SAMPLERS) - {"ddpm", "ddim", "consistency"}:
        rows = SAMPLERS[name](grid(spec, 10))
        assert rows[0].reach == 1
        assert rows[1].t == rows[0].t - 100, "Heun corrects nothing there"


@pytest.mark.long
@pytest.mark.parametrize("name", SAMPLERS)
def test_rounding_of_a_thousand_float32_steps_stays_small(name):
    # linear T = 1000: what float32 loses on the way, in levels of a picture
    noise = noise_stream(1, range(4), SHAPE)
    end = last(walked(name, T, noise)).x
    truth = last(walked(name, T, noise64(4))).x
    assert np.abs(end - truth).max() * 127.5 < 0.01


@pytest.mark.parametrize(
    ("name", "knobs", "reaches"),
    [
        ("dpmpp_2m_sde", {}, [1, 2, 2, 2, 2, 2, 1]),
        ("dpmpp_3m", {}, [1, 2, 3, 3, 3, 3, 1]),
        ("deis", {}, [1, 2, 3, 3, 3, 3, 1]),
        ("unipc", {}, [1, 2, 3, 4, 4, 4, 1]),
        ("unipc", {"order": 2}, [1, 2, 3, 3, 3, 3, 1]),
    ],
)
def test_how_far_back_rows_look(name, knobs, reaches):
    assert [row.reach for row in SAMPLERS[name](grid(SPEC, 7), **knobs)] == reaches


def test_consistency_adds_all_noise_anew():
    where = grid(SPEC, 4)
    for row, a in zip(SAMPLERS["consistency"](where), where.a[1:], strict=True):
        assert (row.x_0, row.eps) == ((math.sqrt(a),), ())
        assert row.noise == ((math.sqrt(1.0 - a),) if a < 1.0 else ())
    noise, jumping = noise64(2), denoiser_for("consistency")
    (state,) = walk(jumping, noise, rows_of("consistency", 1))
    exact_end = flow(noise(0), ALPHAS_CUMPROD[-1], MEAN, STD)
    np.testing.assert_allclose(state.x, exact_end, rtol=0, atol=1e-12)


def test_a_polynomial_is_integrated_exactly():
    # by Gauss and Legendre's 40 points
    points, weights = np.polynomial.legendre.leggauss(40)
    for h, n in itertools.product((-7.0, -1.01, -0.99, -0.01, 1e-4, 0.5, 0.99, 1.01, 6.0), range(1, 4)):
        s = h * (points + 1.0) / 2.0
        nodes = [-0.7 * h, -1.1 * h, -3.0 * h]
        values = np.polynomial.Polynomial([0.4, -1.0 / h, 2.0 / h**2, -1.5 / h**3][: n + 1])
        expected = (weights * np.exp(s - h) * values(s)).sum() * h / 2.0
        found = _beyond_first_order(h, nodes[:n])
        total = -math.expm1(-h) * values(0.0) + sum(w * values(at) for w, at in zip(found, [0.0, *nodes], strict=False))
        assert total == pytest.approx(expected, rel=1e-12)
