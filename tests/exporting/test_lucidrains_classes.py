"""denoising-diffusion-pytorch's classifier_free_guidance: what is derived, plain predictions, its own guidance."""

import dataclasses
import importlib
import sys

import numpy as np
import pytest
from representative import representative

torch = pytest.importorskip("torch")

from benchmarks.importing import compare  # noqa: E402
from benchmarks.importing.lucidrains import cases, diffusion_and_ema, trainer_contents  # noqa: E402
from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError  # noqa: E402
from ddpm_export.exporting.export import eager_model, export  # noqa: E402
from ddpm_export.importers.checkpoint import Checkpoint  # noqa: E402
from ddpm_export.importers.layout import Found  # noqa: E402
from ddpm_export.importers.layouts import import_network  # noqa: E402
from ddpm_export.importers.lucidrains_classes import Guided  # noqa: E402
from ddpm_export.model.denoiser import denoiser  # noqa: E402
from ddpm_export.model.guidance import Guidance  # noqa: E402
from ddpm_export.model.inputs import Input  # noqa: E402
from ddpm_export.model.spec import Defaults  # noqa: E402
from ddpm_export.model.steps import plan  # noqa: E402
from ddpm_export.runtimes.opening import open_model  # noqa: E402

pytestmark = pytest.mark.torch
NONE = 3
NAMES = ("0", "1", "2")
TINY = {"dim": 4, "dim_mults": (1, 2), "channels": 1, "num_classes": NONE, "attn_heads": 2, "attn_dim_head": 3}
ASKED = {"image_size": 8, "objective": "pred_v", "beta_schedule": "cosine", "timesteps": 20, "attn_heads": 2}


def make(unet=None, **diffusion):
    return diffusion_and_ema({**TINY, **(unet or {})}, {"image_size": 8, "timesteps": 30, **diffusion}, seed=0)


@pytest.fixture(scope="module")
def pair():
    return make(objective="pred_v")


def load(contents, weights="ema", **options):
    return import_network("model.pt", Found("model", contents), weights, {"image_size": 8, "attn_heads": 2, **options})


def batch(size=4):
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(size, 1, 8, 8, generator=generator)
    return x_t, torch.arange(size) * 5, torch.arange(size) % NONE


@representative("name", [entry.name for entry in cases() if entry.name.startswith("classes, ")])
def test_it_evaluates_and_samples_as_the_package_does(tmp_path, name):
    row = compare(next(entry for entry in cases() if entry.name == name), tmp_path, exported=False)
    assert row.error <= 1e-6
    assert row.ddpm_equal >= 0.995
    assert row.ddim_equal is None or row.ddim_equal >= 0.995


def test_the_class_after_the_last_is_none(pair):
    unet, got = pair[0].model.eval(), load(pair[0].state_dict())
    assert got.spec.inputs == (Input("y", "label", none=NONE, classes=NAMES),)
    assert got.spec.requires == ("inputs",)
    x_t, t, y = batch()
    with torch.no_grad():
        for cond_drop_prob, given_inputs in ((0.0, y), (1.0, torch.full_like(y, NONE))):
            expected = unet(x_t, t, y, cond_drop_prob=cond_drop_prob)
            assert torch.equal(got.network(x_t, t, y=given_inputs), expected)


def test_plain_predictions_are_guided_as_the_linear_case_of_the_package(pair):
    unet, network = pair[0].model.eval(), load(pair[0].state_dict()).network
    x_t, t, y = batch()
    with torch.no_grad():
        expected, _ = unet.forward_with_cond_scale(x_t, t, y, cond_scale=3.0, remove_parallel_component=False)
        given_inputs, untold = network(x_t, t, y=y), network(x_t, t, y=torch.full_like(y, NONE))
    torch.testing.assert_close(untold + 3.0 * (given_inputs - untold), expected, rtol=0, atol=1e-5)


def test_the_walk_guides_by_both_forms_as_the_package_predicts(pair):
    unet, x_t = pair[0].model.eval(), batch()[0].numpy()
    for how, theirs in (({}, {"remove_parallel_component": False}), ({"rescaled_phi": 0.7}, {"rescaled_phi": 0.7})):
        got = load(pair[0].state_dict(), cond_scale=6.0, **how)
        spec = dataclasses.replace(got.spec, clip_x_0=None)
        rows = plan(spec, sampler="ddim", num_steps=3).rows
        found = denoiser(eager_model(Checkpoint(got.network, spec)), spec, y=["0", "1", "2", "0"])(x_t, rows[0], None)
        t = torch.full((4,), int(rows[0].t))
        with torch.no_grad():
            v, _ = unet.forward_with_cond_scale(torch.from_numpy(x_t), t, batch()[2], cond_scale=6.0, **theirs)
        a = rows[0].a
        np.testing.assert_allclose(found.x_0, a**0.5 * x_t - (1.0 - a) ** 0.5 * v.numpy(), rtol=0, atol=2e-5)


@representative(
    "how",
    [
        {"rescaled_phi": 0.7},
        {"rescaled_phi": 0.0},
        {"rescaled_phi": 1.0, "keep_parallel_frac": 0.4},
        {"rescaled_phi": 0.3, "remove_parallel_component": False},
    ],
    ids=str,
)
def test_its_own_guidance_is_taken_into_the_network(pair, how):
    unet, got = pair[0].model.eval(), load(pair[0].state_dict(), **how)
    assert got.spec.inputs == (Input("y", "label", classes=NAMES), Input("guidance", "vector", (1,), none=1.0))
    assert got.notes == ()
    x_t, t, y = batch()
    scales = (0.0, 2.0, 6.0, 1.0)  # each image its own, at 1 the class's prediction
    with torch.no_grad():
        out = got.network(x_t, t, y=y, guidance=torch.tensor(scales)[:, None])
        for k, scale in enumerate(scales):
            expected = unet.forward_with_cond_scale(x_t[k : k + 1], t[k : k + 1], y[k : k + 1], cond_scale=scale, **how)
            expected = expected if scale == 1.0 else expected[0]
            torch.testing.assert_close(out[k : k + 1], expected, rtol=0, atol=1e-5)


def test_cond_scale_is_what_stands_for_nothing_said(pair):
    for how in ({}, {"rescaled_phi": 0.7}):
        spec = load(pair[0].state_dict(), cond_scale=6, **how).spec
        assert spec.defaults == Defaults("ddpm", 30, guidance=Guidance(6.0))
        assert spec.requires == ("inputs", "guidance")
        assert spec.guides_itself == bool(how)


class Small(torch.nn.Module):
    """A network in place of the Unet, whose export takes long: the guidance around it is what is exported here."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.label = torch.nn.Embedding(NONE + 1, 1)

    def forward(self, x_t, t, *, y):
        return torch.tanh(self.conv(x_t) * (1.0 + t / 30)[:, None, None, None] + self.label(y)[:, :, None, None])


def test_its_own_guidance_is_exported(pair, tmp_path):
    got, small = load(pair[0].state_dict(), rescaled_phi=0.7), Small()
    network = Guided(small, NONE, got.network.phi, got.network.kept).eval()
    report = export(Checkpoint(network, got.spec), tmp_path / "unet.onnx")
    assert report.proof.error <= 1e-5
    model, spec = open_model(report.path)
    x_t, t, y = batch()
    plain, guided = (
        model(x_t.numpy(), t.numpy(), y=y.numpy(), guidance=np.full((4, 1), scale, dtype=np.float32))["v"]
        for scale in (1.0, 6.0)
    )
    np.testing.assert_allclose(plain, small(x_t, t, y=y).detach(), rtol=0, atol=1e-6)
    assert np.abs(guided - plain).max() > 1e-2
    assert spec.inputs == got.spec.inputs


@pytest.mark.long
def test_every_kind_of_checkpoint_is_read(pair):
    model, ema = pair
    x_t, t, y = batch()
    for weights, source in (("ema", ema.ema_model), ("raw", model)):
        with torch.no_grad():
            expected = source.model.eval()(x_t, t, y, cond_drop_prob=0.0)
        for contents in (trainer_contents(model, ema), ema.state_dict(), source.state_dict()):
            assert torch.equal(load(contents, weights).network(x_t, t, y=y), expected)
    assert load(trainer_contents(model, ema)).source == {"importer": "lucidrains_classes", "weights": "ema", "step": 3}


def test_what_is_not_said_is_asked_for(pair):
    def asked(contents, **options):
        with pytest.raises(UsageError) as caught:
            import_network("model.pt", Found("model", contents), "ema", options)
        return str(caught.value)

    assert "does not say its image_size, attn_heads. Add" in asked(pair[0].state_dict())
    missing = "image_size, objective, beta_schedule, timesteps, attn_heads"
    assert f"does not say its {missing}. Add" in asked(pair[0].model.state_dict())
    assert "does not say its rescaled_phi. Add" in asked(
        pair[0].state_dict(), image_size=8, attn_heads=2, keep_parallel_frac=0.5
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"attn_heads": 4}, "attn_heads' must be a divisor of 6 channels"),
        ({"attn_heads": 0}, "attn_heads' must be a divisor"),
        ({"attn_heads": "2"}, "attn_heads' must be a divisor"),
        ({"attn_dim_head": 32}, "attn_dim_head' must be 3, as the checkpoint says"),
        ({"num_classes": 4}, "num_classes' must be 3, as the checkpoint says"),
        ({"dim_mults": [1, 4]}, "dim_mults' must be"),
        ({"objective": "pred_x0"}, "objective' must be 'pred_v', as the checkpoint says"),
        ({"use_cfg_plus_plus": True}, "use_cfg_plus_plus' must be false"),
        ({"rescaled_phi": 1.5}, "rescaled_phi' must be a number from 0 to 1"),
        ({"cond_scale": -1}, "cond_scale' must be a number from 0 to 100"),
        ({"cond_scale": "6x"}, "cond_scale' must be a number"),
        ({"rescaled_phi": "much"}, "rescaled_phi' must be a number"),
        ({"rescaled_phi": 0.7, "keep_parallel_frac": -1}, "keep_parallel_frac' must be a number from 0 to 1"),
        ({"rescaled_phi": 0.7, "remove_parallel_component": 1}, "remove_parallel_component' must be true or false"),
        ({"classes": "cat,dog"}, "classes' must be 3 different names"),
        ({"image_size": 7}, "image_size' must be"),
        ({"self_condition": True}, "has no option 'self_condition'"),
    ],
    ids=str,
)
def test_an_option_that_does_not_fit_is_named(pair, options, named):
    with pytest.raises(UsageError, match=named):
        load(pair[0].state_dict(), **options)


def test_what_the_shapes_say_may_be_said_again(pair):
    facts = {"dim": 4, "num_classes": 3, "init_dim": 4, "out_dim": 1, "dim_mults": [1, 2], "channels": 1}
    got = load(pair[0].state_dict(), **facts, attn_dim_head=3, objective="pred_v", classes=["a", "b", "c"])
    assert got.spec.inputs[0].classes == ("a", "b", "c")


def test_its_ddim_is_the_default_where_it_takes_fewer_steps(pair):
    spec = load(pair[0].state_dict(), sampling_timesteps=6).spec
    assert spec.defaults == Defaults("ddim", 6, 1.0)  # its eta, where nobody says another
    assert load(pair[0].state_dict()).spec.defaults == Defaults("ddpm", 30, 0.0)


def test_with_pred_noise_its_ddim_keeps_the_noise_of_before_the_clipping(pair):
    state = make(objective="pred_noise")[0].state_dict()
    spec = load(state, sampling_timesteps=6).spec
    assert (spec.defaults.plan, spec.defaults.times) == ("ddim_sample-6", None)
    assert {"plan", "raw_eps", "inputs"} == set(spec.requires)
    own, ours = plan(spec), plan(spec, sampler="ddim", num_steps=6)
    assert own.rows == tuple(row._replace(raw_eps=True) for row in ours.rows)
    assert all(row.noise for row in own.rows[:-1])  # eta is 1
    options = {"image_size": 8, "attn_heads": 2, "sampling_timesteps": 6}
    several = import_network("model.pt", Found("model", state), "ema", options, (4, 26)).spec
    assert list(several.plans) == ["ddim_sample-4", "ddim_sample-26"]
    assert not import_network("model.pt", Found("model", state), "ema", options, ()).spec.plans
    assert load(pair[0].state_dict(), sampling_timesteps=6).spec.plans == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"classes_emb.weight": torch.zeros(3, 5)},
        {"classes_emb.weight": torch.zeros(1).expand(2**40, 4)},
        {"classes_emb.weight": torch.zeros(5000, 4)},
        {"null_classes_emb": torch.zeros(5)},
        {"final_conv.weight": torch.zeros(2, 4, 1, 1)},
        {"downs.0.0.block1.proj.weight": None},
        {"downs.1.3.weight": torch.zeros(9, 4, 3, 3)},
        {"mid_attn.fn.fn.to_qkv.weight": None},
        {"time_mlp.0.weights": torch.zeros(8)},
        {"surprise": torch.zeros(3)},
    ],
    ids=lambda changes: str(changes)[:60].replace("\n", ""),
)
def test_weights_that_do_not_fit_are_told_in_one_line(pair, changes):
    state = {key: value for key, value in {**pair[0].model.state_dict(), **changes}.items() if value is not None}
    with pytest.raises(BadFileError) as caught:
        load(state, **ASKED)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("In model.pt, the checkpoint's ")


def test_a_package_that_is_not_there_is_told(pair, monkeypatch):
    importlib.import_module("denoising_diffusion_pytorch.classifier_free_guidance")
    for name in ("denoising_diffusion_pytorch.classifier_free_guidance", "denoising_diffusion_pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'ddpm-export\[lucidrains\]'"):
        load(pair[0].state_dict())
