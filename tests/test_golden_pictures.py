import copy
import dataclasses

import numpy as np
import pytest
from models import T, tiny_spec

from ddpm_export.errors import BadFileError
from ddpm_export.model.golden_pictures import golden_from_pictures, replay_golden_pictures
from ddpm_export.process.rows import Plan, Row

SPEC = tiny_spec((3, 8, 8), graph="sampler")


def pictures(draw):
    """Pixels that follow from all of a draw, each image of its own."""
    how = [draw.num_steps, round(100 * draw.eta), *(draw.times or ()), *(draw.plan or "").encode()]
    seeds = [[draw.seed, number, *how] for number in draw.numbers]
    return np.stack([np.random.default_rng(seed).integers(1, 255, (8, 8, 3)) for seed in seeds]).astype(np.uint8)


def changed(change=lambda images: images):
    return lambda draw: change(pictures(draw).copy())


def replayed(change=lambda images: images, golden=None):
    golden = golden_from_pictures(pictures, SPEC) if golden is None else golden
    return replay_golden_pictures(changed(change), dataclasses.replace(SPEC, golden=golden))


def test_what_was_promised_is_kept():
    results = replayed()
    assert [result.error for result in results] == [0.0] * 4
    assert all(result.passed for result in results)
    draws = [result.draw for result in results]
    assert len(set(draws)) == 4
    assert {draw.eta for draw in draws} == {0.0, 0.5, 1.0}
    assert all(draw.num_steps <= T for draw in draws)
    assert results[2].place == "seed 1, images 5 to 5, 7 steps, eta 1"
    assert results[3].place == "seed 2, images 3 to 3, 3 steps, eta 0.5, at times 39, 26, 8"


def test_one_level_is_allowed_and_two_are_not():
    position = golden_from_pictures(pictures, SPEC)["cases"][0]["positions"][7]

    def off(by):
        def change(images):
            images.reshape(-1)[position] += by
            return images

        return change

    assert all(result.passed for result in replayed(off(1)))
    assert replayed(off(1))[0].error == 1.0
    assert not replayed(off(2))[0].passed


def test_what_leaves_the_promised_pixels_as_they_are_moves_the_mean():
    positions = [case["positions"] for case in golden_from_pictures(pictures, SPEC)["cases"]]

    def change(images):
        flat = images.reshape(-1)
        others = np.setdiff1d(np.arange(flat.size), positions[1] if len(images) > 1 else positions[0])
        flat[others] += 1
        return images

    assert not any(result.passed for result in replayed(change))


def test_every_image_of_a_draw_is_looked_at():
    def change(images):
        if len(images) > 1:
            images[1] ^= 255
        return images

    assert [result.passed for result in replayed(change)] == [True, False, True, True]


def test_a_file_without_golden_vectors_gives_none():
    assert replay_golden_pictures(changed(), SPEC) == []


def test_fewer_steps_than_the_cases_ask_for():
    spec = tiny_spec((3, 8, 8), alphas_cumprod=(0.9, 0.5), defaults=dataclasses.replace(SPEC.defaults, num_steps=1))
    assert [case["num_steps"] for case in golden_from_pictures(pictures, spec)["cases"]] == [1, 2, 2, 2]


BAD = [
    *({"cases": cases} for cases in ([], [{}] * 65, [3])),
    *({"tolerance": tolerance} for tolerance in (None, {"levels": 255}, {"levels": float("nan")})),
]
BAD_CASES = {
    "seed": -1,
    "first": 2**32,
    "n": 65,
    "num_steps": T + 1,
    "eta": 1.5,
    "positions": [0, 3 * 8 * 8],
    "levels": [256] * 64,
    "mean": float("inf"),
}


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_golden_vectors_that_cannot_be_meant_are_refused(bad):
    golden = {**golden_from_pictures(pictures, SPEC), **bad}
    with pytest.raises(BadFileError, match=r"The golden vectors of the model cannot be used: .* must be "):
        replayed(golden=golden)


@pytest.mark.parametrize("field", BAD_CASES)
@pytest.mark.parametrize("value", ["bad", None, True])
def test_a_field_that_cannot_be_meant_is_refused_by_name(field, value):
    golden = copy.deepcopy(golden_from_pictures(pictures, SPEC))
    golden["cases"][0][field] = BAD_CASES[field] if value == "bad" else value
    with pytest.raises(BadFileError, match=rf"cases\[0\]\.{field}.* must be"):
        replayed(golden=golden)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"times": [3, 3, 1]}, "times"),
        ({"times": [T, 3, 1]}, "times"),
        ({"times": []}, "times"),
        ({"times": "321"}, "times"),
        ({"times": [3, True, 0]}, "times"),
        ({"times": [30, 9]}, "num_steps"),
        ({"plan": "none of the file"}, "plan"),
        ({"plan": ["own"]}, "plan"),
        ({"plan": "own"}, "times"),
        ({"plan": "own", "times": None}, "num_steps"),
    ],
)
def test_times_and_plans_that_cannot_be_meant_are_refused_by_name(values, field):
    spec = dataclasses.replace(SPEC, plans={"own": Plan((Row(1, 9, 0.5, (1.0,)),))})
    golden = copy.deepcopy(golden_from_pictures(pictures, spec))
    case = golden["cases"][3]
    assert case["times"] == [39, 26, 8]
    golden["cases"][3] = {name: value for name, value in {**case, **values}.items() if value is not None}
    with pytest.raises(BadFileError, match=rf"cases\[3\]\.{field}.* must be"):
        replay_golden_pictures(changed(), dataclasses.replace(spec, golden=golden))


def test_of_many_plans_the_shortest_have_a_case():
    plans = {f"p{n}": Plan(tuple(Row(i, 9, 0.5, (1.0,)) for i in range(1, n + 1))) for n in (7, 2, 5000, 3, 4)}
    cases = golden_from_pictures(pictures, dataclasses.replace(SPEC, plans=plans))["cases"]
    assert [(case["plan"], case["num_steps"]) for case in cases[4:]] == [("p2", 2), ("p3", 3), ("p4", 4)]


def test_a_case_that_would_run_for_hours_is_refused():
    spec = tiny_spec(alphas_cumprod=tuple(np.linspace(0.999, 0.01, 1000).tolist()), graph="sampler")
    golden = golden_from_pictures(lambda draw: np.zeros((draw.n, 6, 5, 1), np.uint8), spec)
    golden["cases"][0] |= {"n": 64, "num_steps": 1000}
    with pytest.raises(BadFileError, match=r"cases\[0\] must be of at most 4096 evaluations, got 64000"):
        replay_golden_pictures(changed(), dataclasses.replace(spec, golden=golden))
