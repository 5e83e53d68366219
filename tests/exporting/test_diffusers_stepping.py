"""What schedulers of diffusers do in their steps, beside the plans that the importer makes of them."""

import copy
import math
import warnings

import numpy as np
import pytest
from representative import representative

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from benchmarks.importing.diffusers import SMALL, network_of  # noqa: E402
from benchmarks.importing.stepping import OPTIONS, Network, compare, spec_of  # noqa: E402
from ddpm_export.errors import BadFileError, UsageError  # noqa: E402
from ddpm_export.exporting.export import export  # noqa: E402
from ddpm_export.importers.diffusers_stepping import NotCarriedError, plan_from_scheduler  # noqa: E402
from ddpm_export.importers.load import load_checkpoint  # noqa: E402
from ddpm_export.model.spec import Defaults  # noqa: E402
from ddpm_export.model.steps import plan  # noqa: E402
from ddpm_export.process.noise import noise_stream  # noqa: E402
from ddpm_export.process.pixels import to_uint8  # noqa: E402
from ddpm_export.process.rows import Plan  # noqa: E402
from ddpm_export.runtimes.opening import open_model  # noqa: E402
from ddpm_export.sampling.generate import sample  # noqa: E402
from ddpm_export.sampling.request import request_for  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]  # NumPy 2 of diffusers
TINY = {**SMALL, "sample_size": 8, "block_out_channels": (4, 8), "norm_num_groups": 2}
SHAPE = (1, 28, 28)
WAYS = [(name, way) for name, ways in OPTIONS.items() for way in ways[::3]]  # docs has the table of all


def smooth(x_t, t):
    """A v that is no network's; x_0 goes beyond every bound."""
    return {"v": np.sin(3 * x_t + 0.01 * t.astype(np.float32).reshape(-1, 1, 1, 1)).astype(np.float32)}


# every scheduler


@representative(("name", "way"), WAYS, by=lambda name, _: name, ids=lambda value: str(value).replace(" ", ""))
def test_each_step_and_the_picture_are_the_schedulers(name, way):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's, where the test runs it
        got = compare(dict.fromkeys((False, True), Network(smooth, smooth)), name, way, 7)
    # float32 here and there; theirs may subtract numbers of thousands: with no signal left their sigma is 4096, where
    # float32 has steps of 5e-4, and what is left of it is 3e-5 on one processor and 4e-6 on another
    assert got.error <= (1e-4 if way.get("rescale_betas_zero_snr") else 2e-5)
    assert got.levels <= 1


@pytest.mark.parametrize(
    ("name", "way", "expected"),
    [
        ("DDPM", {}, ("ddpm", True)),  # the times, and no plan
        ("DDPM", {"timestep_spacing": "trailing"}, ("ddpm", False)),  # they are ours
        ("DDIM", {"clip_sample": False}, ("ddim", True)),
        ("DDIM", {"clip_sample": False, "eta": 0.5}, ("ddim", True)),
        ("DDIM", {"use_clipped_model_output": True}, ("ddim", True)),
        ("EulerDiscrete", {"timestep_spacing": "leading"}, ("ddim", True)),
        ("EulerAncestralDiscrete", {"timestep_spacing": "leading"}, ("ddpm", True)),
        ("DPMSolverMultistep", {"solver_order": 1, "timestep_spacing": "leading", "steps_offset": 1}, ("ddim", True)),
    ],
    ids=str,
)
def test_steps_that_every_reader_knows_are_a_sampler_on_its_times(name, way, expected):
    schedule, spec = spec_of(name, way, 8, SHAPE)
    schedule.scheduler.set_timesteps(8)
    times = tuple(schedule.scheduler.timesteps.int().tolist())
    assert (spec.defaults.sampler, spec.defaults.times is not None) == expected
    assert [row.t for row in plan(spec).rows] == list(times)
    assert spec.defaults.eta == way.get("eta", 0.0)
    assert (spec.plans, spec.defaults.num_steps) == ({}, 8)
    assert spec.requires == (("times",) if expected[1] else ())


@pytest.mark.parametrize(
    ("name", "way", "requires"),
    [
        ("DDIM", {}, ["plan", "raw_eps"]),
        ("PNDM", {}, ["plan"]),
        ("EulerDiscrete", {}, ["plan", "fractional_t"]),
        ("HeunDiscrete", {"clip_sample": True}, ["plan", "fractional_t"]),
        ("DDPM", {"timestep_spacing": "trailing", "variance_type": "fixed_large"}, ["plan"]),  # noise in the picture
        ("DDPM", {"timestep_spacing": "trailing", "variance_type": "learned_range"}, ["plan", "variance_fraction"]),
    ],
    ids=str,
)
def test_other_steps_are_a_plan_and_requires_says_what_it_needs(name, way, requires):
    spec = spec_of(name, way, 9, SHAPE)[1]
    assert set(spec.requires) == set(requires)
    assert (spec.defaults.plan, *spec.plans) == (f"{name}-9",) * 2
    assert spec.plans[f"{name}-9"].raw_eps == ("raw_eps" in requires)


def test_pndm_reads_as_far_back_as_a_row_may():
    rows = spec_of("PNDM", {}, 10, SHAPE)[1].plans["PNDM-10"]
    assert (len(rows.rows), max(row.reach for row in rows.rows)) == (19, 13)


def test_the_corrector_of_unipc_reads_only_what_was_found_last():
    for order, reach in ((1, 3), (2, 4), (3, 5)):
        rows = spec_of("UniPCMultistep", {"solver_order": order}, 12, SHAPE)[1].plans["UniPCMultistep-12"].rows
        assert max(row.reach for row in rows) == reach


def test_a_scheduler_is_left_as_it_was():
    schedule, spec = spec_of("PNDM", {}, 4, SHAPE)
    before = copy.deepcopy(vars(schedule.scheduler))
    plan_from_scheduler(schedule.scheduler, 12, spec)
    assert vars(schedule.scheduler).keys() == before.keys()
    assert schedule.scheduler.counter == before["counter"] == 0
    assert schedule.scheduler.ets == []


# what is no plan


class Squares(diffusers.EulerDiscreteScheduler):
    """A scheduler whose steps are not linear."""

    def step(self, model_output, *args, **kwargs):
        return super().step(model_output + 0.01 * model_output**2, *args, **kwargs)


class Forgets(diffusers.DDIMScheduler):
    """A scheduler that adds the noise of the step before."""

    def step(self, *args, **kwargs):
        out = super().step(*args, **kwargs)
        fresh = torch.randn(out.prev_sample.shape)
        before, self.before = getattr(self, "before", 0.0), fresh
        out.prev_sample = out.prev_sample + before
        return out


class Remembers(diffusers.DDIMScheduler):
    """A scheduler whose steps read all that there was."""

    def step(self, model_output, *args, **kwargs):
        self.all = [model_output, *getattr(self, "all", [])]
        answer = sum(math.cos(len(self.all) * age) * entry for age, entry in enumerate(self.all))
        return super().step(answer, *args, **kwargs)


@pytest.mark.parametrize(
    ("scheduler", "options", "reason"),
    [
        (Squares, {}, "is not linear"),
        (Forgets, {}, "weighs noise of earlier steps"),
        (Remembers, {}, "weighs 17 evaluations in a step, more than 16"),
        (diffusers.DPMSolverMultistepScheduler, {"thresholding": True}, "is not linear"),
        (diffusers.UniPCMultistepScheduler, {"solver_type": "bh1"}, "gives NaN or infinity in 20 steps"),
        (diffusers.RePaintScheduler, {}, "cannot take 20 steps"),
    ],
)
def test_steps_that_are_no_plan_are_told(scheduler, options, reason):
    spec = spec_of("DDIM", {"clip_sample": False}, 1, SHAPE)[1]
    with pytest.raises(NotCarriedError, match=reason):
        plan_from_scheduler(scheduler(**options), 20, spec)


# from a pipeline's folder


def save(folder, network=None, scheduler="DDPM", **options):
    """Write a pipeline as users do; options are the scheduler's."""
    made = getattr(diffusers, f"{scheduler}Scheduler")(**options)
    diffusers.DDPMPipeline(network_of({**TINY, **(network or {})}, 0), made).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "pipeline", num_train_timesteps=100)


def test_a_pipeline_is_exported_with_fractions_of_times_and_gives_the_pictures_of_its_own_loop(tmp_path):
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
    path = save(tmp_path / "pipeline", plain, "EulerDiscrete", beta_end=0.002)
    checkpoint, network = load_checkpoint(path, steps=(6, 3)), diffusers.UNet2DModel.from_pretrained(path / "unet")
    model, spec = open_model(export(checkpoint, tmp_path / "unet.onnx").path)
    assert set(spec.plans) == {"EulerDiscrete-6", "EulerDiscrete-3"}
    for num_steps in (6, 3):
        scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(path / "scheduler")
        scheduler.set_timesteps(num_steps)
        x = torch.from_numpy(noise_stream(0, range(2), spec.state_shape)(0)) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            with torch.no_grad():
                out = network(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(out, t, x).prev_sample
        *_, (_, state) = sample(model, spec, request_for(spec, num_steps=num_steps, n=2, seed=0))
        assert np.abs(to_uint8(state.x).astype(int) - to_uint8(x.numpy()).astype(int)).max() <= 1


def test_each_number_of_steps_is_a_plan_and_the_first_is_the_default(saved):
    spec = load_checkpoint(saved, options={"_class_name": "PNDMScheduler"}, steps=(12, 10)).spec
    assert tuple(spec.plans) == ("PNDM-12", "PNDM-10")
    assert (spec.defaults, spec.requires) == (Defaults("ddim", 12, 0.0, plan="PNDM-12"), ("plan",))
    assert plan(spec, num_steps=10) == spec.plans["PNDM-10"]
    assert isinstance(plan(spec, num_steps=10, sampler="ddim"), Plan)
    assert plan(spec, num_steps=11) == plan(spec, num_steps=11, sampler="ddim")  # no plan has as many


def test_without_own_steps_the_file_has_only_the_numbers(saved):
    spec = load_checkpoint(saved, options={"_class_name": "PNDMScheduler"}, steps=()).spec
    assert (spec.defaults, spec.plans, spec.requires) == (Defaults("ddim", 50), {}, ())


@pytest.mark.parametrize("steps", [(0,), (101,), (10, -1)])
def test_a_number_of_steps_beyond_the_schedule(saved, steps):
    with pytest.raises(UsageError, match="must be from 1 to 100"):
        load_checkpoint(saved, steps=steps)


def test_what_is_no_plan_is_refused_by_the_schedulers_name_and_can_be_left_behind(saved):
    options = {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}
    with pytest.raises(BadFileError, match=r"UniPCMultistepScheduler gives NaN .* Use sampler ddim"):
        load_checkpoint(saved, options=options)
    load_checkpoint(saved, options=options, steps=())


def test_a_learned_time_embedding_has_no_fractions(tmp_path):
    learned = {"time_embedding_type": "learned", "num_train_timesteps": 100}
    path = save(tmp_path, learned, "LMSDiscrete", num_train_timesteps=100)
    with pytest.raises(BadFileError, match="LMSDiscreteScheduler asks for fractions of times"):
        load_checkpoint(path, steps=(7,))
    assert load_checkpoint(path, options={"timestep_spacing": "leading"}, steps=(7,)).spec.t_dtype == "int64"


def test_what_a_pipeline_tells_its_scheduler_in_every_step_is_an_option(saved):
    options = {"_class_name": "DDIMScheduler", "eta": 0.5, "use_clipped_model_output": True}
    spec = load_checkpoint(saved, options=options).spec
    assert (spec.defaults.eta, spec.plans) == (0.5, {})
    assert spec.source["scheduler"]["eta"] == 0.5
    for wrong in ({"eta": 2.0}, {"eta": "much"}, {"use_clipped_model_output": 1}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))!r} must be"):
            load_checkpoint(saved, options={"_class_name": "DDIMScheduler", **wrong})
    with pytest.raises(UsageError, match="has no option 'eta'"):
        load_checkpoint(saved, options={"eta": 0.5})  # DDPM's step takes none


def test_what_a_network_is_told_besides_is_no_matter_of_the_schedulers(tmp_path):
    path = save(tmp_path, {"num_class_embeds": 3}, "PNDM", num_train_timesteps=100)
    spec = load_checkpoint(path, steps=(5,)).spec
    assert set(spec.requires) == {"inputs", "plan"}
    assert (spec.label.name, *spec.plans) == ("y", "PNDM-5")
