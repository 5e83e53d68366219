"""The public functions of both cores take Python's arguments, by the same names in the same order.

What a core needs besides, a shape of flat arrays or a place to write to, comes after them.
"""

import inspect
import re
from pathlib import Path

import pytest

from ddpm_export.model import denoiser, steps
from ddpm_export.process import equations as diffusion
from ddpm_export.process import given, noise, schedules, walk
from ddpm_export.process import rows as plans

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SOURCES = {"C++": ["cpp/ddpm.hpp"], "JavaScript": ["web/ddpm.js", "web/given.js"]}
FUNCTIONS = {
    "noise_stream": noise.noise_stream,
    "spacing": schedules.spacing,
    "plan": steps.plan,
    "walk": walk.walk,
    "denoiser": denoiser.denoiser,
    "predict": denoiser.predict,
    "combine": diffusion.combine,
    "denoised": denoiser.denoised,
    "known_pixels": given.known_pixels,
    "measured": given.measured,
    "measurement_from_text": given.measurement_from_text,
    "crossfade": given.crossfade,
    "with_returns": given.with_returns,
    "times_below": given.times_below,
}
RECORDS = {"Row": [*plans.Row._fields], "Plan": ["rows", "start"], "State": [*walk.State._fields]}
KNOBS = ["eta", "variance"]  # of the two samplers that every language knows by their formulas
PYTHONS_OWN = {"grid"}  # grids by name: the others take times
OPENING, CLOSING = "([{<", ")]}>"


def python_names(name):
    names = [key for key in inspect.signature(FUNCTIONS[name]).parameters if key not in PYTHONS_OWN]
    if "guidance" in names:  # **inputs have to be Python's last; they are what every call says
        names.insert(names.index("guidance"), names.pop())
    return [*names[:-1], *KNOBS] if names[-1] == "knobs" else names


def snake(name):
    return re.sub(r"(?<=[a-z])([A-Z])", lambda m: "_" + m[1].lower(), name)


def arguments_of(text):
    """Return what stands between the first parentheses of a text, split at its outermost commas."""
    depth, parts = 0, [""]
    text = text.replace("->", "  ").replace("=>", "  ")
    for char in text[text.index("(") :]:
        depth += (char in OPENING) - (char in CLOSING)
        if depth == 0:
            return [part.strip() for part in parts if part.strip()]
        if char == "," and depth == 1:
            parts.append("")
        elif not (depth == 1 and char == "(" and parts == [""]):
            parts[-1] += char
    raise AssertionError(text[:80])


def names_of(language, argument):
    """Return the names in an argument: of JavaScript's options, all."""
    if language == "JavaScript" and argument.startswith("{"):
        inside = argument[1 : argument.index("}")]
        return [snake(part.split("=")[0].strip()) for part in inside.split(",")]
    before = re.sub(r"\{[^}]*\}", "", argument.split("=")[0]).strip()
    name = before.split(":")[0].split()[-1] if language == "JavaScript" else before.split()[-1]
    return [snake(name.strip("[]&*"))]


def starts_of(language, name):
    camel = re.sub(r"_([a-z])", lambda m: m[1].upper(), name)
    return {"C++": rf"^(?:[\w:<>]+ )+{name}\(", "JavaScript": rf"^export (?:async )?function\*? {camel}\("}[language]


def source(language):
    return "\n".join((EXAMPLES / path).read_text(encoding="utf-8") for path in SOURCES[language])


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("language", SOURCES)
def test_a_function_takes_pythons_arguments_in_order(language, name):
    text = source(language)
    places = [match.start() for match in re.finditer(starts_of(language, name), text, re.MULTILINE)]
    if language == "C++" and name == "combine":  # one output of one network: a reference that needs no function
        places = places or None
    if places is None:
        return
    assert places, f"{language} has no {name}"
    expected = python_names(name)
    for place in places:
        names = [found for argument in arguments_of(text[place:]) for found in names_of(language, argument)]
        assert names[: len(expected)] == expected or names == expected[: len(names)], names


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_has_pythons_fields_in_order(name):
    body = re.search(rf"^struct {name} \{{(.*?)^\}};", source("C++"), re.MULTILINE | re.DOTALL)[1]
    body = re.sub(r"//[^\n]*", "", body)
    body = re.sub(r"^    [^=;\n]*\(.*", "", body, flags=re.MULTILINE)  # its functions
    names = re.findall(r"\b(\w+)(?:\{\}| = [^,;]+)?[,;]", body)
    assert names == RECORDS[name]
