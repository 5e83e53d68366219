r"""The derivation (docs/derivation*.md) is what the code computes: its formulas are read, evaluated and compared.

A formula with a \tag{name} is tested, and every name has its truth here: a function of the package, or where the page
claims an identity, the same number by another way. The other displays say what densities and averages are.
"""

import importlib
import math
import re
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pytest
from gaussian import flow, gaussian_spec
from representative import representative

from ddpm_export.model.denoiser import denoiser
from ddpm_export.process import schedules
from ddpm_export.process.equations import Denoised, noised
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.solvers import Grid, ddim, ddim_weights, ddpm
from ddpm_export.process.walk import walk
from ddpm_export.scoring.metrics.bits import bits_per_dimension

DOCS = Path(__file__).parent.parent / "docs"
PAGE = "".join((DOCS / f"derivation{part}.md").read_text(encoding="utf-8") for part in ("", "-sampling"))
# Blocks in a row share the line under them that names the code.
GROUPS = re.findall(r"((?:^```math\n.*?^```\n)+)(?:Code: (.*?)\n)?", PAGE, re.S | re.M)
FORMULAS = {tag: formula for formula, tag in re.findall(r"^```math\n([^`]*?) \\tag\{([^}]*)\}\n```$", PAGE, re.M)}

# The notation: a letter, Greek or not, with an accent and indices, is one symbol.
TOKEN = re.compile(
    r"\s+|\\[,;]|\\left|\\right"  # nothing
    r"|(?P<function>\\(?:frac|sqrt|log|exp|cos|min|Phi|lfloor)(?![a-z]))"
    r"|(?P<symbol>(?:\\(?:bar|tilde|hat) ?)?(?:\\(?:alpha|beta|epsilon|eta|lambda|mu|pi|sigma|tau)|[A-Za-z])"
    r"(?:\^\{\\?[a-z]+\})?(?:_(?:\{[^{}]*\}|\w))?)"
    r"|(?P<number>[0-9.]+)|(?P<other>\\cdot|\\rfloor|[-+*/^(){},])"
)
FUNCTIONS = {
    "frac": lambda over: lambda under: over / under,  # \frac{a}{b} becomes frac(a)(b)
    "lfloor": math.floor,
    "Phi": NormalDist().cdf,
    "sqrt": math.sqrt,
    **{name: getattr(math, name) for name in ("log", "exp", "cos")},
    "min": min,
}
OTHERS = {r"\cdot": "*", "^": "**", "{": "(", "}": ")", r"\rfloor": ")"}


def python_from_latex(latex):
    """Return the Python expression of a formula; a product may be written without a sign, as in LaTeX."""
    out, before, at = [], "", 0
    while at < len(latex):
        token = TOKEN.match(latex, at)
        assert token, f"no notation of this page: {latex[at:]!r}"
        at, text = token.end(), token.group().strip()
        if token.lastgroup is None:
            continue
        starts = token.lastgroup in ("function", "symbol", "number") or text in "({"
        if starts and before in ("symbol", "number", ")", "}") and (before, text) != ("}", "{"):
            out.append("*")
        if token.lastgroup == "function":
            out.append(text[1:] + ("(" if text == r"\lfloor" else ""))
        elif token.lastgroup == "symbol":
            out.append(f"values[{text!r}]")
        else:
            out.append(OTHERS.get(text, text))
        before = token.lastgroup if token.lastgroup != "other" else ")" if text == r"\rfloor" else text
    return " ".join(out)


def evaluate(formula, values):
    """Return every side of a formula's equations, save a first one that is a symbol being defined, or its square."""
    first, *sides = formula.split("=")
    if not re.fullmatch(r"values\[[^]]*\]( \*\* 2)?", python_from_latex(first)):
        sides.insert(0, first)
    names = {**FUNCTIONS, "values": values, "__builtins__": {}}
    return [eval(python_from_latex(side), names) for side in sides]


class Step(NamedTuple):
    """A time of the grid and the next one: t, a = alphas_cumprod there, and a_prev where the step ends."""

    t: int
    a: float
    a_prev: float


def noise_std(step, eta):
    return ddim_weights(step.a, step.a_prev, eta)[2]


def random_values(rng):
    """Return a number for each symbol of the page; what has a meaning of its own has it here too."""
    a_prev = rng.uniform(0.3, 0.9)
    a = a_prev * rng.uniform(0.2, 0.9)
    eta = float(np.float32(rng.uniform(0.1, 1.0)))  # ddim rounds it so
    T = int(rng.integers(20, 1000))
    t, n = (int(rng.integers(2, T)) for _ in range(2))
    x_0, eps, z, x_t, said = rng.standard_normal(5)
    step = Step(t - 1, a, a_prev)
    values = {
        **{r"\bar\alpha_t": a, r"\bar\alpha_s": a_prev, r"\bar\alpha_T": a, r"\beta_{t|s}": 1.0 - a / a_prev},
        **{r"\tilde\beta_{t|s}": noise_std(step, 1.0) ** 2, r"\eta": eta, r"\sigma": noise_std(step, eta)},
        **{"T": T, "t": t, "n": n, "i": int(rng.integers(0, n)), r"\beta_{lo}": 1e-4, r"\beta_{hi}": 0.02},
        **{"x_0": x_0, r"\epsilon": eps, "z": z, "x_t": x_t, r"\hat v": said, r"\hat x_0": x_0, r"\hat\epsilon": eps},
        **{"m": rng.standard_normal(), "c": rng.uniform(0.1, 2.0), "r": rng.uniform(-0.2, 1.2), r"\pi": math.pi},
        **{r"\mu_1": x_0, r"\mu_2": eps, r"\sigma_1": 0.5 + a, r"\sigma_2": 0.2 + a_prev},
        **{"k_t": math.sqrt((1 - a) / a), "k_s": math.sqrt((1 - a_prev) / a_prev), "y_t": x_t / math.sqrt(a)},
        **{"f_t": cosine_curve(t, T), "f_{t-1}": cosine_curve(t - 1, T)},
        "level": int(rng.integers(1, 255)),  # of a pixel, 0..255, none of the outermost
    }
    betas = schedules.linear(T)
    values |= {r"\beta_t": betas[t - 1], r"\bar\alpha_{t-1}": math.prod(1.0 - betas[: t - 1])}
    return values, step


def cosine_curve(t, T):
    return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2


# What each formula must equal.
TRUTHS = {}


def truth(tag, function=None):
    """Register what the formula of that name must be, and which function the page must name under it."""

    def register(compute):
        assert tag not in TRUTHS
        TRUTHS[tag] = (compute, function)
        return compute

    return register


@truth("cumulative product", schedules.alphas_cumprod_from_betas)
def _(v, step):
    return schedules.alphas_cumprod_from_betas(schedules.linear(v["T"]))[v["t"] - 1]


@truth("noise variance")
def _(v, step):
    v[r"\bar\alpha_t"] = schedules.alphas_cumprod_from_betas(schedules.linear(v["T"]))[v["t"] - 1]
    return 1.0 - v[r"\bar\alpha_t"]


@truth("closed form", noised)
def _(v, step):
    return noised(v["x_0"], v[r"\epsilon"], step.a)


@truth("log signal to noise", schedules.log_snr)
def _(v, step):
    return schedules.log_snr(np.array([step.a]))[0]


@truth("spacing", schedules.spacing)
def _(v, step):
    return schedules.spacing(v["T"], v["n"])[v["i"]]


for name in ("linear", "quadratic", "sigmoid"):
    schedule = schedules.SCHEDULES[name]
    truth(name, schedule)(lambda v, _, schedule=schedule: schedule(v["T"])[v["t"] - 1])


@truth("cosine", schedules.cosine)
def _(v, step):
    if v["i"] % 2:  # the end, where the cap acts
        v |= {"f_t": cosine_curve(v["T"], v["T"]), "f_{t-1}": cosine_curve(v["T"] - 1, v["T"]), "t": v["T"]}
    return schedules.cosine(v["T"])[v["t"] - 1]


@truth("cosine curve", schedules.cosine)
def _(v, step):
    return schedules.alphas_cumprod_from_betas(schedules.cosine(v["T"]))[v["t"] - 1] * cosine_curve(0, v["T"])


@truth("beta of a longer step")
def _(v, step):
    # one step after another: what is kept multiplies, whatever the times between
    betas = schedules.linear(v["T"])
    s = v["i"] % v["t"]
    a = np.concatenate([[1.0], schedules.alphas_cumprod_from_betas(betas)])
    v |= {r"\bar\alpha_t": a[v["t"]], r"\bar\alpha_s": a[s]}
    variance = 0.0
    for beta in betas[s : v["t"]]:
        variance = (1.0 - beta) * variance + beta
    return variance


def density(x, mean, variance):
    return np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)


# Wide and fine enough that sums over it are integrals of these Gaussians to 1e-12.
X = np.linspace(-12.0, 12.0, 24_001)


def bayes(v, step, mean, variance):
    """Return mean and variance of x_s given x_t, by summing the product of prior and likelihood."""
    beta = 1.0 - step.a / step.a_prev
    weight = density(X, mean, variance) * density(v["x_t"], np.sqrt(1.0 - beta) * X, beta)
    mean = (weight * X).sum() / weight.sum()
    return mean, (weight * (X - mean) ** 2).sum() / weight.sum()


def divergence(mean_1, std_1, mean_2, std_2):
    """Return the Kullback-Leibler divergence of two Gaussians by summing the definition's integrand."""
    x = mean_1 + std_1 * X
    log_ratio = np.log(std_2 / std_1) + 0.5 * ((x - mean_2) / std_2) ** 2 - 0.5 * X**2
    return (density(X, 0.0, 1.0) * log_ratio).sum() * (X[1] - X[0])


@truth("posterior precision")
def _(v, step):
    return 1.0 / bayes(v, step, math.sqrt(step.a_prev) * v["x_0"], 1.0 - step.a_prev)[1]


@truth("posterior variance", ddim_weights)
def _(v, step):
    return noise_std(step, 1.0) ** 2


def one_step(sampler, v, step, z=0.0, fraction=None, x_0=None, **knobs):
    """Return x_s from x_t by a sampler whose network says x_0, in arrays of one number."""
    x_0 = v["x_0"] if x_0 is None else x_0
    eps = (v["x_t"] - math.sqrt(step.a) * x_0) / math.sqrt(1.0 - step.a)
    found = Denoised(np.array([x_0]), np.array([eps]), None if fraction is None else np.array([fraction]))
    rows = Plan(tuple(sampler(Grid((step.t,), (step.a, step.a_prev)), **knobs)))
    (state,) = walk(lambda *_: found, lambda _: np.array([z]), rows, x=np.array([v["x_t"]]))
    return state.x[0]


@truth("posterior mean", ddpm)
def _(v, step):
    return one_step(ddpm, v, step)


@truth("divergence")
def _(v, step):
    return divergence(v[r"\mu_1"], v[r"\sigma_1"], v[r"\mu_2"], v[r"\sigma_2"])


def bound(v, step, prediction="x_0", error=0.7, levels=None, **knobs):
    """Return the bound of an image, and its x_0: two times, and a network that is wrong by `error` everywhere."""
    levels = np.array([[v["level"]]] if levels is None else levels, dtype=np.uint8)  # (H, W)
    x_0 = levels / 127.5 - 1.0
    alphas_cumprod = (step.a_prev, step.a)
    spec = gaussian_spec(alphas_cumprod, prediction, image_shape=(1, *levels.shape))

    def model(x_t, t):
        a = alphas_cumprod[t[0]]
        eps = (x_t.astype(np.float64) - math.sqrt(a) * x_0) / math.sqrt(1.0 - a)
        target = {"x_0": x_0 + 0.0 * eps, "eps": eps, "v": math.sqrt(a) * eps - math.sqrt(1.0 - a) * x_0}[prediction]
        return {prediction: target + error}

    return bits_per_dimension(model, spec, levels[None, :, :, None], **knobs), x_0


@truth("prior term", bits_per_dimension)
def _(v, step):
    found, x_0 = bound(v, step)
    v["x_0"] = x_0.item()
    return found.prior * math.log(2.0)


def denoised(prediction, options, v, step):
    """Return (x_0, eps) as the package has them from what a network said."""
    spec = gaussian_spec((0.9, 0.5), prediction)
    found = denoiser(lambda x_t, _: {prediction: np.full_like(x_t, options)}, spec)(
        np.full((1, 1, 1, 1), v["x_t"]), Row(1, step.t, step.a)
    )
    return found.x_0.item(), found.eps.item()


for tag, prediction, symbol, which in (
    ("x0 from eps", "eps", r"\hat\epsilon", 0),
    ("eps from x0", "x_0", r"\hat x_0", 1),
    ("x0 from v", "v", r"\hat v", 0),
    ("eps from v", "v", r"\hat v", 1),
):
    truth(tag, denoiser)(lambda v, step, p=prediction, s=symbol, w=which: denoised(p, v[s], v, step)[w])


@truth("v", denoiser)
def _(v, step):
    # the one v for which the denoiser, linear in it, finds x_0
    v["x_t"] = noised(v["x_0"], v[r"\epsilon"], step.a)
    at_0, at_1 = (denoised("v", options, v, step)[0] for options in (0.0, 1.0))
    return (v["x_0"] - at_0) / (at_1 - at_0)


for tag, prediction in (("weight of x0", "x_0"), ("weight of eps", "eps"), ("weight of v", "v")):

    @truth(tag, bits_per_dimension)
    def _(v, step, prediction=prediction):
        v["w_t"] = step.a_prev / (1.0 - step.a_prev) / 2.0 - step.a / (1.0 - step.a) / 2.0
        found, _ = bound(v, step, prediction, variance="fixed_small")
        return found.terms_mean[1] * math.log(2.0) / 0.7**2


@truth("ddim step", ddim)
def _(v, step):
    v[r"\hat\epsilon"] = (v["x_t"] - math.sqrt(step.a) * v["x_0"]) / math.sqrt(1.0 - step.a)
    return one_step(ddim, v, step, z=v["z"], eta=v[r"\eta"])


@truth("noise deviation", ddim_weights)
def _(v, step):
    return noise_std(step, v[r"\eta"])


@truth("room at eta 1")
def _(v, step):
    # what ddim keeps of eps: x_s minus what it has of x_0
    v |= {"x_0": 0.0, "x_t": math.sqrt(1.0 - step.a)}  # eps = 1
    return one_step(ddim, v, step, eta=1.0) ** 2


@truth("variance for Gaussian data")
def _(v, step):
    return bayes(v, step, 0.0, 1.0 - step.a_prev + step.a_prev * v["c"])[1]


@truth("fixed large", ddpm)
def _(v, step):
    return (one_step(ddpm, v, step, 1.0, variance="fixed_large") - one_step(ddpm, v, step)) ** 2


@truth("learned variance", ddpm)
def _(v, step):
    return (one_step(ddpm, v, step, 1.0, v["r"], variance="learned") - one_step(ddpm, v, step)) ** 2


@truth("Euler step", ddim)
def _(v, step):
    v[r"\hat\epsilon"] = (v["x_t"] - math.sqrt(step.a) * v["x_0"]) / math.sqrt(1.0 - step.a)
    return one_step(ddim, v, step) / math.sqrt(step.a_prev)


@truth("flow of a Gaussian")
def _(v, step):
    return flow(v["x_t"], step.a, v["m"], math.sqrt(v["c"]))


@truth("pixel probability", bits_per_dimension)
def _(v, step):
    found, x_0 = bound(v, step, error=0.1, variance="fixed_large")
    v |= {"x_0": x_0.item(), r"\hat x_0": x_0.item() + 0.1, r"\sigma": math.sqrt(1.0 - step.a_prev)}
    return 2.0 ** -found.terms_mean[0]


@truth("bits per dimension", bits_per_dimension)
def _(v, step):
    # the whole bound of six pixels, each of its terms by the page's own formula
    found, images = bound(v, step, error=0.1, levels=[[v["level"], 3, 99], [128, 200, 250]], variance="fixed_small")
    weight = side("weight of x0", v)
    v |= {"n": images.size, "L_T": 0.0, "L_{mid}": 0.0, "L_0": 0.0, r"\sigma": noise_std(step, 1.0)}
    for x_0 in images.flat:
        pixel = {**v, "x_0": x_0, r"\hat x_0": x_0 + 0.1}
        v["L_T"] += side("prior term", pixel)
        v["L_{mid}"] += weight * 0.1**2
        v["L_0"] -= math.log(side("pixel probability", pixel))
    return found.mean


def side(tag, values):
    """Return what the page's formula gives."""
    return evaluate(FORMULAS[tag], values)[-1]


def check(tag, formula, seed):
    """Compare every side of a formula with its truth at 20 random places."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        values, step = random_values(rng)
        expected = TRUTHS[tag][0](values, step)
        for got in evaluate(formula, values):
            # float64 all the way; integrals, differences of near numbers and 1000 products cost the last digits
            assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_every_tested_formula_is_on_the_page_and_every_one_there_is_tested():
    assert sorted(FORMULAS) == sorted(TRUTHS)
    assert PAGE.count(r"\tag{") == len(FORMULAS)  # none twice, none where this file does not look


@pytest.mark.parametrize("tag", TRUTHS)
def test_a_formula_is_what_the_code_computes(tag, rng):
    check(tag, FORMULAS[tag], rng.integers(2**32))


@pytest.mark.parametrize(("blocks", "code"), GROUPS, ids=range(len(GROUPS)))
def test_the_page_names_the_code(blocks, code):
    functions = [TRUTHS[tag][1] for tag in re.findall(r"\\tag\{([^}]*)\}", blocks)]
    expected = {f"{function.__module__}.{function.__name__}" for function in functions if function is not None}
    assert set(re.findall(r"`(ddpm_export[.\w]+)`", code)) == expected


def test_the_posterior_is_bayes_rule(rng):
    for _ in range(20):
        v, step = random_values(rng)
        v[r"\tilde\beta_{t|s}"] = side("posterior variance", v)
        mean, variance = bayes(v, step, math.sqrt(step.a_prev) * v["x_0"], 1.0 - step.a_prev)
        assert side("posterior mean", v) == pytest.approx(mean, rel=0, abs=1e-10)  # a sum over a grid
        assert v[r"\tilde\beta_{t|s}"] == pytest.approx(variance, rel=1e-10)


def test_the_weights_are_the_divergence_of_the_two_steps_by_its_integral(rng):
    for _ in range(20):
        v, step = random_values(rng)
        std, error = noise_std(step, 1.0), 0.7
        nats = divergence(one_step(ddpm, v, step), std, one_step(ddpm, v, step, x_0=v["x_0"] + error), std)
        v["w_t"] = side("weight of x0", v)
        for tag, prediction in (("weight of eps", "eps"), ("weight of v", "v")):
            # what the network must be wrong by for x_0 to be wrong by `error`
            per_unit = denoised(prediction, 1.0, v, step)[0] - denoised(prediction, 0.0, v, step)[0]
            assert nats == pytest.approx(side(tag, v) * (error / per_unit) ** 2, rel=1e-9)
        assert nats == pytest.approx(v["w_t"] * error**2, rel=1e-9)


def test_ddim_keeps_the_closed_form_whatever_eta_is(rng):
    # from x_t with the true x_0: what comes out of eps and of the fresh noise, in variance
    for _ in range(20):
        v, step = random_values(rng)
        at_0 = {**v, "x_t": math.sqrt(step.a) * v["x_0"]}
        at_1 = {**v, "x_t": noised(v["x_0"], 1.0, step.a)}
        mean = one_step(ddim, at_0, step, eta=v[r"\eta"])
        kept = one_step(ddim, at_1, step, eta=v[r"\eta"]) - mean
        fresh = one_step(ddim, at_0, step, z=1.0, eta=v[r"\eta"]) - mean
        assert mean == pytest.approx(math.sqrt(step.a_prev) * v["x_0"], abs=1e-12)
        assert kept**2 + fresh**2 == pytest.approx(1.0 - step.a_prev, rel=1e-12)


def test_the_speed_of_the_flow_is_the_best_guess_of_eps(rng):
    # dy/dk along the flow of a Gaussian, by a central difference, against E[eps | y] by Bayes' rule
    for _ in range(20):
        v, step = random_values(rng)
        m, std, y, k = v["m"], math.sqrt(v["c"]), v["y_t"], v["k_t"]
        start = (flow(v["x_t"], step.a, m, std) - m) / std  # y - m in units of y's deviation, which the flow keeps
        ahead, behind = (m + start * math.hypot(std, k + h) for h in (1e-4, -1e-4))
        weight = density(X, m, std**2) * density(y, X, k**2)
        best = (weight * (y - X) / k).sum() / weight.sum()
        assert (ahead - behind) / 2e-4 == pytest.approx(best, abs=1e-6)  # the difference is of second order


def test_the_256_pixels_share_a_probability_of_1(rng):
    v, step = random_values(rng)
    total = 0.0
    for level in range(256):
        v["level"] = level
        found, _ = bound(v, step, error=0.2 - (level / 127.5 - 1.0), variance="fixed_large")  # it always says 0.2
        total += 2.0 ** -found.terms_mean[0]
    assert total == pytest.approx(1.0, abs=1e-9)


def test_what_the_page_names_exists():
    names = re.findall(r"`(ddpm_export\.[.\w]+)`", PAGE)
    assert len(set(names)) >= 12
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute)), name


def mutations(formula):
    """Yield the formula with one sign turned, time exchanged, root or square left out, or number changed."""
    swaps = [("+", "-"), ("-", "+"), ("_t", "_s"), ("_s", "_t"), (r"\sqrt", ""), ("^2", "")]
    swaps += [("2", "3"), ("1", "2"), ("9", "8")]
    head = formula.index("=")
    for old, new in swaps:
        for match in re.finditer(re.escape(old) + r"(?![a-z0-9|])", formula):
            if match.start() > head:
                yield formula[: match.start()] + new + formula[match.end() :]


@representative("tag", TRUTHS)
def test_a_changed_formula_is_found(tag):
    changed = list(mutations(FORMULAS[tag]))
    assert changed or tag == "fixed large"
    for formula in changed:
        # a wrong number, an unknown symbol, the root of a negative one, two factors that no longer are some
        with pytest.raises((AssertionError, ArithmeticError, KeyError, TypeError, ValueError)):
            check(tag, formula, 0)
