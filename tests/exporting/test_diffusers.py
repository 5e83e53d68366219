import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from representative import representative

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.training_utils import EMAModel  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from benchmarks.importing import compare  # noqa: E402
from benchmarks.importing.diffusers import SMALL, case, cases, network_of  # noqa: E402
from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError  # noqa: E402
from ddpm_export.exporting.export import eager_model  # noqa: E402
from ddpm_export.importers.layout import Found  # noqa: E402
from ddpm_export.importers.layouts import import_network  # noqa: E402
from ddpm_export.importers.load import load_checkpoint  # noqa: E402
from ddpm_export.model.examples import example_of_inputs  # noqa: E402
from ddpm_export.model.inputs import Input  # noqa: E402
from ddpm_export.runtimes.opening import open_model  # noqa: E402

pytestmark = pytest.mark.torch
TINY = {**SMALL, "sample_size": 8, "block_out_channels": (4, 8), "norm_num_groups": 2}
WEIGHTS = "diffusion_pytorch_model.safetensors"
DOWN = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")


def save(folder, network=None, scheduler="DDPMScheduler", **options):
    """Write a pipeline as users do; options are the scheduler's."""
    network = network_of(TINY, 0) if network is None else network
    diffusers.DDPMPipeline(network, getattr(diffusers, scheduler)(**options)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "pipeline", num_train_timesteps=100)


@pytest.fixture
def pipeline(saved, tmp_path):
    """A copy of a pipeline, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "pipeline"))


def change(path, **entries):
    """Change entries of a JSON file; None removes nothing, it is null."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def scheduler_of(pipeline):
    return pipeline / "scheduler" / "scheduler_config.json"


def outputs_of(network):
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = network(x_t, torch.tensor([3, 90]))
    return getattr(out, "sample", out)


def assert_same_network(checkpoint, network):
    torch.testing.assert_close(outputs_of(checkpoint.network), outputs_of(network), rtol=0, atol=1e-6)


def told_in_one_line(path, error=BadFileError, **options):
    with pytest.raises(error) as caught:
        load_checkpoint(path, options=options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# the same numbers as diffusers' own


def networks():
    levels = st.integers(1, 3)
    return levels.flatmap(
        lambda n: st.fixed_dictionaries(
            {
                "sample_size": st.sampled_from([8, (12, 16)] if n == 3 else [8, 10, (6, 14)]),
                "block_out_channels": st.tuples(*[st.sampled_from([8, 16])] * n),
                "down_block_types": st.tuples(*[st.sampled_from(DOWN)] * n),
                "up_block_types": st.tuples(*[st.sampled_from(UP)] * n),
                "layers_per_block": st.integers(1, 2),
                "attention_head_dim": st.sampled_from([None, 4, 8]),
                "attn_norm_num_groups": st.sampled_from([None, 2]),
                "add_attention": st.booleans(),
                "mid_block_type": st.sampled_from(["UNetMidBlock2D", None]),
                "resnet_time_scale_shift": st.sampled_from(["default", "scale_shift"]),
                "downsample_type": st.sampled_from(["conv", "resnet"]),
                "upsample_type": st.sampled_from(["conv", "resnet"]),
                "downsample_padding": st.sampled_from([0, 1]),
                "center_input_sample": st.booleans(),
                "flip_sin_to_cos": st.booleans(),
                "freq_shift": st.sampled_from([0, 1]),
                "time_embedding_type": st.sampled_from(["positional", "learned"]),
                "num_train_timesteps": st.just(1000),
                "act_fn": st.sampled_from(["silu", "gelu", "mish", "relu"]),
                "mid_block_scale_factor": st.sampled_from([1, 1.4]),
                "norm_eps": st.sampled_from([1e-5, 1e-3]),
            }
        )
    )


def schedulers():
    entries = {
        "num_train_timesteps": st.sampled_from([40, 1000]),
        "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
        "beta_end": st.sampled_from([0.002, 0.02]),
        "prediction_type": st.sampled_from(["sample", "v_prediction", "epsilon"]),
        "clip_sample": st.booleans(),
        "clip_sample_range": st.sampled_from([0.5, 1.0, 2]),
        "timestep_spacing": st.sampled_from(["leading", "trailing"]),
    }
    small = {"variance_type": st.sampled_from(["fixed_small", "fixed_small_log"])}
    # its trailing times end above 0, where diffusers adds noise to the image
    others = {
        "variance_type": st.sampled_from(["learned_range", "fixed_large"]),
        "timestep_spacing": st.just("leading"),
    }
    return st.one_of(
        st.tuples(st.just("DDPMScheduler"), st.fixed_dictionaries({**entries, **small})),
        st.tuples(st.just("DDPMScheduler"), st.fixed_dictionaries({**entries, **others})),
        st.tuples(st.just("DDIMScheduler"), st.fixed_dictionaries(entries)),
    )


@pytest.mark.long
@settings(max_examples=6)
@given(network=networks(), scheduler=schedulers())
def test_whatever_is_drawn_gives_the_same_images(network, scheduler):
    kind, options = scheduler
    outputs = 6 if options.get("variance_type") == "learned_range" else 3
    drawn = case(repr((network, scheduler)), {**network, "out_channels": outputs}, kind, options)
    with tempfile.TemporaryDirectory() as folder:
        row = compare(drawn, Path(folder), exported=False)
    assert row.error <= 1e-6
    assert min(row.ddpm_equal, row.ddim_equal) >= 0.98  # of a few hundred values: diffusers' coefficients are float32
    assert max(row.ddpm_levels, row.ddim_levels) <= 1


def test_the_table_has_different_configurations_enough():
    names = [entry.name for entry in cases()]
    assert len(set(names)) == len(names) >= 34


TOLD = [entry.name for entry in cases() if "class_embed" in entry.name]


@pytest.mark.long
@pytest.mark.parametrize("name", ["SkipDownBlock2D, AttnSkipDownBlock2D", "HeunDiscreteScheduler, clip_sample", *TOLD])
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # NumPy 2 of diffusers
def test_cases_of_the_table_that_are_not_drawn(tmp_path, name):
    row = compare(next(entry for entry in cases() if entry.name == name), tmp_path, exported=False)
    assert row.error <= 1e-6
    assert min(row.ddpm_equal, row.ddim_equal) >= 0.995


@pytest.mark.long
@pytest.mark.parametrize(
    ("network", "options"),
    [
        (
            {"up_block_types": ("ResnetUpsampleBlock2D", "UpBlock2D"), "add_attention": False, "out_channels": 6},
            {"variance_type": "learned_range", "num_train_timesteps": 100},
        ),
        (
            {
                "down_block_types": ("KDownBlock2D",) * 2,
                "up_block_types": ("KUpBlock2D",) * 2,
                "block_out_channels": (32, 32),
                "class_embed_type": "timestep",
            },
            {"prediction_type": "v_prediction"},
        ),
    ],
    ids=["learned_range", "K, told a class"],
)
def test_an_export(tmp_path, network, options):
    values = {**TINY, "up_block_types": ("UpBlock2D",) * 2, "down_block_types": ("DownBlock2D",) * 2, **network}
    drawn = case(repr(network), values, "DDPMScheduler", options)
    row = compare(drawn, tmp_path)
    assert row.error <= 1e-5
    assert min(row.ddpm_equal, row.ddim_equal) >= 0.995
    model, spec = open_model(tmp_path / "unet.onnx")
    checkpoint = load_checkpoint(tmp_path / "pipeline")
    # diffusers has other code for 64 images and more
    x_t = np.random.default_rng(0).standard_normal((70, 3, 8, 8), dtype=np.float32)
    asked = example_of_inputs(spec.inputs, 0, range(70))
    got, expected = (run(x_t, np.full(70, 9), **asked) for run in (model, eager_model(checkpoint)))
    for name in spec.outputs:
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())


# networks that are told a class


@representative(
    ("network", "options", "expected"),
    [
        ({"num_class_embeds": 3}, {}, Input("y", "label", classes=("0", "1", "2"))),
        ({"num_class_embeds": 3}, {"none": 2}, Input("y", "label", none=2, classes=("0", "1"))),
        ({"num_class_embeds": 3}, {"none": 0}, Input("y", "label", none=0, classes=("0", "1", "2"))),
        (
            {"num_class_embeds": 3},
            {"none": 2, "classes": "cat,dog"},
            Input("y", "label", none=2, classes=("cat", "dog")),
        ),
        ({"num_class_embeds": 2}, {"classes": ["cat", "dog"]}, Input("y", "label", classes=("cat", "dog"))),
        ({"class_embed_type": "timestep"}, {}, Input("class_labels", "vector", (1,))),
        ({"class_embed_type": "timestep"}, {"none": -1.0}, Input("class_labels", "vector", (1,), none=-1.0)),
        (
            {"class_embed_type": "timestep", "time_embedding_type": "learned", "num_train_timesteps": 100},
            {},
            Input("y", "label", classes=tuple(map(str, range(100)))),
        ),
        ({"class_embed_type": "identity"}, {"none": 0}, Input("class_labels", "vector", (16,), none=0)),
        ({"class_embed_type": "identity", "time_embedding_dim": 24}, {}, Input("class_labels", "vector", (24,))),
    ],
    ids=str,
)
def test_what_a_network_is_told_is_in_its_spec(tmp_path, network, options, expected):
    path = save(tmp_path, network_of({**TINY, **network}, 0), num_train_timesteps=100)
    checkpoint = load_checkpoint(path, options=options)
    assert (checkpoint.spec.inputs, checkpoint.spec.requires) == ((expected,), ("inputs",))
    values = torch.from_numpy(example_of_inputs(checkpoint.spec.inputs, 0, range(2))[expected.name])
    assert (
        checkpoint.network(torch.zeros(2, 3, 8, 8), torch.tensor([3, 90]), **{expected.name: values}).isfinite().all()
    )


@pytest.mark.parametrize(
    ("network", "options", "named"),
    [
        ({"num_class_embeds": 3}, {"none": 3}, "'none' must be an index below num_class_embeds, 3, got 3"),
        ({"num_class_embeds": 3}, {"none": -1}, "'none' must be an index below"),
        ({"num_class_embeds": 3}, {"none": True}, "'none' must be an index below"),
        ({"num_class_embeds": 3}, {"classes": "cat,dog"}, "'classes' must be 3 different names, got 'cat,dog'"),
        ({"class_embed_type": "identity"}, {"classes": "cat"}, "'classes' must be left out"),
        ({"class_embed_type": "identity"}, {"none": "zero"}, "'none' must be a number"),
        ({}, {"classes": "cat"}, "'classes' must be left out"),
        ({}, {"none": 0}, "'none' must be left out"),
    ],
    ids=str,
)
def test_a_class_that_the_network_cannot_be_told_is_refused(tmp_path, network, options, named):
    path = save(tmp_path, network_of({**TINY, **network}, 0), num_train_timesteps=100)
    assert named in told_in_one_line(path, UsageError, **options)


# folders of every kind


def test_a_pipeline(saved):
    checkpoint = load_checkpoint(saved)
    assert_same_network(checkpoint, network_of(TINY, 0))
    spec = checkpoint.spec
    expected = diffusers.DDPMScheduler(num_train_timesteps=100).alphas_cumprod
    assert torch.equal(torch.tensor(spec.alphas_cumprod, dtype=torch.float64), expected.double())
    assert (spec.name, spec.prediction, spec.state_shape) == ("pipeline", "eps", (3, 8, 8))
    assert (spec.clip_x_0, spec.variance, spec.requires) == (1.0, "fixed_small", ())
    source = {key: spec.source[key] for key in ("importer", "diffusers")}
    assert source == {"importer": "diffusers", "diffusers": diffusers.__version__}
    assert len(spec.source["checkpoint_sha256"]) == 64
    assert spec.source["scheduler"]["class"] == "DDPMScheduler"
    assert spec.source["scheduler"]["beta_schedule"] == "linear"


@representative(
    "how",
    [{}, {"safe_serialization": False}, {"max_shard_size": "20KB"}, {"variant": "fp16"}],
    ids=["safetensors", "bin", "shards", "variant"],
)
def test_a_model_as_save_pretrained_writes_it(saved, tmp_path, how):
    network = network_of(TINY, 1)
    network.save_pretrained(tmp_path, **how)
    assert (len(list(tmp_path.glob("*-of-*"))) > 1) == ("max_shard_size" in how)
    checkpoint = load_checkpoint(tmp_path, options={"scheduler": str(saved / "scheduler")})
    assert_same_network(checkpoint, network)


def test_half_precision_becomes_float32(pipeline):
    path = pipeline / "unet" / WEIGHTS
    save_file({key: value.half() for key, value in load_file(path).items()}, path)
    theirs = diffusers.UNet2DModel.from_pretrained(pipeline / "unet", torch_dtype=torch.float32)
    assert_same_network(load_checkpoint(pipeline), theirs)


def test_averaged_weights_as_ema_model_saves_them(saved, tmp_path):
    network = network_of(TINY, 1)
    averaged = EMAModel(network.parameters(), model_cls=diffusers.UNet2DModel, model_config=network.config)
    averaged.save_pretrained(tmp_path)
    assert "optimization_step" in json.loads((tmp_path / "config.json").read_text())
    checkpoint = load_checkpoint(tmp_path, options={"scheduler": str(scheduler_of(saved))})
    assert_same_network(checkpoint, network)


def test_attention_by_its_old_names(pipeline):
    path = pipeline / "unet" / WEIGHTS
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(path)
    renamed = {next((k.replace(*pair) for pair in old.items() if pair[0] in k), k): v for k, v in state.items()}
    assert sum(key.endswith(".query.weight") for key in renamed) == 4
    save_file(renamed, path, metadata={"format": "pt"})
    theirs = diffusers.UNet2DModel.from_pretrained(pipeline / "unet")
    assert_same_network(load_checkpoint(pipeline), theirs)
    both = "mid_block.attentions.0.{}.weight"
    save_file({**renamed, both.format("to_q"): state[both.format("to_q")].clone()}, path)
    assert both.format("query") in told_in_one_line(pipeline)


@pytest.mark.parametrize("fault", ["missing", "more", "another shape", "integers", "empty"])
def test_weights_that_are_not_those_of_the_configuration(pipeline, fault):
    path = pipeline / "unet" / WEIGHTS
    state = load_file(path)
    name = "mid_block.attentions.0.to_q.weight"
    if fault == "missing":
        del state[name]
    changes = {
        "missing": {},
        "more": {"mid_block.more": torch.ones(1)},
        "another shape": {name: torch.ones(9, 8)},
        "integers": {name: torch.ones(8, 8, dtype=torch.int64)},
        "empty": {},
    }
    save_file({} if fault == "empty" else {**state, **changes[fault]}, path)
    message = told_in_one_line(pipeline)
    assert ("mid_block.more" if fault == "more" else "conv_in" if fault == "empty" else name) in message


def test_a_file_out_of_a_folder_is_told_to_be_one(saved):
    assert "name the folder" in told_in_one_line(saved / "unet" / WEIGHTS)


@pytest.mark.parametrize("place", ["CrossAttention", "vae"])
def test_a_pipeline_of_more_parts_is_refused(pipeline, place):
    change(pipeline / "model_index.json", **{place: ["diffusers", "AutoencoderKL"]})
    assert f"model_index.json.{place}" in told_in_one_line(pipeline)
    change(pipeline / "model_index.json", **{place: [None, None]})
    load_checkpoint(pipeline)


# what the network's configuration says


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"class_embed_type": "timestep"}, "class_embedding.linear_1"),
        ({"class_embed_type": "projection"}, "class_embed_type"),
        ({"class_embed_type": "identity", "block_out_channels": []}, "block_out_channels"),
        ({"class_embed_type": "identity", "block_out_channels": ["4", 8]}, "block_out_channels"),
        ({"class_embed_type": "identity", "time_embedding_dim": 2.5}, "time_embedding_dim"),
        ({"num_class_embeds": 10}, "class_embedding.weight"),
        ({"num_class_embeds": 5000}, "num_class_embeds"),
        ({"num_class_embeds": "10"}, "num_class_embeds"),
        ({"class_embed_type": "timestep", "time_embedding_type": "learned"}, "num_train_timesteps"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 99}, "num_train_timesteps"),
        ({"time_embedding_type": "learned"}, "config.json"),
        ({"out_channels": 6}, "out_channels"),
        ({"in_channels": 2}, "out_channels"),
        ({"in_channels": "3"}, "in_channels"),
        ({"in_channels": True, "out_channels": True}, "in_channels"),
        ({"surprise": 1}, "surprise"),
        ({"sample_size": 9}, "config.json"),
        ({"sample_size": [8, 8, 8]}, "sample_size"),
        ({"sample_size": "8"}, "sample_size"),
        ({"sample_size": 0}, "sample_size"),
        ({"layers_per_block": 10**9}, "layers_per_block"),
        ({"block_out_channels": [2**40, 2**40]}, "block_out_channels"),
        ({"block_out_channels": [8] * 1000}, "block_out_channels"),
        ({"block_out_channels": [4, 8, 8]}, "config.json"),
        ({"block_out_channels": []}, "config.json"),
        ({"block_out_channels": {"a": 1}}, "config.json"),
        ({"block_out_channels": [8, 16]}, "weights"),
        ({"norm_num_groups": 3}, "config.json"),
        ({"norm_eps": float("nan")}, "norm_eps"),
        ({"act_fn": "surprise"}, "config.json"),
        ({"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}, "config.json"),
        ({"down_block_types": ["DownEncoderBlock2D", "DownBlock2D"]}, "config.json"),
        ({"_class_name": "UNet3DConditionModel"}, "holds a 'UNet3DConditionModel', which has no importer"),
        ({"_class_name": ["UNet2DModel"]}, "_class_name UNet2DModel"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_networks_that_are_refused(pipeline, entries, named):
    change(pipeline / "unet" / "config.json", **entries)
    assert named in told_in_one_line(pipeline)


def test_a_size_that_the_configuration_does_not_say_is_asked_for(pipeline):
    change(pipeline / "unet" / "config.json", sample_size=None)
    assert "sample_size=32" in told_in_one_line(pipeline, UsageError)
    assert load_checkpoint(pipeline, options={"sample_size": 16}).spec.state_shape == (3, 16, 16)
    assert load_checkpoint(pipeline, options={"sample_size": [12, 16]}).spec.state_shape == (3, 12, 16)
    for wrong in ("8", [8], 0, -8, 8.0, True):
        assert "'sample_size'" in told_in_one_line(pipeline, UsageError, sample_size=wrong)


# what the scheduler's configuration says


@pytest.mark.parametrize(
    ("scheduler", "entries", "named"),
    [
        ("DDPM", {"thresholding": True}, "thresholding"),
        ("DDIM", {"thresholding": True}, "thresholding"),
        ("DPMSolverMultistep", {"thresholding": True}, "thresholding"),
        ("DDPM", {"timestep_spacing": "middle"}, "timestep_spacing"),
        ("DDPM", {"variance_type": "learned"}, "variance_type"),
        ("DDPM", {"variance_type": "learned_range"}, "out_channels"),
        ("DDPM", {"variance_type": ["fixed_small"]}, "variance_type"),
        ("DDPM", {"prediction_type": "score"}, "prediction_type"),
        ("DPMSolverMultistep", {"prediction_type": "flow_prediction"}, "prediction_type"),
        ("UniPCMultistep", {"use_flow_sigmas": True}, "use_flow_sigmas"),
        ("EulerDiscrete", {"timestep_type": "continuous"}, "timestep_type"),
        ("DDPM", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("DDIM", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("DDPM", {"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ("DDPM", {"trained_betas": [0.1] * 99 + [1.0]}, "trained_betas"),
        ("DDPM", {"trained_betas": [0.1] * 99 + [1.5], "prediction_type": "sample"}, "trained_betas"),
        ("DDPM", {"trained_betas": [0.0] * 100}, "trained_betas"),
        ("DDPM", {"trained_betas": "many"}, "configuration"),
        ("DDPM", {"beta_schedule": "surprise"}, "surprise"),
        ("DDPM", {"beta_start": "low"}, "configuration"),
        ("DDPM", {"beta_start": float("nan")}, "beta_schedule"),
        ("DDPM", {"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ("DDPM", {"num_train_timesteps": "100"}, "num_train_timesteps"),
        ("DDPM", {"clip_sample_range": 0}, "clip_sample_range"),
        ("DDPM", {"clip_sample_range": 10**400}, "clip_sample_range"),
        ("DDPM", {"steps_offset": 10**30}, "steps_offset"),
        ("DDPM", {"predict_epsilon": False}, "predict_epsilon"),
        ("DDPM", {"surprise": 1}, "surprise"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_schedulers_that_are_refused(pipeline, scheduler, entries, named):
    path = scheduler_of(pipeline)
    path.write_text(json.dumps({"_class_name": f"{scheduler}Scheduler", "num_train_timesteps": 100, **entries}))
    assert named in told_in_one_line(pipeline)


@pytest.mark.parametrize("place", ["thresholding", "beta_schedule", "variance_type"])
def test_what_an_option_says_is_refused_as_one(saved, place):
    value = {"thresholding": True, "beta_schedule": "surprise", "variance_type": "learned"}[place]
    assert f"{place!r} must be " in told_in_one_line(saved, UsageError, **{place: value})


@pytest.mark.parametrize(
    "name",
    [
        *("ScoreSdeVeScheduler", "SCMScheduler", "VQDiffusionScheduler", "IPNDMScheduler", "DDIMInverseScheduler"),
        *("UNet2DModel", "DDPMPipeline", "SchedulerMixin", "surprise", "__name__", "utils", 7, None, ["DDPMScheduler"]),
    ],
    ids=str,
)
def test_other_classes_are_refused_by_name(pipeline, name):
    change(scheduler_of(pipeline), _class_name=name)
    assert "_class_name must be " in told_in_one_line(pipeline)


@pytest.mark.parametrize(
    "name",
    [
        *("PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete"),
        *("EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete"),
    ],
)
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # NumPy 2 of diffusers
def test_a_solver_leaves_its_schedule_and_its_steps(saved, name):
    checkpoint = load_checkpoint(saved, options={"_class_name": f"{name}Scheduler"}, steps=(5, 4))
    config = diffusers.DDPMScheduler.load_config(saved / "scheduler")
    theirs = getattr(diffusers, f"{name}Scheduler").from_config(config)
    spec = checkpoint.spec
    assert torch.equal(torch.tensor(spec.alphas_cumprod, dtype=torch.float64), theirs.alphas_cumprod.double())
    assert (spec.clip_x_0, spec.variance) == (1.0 if name == "HeunDiscrete" else None, "fixed_small")
    assert (tuple(spec.plans), spec.defaults.plan) == ((f"{name}-5", f"{name}-4"), f"{name}-5")
    assert checkpoint.notes == ()


def test_a_scheduler_that_needs_another_package_says_which(saved, monkeypatch):
    class Dummy:
        _backends = ("torch", "scipy")

    Dummy.__module__ = "diffusers.utils.dummy_torch_and_scipy_objects"
    monkeypatch.setattr(diffusers, "LMSDiscreteScheduler", Dummy)
    assert "scipy" in told_in_one_line(saved, EnvironmentProblem, _class_name="LMSDiscreteScheduler")


@pytest.mark.parametrize(
    ("scheduler", "T", "expected"),
    [
        *(("DDPM", 40, ("ddpm", 40)), ("DDPM", 1000, ("ddpm", 1000)), ("DDPM", 4000, ("ddpm", 1000))),
        *(("DDPMParallel", 1000, ("ddpm", 1000)), ("PNDM", 1000, ("ddim", 50))),
        *(("DDIM", 40, ("ddim", 40)), ("DDIM", 1000, ("ddim", 50))),
    ],
    ids=str,
)
def test_defaults_are_those_of_the_pipelines(saved, scheduler, T, expected):
    options = {"_class_name": f"{scheduler}Scheduler", "num_train_timesteps": T}
    spec = load_checkpoint(saved, options=options, steps=()).spec
    assert (spec.defaults.sampler, spec.defaults.num_steps, spec.defaults.eta) == (*expected, 0.0)


@pytest.mark.parametrize(
    ("options", "clip", "variance"),
    [
        ({}, 1.0, "fixed_small"),
        ({"clip_sample": False}, None, "fixed_small"),
        ({"clip_sample_range": 2}, 2.0, "fixed_small"),
        ({"clip_sample": False, "clip_sample_range": 2.0}, None, "fixed_small"),
        ({"variance_type": "fixed_small_log"}, 1.0, "fixed_small"),
        ({"variance_type": "fixed_large"}, 1.0, "fixed_large"),
        ({"variance_type": "fixed_large_log"}, 1.0, "fixed_large"),
    ],
    ids=str,
)
def test_clipping_and_variance(saved, options, clip, variance):
    spec = load_checkpoint(saved, options=options).spec
    assert (spec.clip_x_0, spec.variance) == (clip, variance)


def test_a_note_says_that_diffusers_makes_nan_of_fixed_large_log(saved):
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large_log")
    x = torch.ones(1, 1, 2, 2)
    assert scheduler.step(x, 500, x, generator=torch.Generator()).prev_sample.isnan().all()
    options = {"variance_type": "fixed_large_log", "timestep_spacing": "trailing"}
    assert "fixed_large_log" in load_checkpoint(saved, options=options).notes[0]


# whose word holds


@pytest.fixture(scope="module")
def lone(saved, tmp_path_factory):
    """A network's folder without a scheduler."""
    folder = tmp_path_factory.mktemp("lone") / "model"
    return Path(shutil.copytree(saved / "unet", folder))


def test_a_network_without_a_scheduler_is_asked_for_one(lone):
    assert "scheduler=scheduler/scheduler_config.json" in told_in_one_line(lone, UsageError)
    assert "_class_name=DDPMScheduler" in told_in_one_line(lone, UsageError, num_train_timesteps=100)


def test_a_network_and_size_are_asked_for_together(pipeline):
    change(pipeline / "unet" / "config.json", sample_size=None)
    shutil.rmtree(pipeline / "scheduler")
    message = told_in_one_line(pipeline, UsageError)
    assert "sample_size=32 scheduler=" in message


def test_a_scheduler_by_path_folder_or_entries_is_the_same(saved, lone):
    entries = json.loads(scheduler_of(saved).read_text())
    ways = [
        {"scheduler": str(scheduler_of(saved))},
        {"scheduler": str(saved / "scheduler")},
        entries,  # as --config scheduler_config.json gives them
        {"_class_name": "DDPMScheduler", "num_train_timesteps": 100},
    ]
    specs = [load_checkpoint(lone, options=way).spec for way in ways]
    assert all(spec == specs[0] for spec in specs)
    assert specs[0].alphas_cumprod == load_checkpoint(saved).spec.alphas_cumprod


def test_options_take_the_place_of_entries_as_keywords_of_from_pretrained_do(saved):
    options = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
    theirs = diffusers.DDPMScheduler.from_pretrained(saved / "scheduler", **options)
    spec = load_checkpoint(saved, options=options).spec
    assert torch.equal(torch.tensor(spec.alphas_cumprod, dtype=torch.float64), theirs.alphas_cumprod.double())
    assert spec.clip_x_0 is None


def test_a_scheduler_made_from_another_has_its_own_clipping(saved, tmp_path):
    """Its file keeps the entries of the other, clip_sample too; diffusers uses none of them."""
    first = diffusers.DDPMScheduler(num_train_timesteps=100, clip_sample=True, variance_type="fixed_large")
    second = diffusers.DPMSolverMultistepScheduler.from_config(first.config)
    second.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["clip_sample"] is True
    assert load_checkpoint(saved, options={"scheduler": str(tmp_path)}).spec.clip_x_0 is None


def test_entries_that_were_defaults_are_those_of_the_installed_version(pipeline):
    path = scheduler_of(pipeline)
    change(path, clip_sample_range=7.0, beta_end=0.5, _use_default_values=["clip_sample_range"])
    theirs = diffusers.DDPMScheduler.from_pretrained(path.parent)
    spec = load_checkpoint(pipeline).spec
    assert spec.clip_x_0 == theirs.config.clip_sample_range == 1.0
    assert spec.alphas_cumprod[-1] == theirs.alphas_cumprod[-1]


def test_entries_of_old_versions(pipeline):
    change(scheduler_of(pipeline), tensor_format="pt", timestep_values=None, predict_epsilon=True)
    load_checkpoint(pipeline)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"surprise": 1}, "surprise"),
        ({"block_out_channels": [8, 8]}, "block_out_channels"),
        ({"num_train_timesteps": "100"}, "num_train_timesteps"),
        ({"clip_sample": 1}, "clip_sample"),
        ({"scheduler": 7}, "'scheduler' must be"),
        ({"_class_name": "surprise"}, "'_class_name' must be"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(saved, options, named):
    assert named in told_in_one_line(saved, UsageError, **options)


def test_a_scheduler_path_at_which_none_lies(saved, tmp_path):
    assert "must hold a JSON object" in told_in_one_line(saved, scheduler=str(tmp_path))


def test_a_missing_package_is_told(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert r"pip install 'ddpm-export[diffusers]'" in told_in_one_line(saved, EnvironmentProblem)


def test_a_networks_own_random_numbers_are_left_alone(tmp_path):
    k = {"down_block_types": ("KDownBlock2D",) * 2, "up_block_types": ("KUpBlock2D",) * 2, "layers_per_block": 2}
    path = save(tmp_path, network_of({**TINY, **k, "block_out_channels": (32, 32)}, 0))
    torch.manual_seed(0)
    load_checkpoint(path)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert after == torch.rand(1)


def test_signs_need_the_class_and_the_names():
    config = {"config.json": {"_class_name": "UNet2DModel"}}
    with pytest.raises(BadFileError, match=r"nearest is diffusers, which lacks conv_in\.weight"):
        import_network("x", Found("x", {"a": torch.ones(1)}, config), "ema", {})
