import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from representative import representative

from benchmarks.importing import compare
from benchmarks.importing.tqch import cases
from ddpm_export.errors import BadFileError, DdpmExportError, UsageError
from ddpm_export.exporting.export import eager_model
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import Defaults
from ddpm_export.model.steps import plan
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.walk import walk
from tests.oracles.weights import ORACLES

torch = pytest.importorskip("torch")

from ddpm_export.importers.layout import Found  # noqa: E402
from ddpm_export.importers.layouts import import_network  # noqa: E402
from ddpm_export.importers.tqch import SCHEDULES  # noqa: E402
from ddpm_export.importers.tqch_unet import Layout, Shuffled, UNet  # noqa: E402
from ddpm_export.process.schedules import alphas_cumprod_from_betas  # noqa: E402

pytestmark = pytest.mark.torch

CASES = {case.name: case for case in cases()}
TINY = Layout(1, 1, 32, 16, (1, 2), 1, (False, True), True)
DIFFUSION = {
    "timesteps": 50,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "model_mean_type": "eps",
    "model_var_type": "fixed-small",
    "loss_type": "mse",
}
OPTIONS = {"image_size": 8, "diffusion": DIFFUSION}


def network_of(layout, seed=0):
    torch.manual_seed(seed)
    network = UNet(layout).eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if "norm" in name:
            value.add_(torch.randn_like(value) * 0.2)
    return network


STATE = network_of(TINY).state_dict()


def load(contents, weights="ema", **options):
    """Import what torch.save and a weights_only load leave of these contents."""
    file = io.BytesIO()
    torch.save(contents, file)
    file.seek(0)
    found = Found("it", torch.load(file, weights_only=True))
    imported = import_network("it.pt", found, weights, {**OPTIONS, **options})
    imported.network.eval().requires_grad_(False)
    return imported


def with_diffusion(**changes):
    return {"diffusion": {**DIFFUSION, **changes}}


def outputs_of(network, layout, block_size=1, size=8):
    torch.manual_seed(1)
    x_t = torch.randn(2, layout.in_channels // block_size**2, size, size)
    return network(x_t, torch.tensor([3, 40])).numpy()


# ---- the recorded cases


@representative("name", ["tqch-a", "tqch-b", "tqch-d"])
def test_recorded_cases_are_reproduced(name, tmp_path):
    row = compare(CASES[name], tmp_path, exported=False)
    assert row.error <= 1e-5
    assert row.ddpm_equal >= 0.995
    assert row.ddim_equal >= 0.995


@pytest.mark.long
@pytest.mark.parametrize("name", ["tqch-d", "tqch-c"])
def test_an_exported_file_reproduces_a_recorded_case(name, tmp_path):
    row = compare(CASES[name], tmp_path)
    assert row.error <= 1e-5
    if name == "tqch-c":  # a mean: its chains follow below
        assert (row.ddpm_equal, row.ddim_equal) == (None, None)
        return
    assert row.ddpm_equal >= 0.995
    assert row.ddim_equal >= 0.995


@pytest.fixture(scope="module")
def recorded_mean(tmp_path_factory):
    """The checkpoint of tqch-c, its recorded numbers, and the posterior's sigma (T,) (Ho et al. 2020, eq. 7)."""
    path, options = CASES["tqch-c"].write(tmp_path_factory.mktemp("tqch-c"))
    checkpoint = load_checkpoint(path, options=options)
    with np.load(ORACLES / "tqch-c" / "expected.npz") as values:
        arrays = dict(values)
    a = np.cumprod(1.0 - arrays["betas"])
    a_prev = np.append(1.0, a[:-1])
    return checkpoint, arrays, np.sqrt(arrays["betas"] * (1.0 - a_prev) / (1.0 - a))


def step_of(checkpoint, x_t, t, z):
    denoise, steps = denoiser(eager_model(checkpoint), checkpoint.spec), [t, t - 1][: t + 1]
    rows = plan(checkpoint.spec, sampler="ddpm", times=steps, variance="fixed_small")
    return next(walk(denoise, lambda _: z, rows, x=x_t)).x


def test_a_step_from_a_mean_goes_where_the_recorded_mean_says(recorded_mean):
    checkpoint, arrays, sigma = recorded_mean
    assert (checkpoint.spec.prediction, checkpoint.spec.clip_x_0) == ("x_0", None)
    assert checkpoint.notes[-1].startswith("model_mean_type mean: ")
    for k, t in enumerate(arrays["t"].tolist()):
        x_t, mean = arrays["x_t"][k : k + 1], arrays["out"][k : k + 1]
        z = np.flip(x_t).copy()
        # random weights give an x_0 of up to 34000: what is left of it has lost that many digits
        np.testing.assert_allclose(step_of(checkpoint, x_t, t, z), mean + sigma[t] * z, atol=3e-4)


@pytest.mark.long
def test_every_step_of_the_recorded_chain_of_means_is_reproduced_but_one_rounding_decides_its_end(recorded_mean):
    checkpoint, arrays, sigma = recorded_mean
    ends = []
    for difference in (0.0, 1e-6):
        x = arrays["ddpm_noise"][0] + np.float32(difference)
        for i, t in enumerate(arrays["ddpm_timesteps"][::-1].tolist()):
            z, x_t = arrays["ddpm_noise"][i + 1], x
            mean = checkpoint.network.network(torch.from_numpy(x_t), torch.full((len(x_t),), t)).numpy()
            x = mean + np.float32(sigma[t]) * z
            assert (to_uint8(step_of(checkpoint, x_t, t, z)) == to_uint8(x)).mean() >= 0.995
        ends.append(x)
    assert np.abs(ends[0] - ends[1]).max() > 1.0


@pytest.mark.parametrize("schedule", ["linear", "jsd"])
def test_a_chain_from_exact_means_is_the_chain_of_the_means_themselves(schedule):
    """On Gaussian images of std s: E[x_0 | x_t] = sqrt(a) s^2 / (a s^2 + 1 - a) x_t, and the mean follows (eq. 7)."""
    T, s = 500, 0.5
    options = {**DIFFUSION, "timesteps": T, "beta_schedule": schedule, "model_mean_type": "mean"}
    imported = load(STATE, diffusion=options)
    betas = SCHEDULES["jsd"](T) if schedule == "jsd" else SCHEDULES["linear"](T, 1e-4, 0.02)
    a = np.cumprod(1.0 - betas)
    a_prev = np.append(1.0, a[:-1])
    factor = np.sqrt(1.0 - betas) * (a_prev * s**2 + 1.0 - a_prev) / (a * s**2 + 1.0 - a)  # mean = factor[t] x_t
    imported.network.network = Scaled(factor)
    noise = noise_stream(3, range(4), imported.spec.state_shape)
    checkpoint = Checkpoint(imported.network, imported.spec)
    rows = plan(imported.spec, sampler="ddpm", num_steps=T, variance="fixed_small")
    *_, last = walk(denoiser(eager_model(checkpoint), imported.spec), noise, rows)
    x, sigma = noise(0).astype(np.float64), np.sqrt(betas * (1.0 - a_prev) / (1.0 - a))
    for i, t in enumerate(range(T - 1, -1, -1)):
        x = factor[t] * x + sigma[t] * noise(i + 1)
    np.testing.assert_allclose(last.x, x, atol=1e-4)


class Scaled(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = torch.from_numpy(factor).float()

    def forward(self, x_t, t):
        return self.factor[t][:, None, None, None] * x_t


@pytest.mark.parametrize("name", CASES)
def test_recorded_betas_are_those_of_the_schedule(name):
    diffusion = json.loads((ORACLES / name / "config.json").read_text())["diffusion"]
    asked = {"timesteps": diffusion["timesteps"], "beta_end": diffusion["beta_end"]}
    if diffusion["beta_schedule"] != "const":
        asked["beta_start"] = diffusion["beta_start"]
    with np.load(ORACLES / name / "expected.npz") as values:
        np.testing.assert_allclose(SCHEDULES[diffusion["beta_schedule"]](**asked), values["betas"], rtol=1e-14)


# ---- schedules

TIMES = st.integers(1, 400)
BETAS = st.floats(1e-6, 0.5)


@given(TIMES, BETAS, BETAS)
def test_linear_and_quad_are_lines_of_betas_and_of_their_roots(T, start, end):
    for name, line in (("linear", lambda b: b), ("quad", np.sqrt)):
        betas = SCHEDULES[name](T, start, end)
        assert betas.shape == (T,)
        np.testing.assert_allclose(betas[0], start)
        expected = line(start) + (line(end) - line(start)) * np.arange(T) / max(1, T - 1)
        np.testing.assert_allclose(line(betas), expected, rtol=1e-9)


@given(TIMES, BETAS, BETAS)
def test_warmup_rises_for_its_percentage_and_stays_at_the_end(T, start, end):
    for name, share in (("warmup10", 0.1), ("warmup50", 0.5)):
        betas, count = SCHEDULES[name](T, start, end), int(T * share)
        assert betas.shape == (T,)
        assert (betas[count:] == end).all()
        np.testing.assert_allclose(betas[:count], np.linspace(start, end, count))
    assert (SCHEDULES["const"](T, end) == np.full(T, end)).all()


@given(TIMES)
def test_jsd_takes_the_same_share_of_the_image_at_every_step(T):
    betas = SCHEDULES["jsd"](T)
    assert betas[-1] == 1.0
    np.testing.assert_allclose(alphas_cumprod_from_betas(betas), np.arange(T - 1, -1, -1) / T, atol=1e-12)


# ---- checkpoints


def test_the_averaged_weights_are_preferred():
    worse = network_of(TINY, seed=7).state_dict()
    contents = {"model": worse, "ema": {"decay": 0.9, "num_updates": 3, "shadow": STATE}, "epoch": 3, "optimizer": {}}
    ema, raw = load(contents), load(contents, weights="raw")
    for imported, weights, seed in ((ema, "ema", 0), (raw, "raw", 7)):
        assert imported.source == {"importer": "tqch", "epoch": 3, "weights": weights}
        assert imported.notes == ()
        assert (outputs_of(imported.network, TINY) == outputs_of(network_of(TINY, seed), TINY)).all()


def test_weights_alone_and_without_averages_are_taken_with_a_note():
    parallel = {f"module.{key}": value for key, value in STATE.items()}
    expected = outputs_of(network_of(TINY), TINY)
    for contents, note in (
        ({"model": STATE, "epoch": 3}, "has no averaged weights"),
        (STATE, "a single state dict"),
        (parallel, "a single state dict"),
        ({"model": parallel}, "has no averaged weights"),
    ):
        imported = load(contents)
        assert note in imported.notes[0]
        assert (outputs_of(imported.network, TINY) == expected).all()


def test_a_config_gives_the_whole_spec():
    imported = load(STATE, **with_diffusion(model_var_type="fixed-large", beta_schedule="const", timesteps=40))
    spec = imported.spec
    assert (spec.name, spec.prediction, spec.state_shape, spec.clip_x_0) == ("it", "eps", (1, 8, 8), 1.0)
    assert (spec.variance, spec.defaults) == ("fixed_large", Defaults("ddpm", 40, 0.0))
    np.testing.assert_allclose(spec.alphas_cumprod, 0.98 ** np.arange(1, 41))
    assert spec.source["beta_schedule"] == "const"


def test_names_may_come_without_their_section_and_go_before_it():
    old = {"denoise": {"hid_channels": 32, "time_embedding_dim": None}, "dataset": "mnist", "train": {"lr": 1e-3}}
    entry, other = (
        load(STATE, **DIFFUSION, diffusion={}, **old),
        load(STATE, timesteps=50, **with_diffusion(timesteps=9)),
    )
    assert entry.spec.alphas_cumprod == other.spec.alphas_cumprod
    assert entry.spec.num_train_timesteps == 50


def test_the_dataset_tells_the_size_and_says_so():
    imported = load(
        network_of(dataclasses.replace(TINY, in_channels=3, out_channels=3)).state_dict(),
        image_size=None,
        dataset="celeba",
    )
    assert imported.spec.state_shape == (3, 64, 64)
    assert imported.notes[-1] == "images are 64 x 64, the project's size of celeba"


@pytest.mark.parametrize("schedule", ["jsd", "linear", "quad", "warmup10", "warmup50", "const"])
def test_what_a_config_does_not_say_is_asked_for_by_name(schedule):
    with pytest.raises(UsageError) as caught:
        load(STATE, image_size=None, diffusion={"beta_schedule": schedule})
    asked = {part.split("=")[0] for part in str(caught.value).partition("Add, for example, ")[2].split()}
    betas = {"jsd": set(), "const": {"beta_end"}}.get(schedule, {"beta_start", "beta_end"})
    assert asked == {"timesteps", "model_mean_type", "model_var_type", "image_size"} | betas


# ---- networks drawn


@st.composite
def layouts(draw):
    levels, block_size = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2]))
    channels = draw(st.integers(1, 3)) * block_size**2
    return block_size, Layout(
        in_channels=channels,
        out_channels=channels,
        hid_channels=32 * draw(st.integers(1, 2)),
        time_embedding_dim=draw(st.integers(1, 40)),
        ch_multipliers=tuple(draw(st.lists(st.integers(1, 2), min_size=levels, max_size=levels))),
        num_res_blocks=draw(st.integers(1, 2)),
        apply_attn=tuple(draw(st.lists(st.booleans(), min_size=levels, max_size=levels))),
        resample_with_conv=levels > 1 and draw(st.booleans()),
    )


@settings(max_examples=6)
@given(layouts())
def test_a_network_is_derived_from_its_weights(drawn):
    block_size, layout = drawn
    network = network_of(layout) if block_size == 1 else Shuffled(network_of(layout), block_size)
    prefix = "" if block_size == 1 else "_model."
    state = {prefix + key.removeprefix("network."): value for key, value in network.state_dict().items()}
    stated = json.loads(json.dumps(dataclasses.asdict(layout)))  # all of it agrees
    imported = load({"model": state}, model={**stated, "block_size": block_size})
    assert imported.spec.state_shape == (layout.in_channels // block_size**2, 8, 8)
    assert (outputs_of(imported.network, layout, block_size) == outputs_of(network, layout, block_size)).all()


def test_without_a_second_level_any_resampling_may_be_said():
    layout = dataclasses.replace(TINY, ch_multipliers=(1,), apply_attn=(False,), resample_with_conv=False)
    for stated in (True, False):
        assert load(network_of(layout).state_dict(), resample_with_conv=stated).spec.state_shape == (1, 8, 8)


def test_a_shuffled_network_sees_each_block_of_pixels_as_one():
    """By construction, as a PixelUnshuffle is defined: row i, column j of a block is channel i b + j."""
    layout = dataclasses.replace(TINY, in_channels=4, out_channels=4)
    state = network_of(layout).state_dict()
    wrapped = {f"module._model.{key}": value for key, value in state.items()}
    imported = load(wrapped, block_size=2, in_channels=1)  # a config counts the image's channels
    x_t, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 49])
    blocks = torch.stack([x_t[:, 0, i::2, j::2] for i in range(2) for j in range(2)], dim=1)
    expected = network_of(layout)(blocks, t)
    out = imported.network(x_t, t)
    for i in range(2):
        for j in range(2):
            assert (out[:, 0, i::2, j::2] == expected[:, 2 * i + j]).all()


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        (with_diffusion(model_var_type="learned"), "model_var_type", "fixed-small, fixed-large"),
        (with_diffusion(model_var_type="fixed"), "model_var_type", "fixed-small, fixed-large"),
        (with_diffusion(model_mean_type="v"), "model_mean_type", "eps, x_0"),
        (with_diffusion(beta_schedule="cosine"), "beta_schedule", "warmup50"),
        (with_diffusion(beta_schedule="jsd"), "beta_schedule", "no image left"),
        (with_diffusion(beta_schedule=["jsd"]), "beta_schedule", "one of linear"),
        (with_diffusion(beta_schedule="const", beta_end=0.999, timesteps=1000), "beta_schedule", "another with eps"),
        (with_diffusion(beta_start=1e-20, beta_end=1e-19), "beta_schedule", "leave less of the image"),
        (with_diffusion(beta_start=0), "beta_start", "between 0 and 1"),
        (with_diffusion(beta_end=1.5), "beta_end", "between 0 and 1"),
        (with_diffusion(beta_end=float("nan")), "beta_end", "between 0 and 1"),
        (with_diffusion(beta_end=-1.0, beta_schedule="quad"), "beta_end", "between 0 and 1"),
        (with_diffusion(timesteps=0), "timesteps", "from 1 to 10000"),
        (with_diffusion(timesteps=10**9), "timesteps", "from 1 to 10000"),
        (with_diffusion(timesteps=50.0), "timesteps", "a whole number"),
        (
            with_diffusion(beta_schedule="const", beta_end=0.5, timesteps=300, model_mean_type="mean"),
            "model_mean_type",
            "float32",
        ),
        ({"image_size": 9}, "image_size", "a multiple of 2"),
        ({"image_size": 0}, "image_size", "a multiple of 2"),
        ({"image_size": 2**30}, "image_size", "up to 4096"),
        ({"image_size": [8, 8]}, "image_size", "32"),
        ({"dataset": "cifar10"}, "dataset", "1 channels"),
        ({"dataset": 10}, "dataset", "cifar10"),
        ({"block_size": 2}, "block_size", "no PixelUnshuffle"),
        ({"block_size": 0}, "block_size", "no PixelUnshuffle"),
        ({"diffusion": "linear"}, "diffusion", "an object"),
        ({"beta_schedul": "linear"}, "beta_schedul", "It takes"),
        ({"train": True}, "train", "{}"),
        ({"hid_channels": 64}, "hid_channels", "32, as the checkpoint says"),
        ({"in_channels": 3}, "in_channels", "1, as the checkpoint says"),
        ({"out_channels": 2}, "out_channels", "1, as the checkpoint says"),
        ({"ch_multipliers": [1, 1]}, "ch_multipliers", "(1, 2), as the checkpoint says"),
        ({"num_res_blocks": 2}, "num_res_blocks", "1, as the checkpoint says"),
        ({"apply_attn": [True, True]}, "apply_attn", "(False, True), as the checkpoint says"),
        ({"apply_attn": 1}, "apply_attn", "(False, True), as the checkpoint says"),
        ({"time_embedding_dim": 128}, "time_embedding_dim", "16, as the checkpoint says"),
        ({"resample_with_conv": False}, "resample_with_conv", "True, as the checkpoint says"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_by_name(options, name, expected):
    with pytest.raises(UsageError) as caught:
        load(STATE, **options)
    text = str(caught.value)
    assert text.startswith((f"{name!r} must be ", f"This checkpoint has no option {name!r}"))
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize("options", [{}, {"block_size": 1}, {"block_size": 3}, {"block_size": 2**70}], ids=str)
def test_a_block_size_has_to_fit_the_channels(options):
    layout = dataclasses.replace(TINY, in_channels=4, out_channels=4)
    state = {f"_model.{key}": value for key, value in network_of(layout).state_dict().items()}
    with pytest.raises(UsageError, match="block_size"):
        load(state, **options)


def test_jsd_may_end_without_any_image_where_x_0_is_predicted():
    spec = load(STATE, **with_diffusion(beta_schedule="jsd", model_mean_type="x_0", timesteps=100)).spec
    np.testing.assert_allclose(spec.alphas_cumprod, np.arange(99, -1, -1) / 100, atol=1e-12)
    assert (spec.alphas_cumprod[-1], spec.prediction) == (0.0, "x_0")


def changed(**changes):
    return {key: value for key, value in {**STATE, **changes}.items() if value is not None}


WIDE = network_of(dataclasses.replace(TINY, out_channels=2)).state_dict()
FORTY = {"in_conv.weight": torch.zeros(40, 1, 3, 3)}
LEVELS = {f"downsamples.level_{level}.0.norm1.weight": torch.zeros(1) for level in range(20)}
BLOCKS = {f"downsamples.level_1.{block}.0.norm1.weight": torch.zeros(1) for block in range(99)}


@pytest.mark.parametrize(
    ("contents", "where"),
    [
        (changed(**{"embed.0.bias": None}), "embed.0.bias missing"),
        (changed(**{"in_conv.bias": None}), "in_conv.bias missing"),
        (changed(**{"upsamples.level_1.2.1.weight": None}), "upsamples.level_1.2.1.weight missing"),
        (changed(**{"downsamples.level_0.0.conv1.weight": None}), "downsamples.level_0.0.conv1.weight"),
        (changed(more=torch.zeros(1)), "more (1,)"),
        (changed(**{"in_conv.bias": torch.zeros(31)}), "in_conv.bias (31,)"),
        (changed(**{"in_conv.bias": torch.zeros(32, dtype=torch.int64)}), "in_conv.bias"),
        (changed(**{"in_conv.bias": torch.zeros(1).expand(32)}), "in_conv.bias"),
        (changed(**{"in_conv.bias": "text"}), "state_dict"),
        (changed(**{"in_conv.weight": "text"}), "in_conv.weight"),
        (changed(**{"in_conv.weight": torch.zeros(32)}), "in_conv.weight"),
        (changed(**{"in_conv.weight": torch.zeros(1).expand(2**20, 1, 3, 3)}), "in_conv.weight"),
        (changed(**FORTY), "in_conv.weight"),
        (changed(**{"downsamples.level_1.0.0.conv1.weight": torch.zeros(33, 32, 3, 3)}), "level_1.0.0.conv1.weight"),
        (changed(**{key: None for key in STATE if key.startswith("downsamples")}), "downsamples.level_"),
        (changed(**LEVELS), "downsamples.level_"),
        (changed(**BLOCKS), "downsamples.level_1."),
        (WIDE, "out_conv.2.weight"),
        ({"model": STATE, "ema": [1, 2]}, "ema.shadow"),
        ({"model": STATE, "ema": {"shadow": None}}, "ema.shadow"),
        ({"model": STATE, "ema": {"shadow": {}}}, "in_conv.weight"),
        ({"model": STATE, "ema": {"shadow": {**STATE, "more": torch.zeros(1)}}}, "more (1,)"),
        ({"model": STATE, "state_dict": {"a": torch.zeros(1)}}, "state_dict"),
        ({"model": STATE, "in_conv.bias": torch.zeros(1)}, "in_conv"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_checkpoints_that_do_not_fit_are_told_in_one_line(contents, where):
    with pytest.raises(DdpmExportError) as caught:
        load(contents)
    assert type(caught.value) is BadFileError
    assert str(caught.value).startswith("In it.pt, the checkpoint's ")
    assert where in str(caught.value)
    assert "\n" not in str(caught.value)
