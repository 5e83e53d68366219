import json
import subprocess
import sys

import numpy as np
import pytest
from gaussian import flow, gaussian_model, gaussian_spec
from models import COLOUR, GREY, T, gaussian_file, learned_model, mix_model, sick_model, tiny_spec
from representative import representative

from ddpm_export import denoiser, generate, noise_stream, open_model, plan, to_uint8, walk
from ddpm_export.errors import BadFileError, NonFiniteError, UsageError
from ddpm_export.exporting.plans import with_plans
from ddpm_export.model.defaults import with_defaults
from ddpm_export.model.plans import json_from_plan
from ddpm_export.model.spec import Defaults
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.model.steps import choose
from ddpm_export.process.schedules import times_from_grid
from ddpm_export.process.solvers import SAMPLERS
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for

SEED = 5


@pytest.fixture(params=[GREY, COLOUR], ids=["grey", "colour"])
def path(tmp_path, request):
    (tmp_path / "m.onnx").write_bytes(mix_model(tiny_spec(request.param)))
    return tmp_path / "m.onnx"


def images_of(model, spec, **settings):
    """Return the last x of every image, float32 (n, C, H, W)."""
    chosen = request_for(spec, **settings)
    return np.concatenate([state.x for _, state in sample(model, spec, chosen) if state.row.i == chosen.num_rows])


@pytest.mark.parametrize("sampler", SAMPLERS)
@representative("threads", [2, 1])
def test_batch_first_and_threads_never_change_a_byte(path, sampler, threads):
    model, spec = open_model(path, threads=threads)
    settings = {"sampler": sampler, "seed": SEED, "num_steps": 7}
    whole = images_of(*open_model(path, threads=1), **settings, n=16, batch=16)
    assert whole.dtype == np.float32
    assert len({image.tobytes() for image in whole}) == 16
    for batch in (1, 2, 3, 5, 16):
        for first, n in ((0, 16), (0, 1), (5, 4), (15, 1), (3, 11)):
            part = images_of(model, spec, **settings, n=n, first=first, batch=batch)
            np.testing.assert_array_equal(part, whole[first : first + n], strict=True)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_or_number_is_another_image(path, sampler):
    settings = {"sampler": sampler, "n": 1}
    seen = {generate(path, **settings, seed=seed, first=first).tobytes() for seed in (0, 1, 2**40) for first in (0, 1)}
    assert len(seen) == 6


def test_a_learned_variance_is_used_where_the_spec_says_so(tmp_path):
    (tmp_path / "m.onnx").write_bytes(learned_model())
    model, spec = open_model(tmp_path / "m.onnx")
    chosen = {"n": 3, "sampler": "ddpm", "num_steps": 7, "seed": SEED}
    noise, steps = noise_stream(SEED, range(3), spec.state_shape), plan(spec, sampler="ddpm", num_steps=7)
    assert steps.needs_learned_variance
    *_, last = walk(denoiser(model, spec), noise, steps)
    np.testing.assert_array_equal(generate((model, spec), **chosen), to_uint8(last.x))
    assert (generate((model, spec), **chosen, variance="fixed_small") != to_uint8(last.x)).any()
    x = noise(0)
    row = steps.rows[0]
    for found in (denoiser(model, spec)(x, row), denoiser(model, spec)(x + 1, row)):
        assert found.variance_fraction.shape == x.shape
    np.testing.assert_allclose(denoiser(model, spec)(x, row).variance_fraction, 1 / (1 + np.exp(-x)), atol=1e-6)


def test_the_steps_may_have_times_of_their_own(path):
    times = [37, 20, 3, 0]
    model, spec = open_model(path)
    noise = noise_stream(SEED, range(2), spec.state_shape)
    *_, last = walk(denoiser(model, spec), noise, plan(spec, times=times))
    np.testing.assert_array_equal(generate(path, n=2, times=times, seed=SEED), to_uint8(last.x))
    chosen = request_for(spec, times=times, seed=SEED)
    assert (chosen.steps.num_steps, chosen.describe()["times"]) == (4, (37, 20, 3, 0))
    assert "times" not in request_for(spec, num_steps=4, seed=SEED).describe()


def test_generate_is_the_straight_line(path):
    model, spec = open_model(path)
    noise = noise_stream(seed=SEED, images=range(3), shape=spec.state_shape)
    *_, last = walk(denoiser(model, spec), noise, plan(spec, sampler="ddim", num_steps=9, eta=0.5))
    wanted = to_uint8(last.x)
    settings = {"n": 3, "sampler": "ddim", "num_steps": 9, "eta": 0.5, "seed": SEED}
    np.testing.assert_array_equal(generate(path, **settings), wanted)
    np.testing.assert_array_equal(generate(str(path), **settings, batch=2), wanted)
    np.testing.assert_array_equal(generate((model, spec), **settings, provider="cpu"), wanted)
    assert wanted.shape == (3, *spec.state_shape[1:], spec.state_shape[0])


def test_a_gaussian_file_lands_where_the_exact_flow_does(tmp_path):
    """Exact: the probability-flow ODE of Gaussian data; DDIM's error is first order in 1 / num_steps."""
    spec = gaussian_spec(np.linspace(0.9999, 0.001, 1000), image_shape=GREY)
    (tmp_path / "m.onnx").write_bytes(gaussian_file(spec, mean=0.3, std=0.2))
    x_T = noise_stream(SEED, range(4), GREY)(0)
    exact = flow(x_T, spec.alphas_cumprod[-1], 0.3, 0.2)
    errors = [
        np.abs(images_of(*open_model(tmp_path / "m.onnx"), seed=SEED, n=4, num_steps=num_steps) - exact).max()
        for num_steps in (100, 200, 1000)
    ]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.02
    in_memory = images_of(gaussian_model(spec.alphas_cumprod, 0.3, 0.2), spec, seed=SEED, n=4, num_steps=100)
    from_file = images_of(*open_model(tmp_path / "m.onnx"), seed=SEED, n=4, num_steps=100)
    np.testing.assert_allclose(from_file, in_memory, rtol=0, atol=1e-5)


def test_what_is_not_said_comes_from_the_spec():
    spec = tiny_spec(defaults=Defaults("ddim", 11, 0.25), variance="fixed_large")
    usual = request_for(spec, seed=1)
    assert usual.steps == choose(spec, sampler="ddim", num_steps=11, eta=0.25)
    assert (usual.first, usual.n, usual.batch, usual.guidance, usual.inputs) == (0, 16, 16, None, {})
    ddpm = choose(spec, sampler="ddpm", num_steps=11, variance="fixed_large")
    assert request_for(spec, seed=1, sampler="ddpm").steps == ddpm
    chosen = request_for(spec, n=3, num_steps=5, eta=1.0, seed=2, first=9, batch=2)
    assert chosen.steps == choose(spec, sampler="ddim", num_steps=5, eta=1.0)
    assert chosen.numbers == range(9, 12)
    assert chosen.evaluations == 10
    assert chosen.describe() == {"sampler": "ddim", "num_steps": 5, "seed": 2, "eta": 1.0}
    small = request_for(spec, seed=1, sampler="ddpm", variance="fixed_small")
    assert small.steps.knobs == {"variance": "fixed_small"}


def test_without_a_seed_a_fresh_one_is_drawn():
    seeds = {request_for(tiny_spec()).seed for _ in range(8)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert request_for(tiny_spec(), seed=2**63 - 1, first=2**32 - 1, n=1).numbers == range(2**32 - 1, 2**32)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": -1}, "n must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"num_steps": 0}, f"must be from 1 to {T}"),
        ({"num_steps": T + 1}, f"must be from 1 to {T}"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**63}, "seed must be from 0"),
        ({"first": -1}, "Numbers of images must be from 0"),
        ({"first": 2**32 - 1, "n": 2}, "Numbers of images must be from 0"),
        ({"sampler": "nonsense"}, "sampler must be one of ddpm, ddim"),
        ({"eta": 2.0}, "eta must be between 0 and 1"),
        ({"eta": -0.1}, "eta must be between 0 and 1"),
        ({"eta": float("nan")}, "eta must be between 0 and 1"),
        ({"sampler": "ddpm", "eta": 0.0}, "eta does not apply to ddpm"),
        ({"sampler": "ddim", "variance": "fixed_small"}, "variance does not apply to ddim"),
        ({"sampler": "ddpm", "variance": "middling"}, "variance must be one of"),
        ({"sampler": "ddpm", "variance": "learned"}, "the network has learned none"),
        ({"times": [5, 7]}, "times must strictly fall"),
        ({"times": [5, 3], "num_steps": 3}, "There are .* times, but num_steps is"),
    ],
)
def test_what_no_image_can_be_made_from_is_a_usage_error(settings, named):
    with pytest.raises(UsageError, match=named):
        request_for(tiny_spec(), **settings)


@pytest.mark.parametrize("sampler", SAMPLERS)
@representative("sick", [np.nan, np.inf, -np.inf])
def test_numbers_that_go_bad_stop_at_their_step_and_image(tmp_path, sampler, sick):
    spec = tiny_spec()
    settings = {"n": 6, "seed": SEED, "num_steps": 8, "sampler": sampler, "batch": 4}
    rows = plan(spec, sampler=sampler, num_steps=8).rows
    row = next(row for row in rows if row.t == rows[2].t)  # Heun is twice at a time
    before = rows[row.i - 2]
    states = sample(lambda x_t, _t: {"eps": x_t}, spec, request_for(spec, **settings))
    x = np.concatenate([state.x for _, state in states if state.row == before])
    order = np.argsort(x[:, 0, 0, 0])
    threshold = float(x[order[-2:], 0, 0, 0].mean())  # only the image of the largest first pixel is above
    (tmp_path / "m.onnx").write_bytes(sick_model(row.t, threshold, spec, sick))
    with pytest.raises(
        NonFiniteError, match=rf"step {row.i} \(t = {row.t}\), image {order[-1]} became NaN or infinite"
    ):
        generate(tmp_path / "m.onnx", **settings)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_model_in_memory_that_overflows_is_told_by_step_and_image(sampler):
    def model(x_t, t):
        eps = x_t.copy()
        if t[0] <= 35 and len(x_t) > 1:
            eps[1] = 3e38
        return {"eps": eps}

    spec = tiny_spec(clip_x_0=None)
    row = next(row for row in plan(spec, num_steps=10).rows if row.t <= 35)
    with pytest.raises(NonFiniteError, match=rf"step {row.i} \(t = {row.t}\), image 8 became"):
        list(sample(model, spec, request_for(spec, n=3, first=7, num_steps=10, seed=1, sampler=sampler)))


def test_a_model_without_the_output_that_its_spec_names_is_told():
    with pytest.raises(BadFileError, match=r"no output 'eps', which its spec names; it has \['x_0'\]"):
        generate((lambda x_t, _t: {"x_0": x_t}, tiny_spec()), n=1)


def test_states_come_batch_by_batch_and_nothing_is_run_ahead():
    times = []

    def model(x_t, t):
        times.append((len(x_t), int(t[0])))
        return {"eps": x_t}

    spec = tiny_spec()
    states = sample(model, spec, request_for(spec, n=5, batch=2, num_steps=3, first=4, seed=0))
    seen = []
    for numbers, state in states:
        seen.append((numbers, state.row.i))
        assert len(times) == len(seen)
    assert seen == [(range(a, b), i) for a, b in ((4, 6), (6, 8), (8, 9)) for i in (1, 2, 3)]


MEMORY = """
import sys, tracemalloc
from pathlib import Path
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for
from ddpm_export.images.write import open_output
from ddpm_export.process.pixels import to_uint8
from ddpm_export.model.spec_json import spec_from_json

spec = spec_from_json(Path(sys.argv[1]).read_text())
def peak(n, out):
    tracemalloc.reset_peak()
    chosen = request_for(spec, n=n, batch=100, num_steps=1, seed=0)
    with open_output(out, chosen.numbers, spec.state_shape, 1, {}) as output:
        for numbers, state in sample(lambda x_t, _t: {"eps": x_t}, spec, chosen):
            output.add(numbers, state.row.i, to_uint8(state.x))
    return tracemalloc.get_traced_memory()[1]
peak(1, sys.argv[2])  # imports and caches
tracemalloc.start()
print(peak(200, sys.argv[2]), peak(10_000, sys.argv[2]))
"""


def test_billions_of_images_are_no_list_of_batches():
    settings = request_for(tiny_spec(), n=2**32 - 5, first=5, batch=16)
    assert (settings.num_batches, settings.evaluations) == (2**28, 4 * 2**28)
    assert next(iter(settings.batches)) == range(5, 21)


@pytest.mark.parametrize(("n", "batch", "most"), [(16, 16, 1), (2, 99, 1)])
def test_a_batch_that_would_fill_the_memory_is_refused(n, batch, most):
    spec = tiny_spec((1, 8192, 8192))
    with pytest.raises(
        UsageError, match=rf"^batch must be at most {most} for images of \(1, 8192, 8192\), got {min(n, batch)}"
    ):
        request_for(spec, n=n, batch=batch)
    assert request_for(spec, n=16, batch=1).batch == 1
    assert request_for(tiny_spec((3, 1024, 1024)), n=16).batch == 16


def test_ten_thousand_images_need_the_memory_of_two_batches(tmp_path):
    from ddpm_export.model.spec_json import json_from_spec

    spec = tiny_spec((3, 16, 16))  # 10,000 are 31 MB as float32 and 7.7 MB as pixels; a batch of 100 is 0.3 MB
    (tmp_path / "spec.json").write_text(json_from_spec(spec))
    command = [sys.executable, "-c", MEMORY, tmp_path / "spec.json", tmp_path / "a.npy"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    two_batches, all_of_them = map(int, printed.split())
    found = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert found.shape == (10_000, 16, 16, 3)
    assert found[-1].any()
    assert all_of_them < 1.1 * two_batches
    assert two_batches > 100 * 3 * 16 * 16 * 4  # else NumPy's memory is not seen


def test_a_grid_by_name(path):
    _, spec = open_model(path)
    chosen = request_for(spec, grid="karras", num_steps=6, seed=SEED)
    assert chosen.describe() == {"sampler": "ddim", "num_steps": 6, "seed": SEED, "eta": 0.0, "grid": "karras"}
    assert chosen.steps.times == tuple(times_from_grid("karras", np.array(spec.alphas_cumprod), 6).tolist())
    images = generate(path, n=2, **chosen.describe())
    np.testing.assert_array_equal(images, generate(path, n=2, times=chosen.steps.times, seed=SEED))
    assert (images != generate(path, n=2, num_steps=6, seed=SEED)).any()
    even = request_for(spec, grid="uniform", num_steps=6, seed=SEED)
    assert (even.steps.times, even.describe()) == (None, request_for(spec, num_steps=6, seed=SEED).describe())


def test_the_order_of_unipc(path):
    _, spec = open_model(path)
    second = request_for(spec, sampler="unipc", order=2, num_steps=6, seed=SEED)
    assert second.describe()["order"] == 2
    assert second.steps.plan == plan(spec, sampler="unipc", order=2, num_steps=6)
    assert second.steps.plan != request_for(spec, sampler="unipc", num_steps=6, seed=SEED).steps.plan


@pytest.mark.parametrize("graph", ["sampler", "slice"])
def test_a_one_call_file_is_given_a_grid_as_times_or_refuses_it(graph):
    without, with_times = (tiny_spec(graph=graph, requires=requires) for requires in ((), ("times",)))
    assert (
        request_for(with_times, grid="log_snr", num_steps=4).steps.times
        == request_for(tiny_spec(), grid="log_snr", num_steps=4).steps.times
    )
    with pytest.raises(UsageError, match=f"grid is fixed in this one-call {graph}"):
        request_for(without, grid="log_snr", num_steps=4)
    assert request_for(without, grid="uniform", num_steps=4).steps.times is None


def test_plans_and_defaults_of_a_grid():
    spec = with_plans(tiny_spec(), ["unipc:3,5"], grid="karras")
    assert list(spec.plans) == ["unipc-karras-3", "unipc-karras-5"]
    assert spec.plans["unipc-karras-5"] == plan(spec, sampler="unipc", grid="karras", num_steps=5)
    assert list(with_plans(tiny_spec(), ["unipc:3"], grid="uniform").plans) == ["unipc-3"]
    spec = with_defaults(tiny_spec(), grid="quadratic", num_steps=4)
    assert (spec.defaults.times, spec.requires) == ((39, 22, 9, 2), ("times",))
    spec = with_defaults(tiny_spec(), sampler="deis", grid="quadratic", num_steps=4)
    assert (spec.defaults.plan, spec.requires) == ("deis-quadratic-4", ("plan",))


def test_plans_are_added_by_sampler_and_steps():
    spec = with_plans(tiny_spec(), ["dpmpp_2m:3,5", "heun:2"])
    assert list(spec.plans) == ["dpmpp_2m-3", "dpmpp_2m-5", "heun-2"]
    assert spec.plans["heun-2"] == plan(spec, sampler="heun", num_steps=2)
    assert spec.requires == (), "plans that are merely offered need no newer reader"
    model = mix_model(spec)
    assert b"heun-2" in model


def test_plans_of_a_file(tmp_path):
    spec, path = tiny_spec(), tmp_path / "tuned.json"
    rows = plan(spec, sampler="ipndm", num_steps=3)
    path.write_text(json.dumps({"tuned-3": json_from_plan(rows)}))
    assert with_plans(spec, ["heun:2", str(path)], grid="karras").plans["tuned-3"] == rows
    # another schedule has another noise level at the same time
    with pytest.raises(BadFileError, match=r"plan tuned-3 is of another schedule, which has 0\.01 at t = 39"):
        with_plans(tiny_spec(alphas_cumprod=tuple(np.linspace(0.999, 0.02, T).tolist())), [str(path)])
    for text in ("[]", "{", '{"tuned-3": {"rows": [[40, 0.5, [1], [], []]]}}', "\xff", "[" * 100_000):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(BadFileError, match="must hold plans by name"):
            with_plans(spec, [str(path)])
    with pytest.raises(BadFileError, match=r"none\.json cannot be read: No such file"):
        with_plans(spec, [str(tmp_path / "none.json")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("heun", "plans must be given as sampler:steps,steps"),
        ("heun:", "plans must be given as"),
        ("heun:3,x", "plans must be given as"),
        ("magic:3", "sampler must be one of"),
        (f"heun:{T + 1}", f"must be from 1 to {T}"),
    ],
)
def test_plans_that_are_none(text, message):
    with pytest.raises(UsageError, match=message):
        with_plans(tiny_spec(), [text])


def test_plans_that_are_too_much_for_a_file_are_refused():
    spec = with_plans(tiny_spec(alphas_cumprod=tuple(np.linspace(0.999, 0.01, 1000).tolist())), ["ipndm:1000"])
    with pytest.raises(UsageError, match="A model's spec must have at most 262144 bytes"):
        json_from_spec(with_plans(spec, ["ipndm:900"]))


def test_a_sampler_that_other_languages_do_not_know_becomes_the_default_as_a_plan(tmp_path):
    spec = with_defaults(tiny_spec(), sampler="dpmpp_2m", num_steps=5)
    assert spec.defaults.plan == "dpmpp_2m-5"
    assert spec.requires == ("plan",)
    (tmp_path / "m.onnx").write_bytes(mix_model(spec))
    options = generate(tmp_path / "m.onnx", n=2, sampler="dpmpp_2m", num_steps=5, seed=SEED)
    np.testing.assert_array_equal(generate(tmp_path / "m.onnx", n=2, seed=SEED), options)
    np.testing.assert_array_equal(generate(tmp_path / "m.onnx", n=2, plan="dpmpp_2m-5", seed=SEED), options)
    assert request_for(spec, seed=1).describe() == {"plan": "dpmpp_2m-5", "seed": 1}
    back = with_defaults(spec, sampler="ddim", num_steps=7)
    assert (back.defaults.plan, back.requires) == (None, ())


def test_times_as_the_default(tmp_path):
    spec = with_defaults(tiny_spec(), times=[30, 4, 0])
    assert (spec.defaults.times, spec.defaults.num_steps, spec.requires) == ((30, 4, 0), 3, ("times",))
    (tmp_path / "m.onnx").write_bytes(mix_model(spec))
    options = generate(tmp_path / "m.onnx", n=1, times=[30, 4, 0], seed=SEED)
    np.testing.assert_array_equal(generate(tmp_path / "m.onnx", n=1, seed=SEED), options)
    assert request_for(spec, num_steps=9).steps.times is None
