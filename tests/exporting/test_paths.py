"""Networks of other Gaussian paths: what a network that knows the picture and the noise would say, and their steps."""

import math
from itertools import pairwise

import numpy as np
import pytest
from representative import representative

torch = pytest.importorskip("torch")

from benchmarks.importing import paths  # noqa: E402
from ddpm_export import open_model  # noqa: E402
from ddpm_export.errors import BadFileError, UsageError  # noqa: E402
from ddpm_export.exporting.export import export  # noqa: E402
from ddpm_export.importers.diffusers_stepping import NotCarriedError  # noqa: E402
from ddpm_export.importers.load import load_checkpoint, load_network  # noqa: E402
from ddpm_export.importers.loops import TABLEAUS, flow_loop, plan_from_loop  # noqa: E402
from ddpm_export.importers.openai_unet import UNet, UNetConfig  # noqa: E402
from ddpm_export.importers.path_network import PathNetwork  # noqa: E402
from ddpm_export.importers.paths import FORMS, Path, path_from_options  # noqa: E402
from ddpm_export.model.denoiser import denoiser  # noqa: E402
from ddpm_export.model.inputs import Input  # noqa: E402
from ddpm_export.model.spec import ModelSpec  # noqa: E402
from ddpm_export.model.steps import plan  # noqa: E402
from ddpm_export.process.noise import noise_stream  # noqa: E402
from ddpm_export.process.walk import walk  # noqa: E402

pytestmark = pytest.mark.torch
T = 1000
SIGMA_DATA = 0.4


def edm(sigma, x, x_0, sign=1.0):
    """What EDM's network says where its denoiser is right (Karras et al. 2022, eq. 7), how it is given x, and when."""
    total = sigma**2 + SIGMA_DATA**2
    c_skip, c_out = SIGMA_DATA**2 / total, sign * sigma * SIGMA_DATA / math.sqrt(total)
    return (x_0 - c_skip * x) / c_out, x / math.sqrt(total), math.log(sigma) / 4


def consistency(sigma, x, x_0):
    c_skip = SIGMA_DATA**2 / ((sigma - 0.002) ** 2 + SIGMA_DATA**2)
    c_out = SIGMA_DATA * (sigma - 0.002) / math.sqrt(sigma**2 + SIGMA_DATA**2)
    return (x_0 - c_skip * x) / c_out, x / math.sqrt(sigma**2 + SIGMA_DATA**2), 250 * math.log(sigma)


def trigflow(t, x_0, eps):
    x = math.cos(t) * x_0 + math.sin(t) * SIGMA_DATA * eps
    return (math.cos(t) * SIGMA_DATA * eps - math.sin(t) * x_0) / SIGMA_DATA, x / SIGMA_DATA, t


def vp_time(sigma):
    return 999 * (math.sqrt(0.1**2 + 2 * 19.9 * math.log(sigma**2 + 1)) - 0.1) / 19.9


def iddpm_time(sigma):
    sigmas = {1000: 0.0}
    for j in range(1000, 0, -1):
        less, more = (math.sin(math.pi / 2 * i / 1000 / 1.008) ** 2 for i in (j - 1, j))
        sigmas[j - 1] = math.sqrt((sigmas[j] ** 2 + 1) / max(less / more, 0.001) - 1)
    return 999 - min(sigmas, key=lambda j: abs(sigmas[j] - sigma))


# by name: of the path's own number, x_0 and eps, what the network would say, the state it is given, and the time
IDEAL = {
    "flow": (Path("flow", time_scale=1000.0), lambda s, x_0, e: (e - x_0, (1 - s) * x_0 + s * e, 1000 * s)),
    "flow in reverse": (Path("flow", reverse=True), lambda s, x_0, e: (x_0 - e, (1 - s) * x_0 + s * e, 1 - s)),
    "flow, picture": (Path("flow_x_0"), lambda s, x_0, e: (x_0, (1 - s) * x_0 + s * e, s)),
    "flow, noise": (Path("flow_eps", reverse=True), lambda s, x_0, e: (e, (1 - s) * x_0 + s * e, 1 - s)),
    "edm": (Path("edm", SIGMA_DATA), lambda s, x_0, e: edm(s, x_0 + s * e, x_0)),
    "edm, negated": (Path("edm", SIGMA_DATA, reverse=True), lambda s, x_0, e: edm(s, x_0 + s * e, x_0, -1.0)),
    "c_noise": (Path("c_noise", SIGMA_DATA), lambda s, x_0, e: edm(s, x_0 + s * e, x_0)),
    "vp": (Path("vp"), lambda s, x_0, e: (e, (x_0 + s * e) / math.sqrt(s**2 + 1), vp_time(s))),
    "iddpm": (Path("iddpm"), lambda s, x_0, e: (e, (x_0 + s * e) / math.sqrt(s**2 + 1), iddpm_time(s))),
    "ve": (Path("ve"), lambda s, x_0, e: (-e, x_0 + s * e, math.log(s / 2))),
    "trigflow": (Path("trigflow", SIGMA_DATA), trigflow),
    "consistency": (
        Path("consistency", SIGMA_DATA, time_scale=1000.0),
        lambda s, x_0, e: consistency(s, x_0 + s * e, x_0),
    ),
    "v": (
        Path("v"),
        lambda s, x_0, e: (
            (e - s * x_0) / math.hypot(1, s),
            (x_0 + s * e) / math.hypot(1, s),
            math.atan(s) / math.pi * 2,
        ),
    ),
    "denoiser": (Path("denoiser"), lambda s, x_0, e: (x_0, x_0 + s * e, s)),
    "noise": (Path("noise"), lambda s, x_0, e: (e, x_0 + s * e, s)),
}


@pytest.mark.parametrize("name", IDEAL)
def test_what_a_network_that_knows_both_says_is_the_prediction_of_both(name, rng):
    path, ideal = IDEAL[name]
    x_0, eps = rng.standard_normal((2, 1, 1, 2, 3))
    for t in (0.7, 30.0, 401.25, 998.0, 999.0):
        number = float(path.number_at(t, T))
        assert path.t_of(number, T) == pytest.approx(t, abs=1e-6)
        alpha, sigma, _ = map(float, path.level_of(number))
        said, given, time = ideal(number, x_0, eps)
        asked = []

        def network(x, told, said=said, asked=asked):
            asked.extend([x.numpy(), told.item()])
            return torch.from_numpy(said).float()

        y = alpha * x_0 + sigma * eps
        predicted = PathNetwork(network, path, T)(torch.from_numpy(y).float(), torch.tensor([t])).numpy()
        expected = {"v": alpha * eps - sigma * x_0, "x_0": x_0, "eps": eps}[path.form.prediction]
        np.testing.assert_allclose(asked[0], given, rtol=1e-5, atol=1e-5)
        assert asked[1] == pytest.approx(time, rel=1e-5, abs=1e-6 * path.time_scale)
        np.testing.assert_allclose(predicted, expected, rtol=2e-5, atol=2e-5)


def test_every_form_is_among_them():
    assert {path.name for path, _ in IDEAL.values()} == set(FORMS)


def test_levels_fall_strictly_and_end_where_the_path_does():
    for name in FORMS:
        levels = np.array(Path(name).alphas_cumprod(T))
        assert (np.diff(levels) < 0).all()
        ends = {**dict.fromkeys(("flow", "flow_x_0", "trigflow"), 0.0), "flow_eps": pytest.approx(1e-10, rel=1e-4)}
        assert levels[-1] == ends.get(name, pytest.approx(1 / (1 + 80**2)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "edm"}, "'path' must be one of flow"),
        ({"preconditioner": "flow"}, "'preconditioner' must be one of edm"),
        ({"preconditioner": "edm", "sigma_data": -1}, "'sigma_data' must be a number above 0"),
        ({"preconditioner": "edm", "sigma_min": 90}, "'sigma_min' must be below sigma_max"),
        ({"path": "flow", "preconditioner": "edm"}, "'preconditioner' must be left out beside path"),
    ],
)
def test_options_of_a_path_that_do_not_fit_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        path_from_options(options)


def test_a_class_keeps_its_own_options():
    path, left = path_from_options({"width": 4, "path": "flow", "reverse": True})
    assert (path, left) == (Path("flow", reverse=True), {"width": 4})
    assert path_from_options({"sigma_data": 1.0}) == (None, {"sigma_data": 1.0})


@representative("name", ["flow", "edm"])
def test_ddim_over_an_exported_network_is_eulers_method_on_its_path(tmp_path, name):
    """Euler's steps of x over s or sigma are written out here, and go by the same times."""
    torch.manual_seed(0)
    torch.save(torch.nn.Conv2d(1, 1, 3, padding=1).state_dict(), tmp_path / "w.pt")
    option = {"path": "flow"} if name == "flow" else {"preconditioner": "edm"}
    spec = ModelSpec("tiny", "eps", (1, 6, 5), Path("edm").alphas_cumprod(T), clip_x_0=None)
    checkpoint = load_network(tmp_path / "w.pt", f"{__name__}:Small", spec, arguments=option)
    assert set(checkpoint.spec.requires) == {"fractional_t"}
    export(checkpoint, tmp_path / "unet.onnx")
    model, spec = open_model(tmp_path / "unet.onnx")
    path, network = Path(name), checkpoint.network.network.double()
    noise, rows = noise_stream(0, range(2), spec.state_shape), plan(spec, sampler="ddim", num_steps=8)
    numbers = [float(path.number_at(row.t, T)) for row in rows.rows] + [0.0]
    x = noise(0).astype(np.float64) * float(path.level_of(numbers[0])[2])
    for number, after in pairwise(numbers):
        x_t = torch.from_numpy(x)
        if name == "flow":
            slope = network(x_t, torch.tensor([number])).numpy()
        else:
            c = math.sqrt(number**2 + 0.25)
            said = network(x_t / c, torch.tensor([math.log(number) / 4])).numpy()
            slope = (x - (0.25 / c**2 * x + number * 0.5 / c * said)) / number
        x = x + (after - number) * slope
    *_, last = walk(denoiser(model, spec), noise, rows)
    np.testing.assert_allclose(last.x, x, rtol=0, atol=2e-5)


class Small(torch.nn.Conv2d):
    """A network of another path, as a user has it."""

    def __init__(self):
        super().__init__(1, 1, 3, padding=1)

    def forward(self, x, t):
        return torch.tanh(super().forward(x)) + t.reshape(-1, 1, 1, 1) / 10


# the loops of other projects, as plans


@pytest.fixture
def tiny(monkeypatch):
    """Compare as the benchmark does, with few steps and few pictures."""
    monkeypatch.setattr(paths, "STEPS", 5)
    monkeypatch.setattr(paths, "IMAGES", 2)


@representative("way", paths.ELUCIDATED)
def test_elucidated_diffusion_draws_what_its_own_loop_draws(tmp_path, tiny, way):
    pytest.importorskip("denoising_diffusion_pytorch")
    with paths.quiet():
        (case,) = paths.elucidated_cases(tmp_path, [way], 30)
        got = paths.compare(case)
    assert (got.rows, got.levels <= 1) == (9, True)


@representative(("kind", "name", "way"), paths.DIFFUSERS, by=lambda *case: case[0][:3])
def test_schedulers_of_other_paths_draw_what_their_own_loops_draw(tmp_path, tiny, kind, name, way):
    pytest.importorskip("diffusers")
    with paths.quiet():
        (case,) = paths.diffusers_cases(tmp_path, [(kind, name, way)], 30)
        got = paths.compare(case)
    assert got.levels <= 1


@pytest.mark.parametrize("solver", TABLEAUS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_solver_over_a_flow_is_a_plan_of_its_order(solver, reverse):
    """The flow to one Gaussian is known: its end is too, and the error falls as the solver's order says."""
    path, deviation = Path("flow", reverse=reverse), 0.5
    spec = ModelSpec("x", "v", (1, 1, 1), path.alphas_cumprod(T), clip_x_0=None, requires=("fractional_t",))

    def model(x_t, t):
        alpha, sigma, _ = path.level_of(path.number_at(np.asarray(t, np.float64), T))
        share = (alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)).reshape(-1, 1, 1, 1)
        x_0 = share * x_t
        eps = (x_t - alpha.reshape(share.shape) * x_0) / sigma.reshape(share.shape)
        return {"v": alpha.reshape(share.shape) * eps - sigma.reshape(share.shape) * x_0}

    errors = []
    for num_steps in (8, 16):
        rows = plan_from_loop(flow_loop(solver, num_steps, path), path, spec)
        *_, last = walk(denoiser(model, spec), lambda _: np.ones((1, 1, 1, 1)), rows)
        errors.append(abs(last.x.item() - deviation))
    if solver == "rk4":  # at the share of noise that a flow ends with here
        assert max(errors) < 1e-6
    else:
        assert errors[0] / errors[1] > 2 ** ({"euler": 1, "midpoint": 2, "heun": 2}[solver] - 0.4)


def test_a_loop_that_does_not_weigh_is_no_plan():
    path = Path("flow")
    spec = ModelSpec("x", "v", (1, 1, 1), path.alphas_cumprod(T), clip_x_0=None, requires=("fractional_t",))
    loops = {
        "is not linear": lambda network, size: network(torch.randn(size, 1, 1, 1), 1.0) ** 2,
        "does not begin with noise": lambda network, size: network(torch.zeros(size, 1, 1, 1), 1.0),
        "is no time of its path": lambda network, size: network(torch.randn(size, 1, 1, 1), 7.0),
    }
    for words, loop in loops.items():
        with pytest.raises(NotCarriedError, match=words):
            plan_from_loop(loop, path, spec)


@representative("name", ["y", "anything"])
def test_a_network_of_a_path_has_further_inputs(tmp_path, name):
    label = Input(name, "label", classes=("a", "b")) if name == "y" else Input(name, "vector", (1,))
    torch.save({"given.weight": torch.ones(1, 1)}, tmp_path / "w.pt")
    spec = ModelSpec("tiny", "eps", (1, 3, 3), Path("edm").alphas_cumprod(T), inputs=(label,), requires=("inputs",))
    arguments = {"path": "flow", "name": name}
    checkpoint = load_network(tmp_path / "w.pt", f"{__name__}:Given", spec, arguments=arguments)
    model, spec = open_model(export(checkpoint, tmp_path / "unet.onnx").path)
    x_t, t = np.ones((2, 1, 3, 3), np.float32), np.array([999.0, 999.0], np.float32)
    given = np.array([0, 1]) if name == "y" else np.array([[0.0], [1.0]], np.float32)
    out = model(x_t, t, **{name: given})["v"]
    np.testing.assert_allclose(out[1] - out[0], 1.0, rtol=1e-6)


class Given(torch.nn.Module):
    """A velocity that is the state, and what it is given besides."""

    def __init__(self, name):
        super().__init__()
        self.name, self.given = name, torch.nn.Linear(1, 1, bias=False)

    def forward(self, x, t, y=None, anything=None):
        return (
            x
            + 0 * t.reshape(-1, 1, 1, 1)
            + self.given((y if y is not None else anything).reshape(-1, 1).float()).reshape(-1, 1, 1, 1)
        )


def test_torchcfms_network_is_guided_diffusions_told_the_time_from_noise_to_picture(tmp_path):
    torch.manual_seed(0)
    network = UNet(UNetConfig(1, 32, (32,), 1, (False,), True, False, True, False)).eval()
    states = {
        "ema_model": network.state_dict(),
        "net_model": {f"module.{k}": v for k, v in network.state_dict().items()},
    }
    torch.save(states, tmp_path / "cfm.pt")
    options = {"path": "flow", "reverse": True, "image_size": 6, "num_heads": 1}
    for weights in ("ema", "raw"):
        checkpoint = load_checkpoint(tmp_path / "cfm.pt", options=options, steps=(4,), weights=weights)
        model, spec = open_model(export(checkpoint, tmp_path / "unet.onnx").path)
        assert (spec.defaults.plan, set(spec.requires)) == ("euler-4", {"fractional_t", "plan"})
        noise = noise_stream(0, range(2), spec.state_shape)
        x = torch.from_numpy(noise(0))
        with torch.no_grad():
            for k in range(4):  # torchdyn's euler
                x = x + network(x, torch.full((2,), k / 4)) / 4
        *_, last = walk(denoiser(model, spec), noise, plan(spec))
        np.testing.assert_allclose(last.x, x.numpy(), rtol=0, atol=1e-4)
    with pytest.raises(BadFileError, match="expected a velocity, of path=flow"):
        load_checkpoint(tmp_path / "cfm.pt", options={"preconditioner": "edm", "image_size": 6, "num_heads": 1})
