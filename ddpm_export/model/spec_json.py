"""The JSON of a spec, as files carry it; docs/format.md section 1. Opens no file."""

import dataclasses
from collections.abc import Sequence

from ddpm_export.errors import BadFileError
from ddpm_export.model.codec import (
    MAX_JSON_BYTES,
    MisfitError,
    anything,
    bad_file,
    metadata_from,
    parse_json,
    record,
)
from ddpm_export.model.guidance import json_from_guidance
from ddpm_export.model.inputs import json_from_input
from ddpm_export.model.plans import json_from_plan
from ddpm_export.model.spec import REQUIRES, SHAPE, ModelSpec, refuse_newer, too_new
from ddpm_export.model.stages import json_from_stage, json_from_units

FORMAT = "ddpm-export/1"
FAMILY, MAJOR = FORMAT.split("/")
OPTIONAL = ("golden", "source", "graph", "inputs", "plans", "stages", "units", "open")
REQUIRED = tuple(f.name for f in dataclasses.fields(ModelSpec) if f.name not in (*OPTIONAL, "state_shape"))


def _shape_name(requires: Sequence[str]) -> str:
    """Return the name of the state's shape in JSON: that of the first files, where the state has three dimensions."""
    return "state_shape" if SHAPE in requires else "image_shape"


def json_from_spec(spec: ModelSpec) -> str:
    """Return the spec as JSON: sorted keys, no time stamps, the same text for the same spec.

    Raises UsageError where it would be more than a reader takes: plans and classes have no other limit.
    """
    values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    values[_shape_name(spec.requires)] = values.pop("state_shape")
    values["inputs"] = [json_from_input(entry) for entry in spec.inputs]
    values["plans"] = {name: json_from_plan(plan) for name, plan in spec.plans.items()}
    values["stages"] = {name: json_from_stage(stage) for name, stage in spec.stages.items()}
    values["units"] = None if spec.units is None else json_from_units(spec.units)
    values["defaults"] = {name: value for name, value in vars(spec.defaults).items() if value is not None}
    if spec.defaults.guidance is not None:
        values["defaults"]["guidance"] = json_from_guidance(spec.defaults.guidance)
    for name in (
        "graph",
        "inputs",
        "plans",
        "stages",
        "units",
        "open",
    ):  # newer than the format's first files: only where they are used
        if not values[name] and (name != "open" or spec.open is None):
            del values[name]
    return metadata_from({"format": FORMAT, **values})


def spec_from_json(text: str) -> ModelSpec:
    """Read and validate a spec; unknown keys are ignored, unknown requirements and majors are refused.

    Raises BadFileError where the text is no valid spec, ModelRefusedError where a newer reader is needed.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_JSON_BYTES:
        raise BadFileError(f"The model's spec must have at most {MAX_JSON_BYTES} bytes, got {len(text)}.")
    what = "The model's spec"
    values = parse_json(text, what)
    with bad_file(what):
        version = record({"format": anything})(values, "")["format"]
        if not isinstance(version, str) or not version.startswith(f"{FAMILY}/"):
            raise MisfitError("format", repr(FORMAT), version)
        if version.split("/")[1].split(".")[0] != MAJOR:
            raise too_new("the format", version, FORMAT)
        requires = record({"requires": REQUIRES})(values, "")["requires"]
        refuse_newer(requires)  # before what it may have changed is read
        shape = _shape_name(requires)
        entries = record(dict.fromkeys((*REQUIRED, shape), anything), dict.fromkeys(OPTIONAL, anything))(values, "")
        return ModelSpec(state_shape=entries.pop(shape), **entries)
