"""What the text of each compact option means, and that text which means nothing is refused in one sentence."""

import pytest
from models import tiny_spec

from ddpm_export.cli.options import USUAL_LIMITS, limits_of
from ddpm_export.cli.texts import (
    Engine,
    engine_from_text,
    guidance_from_text,
    numbers_from_text,
    options_from_settings,
    sampler_from_text,
    steps_from_text,
)
from ddpm_export.errors import UsageError
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults

LABEL = Input("y", "label", none=2, classes=("a", "b"))
GUIDED = tiny_spec(
    inputs=(LABEL,), requires=("inputs", "guidance"), defaults=Defaults(num_steps=4, guidance=Guidance(2.5))
)


def guidance(text):
    return guidance_from_text(GUIDED, text)


def guidance_of_none(text):
    return guidance_from_text(tiny_spec(), text)


def settings(text):
    return options_from_settings(None, [text])


@pytest.mark.parametrize(
    ("read", "text", "meant"),
    [
        (steps_from_text, None, {}),
        (steps_from_text, "50", {"num_steps": 50}),
        (steps_from_text, "980,960,0", {"times": [980, 960, 0]}),
        (steps_from_text, "980,", {"times": [980]}),
        (steps_from_text, "-3", {"num_steps": -3}),
        (sampler_from_text, None, {}),
        (sampler_from_text, "ddpm", {"sampler": "ddpm"}),
        (sampler_from_text, "ddim:eta=0.5", {"sampler": "ddim", "eta": 0.5}),
        (sampler_from_text, "ddpm:variance=fixed_large", {"sampler": "ddpm", "variance": "fixed_large"}),
        (sampler_from_text, "unipc:order=2,grid=karras", {"sampler": "unipc", "order": 2, "grid": "karras"}),
        (guidance, None, None),
        (guidance, "2", 2.0),
        (guidance, "2@300-700", Guidance(2.0, (300, 700))),
        (guidance, "@3-20.5", Guidance(2.5, (3, 20.5))),
        (engine_from_text, None, Engine()),
        (engine_from_text, "process", Engine()),
        (engine_from_text, "ray", Engine(True)),
        (engine_from_text, "ray:workers=2", Engine(True, 2)),
        (engine_from_text, "ray:workers=2,address=ray://host:10001", Engine(True, 2, "ray://host:10001")),
        (limits_of, None, USUAL_LIMITS),
        (limits_of, "usual", USUAL_LIMITS),
        (limits_of, "60s", USUAL_LIMITS._replace(timeout_s=60)),
        (limits_of, "0.5GiB", USUAL_LIMITS._replace(memory_gib=0.5)),
        (limits_of, "1.5s,4GiB", USUAL_LIMITS._replace(timeout_s=1.5, memory_gib=4)),
        (settings, "a.b=[1]", {"a": {"b": [1]}}),
        (settings, "a=word", {"a": "word"}),
    ],
)
def test_what_a_text_means(read, text, meant):
    assert read(text) == meant


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (steps_from_text, "many", "--steps must be a number such as 50, or times such as 980,960,0, got 'many'"),
        (steps_from_text, "30,b", "--steps must be"),
        (
            sampler_from_text,
            "ddim:",
            "--sampler must be a name, optionally with grid, eta, variance, order after a colon",
        ),
        (sampler_from_text, "ddim:eta", "--sampler must be a name"),
        (sampler_from_text, "ddim:sigma=1", "--sampler must be a name"),
        (sampler_from_text, "ddim:eta=1,eta=0", "--sampler must be a name"),
        (sampler_from_text, ":eta=1", "--sampler must be a name"),
        (sampler_from_text, "ddim:eta=much", "eta of --sampler must be a number, got 'much'"),
        (guidance, "much", "--guidance must be a scale such as 2, or 2@300-700 at some times, got 'much'"),
        (guidance, "2@", "--guidance must be a scale such as"),
        (guidance, "2@1-2-3", "--guidance must be a scale such as"),
        (guidance, "", "--guidance must be a scale such as"),
        (guidance_of_none, "@1-2", "--guidance @1-2 needs a scale, such as 2@1-2: the model has no default"),
        (engine_from_text, "dask", "--engine must be process or ray, such as ray:workers=4, got 'dask'"),
        (engine_from_text, "process:workers=2", "--engine must be process or ray"),
        (engine_from_text, "ray:workers=0", "workers of --engine must be a number of at least 1, got '0'"),
        (engine_from_text, "ray:cores=2", "--engine must be a name, optionally with workers, address after a colon"),
        (limits_of, "60", "--untrusted takes limits such as 600s,16GiB, got '60'"),
        (limits_of, "60s,", "--untrusted takes limits"),
        (limits_of, "4GiB,60s", "--untrusted takes limits"),
        (settings, "width", "--set must be given as KEY=VALUE, got 'width'"),
    ],
)
def test_what_means_nothing_is_refused(read, text, words):
    with pytest.raises(UsageError) as refused:
        read(text)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 200


def test_numbers_name_their_option():
    assert numbers_from_text("--batches", "1,16") == [1, 16]
    with pytest.raises(UsageError, match=r"--batches must be integers separated by commas, such as .*, got '1,a'"):
        numbers_from_text("--batches", "1,a")
