"""The golden files are what their program writes now, and what arithmetic says that shares no code with the package."""

import hashlib
import importlib.util
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from test_noise import philox_slowly, z_slowly

GOLDEN = Path(__file__).parent / "golden"


def load_make():
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_make()


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="ascii"))


def cases(name):
    return golden(name)["cases"]


def float_from_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


@pytest.mark.parametrize("name", make.FILES)
def test_files_are_current(name):
    assert (GOLDEN / name).read_text(encoding="ascii") == make.text_of(make.FILES[name]()), (
        "run tests/golden/make.py, if the change is meant"
    )


def test_every_file_is_made_and_described():
    assert {p.name for p in GOLDEN.glob("*.json")} >= set(make.FILES)
    for path in GOLDEN.glob("*.json"):
        assert f"`{path.name}`" in (GOLDEN / "README.md").read_text(encoding="utf-8")


def test_philox():
    for case in cases("philox"):
        assert philox_slowly(case["counter"], case["key"]) == tuple(case["words"])


def test_normals():
    for case in cases("normals"):
        assert z_slowly(case["word"]) == case["z"]
        assert float_from_bits(case["bits"]) == case["z"] / 2**20


@pytest.mark.parametrize("case", cases("noise"), ids=lambda case: f"seed {case['seed']}")
def test_noise(case):
    seed, size = int(case["seed"]), math.prod(case["shape"])
    assert case["key"] == [seed % 2**32, seed // 2**32]
    words = [
        word
        for block in range(-(-size // 4))
        for word in philox_slowly((block, case["draw"], case["image"], case["domain"]), case["key"])
    ]
    raw = b"".join(struct.pack("<f", z_slowly(word) / 2**20) for word in words[:size])
    assert hashlib.sha256(raw).hexdigest() == case["sha256"]
    bits = list(struct.unpack(f"<{size}I", raw))
    assert case["first_bits"] == bits[:8]
    assert case["last_bits"] == bits[-3:]
    assert case["first"] == [float_from_bits(b) for b in bits[:8]]


def test_time_grids():
    for case in cases("time_grids"):
        T, n = case["num_train_timesteps"], case["num_steps"]
        assert case["t"] == [math.floor(T * (n - i) / n + 1e-9) - 1 for i in range(n)]


def test_coefficients():
    for case in cases("coefficients"):
        a, a_prev, eta = case["a"], case["a_prev"], case["eta"]
        posterior = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
        expected = {
            "sqrt_a": a**0.5,
            "sqrt_1_minus_a": (1 - a) ** 0.5,
            "sqrt_a_prev": a_prev**0.5,
            "c_eps": (1 - a_prev - eta**2 * posterior) ** 0.5,
            "c_noise": (eta**2 * posterior if case["variance"] == "fixed_small" else 1 - a / a_prev) ** 0.5,
        }
        if a_prev == 1:
            expected["c_noise"] = 0.0
        assert set(case["bits"]) == set(expected)
        for name, value in expected.items():
            assert math.isclose(case[name], value, rel_tol=1e-13), (case, name)
            assert float_from_bits(case["bits"][name]) == float32(case[name])


@pytest.mark.parametrize("number", range(len(cases("trajectories"))))
def test_trajectories(number):
    """In plain Python floats, pixel by pixel: what an implementer in another language would write."""
    data = golden("trajectories")
    case, n = data["cases"][number], data["num_steps"]
    alphas, mean, std, size = data["alphas_cumprod"], data["mean"], data["std"], math.prod(data["shape"])

    def z(draw):
        result = []
        for image in data["images"]:
            words = [
                w for b in range(-(-size // 4)) for w in philox_slowly((b, draw, image, 0), (int(data["seed"]), 0))
            ]
            result += [z_slowly(word) / 2**20 for word in words[:size]]
        return result

    x = z(0)
    assert data["x_T"] == x
    times = [len(alphas) * (n - i) // n - 1 for i in range(n)]
    assert [state["t"] for state in case["states"]] == times
    for i, state in enumerate(case["states"], start=1):
        a, a_prev = alphas[times[i - 1]], alphas[times[i]] if i < n else 1.0
        assert (state["i"], state["a"], state["a_prev"]) == (i, a, a_prev)
        small = math.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        room = case.get("eta", 1.0) * small
        added = room if "eta" in case else math.sqrt(1 - a / a_prev) * (a_prev < 1)
        after, clean, noise = [], [], []
        for x_t, z_i in zip(x, z(i), strict=True):
            s, d = a * std**2 + 1 - a, x_t - math.sqrt(a) * mean
            # the three predictions are one truth: whatever the case predicts, these are its x_0 and eps
            x_0 = math.sqrt(a) * std**2 / s * d + mean
            if case["clip_x_0"] is not None:
                x_0 = min(max(x_0, -case["clip_x_0"]), case["clip_x_0"])
            eps = (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)
            clean.append(x_0)
            noise.append(eps)
            after.append(math.sqrt(a_prev) * x_0 + math.sqrt(max(0.0, 1 - a_prev - room**2)) * eps + added * z_i)
        np.testing.assert_allclose(state["x_0"], clean, rtol=0, atol=data["tolerance"])
        np.testing.assert_allclose(state["eps"], noise, rtol=0, atol=data["tolerance"])
        np.testing.assert_allclose(state["x"], after, rtol=0, atol=data["tolerance"])
        x = after


@pytest.mark.parametrize("number", range(len(cases("given"))))
def test_given(number):
    """From the format's sentences, in float64, with no code of the package."""
    data = golden("given")
    case, shape, mean, std = data["cases"][number], (2, *data["shape"]), data["mean"], data["std"]
    pictures = np.array(data["levels"]).reshape(shape) / 127.5 - 1.0
    mask = np.array(case.get("mask", [])).reshape(-1, *data["shape"])

    def z(draw, domain=0):
        words = [
            word
            for image in data["images"]
            for block in range(math.prod(data["shape"]) // 4)
            for word in philox_slowly((block, draw, image, domain), (int(data["seed"]), 0))
        ]
        return np.array([z_slowly(word) / 2**20 for word in words]).reshape(shape)

    def measure(images):
        if case["measure"] == "grey":
            return np.repeat(images.sum(axis=1, keepdims=True) / 3.0, 3, axis=1)
        if case["measure"] == "mask":
            return (1.0 - mask) * images
        means = images[..., ::2] + images[..., 1::2]
        means = (means[..., ::2, :] + means[..., 1::2, :]) / 4.0
        return np.repeat(np.repeat(means, 2, axis=3), 2, axis=2)

    def replaced(x, draw, a):
        if "mask" not in case or "measure" in case:
            return x
        if a == 1.0:
            return mask * x + (1.0 - mask) * pictures
        return np.where(mask > 0.0, x, math.sqrt(a) * pictures + math.sqrt(1.0 - a) * z(draw, 1))

    rows = case["plan"]["rows"]
    x = z(0)
    if "strength" in case:
        assert max(row[0] for row in rows) < case["strength"] * len(data["alphas_cumprod"])
        x = math.sqrt(rows[0][1]) * pictures + math.sqrt(1.0 - rows[0][1]) * x
    x, history = replaced(pictures if case["name"] == "backwards" else x, 0, rows[0][1]), []
    for i, (state, (t, a, *weights)) in enumerate(zip(case["states"], rows, strict=True), start=1):
        assert (state["i"], state["t"], state["a"]) == (i, t, a)
        assert a == data["alphas_cumprod"][t]
        x_0 = math.sqrt(a) * std**2 / (a * std**2 + 1 - a) * (x - math.sqrt(a) * mean) + mean
        if case["clip_x_0"] is not None:
            x_0 = np.clip(x_0, -case["clip_x_0"], case["clip_x_0"])
        if "measure" in case:
            x_0 = measure(pictures) + x_0 - measure(x_0)
        history.insert(0, (x_0, (x - math.sqrt(a) * x_0) / math.sqrt(1 - a)))
        x = sum(w * found[k] for k in (0, 1) for w, found in zip(weights[k], history, strict=False))
        if weights[2]:
            x = x + weights[2][0] * z(i)
        x = replaced(x, i, rows[i][1] if i < len(rows) else 1.0)
        for name, value in (("x_0", history[0][0]), ("eps", history[0][1]), ("x", x)):
            np.testing.assert_allclose(state[name], value.ravel(), rtol=0, atol=data["tolerance"])
    if "returns" in case:
        assert len(rows) > case["num_steps"]
        assert {row[0] for row in rows} == {49, 36, 24, 11}


def test_given_lies_between():
    data = golden("given")
    first, last = np.array(data["levels"]).reshape(2, -1) / 127.5 - 1.0
    expected = [first, (first + last) / 2.0, last]
    np.testing.assert_allclose(np.reshape(data["crossfade"], (3, -1)), expected, rtol=0, atol=1e-6)
    between = np.reshape(data["slerp"], (3, -1))
    np.testing.assert_allclose(between[1], (between[0] + between[2]) / 2**0.5, rtol=0, atol=1e-6)


def test_clipping_is_seen_in_the_trajectories():
    clipped = [c for c in cases("trajectories") if c["clip_x_0"] is not None]
    assert clipped
    for case in clipped:
        x_0 = np.abs([state["x_0"] for state in case["states"]])
        assert x_0.max() == case["clip_x_0"]
        assert x_0.min() < case["clip_x_0"]


@pytest.mark.parametrize("number", range(len(cases("conditions"))))
def test_conditions(number):
    """In plain Python floats: c and u by the formula of the README, guided before anything is clipped."""
    data = golden("conditions")
    case, alphas, std, size = data["cases"][number], data["alphas_cumprod"], data["std"], math.prod(data["shape"])
    low, high = case["guidance"].get("interval", (0, len(alphas)))
    seed = int(data["seed"])
    times = [len(alphas) * (data["num_steps"] - i) // data["num_steps"] - 1 for i in range(data["num_steps"])]
    for k, (image, label) in enumerate(zip(data["images"], case["y"], strict=True)):
        x = [z_slowly(word) / 2**20 for word in philox_slowly((0, 0, image, 0), (seed, 0))[:size]]
        for i, state in enumerate(case["states"]):
            t, part = times[i], slice(k * size, (k + 1) * size)
            a, a_prev = alphas[t], alphas[times[i + 1]] if i + 1 < len(times) else 1.0
            scale = case["guidance"]["scale"] if low <= t <= high else 1.0
            z = [z_slowly(word) / 2**20 for word in philox_slowly((0, i + 1, image, 0), (seed, 0))]
            std_small = math.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
            room = case.get("eta", 1.0) * std_small
            added = room
            if "eta" not in case and a_prev < 1:
                fraction = data["variance_fractions"][label]  # the conditional's, whatever the scale
                added = std_small ** (1 - fraction) * math.sqrt(1 - a / a_prev) ** fraction
            after = []
            for p, x_t in enumerate(x):
                s = a * std**2 + 1 - a
                # a prediction is affine in x_0, so guided x_0 is what guided eps and v lead to
                c, u = (
                    math.sqrt(a) * std**2 / s * (x_t - math.sqrt(a) * data["means"][which]) + data["means"][which]
                    for which in (label, 3)
                )
                x_0 = u + scale * (c - u)
                if case["clip_x_0"] is not None:
                    x_0 = min(max(x_0, -case["clip_x_0"]), case["clip_x_0"])
                eps = (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)
                for name, value in (("x_0", x_0), ("eps", eps)):
                    assert math.isclose(state[name][part][p], value, rel_tol=0, abs_tol=data["tolerance"])
                after.append(math.sqrt(a_prev) * x_0 + math.sqrt(max(0, 1 - a_prev - room**2)) * eps + added * z[p])
            np.testing.assert_allclose(state["x"][part], after, rtol=0, atol=data["tolerance"])
            x = after


def test_pixels():
    for case in cases("pixels"):
        assert float_from_bits(case["bits"]) == case["x"]
        scaled = float32(float32(127.5 * case["x"]) + 127.5)
        assert case["level"] == math.floor(float32(min(max(scaled, 0.0), 255.0) + 0.5))
