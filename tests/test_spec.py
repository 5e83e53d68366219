import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from representative import representative

from ddpm_export.errors import BadFileError, DdpmExportError, ModelRefusedError
from ddpm_export.model.codec import MAX_JSON_BYTES, METADATA_KEY
from ddpm_export.model.spec import Defaults, ModelSpec
from ddpm_export.model.spec_json import json_from_spec, spec_from_json

SPEC = ModelSpec(
    name="tiny",
    prediction="v",
    state_shape=(3, 8, 16),
    alphas_cumprod=(0.9, 0.5, 0.1, 0.0),
    clip_x_0=None,
    variance="fixed_large",
    defaults=Defaults("ddpm", 4, 0.5),
    golden={"cases": [{"t": 3, "values": [0.25, -1e-7]}]},
    source={"dataset": "Kleider, größer", "schedule": {"name": "linear", "beta_end": 0.02}},
)


def values(**changes):
    """The JSON of SPEC as a dictionary, with changes; a change to `...` leaves the key out."""
    merged = {**json.loads(json_from_spec(SPEC)), **changes}
    return {key: value for key, value in merged.items() if value is not ...}


def read(**changes):
    return spec_from_json(json.dumps(values(**changes)))


def is_one_line(error):
    text = str(error)
    return text.isprintable() and len(text) < 500 and text.endswith(".") and text.count(". ") <= 1 and "model" in text


def test_a_spec_of_few_times_takes_a_step_for_each_unless_told():
    few = {"name": "few", "prediction": "x_0", "state_shape": (1, 8, 8), "alphas_cumprod": (0.9, 0.5, 0.1)}
    assert ModelSpec(**few).defaults.num_steps == 3
    assert ModelSpec(**{**few, "alphas_cumprod": tuple(1 / k for k in range(2, 99))}).defaults.num_steps == 50
    with pytest.raises(BadFileError, match="num_steps"):
        ModelSpec(**few, defaults=Defaults(num_steps=50))


def test_round_trip():
    text = json_from_spec(SPEC)
    again = spec_from_json(text)
    assert again == SPEC
    assert json_from_spec(again) == text
    assert again.num_train_timesteps == 4
    assert [type(v) for v in (again.state_shape, again.alphas_cumprod, again.requires)] == [tuple] * 3


@given(
    st.lists(st.floats(1e-300, 1.0, exclude_max=True), min_size=1, max_size=30, unique=True),
    st.sampled_from(["eps", "x_0", "v"]),
    st.one_of(st.none(), st.floats(1e-3, 1e3)),
    st.floats(0, 1),
    st.text(max_size=50),
)
def test_every_spec_survives(alphas, prediction, clip_x_0, eta, name):
    spec = ModelSpec(
        name=name,
        prediction=prediction,
        state_shape=(1, 2, 3),
        alphas_cumprod=tuple(sorted(alphas, reverse=True)),
        clip_x_0=clip_x_0,
        defaults=Defaults("ddim", len(alphas), eta),
    )
    assert spec_from_json(json_from_spec(spec)) == spec  # to the last bit of every float


def test_text_is_sorted_and_the_same_whatever_the_order():
    text = json_from_spec(SPEC)

    def assert_sorted(value):
        if isinstance(value, dict):
            assert list(value) == sorted(value)
        for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            assert_sorted(child)

    assert_sorted(json.loads(text))
    turned = json.dumps(dict(reversed(json.loads(text).items())))
    assert turned != text
    assert json_from_spec(spec_from_json(turned)) == text
    assert text.isascii()
    assert METADATA_KEY == "ddpm_export"


def test_a_plain_file_says_what_the_contract_lists():
    assert set(json.loads(json_from_spec(SPEC))) == {
        *("format", "name", "prediction", "image_shape", "value_range", "alphas_cumprod", "clip_x_0", "variance"),
        *("defaults", "noise", "golden", "source", "requires"),
    }
    assert values()["format"] == "ddpm-export/1"
    assert values()["noise"] == "philox4x32-10/icdf-q20/1"


def test_unknown_keys_are_ignored_everywhere():
    again = read(later=[1, {"a": None}], defaults={**values()["defaults"], "order": 2}, format="ddpm-export/1.7")
    assert again == SPEC


def test_people_only_keys_may_be_missing():
    assert read(golden=..., source=...) == dataclasses.replace(SPEC, golden=None, source={})


@pytest.mark.parametrize(
    "changes",
    [
        {"requires": ["variance_fraction", "x_0_prev"]},
        {"requires": ["y", "x_0_prev"]},
        {"requires": ["\x1b[31m"]},
        {"requires": [""]},
        {"format": "ddpm-export/2"},
        {"format": "ddpm-export/10"},
        {"format": "ddpm-export/"},
        {"format": "ddpm-export/1x"},
        {"noise": "philox4x32-10/icdf-q20/2"},
        {"noise": "\x1b]0;owned\x07"},
    ],
    ids=repr,
)
def test_what_needs_a_newer_reader_is_refused(changes):
    with pytest.raises(ModelRefusedError) as caught:
        read(**changes)
    assert caught.value.exit_code == 4
    assert is_one_line(caught.value)


HUGE = 10**400  # an integer that no float holds
INVALID = [
    *({key: ...} for key in json.loads(json_from_spec(SPEC)) if key not in ("golden", "source")),
    *({"format": value} for value in (None, 1, True, "onnx", [], "ddpm-exporter/1", "")),
    *({"name": value} for value in (None, 1, ["a"], "x" * 201)),
    *({"prediction": value} for value in (None, "epsilon", "", "EPS", 1, ["eps"], {"eps": 1})),
    *({"variance": value} for value in (None, "learned", "small", 0, [], {})),
    *({"value_range": value} for value in (None, [], [0, 1], [-1], [-1, 1, 1], [-1, True], ["-1", "1"], {}, "11", 1)),
    *({"clip_x_0": value} for value in (0, -1, True, "1", [1], {}, HUGE, -0.0)),
    *(
        {"image_shape": value}
        for value in (
            *(None, [], [1, 28], [1, 28, 28, 1], [0, 28, 28], [1, -28, 28], [1, 28.0, 28], [True, 28, 28]),
            *(["1", 28, 28], [[1], 28, 28], "abc", {"C": 1}, 784, [1, 10**9, 1], [10**9] * 3, [HUGE, 1, 1]),
            *([1, 2**13, 2**13 + 1], [-1, -28, 28]),
        )
    ),
    *(
        {"alphas_cumprod": value}
        for value in (
            *(None, [], "0.5", 0.5, {}, [1.0, 0.5], [1.5, 0.5], [0.5, 0.5], [0.1, 0.5], [0.5, -0.1], [0.5, 0, -0.1]),
            *(
                [0.5, None],
                [0.5, "0.1"],
                [0.5, False],
                [[0.5]],
                [True, 0.5],
                [HUGE, 0.5],
                [0.5, -HUGE],
                [0.5, 0.0, 0.0],
            ),
        )
    ),
    {"alphas_cumprod": [0.9, 0.5, 0.1, 0.0], "prediction": "eps"},
    *({"defaults": value} for value in (None, [], {}, "ddim", {"sampler": "ddim", "num_steps": 4})),
    *({"defaults": {"sampler": "ddim", "num_steps": n, "eta": 0}} for n in (0, -1, 5, 2.0, "4", True, None, HUGE, [])),
    *({"defaults": {"sampler": "ddim", "num_steps": 4, "eta": e}} for e in (-0.1, 1.1, "0", None, True, HUGE, [])),
    *({"defaults": {"sampler": s, "num_steps": 4, "eta": 0}} for s in (None, 1, [], {})),
    *({"requires": value} for value in (None, "y", {}, 1, [1], [None], [["y"]], [1, "y"], [True], [{}])),
    *({"golden": value} for value in ([], 1, "x", True)),
    *({"source": value} for value in ([], 1, "x", None)),
    *({"noise": value} for value in (...,)),
]


@pytest.mark.parametrize("changes", INVALID, ids=lambda changes: repr(changes)[:60])
def test_what_is_not_usable(changes):
    with pytest.raises(BadFileError) as caught:
        read(**changes)
    assert caught.value.exit_code == 3
    assert is_one_line(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@representative("key", ["clip_x_0", "alphas_cumprod", "value_range", "image_shape", "source", "later"])
def test_numbers_that_json_does_not_know(key, number):
    text = json.dumps(values(**{key: "HERE"})).replace('"HERE"', f"[{number}]" if key == "alphas_cumprod" else number)
    with pytest.raises(BadFileError):
        spec_from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{", "null", "1", '"ddpm-export/1"', "[]", "{}", "\x00", "\ufeff{}", "\ud800"),
        *(json_from_spec(SPEC)[:-1], json_from_spec(SPEC) + "}", '{"format": ' + "1" * 5000 + "}"),
        *("[" * 100_000, '{"a":' * 40_000, "1" * 100_000, "x" * 10_000, " " * (MAX_JSON_BYTES + 1)),
        json.dumps(values(name="x" * 300_000)),
        json.dumps(values(later="\u00e9" * (MAX_JSON_BYTES // 2)), ensure_ascii=False),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_text_that_is_no_spec(text):
    with pytest.raises(BadFileError) as caught:
        spec_from_json(text)
    assert is_one_line(caught.value)


def test_size_limit_is_the_contracts():
    text = json_from_spec(SPEC)
    assert MAX_JSON_BYTES == 262144
    assert spec_from_json(text + " " * (MAX_JSON_BYTES - len(text))) == SPEC
    with pytest.raises(BadFileError, match="at most 262144 bytes"):
        spec_from_json(text + " " * (MAX_JSON_BYTES - len(text) + 1))


@pytest.mark.parametrize("where", ["later", "name", "golden", "alphas_cumprod", "format", "requires"])
def test_nested_to_death_at_every_depth(where):
    text = json.dumps(values(**{where: "HERE"}))
    for depth in [*range(28, 36), 900, 1000, 20_000]:
        for left, right, middle in (("[", "]", ""), ('{"a":', "}", "1")):
            nested = text.replace('"HERE"', left * depth + middle + right * depth)
            try:
                spec_from_json(nested)
            except DdpmExportError as exc:
                assert is_one_line(exc)  # noqa: PT017
            else:
                assert where in ("later", "golden")
                assert depth < 32


def test_t_of_a_million_is_too_long_to_be_a_spec():
    with pytest.raises(BadFileError):
        read(alphas_cumprod=[0.5 / (i + 1) for i in range(100_000)])


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(HUGE), st.floats(), st.text(max_size=20), st.just("ddpm-export/1")
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def survives(text):
    try:
        spec = spec_from_json(text)
    except DdpmExportError as exc:
        assert is_one_line(exc)  # noqa: PT017
    else:
        assert spec_from_json(json_from_spec(spec)) == spec


@given(st.dictionaries(st.sampled_from(sorted(values())), ANYTHING, max_size=3))
def test_fuzzed_values(changes):
    survives(json.dumps({**values(), **changes}))


@given(st.sampled_from(["sampler", "num_steps", "eta"]), ANYTHING)
def test_fuzzed_defaults(key, value):
    survives(json.dumps(values(defaults={**values()["defaults"], key: value})))


@given(st.integers(0, len(json_from_spec(SPEC)) - 1), st.characters(), st.booleans())
def test_fuzzed_characters(position, character, inserted):
    text = json_from_spec(SPEC)
    survives(text[:position] + character + text[position + (not inserted) :])


@given(ANYTHING | st.text())
def test_fuzzed_documents(value):
    survives(json.dumps(value))
    survives(str(value))


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.prediction = "eps"


def test_the_last_alpha_may_be_zero_unless_eps():
    assert read(alphas_cumprod=[0.9, 0.5, 0.2, 0]).alphas_cumprod[-1] == 0
    assert read(alphas_cumprod=[0.9, 0.5, 0.2, 0], prediction="x_0").prediction == "x_0"


def test_a_learned_variance_needs_a_second_output_and_says_so():
    spec = ModelSpec("m", "eps", (1, 2, 2), (0.9, 0.5), defaults=Defaults(num_steps=1))
    assert spec.outputs == ("eps",)
    learned = dataclasses.replace(spec, variance="learned", requires=("variance_fraction",))
    assert learned.outputs == ("eps", "variance_fraction")
    assert spec_from_json(json_from_spec(learned)) == learned
    # one may have the output and another variance by default
    assert dataclasses.replace(learned, variance="fixed_small").outputs == learned.outputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_x_0": -1}, "clip_x_0 must be a positive number, got -1"),
        ({"alphas_cumprod": [0.9, 1.5]}, "alphas_cumprod[1] must be a number from 0 to below 1, got 1.5"),
        ({"image_shape": [3, 8, 16.0]}, "state_shape[2] must be an integer from 1 to 67108864, got 16.0"),
        ({"defaults": {"sampler": "ddim", "num_steps": 4}}, "defaults must be an object with eta, got ["),
        ({"requires": ["times"], "defaults": {**values()["defaults"], "times": [3, 4]}}, "defaults.times[1] must be"),
        ({"plans": {"own": {"rows": [[4, 0.5, [1.0], [], []]]}}}, "plans.own.rows[0].t must be an integer from 0 to 3"),
    ],
)
def test_a_misfit_names_its_place_in_json_and_in_python(changes, message):
    expected = re.escape(f"The model's spec cannot be used: {message}")
    with pytest.raises(BadFileError, match=expected):
        read(**changes)
    fields = {name.replace("image_shape", "state_shape"): value for name, value in changes.items()}
    with pytest.raises(BadFileError, match=expected):
        dataclasses.replace(SPEC, **{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})


def test_a_newer_reader_is_asked_for_before_what_it_may_have_changed_is_read():
    with pytest.raises(ModelRefusedError, match="a reader of 'magic'"):
        read(requires=["magic"], alphas_cumprod="in another form", defaults=..., plans=3)
    with pytest.raises(ModelRefusedError, match="the format"):
        read(format="ddpm-export/2", requires=..., name=3)
