"""OpenAI's guided- and improved-diffusion: their recorded outputs, and networks of whatever flags hypothesis draws."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from representative import representative

from benchmarks.importing import compare
from benchmarks.importing.openai import cases
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.exporting.export import export
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.inputs import MAX_CLASSES, Input
from ddpm_export.model.spec import Defaults
from tests.oracles.weights import ORACLES

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from ddpm_export.importers.layout import Found  # noqa: E402
from ddpm_export.importers.openai import FLAGS, config_from_state, load, signs  # noqa: E402
from ddpm_export.importers.openai_unet import UNet, UNetConfig  # noqa: E402

CONFIG = UNetConfig(
    image_channels=3,
    num_channels=32,
    widths=(32, 64),
    num_res_blocks=1,
    attention=(False, True),
    use_scale_shift_norm=True,
    resblock_updown=False,
    conv_resample=True,
    learn_sigma=False,
    num_heads=2,
)
OPTIONS = {"image_size": 8, "num_heads": 2, "noise_schedule": "linear", "diffusion_steps": 1000}


def state_of(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return UNet(config).eval().state_dict()


def imported(options=OPTIONS, *, name="model", weights="ema", state=None, **more):
    return load(Found(name, state_of() if state is None else state), weights, {**options, **more})


def flags_of(name):
    return json.loads((ORACLES / name / "config.json").read_text())


def outputs_of(network, image_channels, size=8, **given_inputs):
    torch.manual_seed(1)
    x_t, t = torch.randn(2, image_channels, size, size), torch.tensor([0, 7])
    with torch.no_grad():
        outputs = network(x_t, t, **given_inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


# what the projects' own code gave


@representative("case", sorted(cases(), key=lambda case: case.name != "improved-a"), ids=lambda case: case.name)
def test_a_recorded_case_is_reproduced(case, tmp_path):
    row = compare(case, tmp_path, exported=False)
    assert row.error <= 1e-5
    assert row.ddpm_equal >= 0.995
    assert row.ddim_equal >= 0.995


@pytest.mark.long
def test_a_recorded_case_is_reproduced_by_its_export(tmp_path):  # a learned variance, 4000 steps with rescaled times
    row = compare(next(case for case in cases() if case.name == "improved-c"), tmp_path)
    assert row.error <= 1e-5
    assert row.ddpm_equal >= 0.995
    assert row.ddim_equal >= 0.995


@pytest.mark.long
def test_blocks_that_resample_and_the_new_attention_order_are_exported(recorded, tmp_path):
    flags = {**flags_of("guided-a"), "image_size": 16, "attention_resolutions": "8"}  # smaller images, the same network
    report = export(load_checkpoint(recorded("guided-a"), options=flags), tmp_path / "unet.onnx")
    assert report.proof.error <= 1e-5
    assert report.proof.equal_share >= 0.995


@representative("name", [case.name for case in cases()], by=lambda name: name.split("-")[0])
def test_the_recorded_schedules_are_met_to_the_last_bit(recorded, name):
    spec = load_checkpoint(recorded(name), options=flags_of(name)).spec
    with np.load(ORACLES / name / "expected.npz") as expected:
        betas = expected["betas"]
    a = np.array(spec.alphas_cumprod)
    np.testing.assert_array_equal(1.0 - a / np.append(1.0, a[:-1]), betas)


def test_there_are_eleven_recorded_cases():
    assert len(cases()) == 11


# networks that are told a class, or a small image


def test_what_a_conditional_network_is_told_is_in_its_spec(recorded):
    numbers = tuple(map(str, range(1000)))
    spec = load_checkpoint(recorded("improved-class-a"), options=flags_of("improved-class-a")).spec
    assert (spec.inputs, spec.requires) == ((Input("y", "label", classes=numbers),), ("inputs",))
    spec = load_checkpoint(recorded("guided-sr-a"), options=flags_of("guided-sr-a")).spec
    assert spec.inputs == (Input("y", "label", classes=numbers), Input("low_res", "image", (3, 16, 16)))
    assert (spec.state_shape, spec.requires) == ((3, 64, 64), ("variance_fraction", "inputs"))
    flags = spec.source["flags"]
    assert (flags["large_size"], flags["small_size"], flags["class_cond"]) == (64, 16, True)
    assert "image_size" not in flags


CLASSES = dataclasses.replace(CONFIG, num_classes=3)
SMALL_IMAGE = dataclasses.replace(CONFIG, is_super_resolution=True)
LARGE = {**{name: value for name, value in OPTIONS.items() if name != "image_size"}, "large_size": 8}


@pytest.mark.parametrize("names", ["cat,dog,ant", ["cat", "dog", "ant"]])
def test_classes_have_the_names_that_the_user_gives_them(names):
    assert imported(state=state_of(CLASSES), classes=names).spec.inputs[0].classes == ("cat", "dog", "ant")


@pytest.mark.parametrize("names", ["cat,dog", "cat,dog,cat", 3, [1, 2, 3]], ids=str)
def test_names_that_are_not_those_of_the_classes_are_refused(names):
    with pytest.raises(UsageError, match="'classes' must be 3 different names, got "):
        imported(state=state_of(CLASSES), classes=names)


def test_a_network_without_classes_has_no_names_for_them():
    with pytest.raises(UsageError, match="'classes' must be left out"):
        imported(classes=["cat"])


@pytest.mark.parametrize(
    ("rows", "got"), [(MAX_CLASSES + 1, f"{MAX_CLASSES + 1} classes"), (2**40, r"\(1099511627776, 128\)")]
)
def test_more_classes_than_a_file_may_hold_are_refused(rows, got):
    state = {**state_of(), "label_emb.weight": torch.zeros(1).expand(rows, 128)}
    with pytest.raises(BadFileError, match=f"label_emb.weight does not fit: got {got}, expected"):
        imported(state=state)


@pytest.mark.long
def test_a_small_image_may_have_any_size():
    for size in (2, 3, 8, 16):
        got = imported({**LARGE, "small_size": size}, state=state_of(SMALL_IMAGE))
        assert got.spec.inputs == (Input("low_res", "image", (3, size, size)),)
        named = {k: torch.from_numpy(v) for k, v in example_of_inputs(got.spec.inputs, 0, (0, 1)).items()}
        assert outputs_of(got.network, 3, **named)[0].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(("name", "value"), [("large_size", 9), ("small_size", 0), ("small_size", 2**13)])
def test_a_size_of_super_resolution_that_does_not_fit_is_told(name, value):
    with pytest.raises(UsageError, match=f"'{name}' must be"):
        imported({**LARGE, "small_size": 4, name: value}, state=state_of(SMALL_IMAGE))


@pytest.mark.long
def test_a_network_that_is_told_a_class_and_a_small_image_is_exported(tmp_path):
    config = dataclasses.replace(CLASSES, widths=(32,), attention=(False,), is_super_resolution=True, learn_sigma=True)
    got = imported({**LARGE, "small_size": 3}, state=state_of(config))
    report = export(Checkpoint(got.network, got.spec), tmp_path / "unet.onnx")
    assert report.proof.error <= 1e-5
    assert report.proof.equal_share >= 0.995


def test_super_resolution_is_asked_for_its_two_sizes():
    with pytest.raises(UsageError, match="does not say its large_size, small_size, num_heads"):
        imported({}, state=state_of(SMALL_IMAGE))
    with pytest.raises(UsageError, match="has no option 'image_size'"):
        imported({**LARGE, "small_size": 4, "image_size": 8}, state=state_of(SMALL_IMAGE))


# Dhariwal and Nichol 2021: their published flags, and tables 11 and 12 for the parameters in millions
ADM = {
    "attention_resolutions": "32,16,8",
    "diffusion_steps": 1000,
    "learn_sigma": True,
    "noise_schedule": "linear",
    "num_channels": 256,
    "num_res_blocks": 2,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
MULTIPLIERS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}
MULTIPLIERS_OF_SUPER_RESOLUTION = {**MULTIPLIERS, 512: (1, 1, 2, 2, 4, 4)}
PUBLISHED = {
    "64x64": (
        {
            "image_size": 64,
            "class_cond": True,
            "noise_schedule": "cosine",
            "num_channels": 192,
            "num_head_channels": 64,
            "num_res_blocks": 3,
            "use_new_attention_order": True,
        },
        296,
    ),
    "128x128": ({"image_size": 128, "class_cond": True, "num_heads": 4}, 422),
    "256x256": ({"image_size": 256, "class_cond": True, "num_head_channels": 64}, 554),
    "256x256, LSUN": ({"image_size": 256, "class_cond": False, "num_head_channels": 64}, 552),
    "512x512": ({"image_size": 512, "class_cond": True, "num_head_channels": 64}, 559),
    "64 to 256": ({"large_size": 256, "small_size": 64, "class_cond": True, "num_channels": 192, "num_heads": 4}, 312),
    "128 to 512": (
        {"large_size": 512, "small_size": 128, "class_cond": True, "num_channels": 192, "num_head_channels": 64},
        309,
    ),
}


@representative("name", PUBLISHED)
def test_the_published_networks_have_their_flags_and_sizes(name):
    """Nothing is allocated: weights on the meta device have shapes only, which tell all that the flags repeat."""
    flags, millions = PUBLISHED[name]
    flags = {**ADM, **flags}
    size = flags.get("large_size", flags.get("image_size"))
    attended = [size // int(side) for side in flags["attention_resolutions"].split(",")]
    multipliers = (MULTIPLIERS_OF_SUPER_RESOLUTION if "large_size" in flags else MULTIPLIERS)[size]
    config = UNetConfig(
        image_channels=3,
        num_channels=flags["num_channels"],
        widths=tuple(int(flags["num_channels"] * multiplier) for multiplier in multipliers),
        num_res_blocks=flags["num_res_blocks"],
        attention=tuple(2**level in attended for level in range(len(multipliers))),
        use_scale_shift_norm=True,
        resblock_updown=True,
        conv_resample=False,
        learn_sigma=True,
        num_classes=1000 if flags["class_cond"] else 0,
        is_super_resolution="large_size" in flags,
    )
    with torch.device("meta"):
        state = UNet(config).state_dict()
    got = imported(flags, state=state)
    assert config_from_state(got.network.state_dict()) == config
    assert abs(sum(weight.numel() for weight in got.network.parameters()) / 1e6 - millions) < 1.0
    spec = got.spec
    shapes = {entry.name: (entry.kind, entry.shape) for entry in spec.inputs}
    expected = {"y": ("label", ())} if flags["class_cond"] else {}
    if "small_size" in flags:
        expected["low_res"] = ("image", (3, flags["small_size"], flags["small_size"]))
    assert shapes == expected
    with torch.device("meta"), torch.no_grad():
        given_inputs = {
            entry.name: torch.zeros(1, *entry.shape, dtype=getattr(torch, entry.dtype)) for entry in spec.inputs
        }
        outputs = got.network(torch.zeros(1, *spec.state_shape), torch.zeros(1, dtype=torch.int64), **given_inputs)
    assert [tuple(out.shape) for out in outputs] == [(1, 3, size, size)] * 2


# what the shapes tell


@st.composite
def configs(draw):
    num_levels = draw(st.integers(1, 3))
    resamples = num_levels > 1  # with one level nothing tells by what it would
    resblock_updown = resamples and draw(st.booleans())
    image_channels = draw(st.sampled_from([1, 3, 4]))
    config = UNetConfig(
        image_channels=image_channels,
        num_channels=draw(st.sampled_from([16, 32, 64])),
        widths=tuple(draw(st.sampled_from([32, 64])) for _ in range(num_levels)),
        num_res_blocks=draw(st.integers(1, 2)),
        attention=tuple(draw(st.booleans()) for _ in range(num_levels)),
        use_scale_shift_norm=draw(st.booleans()),
        resblock_updown=resblock_updown,
        conv_resample=resamples and not resblock_updown and draw(st.booleans()),
        learn_sigma=draw(st.booleans()),
        num_classes=draw(st.sampled_from([0, 5])),
        is_super_resolution=image_channels == 3 and draw(st.booleans()),
    )
    hidden = {
        "num_heads": draw(st.sampled_from([1, 2, 4])),
        "num_heads_upsample": draw(st.sampled_from([-1, 1, 8])),
        "num_head_channels": draw(st.sampled_from([-1, -1, 16, 32])),
        "use_new_attention_order": draw(st.booleans()),
    }
    return config, hidden


@pytest.mark.long
@settings(max_examples=6)
@given(configs(), st.booleans())
def test_what_shapes_tell_is_derived_and_the_network_is_the_same(drawn, rescale):
    config, hidden = drawn
    network = UNet(dataclasses.replace(config, **hidden, time_scale=4.0 if rescale else 1.0)).eval()
    assert config_from_state(network.state_dict()) == config
    sizes = {"large_size": 8, "small_size": 3} if config.is_super_resolution else {"image_size": 8}
    options = {**sizes, "noise_schedule": "linear", "diffusion_steps": 250, "rescale_timesteps": rescale}
    options |= {name: value for name, value in hidden.items() if value != FLAGS[name] or name == "num_heads"}
    got = imported(options, state=network.state_dict())
    flags = got.source["flags"]
    assert [float(m) * config.num_channels for m in flags["channel_mult"].split(",")] == list(config.widths)
    attended = [str(8 >> level) for level, attends in enumerate(config.attention) if attends]
    assert flags["attention_resolutions"] == ",".join(attended)
    for name in ("num_channels", "num_res_blocks", "use_scale_shift_norm", "resblock_updown", "learn_sigma"):
        assert flags[name] == getattr(config, name)
    assert got.spec.variance == ("learned" if config.learn_sigma else "fixed_large")
    # what it says of itself is no contradiction
    imported({**flags, **options}, state=network.state_dict())
    given_inputs = {k: torch.from_numpy(v) for k, v in example_of_inputs(got.spec.inputs, 0, (1, 4)).items()}
    assert [*given_inputs] == ["y"] * (config.num_classes > 0) + ["low_res"] * config.is_super_resolution
    a, b = (outputs_of(each, config.image_channels, **given_inputs) for each in (network, got.network))
    assert len(a) == len(b) == len(got.spec.outputs)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@representative(
    ("name", "value"),
    [("num_heads", 1), ("num_heads_upsample", 1), ("num_head_channels", 16), ("use_new_attention_order", True)],
)
def test_a_flag_that_shapes_do_not_tell_changes_the_network(name, value):
    a, b = (outputs_of(imported(**more).network, 3)[0] for more in ({}, {name: value}))
    assert (a - b).abs().max() > 1e-4


def test_heads_of_the_way_up_are_its_own():
    network = imported(num_heads=2, num_heads_upsample=4).network
    assert (network.input_blocks[3][1].heads, network.middle_block[1].heads) == (2, 2)
    assert network.output_blocks[0][1].heads == 4


def test_rescaled_times_count_to_1000():
    state = state_of()
    a = imported(state=state).network
    b = imported(state=state, diffusion_steps=4000, rescale_timesteps=True).network
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(a(x, torch.tensor([10, 250])), b(x, torch.tensor([40, 1000])), rtol=0, atol=0)


def test_the_flags_name_the_prediction_the_variance_and_the_clipping():
    assert imported().spec.variance == "fixed_large"
    spec = imported(predict_xstart=True, sigma_small="True", clip_denoised=False).spec
    assert (spec.prediction, spec.variance, spec.clip_x_0) == ("x_0", "fixed_small", None)
    learned = imported(state=state_of(dataclasses.replace(CONFIG, learn_sigma=True)))
    assert learned.spec.requires == ("variance_fraction",)
    with torch.no_grad():  # v in [-1, 1] gives 0 to 1; it is not clipped
        learned.network.out[2].weight.zero_()
        learned.network.out[2].bias[3:] = torch.tensor([-1.0, 1.0, 3.0])
    fraction = outputs_of(learned.network, 3)[1]
    assert [fraction[:, k].unique().tolist() for k in range(3)] == [[0.0], [1.0], [2.0]]


def test_half_precision_weights_are_loaded_as_float32():
    got = imported(state={key: value.half() for key, value in state_of().items()}, use_fp16=True)
    assert {value.dtype for value in got.network.state_dict().values()} == {torch.float32}
    assert any("half precision" in note for note in got.notes)


# what is sampled by when nobody says anything


@pytest.mark.parametrize(
    ("flags", "sampler", "times"),
    [
        ({}, "ddpm", range(1000)),
        ({"timestep_respacing": "ddim50"}, "ddim", range(0, 1000, 20)),
        ({"timestep_respacing": "ddim50", "use_ddim": False}, "ddpm", range(0, 1000, 20)),
        ({"timestep_respacing": "ddim334"}, "ddim", range(0, 1000, 3)),
        ({"timestep_respacing": "4", "use_ddim": "true"}, "ddim", (0, 333, 666, 999)),
        ({"timestep_respacing": 3}, "ddpm", (0, 500, 999)),  # 499.5 rounds to an even number
        ({"timestep_respacing": "1"}, "ddpm", (0,)),
        ({"timestep_respacing": "2,1,3"}, "ddpm", (0, 333, 334, 667, 833, 999)),  # parts of 334, 333 and 333
        ({"timestep_respacing": [2, 1, 3]}, "ddpm", (0, 333, 334, 667, 833, 999)),
        ({"timestep_respacing": "1000"}, "ddpm", range(1000)),
    ],
    ids=str,
)
def test_respacing_gives_the_default_sampler_and_times(flags, sampler, times):
    spec = imported(**flags).spec
    falling = tuple(times)[::-1]
    is_all = len(falling) == 1000  # as every reader takes them by itself
    assert spec.defaults == Defaults(sampler, len(falling), 0.0, None if is_all else falling)
    assert spec.requires == (() if is_all else ("times",))


@representative("name", [case.name for case in cases()], by=lambda name: name.split("-")[0])
def test_respaced_times_are_the_recorded_ones(recorded, name):
    with np.load(ORACLES / name / "expected.npz") as expected:
        for text, of in (("20", "ddpm_timesteps"), ("ddim20", "ddim_timesteps")):
            spec = load_checkpoint(recorded(name), options={**flags_of(name), "timestep_respacing": text}).spec
            assert spec.defaults.times == tuple(expected[of][::-1].tolist())


def test_what_nobody_said_is_told():
    assert sum("by default" in note for note in imported().notes) == 3
    assert imported(use_new_attention_order=False, predict_xstart=False, sigma_small=False).notes == ()


@pytest.mark.parametrize(
    ("name", "weights", "is_noted"),
    [
        ("model400000", "ema", True),
        ("ema_0.9999_400000", "raw", True),
        ("model400000", "raw", False),
        ("ema_0.9999_400000", "ema", False),
        ("lsun_bedroom", "ema", False),
    ],
)
def test_a_name_of_other_weights_is_noted(name, weights, is_noted):
    assert any(name in note for note in imported(name=name, weights=weights).notes) == is_noted


# flags


def test_flags_as_text_are_the_same(recorded):
    typed = flags_of("guided-c")
    text = {name: str(value) for name, value in typed.items()}
    a, b = (load_checkpoint(recorded("guided-c"), options=flags) for flags in (typed, text))
    assert a.spec == b.spec
    assert a.notes == b.notes


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, ["image_size", "num_heads", "noise_schedule", "diffusion_steps"]),
        ({"num_head_channels": 32}, ["image_size", "noise_schedule", "diffusion_steps"]),
        ({**OPTIONS, "diffusion_steps": 4000}, ["rescale_timesteps"]),  # the projects' defaults differ
        ({"image_size": 8, "num_heads": 2, "diffusion_steps": 1000}, ["noise_schedule"]),
    ],
    ids=str,
)
def test_what_the_file_does_not_say_is_asked_for(options, asked):
    with pytest.raises(UsageError) as caught:
        imported(options)
    assert f"does not say its {', '.join(asked)}. Add" in str(caught.value)


def test_flags_of_training_are_ignored():
    more = {"dropout": 0.3, "use_checkpoint": "True", "use_kl": True, "rescale_learned_sigmas": True, "lr": 1e-4}
    state = state_of()
    a, b = imported(state=state), imported(state=state, **more)
    assert (a.spec, a.notes, a.source) == (b.spec, b.notes, b.source)


CANNOT_BE = {
    "num_channels": (64,),
    "num_res_blocks": (2,),
    "channel_mult": ("1,1", "1,2,2", "one"),
    "attention_resolutions": ("8,4", "8", "0"),
    "class_cond": (True,),
    "use_scale_shift_norm": (False,),
    "resblock_updown": (True,),
    "learn_sigma": ("True",),
    "image_size": (9, 0, 2**13, "large"),
    "num_heads": (3, 0),
    "num_heads_upsample": (0,),
    "num_head_channels": (48, 0),
    "noise_schedule": ("quadratic",),
    "diffusion_steps": (0, 10**6),
    "predict_xstart": ("perhaps",),
    # no stride of 1000 gives 300
    "timestep_respacing": ("2000", "0", "ddim10,20", "ddim300", "400,400,10", "ddim", "2.5"),
    "num_haeds": (4,),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CANNOT_BE.items() for value in values])
def test_a_flag_that_does_not_fit_is_named(name, value):
    with pytest.raises(UsageError) as caught:
        imported(rescale_timesteps=False, **{**OPTIONS, name: value}, options={})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_that_say_the_same_are_welcome():
    same = {"num_channels": 32, "channel_mult": [1, 2], "attention_resolutions": 4, "resblock_updown": "False"}
    assert imported(**same).source["flags"]["attention_resolutions"] == "4"


# other networks, and files that do not fit


def test_a_classifier_is_refused_by_name(tmp_path):
    """An encoder with the same names, and nothing that leads back to an image."""
    path = tmp_path / "model.pt"
    torch.save({key: value for key, value in state_of().items() if not key.startswith("output_blocks.")}, path)
    for options in ({}, OPTIONS):
        with pytest.raises(BadFileError, match="classifier"):
            load_checkpoint(path, options=options)


@representative(
    "changes",
    [
        {"out.2.bias": None},
        {"out.2.weight": None},
        {"middle_block.1.qkv.weight": None},
        {"input_blocks.1.0.in_layers.2.weight": None},
        {"output_blocks.0.0.in_layers.2.weight": None},
        {"surprise": torch.zeros(3)},
        {"input_blocks.9.0.op.weight": torch.zeros(64, 64, 3, 3)},
        {"output_blocks.0.1.transformer_blocks.0.norm1.weight": torch.zeros(64)},
        {"step": 7},
        {"out.2.bias": torch.zeros(4)},
        {"out.2.bias": torch.zeros(3, dtype=torch.int64)},
        {"out.2.weight": torch.zeros(5, 32, 3, 3)},
        {"out.2.weight": "text"},
        {"input_blocks.0.0.weight": torch.zeros(32)},
        {"input_blocks.0.0.weight": torch.zeros(32, 0, 3, 3)},
        {"label_emb.weight": torch.zeros(10, 64)},
        {"label_emb.weight": torch.zeros(10)},
        {"time_embed.0.weight": torch.zeros(128, 31)},
        {"time_embed.0.weight": torch.zeros(1).expand(2**20, 2**20)},
        {"input_blocks.1.0.in_layers.2.weight": torch.zeros(48, 32, 3, 3)},
        {"input_blocks.1.0.in_layers.2.weight": torch.zeros(1).expand(2**40, 32, 3, 3)},
        {"input_blocks.1.0.in_layers.2.weight": torch.zeros(1).expand(2**16, 32, 3, 3)},
        {"middle_block.2.in_layers.2.weight": torch.zeros(1).expand(64, 64, 3, 3)},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_weights_that_do_not_fit_are_told_in_one_line(tmp_path, changes):
    path = tmp_path / "model.pt"
    state = {key: value for key, value in {**state_of(), **changes}.items() if value is not None}
    torch.save(state, path)
    with pytest.raises(BadFileError) as caught:
        load_checkpoint(path, options=OPTIONS)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 3


def test_every_sign_counts():
    found = Found("model", state_of())
    assert all(signs(found).values())
    for sign in signs(found):
        assert not all(signs(Found("model", {k: v for k, v in found.contents.items() if k != sign})).values())
