"""Write the golden files: `PYTHONPATH=. python tests/golden/make.py`. README.md says what is in them.

They change only with a new noise tag or a new major of the format; tests/test_golden.py proves that they are current.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from gaussian import classes_model, gaussian_model, gaussian_spec  # noqa: E402

from ddpm_export.model.denoiser import denoiser  # noqa: E402
from ddpm_export.model.guidance import Guidance, json_from_guidance  # noqa: E402
from ddpm_export.model.inputs import Input, json_from_input  # noqa: E402
from ddpm_export.model.plans import json_from_plan  # noqa: E402
from ddpm_export.model.steps import grid_of as grid  # noqa: E402
from ddpm_export.model.steps import plan  # noqa: E402
from ddpm_export.process.equations import noised  # noqa: E402
from ddpm_export.process.given import (  # noqa: E402
    crossfade,
    inversion,
    known_pixels,
    measured,
    measurement_from_text,
    slerp,
    times_below,
    with_returns,
)
from ddpm_export.process.noise import GIVEN, NOISE_TAG, noise_stream, normal_table, normals_from_words, philox4x32_10  # noqa: E402
from ddpm_export.process.pixels import to_uint8  # noqa: E402
from ddpm_export.process.rows import Plan, Row  # noqa: E402
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name, spacing  # noqa: E402
from ddpm_export.process.solvers import ddim_weights, ddpm  # noqa: E402
from ddpm_export.process.walk import walk  # noqa: E402

ALPHAS_CUMPROD = alphas_cumprod_from_betas(betas_from_name("linear", 50, beta_start=0.002, beta_end=0.2))
SEED = 1
MEAN, STD = 0.3, 0.5
TOLERANCE = 1e-5


def bits(values):
    """The bits of float32 numbers, as unsigned integers: what a language can compare without parsing a float."""
    return np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.uint32).tolist()


def floats(values):
    """Float32 numbers as the decimals of the double they are: reading and rounding to float32 gives the same bits."""
    return np.asarray(values, dtype=np.float32).astype(np.float64).reshape(-1).tolist()


def philox():
    inputs = [
        ([0, 0, 0, 0], [0, 0]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]),
        ([195, 0, 7, 0], [1, 0]),
        ([0, 1000, 2**32 - 1, 0], [0xFFFFFFFF, 0x7FFFFFFF]),
        ([1, 2, 3, 1], [4, 5]),
    ]
    cases = []
    for counter, key in inputs:
        words = philox4x32_10(tuple(np.array(word, dtype=np.uint32) for word in counter), tuple(key))
        cases.append({"counter": counter, "key": key, "words": [int(word) for word in words]})
    return {"cases": cases}


def normals():
    magnitudes = {0, 2**31 - 1}
    for octave in range(31):  # every octave's ends and one word within
        magnitudes |= {2**octave, 2 ** (octave + 1) - 1, 2**octave + 2**octave // 3}
    for j in (1, 2, 127, 128, 254, 255):  # cell borders of the first octave and of one far out
        magnitudes |= {2**30 + j * 2**22 - 1, 2**30 + j * 2**22, 2**20 + j * 2**12 - 1, 2**20 + j * 2**12}
    words = [m | sign for m in sorted(magnitudes) for sign in (0, 2**31)]
    words += [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    values = normals_from_words(np.array(words, dtype=np.uint32))
    z = np.rint(values.astype(np.float64) * 2**20).astype(np.int64).tolist()
    table = normal_table()
    return {
        "noise": NOISE_TAG,
        "table_shape": [32, 257],
        "table_sha256": hashlib.sha256(table.astype("<i4").tobytes()).hexdigest(),
        "table_first_column": table[:, 0].tolist(),
        "table_first_row": table[0].tolist(),
        "cases": [
            dict(zip(("word", "z", "bits"), case, strict=True)) for case in zip(words, z, bits(values), strict=True)
        ],
    }


def noise():
    inputs = [
        (0, 0, 0, 0, (1, 28, 28)),
        (1, 7, 0, 0, (1, 28, 28)),
        (1, 7, 1, 0, (3, 7, 7)),
        (2**32 + 5, 3, 1000, 0, (3, 32, 32)),
        (2**63 - 1, 2**32 - 1, 2**32 - 1, 1, (1, 1, 3)),
    ]
    cases = []
    for seed, image, draw, domain, shape in inputs:
        values = noise_stream(seed, [image], shape, domain=domain)(draw)
        cases.append(
            {
                "seed": str(seed),
                "key": [seed & 0xFFFFFFFF, seed >> 32],
                "image": image,
                "draw": draw,
                "domain": domain,
                "shape": list(shape),
                "first_bits": bits(values)[:8],
                "last_bits": bits(values)[-3:],
                "first": floats(values)[:8],
                "sha256": hashlib.sha256(values.astype("<f4").tobytes()).hexdigest(),
            }
        )
    return {"noise": NOISE_TAG, "cases": cases}


def time_grids():
    inputs = [(1, 1), (2, 1), (2, 2), (10, 3), (10, 10), (100, 99), (1000, 1), (1000, 7), (1000, 50), (1000, 300)]
    inputs += [(4000, 6)]
    return {"cases": [{"num_train_timesteps": T, "num_steps": n, "t": spacing(T, n).tolist()} for T, n in inputs]}


def coefficients():
    spec = gaussian_spec(alphas_cumprod_from_betas(betas_from_name("linear", 1000)))
    cases = []
    for num_steps, at in ((1000, (1, 2, 500, 999, 1000)), (50, (1, 25, 49, 50)), (1, (1,))):
        for i in at:
            where = grid(spec, num_steps)
            t, a, a_prev = where.t[i - 1], where.a[i - 1], where.a[i]
            large = ddpm(where, variance="fixed_large")[i - 1].noise
            for eta, variance in (*((eta, "fixed_small") for eta in (0.0, 0.5, 1.0)), (1.0, "fixed_large")):
                x_0, eps, small = ddim_weights(a, a_prev, eta)
                numbers = {
                    "sqrt_a": math.sqrt(a),
                    "sqrt_1_minus_a": math.sqrt(1.0 - a),
                    "sqrt_a_prev": x_0,
                    "c_eps": eps,
                    "c_noise": small if variance == "fixed_small" else float(sum(large)),
                }
                step = {"num_steps": num_steps, "i": i, "t": t, "a": a, "a_prev": a_prev}
                rounded = {name: bits(number)[0] for name, number in numbers.items()}
                cases.append({**step, "eta": eta, "variance": variance, **numbers, "bits": rounded})
    return {"num_train_timesteps": 1000, "cases": cases}


def trajectories():
    shape, images, num_steps = (1, 2, 3), [0, 7], 6
    runs = [
        ("ddim", {"eta": 0.0}, "eps", None),
        ("ddim", {"eta": 0.5}, "eps", None),
        ("ddim", {"eta": 1.0}, "eps", None),
        ("ddpm", {"variance": "fixed_large"}, "eps", None),
        ("ddim", {"eta": 0.5}, "v", None),
        ("ddim", {"eta": 0.5}, "x_0", None),
        ("ddim", {"eta": 0.5}, "eps", 0.5),
        ("ddpm", {"variance": "fixed_large"}, "v", 0.5),
    ]
    cases = []
    for sampler, knobs, prediction, clip_x_0 in runs:
        spec = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0, shape)
        denoise = denoiser(gaussian_model(ALPHAS_CUMPROD, MEAN, STD, prediction), spec)
        noise = noise_stream(SEED, images, shape)
        states = [
            {**place(state.row), "a_prev": a_prev, **arrays(state)}
            for state, a_prev in zip(
                walk(denoise, noise, plan(spec, sampler=sampler, num_steps=num_steps, **knobs)),
                grid(spec, num_steps).a[1:],
                strict=True,
            )
        ]
        cases.append({"sampler": sampler, **knobs, "prediction": prediction, "clip_x_0": clip_x_0, "states": states})
    head = frame(images, shape, num_steps=num_steps, mean=MEAN, std=STD)
    return {**head, "x_T": floats(noise(0)), "cases": cases}


def frame(images, shape, **numbers):
    """What every walk of a file shares."""
    head = {"noise": NOISE_TAG, "seed": str(SEED), "images": images, "shape": list(shape)}
    return {**head, **numbers, "tolerance": TOLERANCE, "alphas_cumprod": ALPHAS_CUMPROD.tolist()}


def place(row):
    return {"i": row.i, "t": row.t, "a": row.a}


def arrays(state):
    return {"x": floats(state.x), "x_0": floats(state.x_0), "eps": floats(state.eps)}


def plans():
    """Plans as a file carries them: rows that look back, add noise, have a learned variance, repeat or raise a time.

    And one with raw_eps.
    """
    shape, images, fraction = (1, 2, 3), [0, 7], 0.3
    a = [float(ALPHAS_CUMPROD[t]) for t in range(50)]
    third = [
        Row(1, 49, a[49], (0.5,), (0.75,)),
        Row(2, 30, a[30], (0.875, -0.125), (0.625, -0.0625), (0.25,)),
        Row(3, 30, a[30], (1.0, -0.25, 0.0625), (0.5, 0.125, -0.03125)),
        Row(4, 12, a[12], (0.9375, 0.0, 0.03125), (0.25,), (0.125,)),
        Row(5, 2, a[2], (1.125, -0.125), ()),
    ]
    back = [
        Row(1, 49, a[49], (0.5,), (0.75,), (0.25,)),
        Row(2, 20, a[20], (0.75,), (0.25,), (0.5,)),
        Row(3, 30, a[30], (), (0.5, 0.25)),
        Row(4, 1, a[1], (1.0,), (0.0,)),
    ]
    learned = ddpm(grid(gaussian_spec(ALPHAS_CUMPROD), 4), variance="learned")
    far = [
        Row(i, 50 - 3 * i, a[50 - 3 * i], (0.5,) + (0.0,) * (i - 2) + (0.25,) * (i > 1), (0.5,)) for i in range(1, 17)
    ]
    runs = [
        ("third-order", Plan(tuple(third)), "eps", None),
        ("third-order", Plan(tuple(third)), "v", 0.5),
        ("back-and-on", Plan(tuple(back), start=1.5), "eps", 0.5),
        ("learned", Plan(tuple(learned)), "x_0", None),
        ("far", Plan(tuple(far)), "eps", None),
        ("raw-eps", Plan(tuple(row._replace(raw_eps=True) for row in third)), "eps", 0.5),
    ]
    cases = []
    for name, made, prediction, clip_x_0 in runs:
        spec = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0, shape)
        denoise = denoiser(gaussian_model(ALPHAS_CUMPROD, MEAN, STD, prediction), spec)
        states = walk(
            lambda x_t, row, before, denoise=denoise: denoise(x_t, row, before)._replace(
                variance_fraction=np.full_like(x_t, fraction)
            ),
            noise_stream(SEED, images, shape),
            made,
        )
        cases.append(
            {
                "name": name,
                "prediction": prediction,
                "clip_x_0": clip_x_0,
                "plan": json_from_plan(made),
                "states": [{**place(state.row), **arrays(state)} for state in states],
            }
        )
    return {**frame(images, shape, mean=MEAN, std=STD, variance_fraction=fraction), "cases": cases}


def conditions():
    """A network that is told a class, guided and not: each class is Gaussian, with a mean of its own."""
    shape, images, num_steps = (1, 1, 2), [0, 7, 8], 5
    means, fractions = [-0.5, 0.25, 0.75, 0.125], [0.25, 0.5, 1.0, 0.75]
    label = Input("y", "label", none=3, classes=("shoe", "bag", "coat"))
    own = Input("guidance", "vector", (1,), none=1.0)
    each, none = [0, 2, 3], [3, 3, 3]
    ddim, interval = {"sampler": "ddim", "eta": 0.5}, Guidance(2.5, (10, 29))
    runs = [
        (each, Guidance(1.0), "eps", None, ddim, False),
        (each, Guidance(0.0), "eps", None, ddim, False),
        (none, Guidance(2.5), "eps", None, ddim, False),
        (each, Guidance(2.5), "eps", None, ddim, False),
        (each, Guidance(2.5), "v", 0.5, ddim, False),
        (each, interval, "x_0", None, ddim, False),
        (each, Guidance(2.5), "x_0", None, {"sampler": "ddpm", "variance": "learned"}, False),
        (each, interval, "eps", None, ddim, True),
    ]
    cases = []
    for labels, guidance, prediction, clip_x_0, how, itself in runs:
        inputs, learned = (label, own) if itself else (label,), how.get("variance") == "learned"
        requires = ("inputs", "variance_fraction") if learned else ("inputs",)
        spec = gaussian_spec(ALPHAS_CUMPROD, prediction, clip_x_0, shape, inputs=inputs, requires=requires)
        model = classes_model(ALPHAS_CUMPROD, means, STD, prediction, fractions if learned else None)
        denoise = denoiser(model, spec, y=labels, guidance=guidance)
        states = walk(denoise, noise_stream(SEED, images, shape), plan(spec, num_steps=num_steps, **how))
        cases.append(
            {
                "y": labels,
                "guidance": json_from_guidance(guidance),
                "inputs": [json_from_input(entry) for entry in inputs],
                "prediction": prediction,
                "clip_x_0": clip_x_0,
                **how,
                "states": [{**place(state.row), **arrays(state)} for state in states],
            }
        )
    head = frame(images, shape, num_steps=num_steps, means=means, std=STD, variance_fractions=fractions)
    return {**head, "cases": cases}


def given():
    """Known pixels, measurements, a start from a picture, returns and the way back, each as states of a walk."""
    images, shape = [0, 7], (3, 2, 4)
    # two pictures between -1 and 1, as levels, so that every language makes the same float32 of them
    levels = (np.arange(48) * 37 % 256).reshape(2, 3, 2, 4)
    pictures = (levels / 127.5 - 1.0).astype(np.float32)
    mask = np.array([[0.0, 1.0, 0.25, 0.0], [1.0, 1.0, 0.0, 0.5]], dtype=np.float32)
    noise = noise_stream(SEED, images, shape)

    def rows(num_steps, *, returns=0, jump=1, strength=1.0, **chosen):
        spec = gaussian_spec(ALPHAS_CUMPROD, "v", None, shape)
        times = times_below(grid(spec, num_steps).t, strength, 50)
        return with_returns(plan(spec, times=times, **chosen), returns, jump)

    ddim, ipndm = {"num_steps": 4, "sampler": "ddim", "eta": 0.5}, {"num_steps": 5, "sampler": "ipndm"}
    runs = [
        ("known", ddim, {"mask": mask}),
        ("known, one mask a channel", ddim, {"mask": np.stack([mask, 1.0 - mask, 0.0 * mask])}),
        ("known, looking back", ipndm, {"mask": mask}),
        ("known, with returns", {**ddim, "returns": 2, "jump": 2}, {"mask": mask}),
        ("known, from a picture", {**ddim, "strength": 0.6}, {"mask": mask}),
        ("from a picture", {**ddim, "strength": 0.3}, {}),
        ("average:2", ddim, {"measure": "average:2"}),
        ("grey", ipndm, {"measure": "grey"}),
        ("mask", ddim, {"measure": "mask", "mask": mask}),
        ("backwards", {"num_steps": 4}, {}),
    ]
    cases = []
    for name, chosen, how in runs:
        spec = gaussian_spec(ALPHAS_CUMPROD, "v", 0.75, shape)
        made, x, keep = None, None, None
        if name == "backwards":
            spec = gaussian_spec(ALPHAS_CUMPROD, "v", None, shape)
            made, x = inversion(spec.alphas_cumprod, grid(spec, chosen["num_steps"]).t), pictures
        else:
            made = rows(**chosen)
        if "strength" in chosen:
            x = noised(pictures, noise(0), made.rows[0].a)
        denoise = denoiser(gaussian_model(ALPHAS_CUMPROD, MEAN, STD, "v"), spec)
        if "measure" in how:
            measurement = measurement_from_text(how["measure"], shape, how.get("mask"))
            denoise = measured(denoise, measurement, measurement.of(pictures))
        elif "mask" in how:
            keep = known_pixels(pictures, how["mask"], noise_stream(SEED, images, shape, domain=GIVEN))
        states = [{**place(state.row), **arrays(state)} for state in walk(denoise, noise, made, keep=keep, x=x)]
        if "mask" in how:
            how = {**how, "mask": floats(np.broadcast_to(how["mask"], shape))}
        options = {"clip_x_0": spec.clip_x_0, "plan": json_from_plan(made), "states": states}
        cases.append({"name": name, **chosen, **how, **options})
    return {
        **frame(images, shape, mean=MEAN, std=STD, prediction="v"),
        "times": [int(t) for t in grid(gaussian_spec(ALPHAS_CUMPROD), 4).t],
        "levels": levels.ravel().tolist(),
        "crossfade": floats(crossfade(pictures[0], pictures[1], 3)),
        "slerp": floats(slerp(*noise(0), 3)),
        "cases": cases,
    }


def pixels():
    x = [-2.0, -1.0, -0.99609375, -0.5, -1e-8, 0.0, 1e-8, 0.00390625, 0.25, 0.5, 0.99609375, 1.0, 2.0]
    x += [(level - 127.0) / 127.5 for level in (0, 1, 63, 127, 128, 200, 254)]  # halfway between two levels
    values = np.array(x, dtype=np.float32)
    levels = to_uint8(values.reshape(1, 1, 1, -1)).reshape(-1).tolist()
    return {
        "cases": [
            dict(zip(("x", "bits", "level"), case, strict=True))
            for case in zip(floats(values), bits(values), levels, strict=True)
        ]
    }


def full_image():
    """One image of the shipped model: not to the byte, since a network's sums differ from machine to machine."""
    from ddpm_export import generate
    from ddpm_export.system.files import sha256_of

    model = HERE.parent.parent / "exported" / "unet.onnx"
    settings = {"seed": 7, "first": 3, "num_steps": 50, "sampler": "ddim", "eta": 0.0}
    pixels = generate(model, n=1, **settings)[0]
    return {
        "model_sha256": sha256_of(model),
        **settings,
        "shape": list(pixels.shape),
        "pixels": pixels.ravel().tolist(),
    }


FULL_IMAGE = "full_image.json"
FILES = {
    "philox.json": philox,
    "normals.json": normals,
    "noise.json": noise,
    "time_grids.json": time_grids,
    "coefficients.json": coefficients,
    "trajectories.json": trajectories,
    "plans.json": plans,
    "conditions.json": conditions,
    "given.json": given,
    "pixels.json": pixels,
}


def text_of(contents):
    """JSON with one key a line, and one case a line."""
    lines = []
    for key, value in contents.items():
        cases = key == "cases"
        text = "[\n" + ",\n".join(json.dumps(case) for case in value) + "\n]" if cases else json.dumps(value)
        lines.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    made = {**FILES, FULL_IMAGE: full_image}
    for name in sys.argv[1:] or made:
        contents = made[name]
        (HERE / name).write_text(text_of(contents()), encoding="ascii")
        print(HERE / name)
