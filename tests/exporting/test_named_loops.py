"""Loops that a name chooses: what other projects' give, recorded; one's own; and their options."""

import json
import pathlib
import sys

import numpy as np
import pytest
from representative import representative

torch = pytest.importorskip("torch")

from benchmarks.importing import loops, paths  # noqa: E402
from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError  # noqa: E402
from ddpm_export.importers.load import load_network  # noqa: E402
from ddpm_export.importers.loops import plan_from_loop  # noqa: E402
from ddpm_export.importers.named_loops import loop_from_options  # noqa: E402
from ddpm_export.importers.path_network import PathNetwork  # noqa: E402
from ddpm_export.importers.paths import Path, path_from_options  # noqa: E402
from ddpm_export.model.denoiser import denoiser  # noqa: E402
from ddpm_export.model.plans import json_from_plan, plan_from_json  # noqa: E402
from ddpm_export.model.spec import ModelSpec  # noqa: E402
from ddpm_export.process.noise import noise_stream  # noqa: E402
from ddpm_export.process.walk import walk  # noqa: E402

pytestmark = pytest.mark.torch
T, SHAPE = 1000, (1, 2, 2)
RECORDED = json.loads((pathlib.Path(__file__).parents[1] / "oracles/loops/recorded.json").read_text(encoding="utf-8"))
PACKAGES = {
    "rectified_flow": "rectified_flow_pytorch",
    "k_diffusion_edm": "k_diffusion",
    "elucidated": "denoising_diffusion_pytorch",
}


class Recorded(torch.nn.Module):
    """The function over which the loops were recorded (tests/oracles/loops/record.py)."""

    def __init__(self):
        super().__init__()
        self.given = torch.nn.Parameter(torch.tensor([0.8, 0.3]))

    def forward(self, x, told):
        return torch.tanh(self.given[0] * x + self.given[1]) + 0.1 * torch.sin(told.reshape(-1, 1, 1, 1))


def of_case(case):
    """Return the path, the loop's spec, and the options that no path takes."""
    path, left = path_from_options({**case["options"], "sigma_max": case["sigma_max"]})
    alphas_cumprod, requires = path.alphas_cumprod(T), ("fractional_t",)
    return path, ModelSpec("x", path.form.prediction, SHAPE, alphas_cumprod, clip_x_0=None, requires=requires), left


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: "-".join(map(str, case["options"].values())))
def test_the_rows_of_a_projects_loop_give_what_it_gives(case):
    """The network in the path's form, under the rows recorded, ends where the project's own network and loop end."""
    path, spec, _ = of_case(case)
    network = PathNetwork(Recorded().double(), path, T)

    def model(x_t, t):
        with torch.no_grad():
            return {spec.prediction: network(torch.from_numpy(x_t), torch.from_numpy(np.asarray(t))).numpy()}

    rows = plan_from_json("x", case["plan"], T, fractional_t=True)
    noise = noise_stream(0, range(2), SHAPE)
    draws = {draw: k for k, draw in enumerate(rows.draws)}
    *_, last = walk(denoiser(model, spec), lambda draw: noise(draws[draw]).astype(np.float64), rows)
    np.testing.assert_allclose(last.x, case["last"], rtol=0, atol=2e-5 * max(1.0, np.abs(case["last"]).max()))


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: "-".join(map(str, case["options"].values())))
def test_the_rows_of_a_projects_loop_are_those_recorded(case):
    name = case["options"]["loop"]
    pytest.importorskip(PACKAGES.get(name, name))
    path, _ = path_from_options(case["options"])
    loop, left = loop_from_options(path_from_options(case["options"])[1], path)
    assert left == {}
    path, spec, _ = of_case(case)
    plan = json_from_plan(plan_from_loop(loop.by_steps((4,))[4], path, spec))
    for got, expected in zip(plan["rows"], case["plan"]["rows"], strict=True):
        np.testing.assert_allclose(np.hstack(got), np.hstack(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("theirs", "ours", "steps"),
    [
        ({"loop": "k_diffusion_edm", "solver": "heun"}, {"preconditioner": "edm", "loop": "karras"}, 4),
        ({"path": "flow", "solver": "midpoint"}, {"path": "flow", "reverse": True, "solver": "midpoint"}, 3),
        ({"path": "flow", "solver": "euler"}, {"path": "flow", "reverse": True}, 3),
    ],
)
def test_loops_of_ones_own_package_have_the_rows_of_others(theirs, ours, steps):
    case = next(case for case in RECORDED if theirs.items() <= case["options"].items())
    path, left = path_from_options(ours)
    loop, _ = loop_from_options({"loop": "flow", **left}, path)
    plan = json_from_plan(plan_from_loop(loop.by_steps((steps,))[steps], path, of_case(case)[1]))
    for got, expected in zip(plan["rows"], case["plan"]["rows"], strict=True):
        np.testing.assert_allclose(np.hstack(got), np.hstack(expected), rtol=1e-4, atol=1e-6)


@representative("way", loops.KARRAS)
def test_a_karras_unet_draws_what_its_own_loop_draws(tmp_path, monkeypatch, way):
    pytest.importorskip("denoising_diffusion_pytorch")
    monkeypatch.setattr(paths, "STEPS", 5)
    monkeypatch.setattr(paths, "IMAGES", 2)
    with paths.quiet():
        (case,) = loops.karras_cases(tmp_path, [way], 30)
        got = paths.compare(case)
    assert (got.rows, got.levels <= 1, case.opened[1].clip_x_0) == (9, True, 1.0)


@representative(
    ("package", "cases", "way"),
    [
        *(("rectified_flow_pytorch", loops.rectified_cases, way) for way in loops.RECTIFIED),
        *(("smalldiffusion", loops.small_cases, way) for way in loops.SMALL),
        *(("k_diffusion", loops.k_cases, way) for way in loops.K),
        *(
            pytest.param("denoising_diffusion_pytorch", loops.gaussian_cases, way, marks=pytest.mark.long)
            for way in loops.GAUSSIAN[:2]  # a thousand steps each
        ),
    ],
    by=lambda package, *_: package,
)
def test_networks_of_a_project_draw_what_its_own_loop_draws(tmp_path, monkeypatch, package, cases, way):
    pytest.importorskip(package)
    monkeypatch.setattr(paths, "STEPS", 5)
    monkeypatch.setattr(paths, "IMAGES", 2)
    with paths.quiet():
        (case,) = cases(tmp_path, [way], 30)
        assert paths.compare(case).levels <= 1


def own_loop(network, x, num_steps=3, *, path, share=1.0):
    """Euler's method, a share of the way, as somebody writes it."""
    for k in range(num_steps):
        x = x - share / num_steps * network(x, torch.full((len(x),), 1 - k / num_steps))
    return x


def test_ones_own_loop_becomes_a_plan(tmp_path):
    torch.save({"diffusion.net.given": torch.ones(2), "diffusion.betas": torch.ones(5)}, tmp_path / "w.pt")
    spec = ModelSpec("x", "eps", SHAPE, Path("edm").alphas_cumprod(T), clip_x_0=None)
    options = {"path": "flow", "loop": f"{__name__}:own_loop", "share": 0.5}
    checkpoint = load_network(tmp_path / "w.pt", f"{__name__}:Recorded", spec, arguments=options)
    assert checkpoint.spec.defaults.plan == "own_loop-3"
    assert load_network(tmp_path / "w.pt", f"{__name__}:Recorded", spec, arguments=options, steps=()).spec.plans == {}
    network, noise = checkpoint.network, noise_stream(0, range(2), SHAPE)

    def model(x_t, t):
        return {"v": network(torch.from_numpy(x_t), torch.from_numpy(np.asarray(t, np.float32))).numpy()}

    *_, last = walk(denoiser(model, checkpoint.spec), noise, checkpoint.spec.plans["own_loop-3"])
    with torch.no_grad():
        expected = own_loop(network.network, torch.from_numpy(noise(0)), path=None, share=0.5)
    np.testing.assert_allclose(last.x, expected.numpy(), rtol=0, atol=1e-5)


def no_loop(network, x, num_steps=3, *, path):
    return network(x, 1.0).abs()


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "k_diffusion", None)
    torch.save(Recorded().state_dict(), tmp_path / "w.pt")
    spec = ModelSpec("x", "eps", SHAPE, Path("edm").alphas_cumprod(T), clip_x_0=None)
    options = {"preconditioner": "edm", "loop": "k_diffusion"}
    with pytest.raises(EnvironmentProblem, match=r"k_diffusion is not installed.*pip install k-diffusion"):
        load_network(tmp_path / "w.pt", f"{__name__}:Recorded", spec, arguments=options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"loop": "flow"}, UsageError, "'loop' needs the network's path"),
        ({"path": "flow", "loop": "dopri5"}, UsageError, "'loop' must be flow, karras, elucidated, "),
        ({"path": "flow", "loop": "rectified_flow"}, UsageError, "'reverse' must be True for the loop rectified_flow"),
        ({"preconditioner": "edm", "loop": "smalldiffusion"}, UsageError, "one for edm, which is none of noise, flow"),
        ({"path": "flow", "loop": "nowhere:loop"}, UsageError, "cannot be imported: ModuleNotFoundError"),
        ({"path": "flow", "loop": ":"}, UsageError, "loop must be package.module:function"),
        ({"path": "flow", "loop": "flow", "solver": "dopri5"}, UsageError, "'solver' must be one of euler, midpoint"),
        ({"path": "flow", "loop": f"{__name__}:no_loop"}, BadFileError, "not linear"),
    ],
)
def test_loops_that_cannot_be_had_are_refused(tmp_path, options, error, words):
    torch.save(Recorded().state_dict(), tmp_path / "w.pt")
    spec = ModelSpec("x", "eps", SHAPE, Path("edm").alphas_cumprod(T), clip_x_0=None)
    with pytest.raises(error, match=words):
        load_network(tmp_path / "w.pt", f"{__name__}:Recorded", spec, arguments=options)
