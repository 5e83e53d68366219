import importlib
import itertools
import sys
import tempfile
import types
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from representative import representative

torch = pytest.importorskip("torch")

from benchmarks.importing import compare  # noqa: E402
from benchmarks.importing.lucidrains import case, ddim_sample, diffusion_and_ema, trainer_contents  # noqa: E402
from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError  # noqa: E402
from ddpm_export.exporting.export import eager_model  # noqa: E402
from ddpm_export.importers.layout import Found  # noqa: E402
from ddpm_export.importers.layouts import import_network  # noqa: E402
from ddpm_export.importers.load import load_checkpoint  # noqa: E402
from ddpm_export.model.denoiser import denoiser  # noqa: E402
from ddpm_export.model.inputs import Input  # noqa: E402
from ddpm_export.model.spec import Defaults  # noqa: E402
from ddpm_export.model.steps import plan  # noqa: E402
from ddpm_export.process.walk import walk  # noqa: E402

pytestmark = pytest.mark.torch
TINY = {"dim": 4, "dim_mults": (1, 2), "channels": 1, "attn_heads": (1, 2), "attn_dim_head": (2, 3)}
ASKED = {"image_size": 8, "objective": "pred_v", "beta_schedule": "sigmoid", "timesteps": 20}
SCHEDULES = ("linear", "cosine", "sigmoid")
OBJECTIVES = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}


@pytest.fixture(scope="module")
def package():
    return importlib.import_module("denoising_diffusion_pytorch")


@pytest.fixture(scope="module")
def pair():
    return make()


def make(unet=None, **diffusion):
    return diffusion_and_ema({**TINY, **(unet or {})}, {"image_size": 8, "timesteps": 30, **diffusion}, seed=0)


def load(contents, weights="ema", **options):
    return import_network("model.pt", Found("model", contents), weights, options)


def weights_of(imported):
    return imported.network.unet.state_dict()


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def assert_one_line(caught):
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("In model.pt, ", "model.pt has "))


# ---- parity with the package's own samplers

unets = st.fixed_dictionaries(
    {
        "dim": st.sampled_from([8, 12]),
        "dim_mults": st.sampled_from([(1,), (1, 2), (2, 1), (1, 1, 2)]),
        "channels": st.sampled_from([1, 3]),
        "attn_heads": st.sampled_from([1, 3]),
        "attn_dim_head": st.sampled_from([2, 5]),
    },
    optional={
        "init_dim": st.just(6),
        "full_attn": st.just(True),
        "learned_variance": st.just(True),
        "self_condition": st.just(True),
        "sinusoidal_pos_emb_theta": st.just(100),
    },
)
diffusions = st.fixed_dictionaries(
    {
        "image_size": st.sampled_from([8, (4, 8)]),
        "timesteps": st.sampled_from([50, 333]),
        "objective": st.sampled_from(list(OBJECTIVES)),
        "beta_schedule": st.sampled_from(SCHEDULES),
        "min_snr_loss_weight": st.booleans(),
    }
)


def is_equal(share, levels, diffusion, channels):
    """Say whether 99.5 % of the pixels of two images are equal, or all but four that round to the next level.

    In the worst case drawn so far, of a network told its own output, float32 sums in another order come to 6e-4 in 50
    steps, 0.08 of a level: three of its 384 values then lie on the other side of a half.
    """
    height, width = np.broadcast_to(diffusion["image_size"], 2)
    return levels <= 1 and share >= min(0.995, 1.0 - 4.0 / (2 * channels * height * width))


@pytest.mark.long
@settings(max_examples=6, deadline=None)
@given(kind=st.sampled_from(["trainer", "diffusion", "ema", "unet"]), unet=unets, diffusion=diffusions)
def test_it_evaluates_and_samples_as_the_package_does(kind, unet, diffusion):
    assume(not (unet.get("learned_variance") and unet.get("self_condition")))  # which the package refuses
    with tempfile.TemporaryDirectory() as folder:
        row = compare(case("drawn", kind, unet, diffusion), Path(folder), exported=False)
    assert row.error <= 1e-6
    assert is_equal(row.ddpm_equal, row.ddpm_levels, diffusion, unet["channels"])
    assert row.ddim_equal is None or is_equal(row.ddim_equal, row.ddim_levels, diffusion, unet["channels"])
    assert (row.ddim_equal is None) == ("learned_variance" in unet)


@pytest.mark.long
@pytest.mark.parametrize(
    ("unet", "diffusion"),
    [
        ({"full_attn": (True, False), "self_condition": True}, {"image_size": (4, 6)}),
        ({"learned_variance": True, "dim_mults": (1,)}, {"beta_schedule": "linear"}),
    ],
    ids=["attention, self_condition", "learned_variance"],
)
def test_an_exported_file_samples_as_the_package_does(tmp_path, unet, diffusion):
    row = compare(case("exported", "trainer", {"dim": 8, **unet}, {"image_size": 4, **diffusion}), tmp_path)
    assert row.error <= 1e-5
    assert row.ddpm_equal >= 0.995
    assert row.ddim_equal is None or row.ddim_equal >= 0.995


def test_the_clean_image_found_before_goes_into_a_network_with_self_conditioning():
    imported = load(make({"self_condition": True, "channels": 2})[0].state_dict(), image_size=8, self_condition=True)
    assert imported.spec.inputs == (Input("x_0_prev", "previous", (2, 8, 8)),)
    assert imported.spec.requires == ("inputs",)
    x_t, t, before = torch.ones(1, 2, 8, 8), torch.tensor([17]), torch.full((1, 2, 8, 8), 0.5)
    network = imported.network.eval()
    expected = network.unet(x_t, t, before)
    assert torch.equal(network(x_t, t, x_0_prev=before), expected)
    assert not torch.allclose(network(x_t, t, x_0_prev=torch.zeros_like(before)), expected)


@representative("eta", [0.6, 0.0])
def test_sampling_timesteps_and_eta_become_the_default_sampler(tmp_path, eta):
    model, ema = make(timesteps=100, ddim_sampling_eta=eta, sampling_timesteps=7)
    torch.save(trainer_contents(model, ema), tmp_path / "c.pt")
    options = {"image_size": 8, "sampling_timesteps": 7, "ddim_sampling_eta": eta}
    checkpoint = load_checkpoint(tmp_path / "c.pt", options=options)
    spec, noise = checkpoint.spec, torch.randn(8, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert spec.defaults == Defaults("ddim", 7, eta)
    expected, times = ddim_sample(ema.ema_model.eval(), noise, 7)
    steps = plan(spec)
    assert [row.t for row in steps.rows] == list(times)
    states = walk(denoiser(eager_model(checkpoint), spec), lambda k: noise[k].numpy(), steps)
    np.testing.assert_allclose(deque(states, maxlen=1).pop().x, expected, rtol=0, atol=2e-5)


def test_without_them_it_samples_at_all_times(pair):
    for options in ({}, {"sampling_timesteps": 30}, {"ddim_sampling_eta": 0.5}, {"sampling_timesteps": None}):
        spec = load(pair[0].state_dict(), image_size=8, **options).spec
        assert spec.defaults == Defaults("ddpm", 30, 0.0)
        assert (spec.clip_x_0, spec.variance) == (1.0, "fixed_small")


@pytest.mark.long
def test_times_that_the_package_rounds_otherwise_are_the_default():
    state = make(timesteps=100)[0].state_dict()
    assert load(state, image_size=8, sampling_timesteps=50).spec.defaults == Defaults("ddim", 50)
    other = load(state, image_size=8, sampling_timesteps=90).spec  # found by trying all 99
    assert other.requires == ("times",)
    _, times = ddim_sample(make(timesteps=100)[0].eval(), torch.zeros(91, 1, 1, 8, 8), 90)
    assert other.defaults.times == times


# ---- what is derived


@representative(
    ("objective", "schedule", "min_snr"),
    itertools.product(OBJECTIVES, SCHEDULES, (False, True)),
    by=lambda objective, *_: objective,
)
def test_objective_and_alphas_cumprod_follow_from_the_buffers(package, objective, schedule, min_snr):
    process = {"objective": objective, "beta_schedule": schedule, "timesteps": 200}
    model = make(**process, min_snr_loss_weight=min_snr)[0]
    spec = load(model.state_dict(), image_size=8).spec
    assert spec.prediction == OBJECTIVES[objective]
    functions = importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    betas = getattr(functions, f"{schedule}_beta_schedule")(200).numpy()
    a = np.array(spec.alphas_cumprod)
    # the package keeps 24 bits; the numbers before the rounding are met to about that, small betas and 1 - a too
    np.testing.assert_allclose(a, np.cumprod(1.0 - betas), rtol=2e-7)
    np.testing.assert_allclose(1.0 - a, 1.0 - np.cumprod(1.0 - betas), rtol=2e-7)
    np.testing.assert_allclose(1.0 - a / np.append(1.0, a[:-1]), betas, rtol=2e-7)
    # a user may say it again
    load(model.state_dict(), image_size=8, **process, schedule_fn_kwargs={}, min_snr_loss_weight=min_snr)


@pytest.mark.parametrize("timesteps", [30, 1000])
@pytest.mark.parametrize(
    ("schedule", "kwargs"),
    [
        ("linear", {}),
        ("cosine", {}),
        ("cosine", {"s": 0.1}),
        ("sigmoid", {}),
        ("sigmoid", {"start": 0, "end": 3, "tau": 0.7, "clamp_min": 1e-9}),
    ],
)
def test_the_schedules_of_a_bare_unet_are_the_packages(package, pair, schedule, kwargs, timesteps):
    functions = importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    expected = torch.cumprod(1.0 - getattr(functions, f"{schedule}_beta_schedule")(timesteps, **kwargs), dim=0)
    options = {**ASKED, "beta_schedule": schedule, "timesteps": timesteps}
    spec = load(pair[0].model.state_dict(), **options, schedule_fn_kwargs=kwargs).spec
    np.testing.assert_allclose(spec.alphas_cumprod, expected, rtol=1e-10)


SAID = {  # what follows from the file, and something else
    "dim": (4, 8),
    "init_dim": (6, 4),
    "out_dim": (1, 2),
    "dim_mults": ([1, 2], [1, 4]),
    "channels": (1, 3),
    **dict.fromkeys(("learned_variance", "learned_sinusoidal_cond", "random_fourier_features"), (False, True)),
    "self_condition": (False, True),
    "full_attn": ([True, False], True),
    "attn_heads": ([1, 2], 2),
    "attn_dim_head": ([2, 3], [3, 2]),
    "timesteps": (30, 31),
    "objective": ("pred_v", "pred_x0"),
    "beta_schedule": ("sigmoid", "linear"),
}
FACTS = {name: fact for name, (fact, _) in SAID.items()}


@pytest.fixture(scope="module")
def odd():
    return make({"init_dim": 6, "full_attn": (True, False)})[0].state_dict()


def test_what_the_shapes_say_may_be_said_again(odd):
    unet = load(odd, image_size=8, **FACTS).network.unet
    assert (unet.init_conv.out_channels, unet.channels, unet.out_dim) == (6, 1, 1)
    assert [type(level[2]).__name__ for level in unet.downs] == ["Attention", "LinearAttention"]
    assert [level[2].heads for level in unet.downs] == [1, 2]
    assert unet.mid_attn.to_qkv.weight.shape == (3 * 2 * 3, 8, 1, 1)


@pytest.mark.parametrize("name", SAID)
def test_an_option_that_contradicts_the_file_is_an_error(odd, name):
    with pytest.raises(UsageError, match=f"^'{name}' must be .*, as the checkpoint says, got"):
        load(odd, image_size=8, **{**FACTS, name: SAID[name][1]})


def test_one_value_may_stand_for_all_levels():
    state = make({"full_attn": True, "attn_heads": 2, "attn_dim_head": 3})[0].state_dict()
    load(state, image_size=8, full_attn=True, attn_heads=2, attn_dim_head=3)
    load(make({"attn_heads": 2})[0].state_dict(), image_size=8, full_attn=False, attn_heads=2)


@pytest.mark.parametrize("kind", ["learned_sinusoidal_cond", "random_fourier_features"])
def test_a_learned_or_random_time_embedding_is_seen_in_the_shapes(kind):
    state = make({kind: True, "learned_sinusoidal_dim": 6})[0].model.state_dict()
    for options in ({}, {kind: True}, {"learned_sinusoidal_cond": False}, {"learned_sinusoidal_dim": 6}):
        imported = load(state, **ASKED, **options)
        assert weights_of(imported)["time_mlp.0.weights"].shape == (3,)
        assert imported.notes[0].startswith("learned_sinusoidal_cond: ")
    for options in (
        {"learned_sinusoidal_dim": 8},
        {"learned_sinusoidal_cond": False, "random_fourier_features": False},
    ):
        with pytest.raises(UsageError, match=r"'learned_sinusoidal_\w+' must be .*, as the checkpoint says"):
            load(state, **ASKED, **options)


def test_theta_reaches_the_network(pair):
    x_t, t = torch.ones(1, 1, 8, 8), torch.tensor([17])
    outs = [
        load(pair[0].state_dict(), image_size=8, **options).network.eval()(x_t, t)
        for options in ({}, {"sinusoidal_pos_emb_theta": 10000}, {"sinusoidal_pos_emb_theta": 50})
    ]
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


def test_a_learned_variance_is_noise_by_any_objective():
    for objective, number in (("pred_noise", 0), ("pred_x0", 1)):
        model = make({"learned_variance": True}, objective=objective)[0]
        imported = load(model.state_dict(), image_size=8)
        assert imported.spec.outputs == ("eps", "variance_fraction")
        assert imported.spec.variance == "learned"
        assert len(imported.notes) == number
        asked = {name: value for name, value in ASKED.items() if name != "objective"}
        assert load(model.model.state_dict(), **asked).spec.prediction == "eps"
    with pytest.raises(UsageError, match=r"'sampling_timesteps' must be .* LearnedGaussianDiffusion"):
        load(model.state_dict(), image_size=8, sampling_timesteps=10)


# ---- what is asked for


@pytest.mark.parametrize("given", [(), ("objective",), ("image_size", "timesteps"), ("image_size", "beta_schedule")])
def test_a_bare_unet_asks_for_exactly_what_is_missing(pair, given):
    options = {name: ASKED[name] for name in given}
    with pytest.raises(UsageError) as caught:
        load(pair[0].model.state_dict(), **options)
    missing = [name for name in ASKED if name not in given]
    assert f"does not say its {', '.join(missing)}. Add" in str(caught.value)
    assert [word.split("=")[0] for word in str(caught.value).split() if "=" in word] == missing


def test_a_diffusion_asks_for_the_image_size_alone(pair):
    for contents in (pair[0].state_dict(), trainer_contents(*pair)):
        with pytest.raises(UsageError, match=r"does not say its image_size\. Add, for example, image_size=64$"):
            load(contents)


def test_an_objective_that_the_loss_does_not_tell_is_asked_for():
    state = make(objective="pred_x0", min_snr_loss_weight=True, min_snr_gamma=2)[0].state_dict()
    with pytest.raises(UsageError, match="does not say its objective"):
        load(state, image_size=8)
    for options in ({"objective": "pred_x0"}, {"min_snr_gamma": 2}):
        assert load(state, image_size=8, **options).spec.prediction == "x_0"


def test_an_objective_that_two_losses_share_is_asked_for():
    state = make(timesteps=1)[0].state_dict()
    halves = {  # one time with as much signal as noise: its weight is 1 for pred_noise and for pred_x0
        "betas": 0.5,
        "alphas_cumprod": 0.5,
        "sqrt_alphas_cumprod": 0.5**0.5,
        "sqrt_one_minus_alphas_cumprod": 0.5**0.5,
        "log_one_minus_alphas_cumprod": np.log(0.5),
        "sqrt_recip_alphas_cumprod": 2.0**0.5,
        "sqrt_recipm1_alphas_cumprod": 1.0,
        "loss_weight": 1.0,
    }
    state.update({name: torch.tensor([value], dtype=torch.float32) for name, value in halves.items()})
    with pytest.raises(UsageError, match="does not say its objective"):
        load(state, image_size=8)
    assert load(state, image_size=8, objective="pred_x0").spec.alphas_cumprod == (0.5,)


@pytest.mark.parametrize(("value", "shape"), [(8, (8, 8)), ([4, 8], (4, 8)), ("6, 8", (6, 8)), ((2, 4), (2, 4))])
def test_an_image_size_is_one_number_or_two(pair, value, shape):
    assert load(pair[0].state_dict(), image_size=value).spec.state_shape == (1, *shape)


CANNOT_BE = {
    "image_size": (7, 0, 2**20, True, [8], "8x8", 8.0),  # two levels: even
    "timesteps": (0, 10**9, "30"),
    "objective": ("eps", 1),
    "beta_schedule": ("quadratic", ["linear"]),
    "schedule_fn_kwargs": ([1], {"tau": 0}),
    "sampling_timesteps": (0, 1001, 5.0),
    "ddim_sampling_eta": (1.5, "a"),
    "sinusoidal_pos_emb_theta": (0,),
    "auto_normalize": (False,),
    "auto_normalise": (True,),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CANNOT_BE.items() for value in values])
def test_an_option_that_cannot_be_is_named(pair, name, value):
    with pytest.raises(UsageError) as caught:
        load(pair[0].model.state_dict(), **{**ASKED, "timesteps": 1000, name: value})
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timesteps": 10}, r"Every beta of linear must lie within \(0, 1\)"),
        ({"schedule_fn_kwargs": {"s": 0.1}}, "beta_schedule linear has no option 's'. It takes none"),
        ({"beta_schedule": "sigmoid", "schedule_fn_kwargs": {"start": "a"}}, "'start' must be a value like"),
        (
            {"beta_schedule": "cosine", "schedule_fn_kwargs": {"tau": 1}},
            "beta_schedule cosine has no option 'tau'. It takes s",
        ),
    ],
)
def test_parameters_that_a_schedule_cannot_have_are_named(pair, options, error):
    with pytest.raises(UsageError, match=error):
        load(pair[0].model.state_dict(), **{**ASKED, "beta_schedule": "linear", **options})


def test_options_of_a_schedule_alone_are_no_schedule(pair):
    with pytest.raises(UsageError, match="does not say its beta_schedule"):
        load(pair[0].state_dict(), image_size=8, schedule_fn_kwargs={"s": 0.1})


def test_options_of_training_alone_change_nothing(pair):
    options = {
        "offset_noise_strength": 0.1,
        "immiscible": True,
        "dropout": 0.1,
        "flash_attn": True,
        "vb_loss_weight": 1,
    }
    state = pair[0].state_dict()
    entry, other = load(state, image_size=8), load(state, image_size=8, **options)
    assert entry.spec == other.spec
    assert_same(weights_of(entry), weights_of(other))


# ---- kinds of checkpoints


def renamed(state, old, new):
    return {(new + key[len(old) :] if key.startswith(old) else key): value for key, value in state.items()}


def test_the_averaged_weights_are_taken_unless_the_last_are_asked_for(pair):
    model, ema = pair
    averaged, last = ema.ema_model.model.state_dict(), model.model.state_dict()
    assert not torch.equal(averaged["init_conv.weight"], last["init_conv.weight"])
    for contents in (trainer_contents(model, ema), ema.state_dict()):
        assert_same(weights_of(load(contents, image_size=8)), averaged)
        assert_same(weights_of(load(contents, "raw", image_size=8)), last)
    imported = load(trainer_contents(model, ema), image_size=8)
    assert imported.source == {"importer": "lucidrains", "weights": "ema", "step": 3}


def test_a_file_of_one_set_of_weights_has_these(pair):
    for weights in ("ema", "raw"):
        for imported in (
            load(pair[0].state_dict(), weights, image_size=8),
            load(pair[0].model.state_dict(), weights, **ASKED),
        ):
            assert_same(weights_of(imported), pair[0].model.state_dict())
            assert imported.source["weights"] == "the only ones"


def test_a_step_that_is_no_count_is_left_out(pair):
    for step in (-1, 10**5000, "3", torch.tensor(3)):
        source = load({**trainer_contents(*pair), "step": step}, image_size=8).source
        assert source == {"importer": "lucidrains", "weights": "ema"}


def test_prefixes_of_parallel_and_compiled_modules_are_taken_off(pair):
    model, ema = pair
    expected = model.model.state_dict()
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
        assert_same(weights_of(load(state, image_size=8)), expected)
        state = renamed(model.state_dict(), "model.", f"model.{prefix}")
        assert_same(weights_of(load(state, image_size=8)), expected)
        state = {f"{prefix}{key}": value for key, value in expected.items()}
        assert_same(weights_of(load(state, **ASKED)), expected)
    contents = trainer_contents(model, ema)
    contents["ema"] = renamed(contents["ema"], "ema_model.", "ema_model.module.")
    assert_same(weights_of(load(contents, image_size=8)), ema.ema_model.model.state_dict())
    twice = {**model.state_dict(), **{f"module.{key}": value for key, value in model.state_dict().items()}}
    with pytest.raises(BadFileError, match="differ only in module"):
        load(twice, image_size=8)


@pytest.mark.long
# its loader asks for pinned memory, with or without a device to pin it for
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_a_real_trainers_file_is_imported(package, tmp_path, monkeypatch):
    module = importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    monkeypatch.setattr(module, "cpu_count", lambda: 0)  # no workers
    (tmp_path / "images").mkdir()
    for k in range(100):  # it refuses fewer
        pixels = np.random.default_rng(k).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{k}.png")
    model = package.GaussianDiffusion(package.Unet(**TINY), image_size=8, timesteps=30, sampling_timesteps=2)
    trainer = package.Trainer(
        model,
        str(tmp_path / "images"),
        train_batch_size=16,
        train_num_steps=2,
        save_and_sample_every=2,
        num_samples=1,
        results_folder=str(tmp_path / "results"),
        calculate_fid=False,
    )
    trainer.train()
    checkpoint = load_checkpoint(
        tmp_path / "results" / "model-1.pt", options={"image_size": 8, "sampling_timesteps": 2}
    )
    assert_same(checkpoint.network.unet.state_dict(), trainer.ema.ema_model.model.state_dict())
    assert checkpoint.spec.source["step"] == 2
    assert checkpoint.spec.prediction == "v"
    x_t, t = torch.ones(3, 1, 8, 8), torch.tensor([0, 7, 29])
    with torch.inference_mode():
        assert torch.equal(checkpoint.network(x_t, t), trainer.ema.ema_model.model.eval()(x_t, t))


# ---- what is refused


@pytest.fixture(scope="module")
def others(package):
    """What a message has to say -> the state dict of another network or diffusion."""
    unet = {"dim": 4, "dim_mults": (1, 2), "channels": 1}
    sinusoidal = package.Unet(**unet, learned_sinusoidal_cond=True)
    continuous = {"image_size": 8, "channels": 1}
    modules = {
        "WeightedObjectiveGaussianDiffusion": package.WeightedObjectiveGaussianDiffusion(
            package.Unet(**unet, out_dim=4), image_size=8
        ),
        "ContinuousTimeGaussianDiffusion": package.ContinuousTimeGaussianDiffusion(sinusoidal, **continuous),
        "as ContinuousTimeGaussianDiffusion is": package.VParamContinuousTimeGaussianDiffusion(
            sinusoidal, **continuous
        ),
        "out_dim=5": package.Unet(**unet, out_dim=5),
        "an unknown checkpoint layout": package.KarrasUnet(dim=8, dim_max=16, num_downsamples=1, **continuous),
        "nearest is lucidrains": package.GaussianDiffusion1D(package.Unet1D(**unet), seq_length=8),
    }
    return {name: module.state_dict() for name, module in modules.items()}


@pytest.mark.parametrize(
    "name",
    [
        *("WeightedObjectiveGaussianDiffusion", "ContinuousTimeGaussianDiffusion", "out_dim=5"),
        *("as ContinuousTimeGaussianDiffusion is", "an unknown checkpoint layout", "nearest is lucidrains"),
    ],
)
def test_what_is_another_network_or_diffusion_is_refused_by_name(others, name):
    for contents in (others[name], {"model": others[name], "ema": renamed(others[name], "", "ema_model.")}):
        with pytest.raises(BadFileError, match=name) as caught:
            load(contents, **ASKED)
        assert_one_line(caught)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.final_conv.weight": None},
        {"model.ups.0.0.block1.proj.bias": None},
        {"model.downs.0.2.mem_kv": None},
        {"model.downs.1.3.weight": None},
        {"model.more": torch.zeros(1)},
        {"model.classes_emb.weight": torch.zeros(3, 4)},
        {"model.downs.2.0.block1.proj.weight": torch.zeros(1)},
        {"model.init_conv.weight": torch.zeros(4, 1, 7)},
        {"model.init_conv.weight": "text"},
        {"model.init_conv.bias": torch.zeros(4, dtype=torch.int64)},
        {"model.time_mlp.1.weight": torch.zeros(3, 4)},
        {"model.time_mlp.1.weight": torch.zeros(1).expand(2**40, 4)},
        {"model.time_mlp.1.weight": torch.zeros(1).expand(2**18, 2**16)},
        {"model.downs.1.3.weight": torch.zeros(9, 4, 3, 3)},
        {"model.downs.1.3.weight": torch.zeros(1).expand(2**16, 2**16, 3, 3)},
        {"model.downs.1.3.weight": torch.zeros(2, 4, 3, 3)},
        {"model.downs.0.2.mem_kv": torch.zeros(1).expand(2, 2**16, 2**16, 4)},
        {"model.downs.0.2.mem_kv": torch.zeros(1).expand(2, 2**20, 2**38, 4)},  # sizes whose product no integer holds
        {"other.init_conv.weight": torch.zeros(4, 1, 7, 7)},
        {"betas": None},
        {"loss_weight": None},
        {"posterior_variance": None},
        {"p2_loss_weight": torch.ones(30)},
        {"betas": torch.zeros(29)},
        {"betas": torch.zeros(30)},
        {"betas": torch.full((30,), torch.nan)},
        {"betas": torch.zeros(1).expand(2**40)},
        {"betas": [1.0]},
        {"alphas_cumprod": torch.zeros(30)},
        {"loss_weight": torch.ones(30, dtype=torch.float16)},
        {"posterior_mean_coef1": torch.ones(30)},
        {"model": torch.zeros(1)},
        {7: torch.zeros(1)},
    ],
    ids=lambda changes: str(changes)[:60].replace("\n", ""),
)
def test_a_diffusion_with_other_contents_is_told_in_one_line(pair, changes):
    state = {**pair[0].state_dict(), **changes}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(BadFileError) as caught:
        load(state, image_size=8, objective="pred_v")
    assert_one_line(caught)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"ema": None}, "Use weights raw"),
        ({"ema": [1]}, "checkpoint's ema does not fit"),
        ({"ema": {}}, "checkpoint's ema.ema_model does not fit"),
        ({"ema": {"surprise": torch.zeros(1)}}, "surprise"),
        ({"format": "ddpm-export-checkpoint/1", "network": {}, "config": {}, "spec": ""}, "lucidrains and native"),
    ],
)
def test_a_trainers_file_with_other_contents_is_told_in_one_line(pair, changes, name):
    with pytest.raises(BadFileError, match=name) as caught:
        load({**trainer_contents(*pair), **changes}, image_size=8)
    assert_one_line(caught)


def test_last_weights_that_are_not_there_are_missed(pair):
    averaged_alone = {k: v for k, v in pair[1].state_dict().items() if not k.startswith("online_model.")}
    load(averaged_alone, image_size=8)
    with pytest.raises(BadFileError, match="checkpoint's online_model does not fit") as caught:
        load(averaged_alone, "raw", image_size=8)
    assert_one_line(caught)


@pytest.mark.parametrize(
    ("module", "name"),
    [(None, "is not installed"), (types.SimpleNamespace(Unet=lambda dim: dim), "must be 2.0 or newer")],
)
def test_a_package_that_is_not_there_or_too_old_is_told(pair, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, "denoising_diffusion_pytorch", module)
    with pytest.raises(EnvironmentProblem, match=rf"denoising_diffusion_pytorch {name}.*ddpm-export\[lucidrains\]"):
        load(pair[0].state_dict(), image_size=8)
