import dataclasses
import json
import math

import pytest
from gaussian import gaussian_spec

from ddpm_export.errors import BadFileError, ModelRefusedError
from ddpm_export.model.plans import json_from_plan, plan_from_json
from ddpm_export.model.spec import Defaults
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.model.steps import grid_of as grid
from ddpm_export.model.steps import plan
from ddpm_export.process.rows import MAX_REACH, MAX_ROWS, Plan, Row
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.process.solvers import SAMPLERS

T = 100
ALPHAS_CUMPROD = alphas_cumprod_from_betas(betas_from_name("linear", T))
SPEC = gaussian_spec(ALPHAS_CUMPROD)


def read(values, name="own", fractional_t=False):
    return plan_from_json(name, values, T, fractional_t=fractional_t)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start", [1.0, 2.5])
def test_a_plan_travels_as_json_to_the_last_bit(name, start):
    made = Plan(plan(SPEC, sampler=name, num_steps=9).rows, start)
    values = json.loads(json.dumps(json_from_plan(made)))
    assert ("start" in values) == (start != 1.0)
    assert read(values) == made


def test_a_row_weighs_180_bytes_or_so():
    text = json.dumps(json_from_plan(plan(SPEC, sampler="ipndm", num_steps=20)))
    assert len(text) / 20 < 180


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "plans.own.rows must be a list of 1 to 10000 entries, got"),
        ([[1, 0.5, [1.0], [], []]] * (MAX_ROWS + 1), "must be a list of 1 to 10000 entries"),
        ([[1, 0.5, [1.0], []]], r"rows\[0\] must be \[t, a, x_0, eps, noise\]"),
        ([[T, 0.5, [1.0], [], []]], "t must be an integer from 0 to 99"),
        ([[-1, 0.5, [1.0], [], []]], "t must be an integer"),
        ([[1.5, 0.5, [1.0], [], []]], "t must be an integer"),
        ([[True, 0.5, [1.0], [], []]], "t must be an integer"),
        ([[1, 1.0, [1.0], [], []]], "a must be a number from 0 to below 1"),
        ([[1, -0.1, [1.0], [], []]], "a must be a number"),
        ([[1, math.nan, [1.0], [], []]], "a must be a number"),
        ([[1, 0.5, [10**400], [], []]], r"x_0\[0\] must be a finite number"),
        ([[1, 0.5, [math.inf], [], []]], "must be a finite number"),
        ([[1, 0.5, ["1"], [], []]], "must be a finite number"),
        ([[1, 0.5, 1.0, [], []]], "x_0 must be a list"),
        ([[1, 0.5, [], [], []]], "must be a row that reads 1 to 1 evaluations, got 0"),
        ([[1, 0.5, [1.0, 0.5], [], []]], "reads 1 to 1 evaluations, got 2"),
        (
            [[1, 0.5, [1.0], [], []]] * 20 + [[1, 0.5, [0.1] * (MAX_REACH + 1), [], []]],
            r"rows\[20\] must be a row that reads 1 to 16 evaluations, got 17",
        ),
        ([[1, 0.5, [1.0], [], [0.0]]], r"noise\[0\] must be a positive number"),
        ([[1, 0.5, [1.0], [], [-0.1]]], r"noise\[0\] must be"),
        ([[1, 0.5, [1.0], [], [0.1, 0.2, 0.3]]], "noise must be a list of 0 to 2 entries"),
    ],
)
def test_rows_of_a_file_that_cannot_be_walked(rows, message):
    with pytest.raises(ValueError, match=message):
        read({"rows": rows})


@pytest.mark.parametrize("start", [0, -1.0, math.inf, "1", True])
def test_a_start_that_is_none(start):
    with pytest.raises(ValueError, match=r"plans.own.start must be a positive number"):
        read({"start": start, "rows": [[1, 0.5, [1.0], [], []]]})


def test_raw_eps_travels_and_a_file_must_say_that_it_needs_it():
    raw = Plan(tuple(row._replace(raw_eps=True) for row in plan(SPEC, num_steps=3).rows), 0.5)
    values = json_from_plan(raw)
    assert values["raw_eps"] is True
    assert read(values) == raw
    assert "raw_eps" not in json_from_plan(plan(SPEC, num_steps=3))
    with pytest.raises(BadFileError, match="requires must be a list with raw_eps"):
        dataclasses.replace(SPEC, plans={"own": raw})
    spec = dataclasses.replace(SPEC, plans={"own": raw}, requires=("raw_eps",))
    assert travelled(spec) == spec
    with pytest.raises(ValueError, match=r"plans.own.raw_eps must be true or false"):
        read({**values, "raw_eps": 1})


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "a" * 65, "a\n", None])
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match="a name in plans must be"):
        read({"rows": [[1, 0.5, [1.0], [], []]]}, name=name)


def test_fractions_of_a_time_where_the_file_says_so():
    assert read({"rows": [[1.5, 0.5, [1.0], [], []]]}, fractional_t=True).rows[0].t == 1.5


def test_what_is_kept_after_a_row():
    rows = [Row(i, 1, 0.5, (1.0,) * reach) for i, reach in enumerate((1, 2, 1, 4, 1), start=1)]
    # row 4 reads itself and the three before it, row 2 itself and row 1
    assert Plan(tuple(rows)).kept == (1, 2, 3, 0, 0)


# --- in a spec ---


def travelled(spec):
    return spec_from_json(json_from_spec(spec))


def test_specs_without_news_have_the_keys_they_always_had():
    assert set(json.loads(json_from_spec(SPEC))) == {
        *("alphas_cumprod", "clip_x_0", "defaults", "format", "golden", "image_shape", "name", "noise", "prediction"),
        *("requires", "source", "value_range", "variance"),
    }
    assert set(json.loads(json_from_spec(SPEC))["defaults"]) == {"eta", "num_steps", "sampler"}


def test_plans_and_defaults_travel_in_a_spec():
    plans = {name: plan(SPEC, sampler=name, num_steps=4) for name in ("heun", "dpmpp_2m")}
    offered = gaussian_spec(ALPHAS_CUMPROD, plans=plans)
    assert travelled(offered) == offered
    chosen = gaussian_spec(ALPHAS_CUMPROD, plans=plans, defaults=Defaults(plan="heun"), requires=("plan",))
    assert travelled(chosen) == chosen
    times = gaussian_spec(ALPHAS_CUMPROD, defaults=Defaults(times=(99, 5)), requires=("times",))
    assert travelled(times) == times


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defaults": Defaults(plan="own")}, "defaults.plan must be absent, got 'own'"),
        ({"defaults": Defaults(plan=["own"])}, r"defaults.plan must be absent, got \['own'\]"),
        ({"defaults": Defaults(times=(99, 5))}, "requires must be a list with times"),
        ({"defaults": Defaults(times=(5, 99)), "requires": ("times",)}, "defaults.times must be strictly falling"),
        (
            {"defaults": Defaults(times=(100, 99)), "requires": ("times",)},
            r"defaults.times\[0\] must be an integer from 0",
        ),
        ({"plans": {"own": Plan((Row(1, 5, 0.0, (1.0,)),))}}, "plans.own must be of rows whose a is above 0, for eps"),
        (
            {"plans": {"own": Plan((Row(1, 5, 0.5, (1.0,), (), (0.1, 0.2)),))}},
            "plans.own must be a plan without a learned variance",
        ),
    ],
)
def test_plans_and_defaults_that_do_not_fit_their_model(changes, message):
    with pytest.raises(BadFileError, match=message):
        gaussian_spec(ALPHAS_CUMPROD, **changes)


@pytest.mark.parametrize("key", ["plans", "inputs"])
@pytest.mark.parametrize("value", [7, "a", None])
def test_keys_of_another_type(key, value):
    text = json.dumps({**json.loads(json_from_spec(SPEC)), key: value})
    with pytest.raises(BadFileError, match=f"{key} must be"):
        spec_from_json(text)


def test_a_plan_of_a_file_is_told_by_its_row():
    text = json.dumps({**json.loads(json_from_spec(SPEC)), "plans": {"own": {"rows": [[1, 0.5, [], [], []]]}}})
    with pytest.raises(BadFileError, match=r"plans.own.rows\[0\] must be a row that reads 1 to 1 evaluations, got 0"):
        spec_from_json(text)


def test_a_requirement_from_the_future_is_still_refused():
    text = json.dumps({**json.loads(json_from_spec(SPEC)), "requires": ["plan", "magic"]})
    with pytest.raises(ModelRefusedError, match="magic"):
        spec_from_json(text)
    later = json.dumps({**json.loads(text), "plans": {"own": {"rows": "in another form"}}})
    with pytest.raises(ModelRefusedError, match="magic"):
        spec_from_json(later)


def test_every_time_of_a_grid_is_allowed_in_a_plan():
    whole = Plan(tuple(SAMPLERS["ddim"](grid(SPEC, T))))
    assert read(json_from_plan(whole)) == whole
