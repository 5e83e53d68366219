"""The JSON of a spec, as files carry it; docs/format.md section 1. Opens no file."""

import dataclasses
import json

from ddpm_export.errors import BadFileError, first_line, several, shown
from ddpm_export.model.codec import MAX_NESTING, finite, is_nested_within
from ddpm_export.model.guidance import guidance_from_json, json_from_guidance
from ddpm_export.model.inputs import input_from_json, json_from_input
from ddpm_export.model.plans import json_from_plan, plan_from_json
from ddpm_export.model.spec import (
    FRACTIONAL_T,
    MAX_JSON_BYTES,
    Defaults,
    ModelSpec,
    metadata_from,
    refuse_newer,
    too_new,
    unfit,
)
from ddpm_export.process.rows import is_number

FORMAT = "ddpm-export/1"


def json_from_spec(spec: ModelSpec) -> str:
    """Return the spec as JSON: sorted keys, no time stamps, the same text for the same spec.

    Raises UsageError where it would be more than a reader takes: plans and classes have no other limit.
    """
    values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    values["inputs"] = [json_from_input(entry) for entry in spec.inputs]
    values["plans"] = {name: json_from_plan(plan) for name, plan in spec.plans.items()}
    values["defaults"] = {name: value for name, value in vars(spec.defaults).items() if value is not None}
    if spec.defaults.guidance is not None:
        values["defaults"]["guidance"] = json_from_guidance(spec.defaults.guidance)
    for name in ("graph", "inputs", "plans", "open"):  # newer than the format's first files: only where they are used
        if not values[name] and (name != "open" or spec.open is None):
            del values[name]
    return metadata_from({"format": FORMAT, **values})


def spec_from_json(text: str) -> ModelSpec:
    """Read and validate a spec; unknown keys are ignored, unknown requirements and majors are refused.

    Raises BadFileError where the text is no valid spec, ModelRefusedError where a newer reader is needed.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_JSON_BYTES:
        raise BadFileError(f"The model's spec must have at most {MAX_JSON_BYTES} bytes, got {len(text)}.")
    try:
        values = json.loads(text, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as exc:
        raise BadFileError(f"The model's spec is not JSON: {first_line(exc)}.") from exc
    if not is_nested_within(values, MAX_NESTING):
        raise BadFileError(f"The model's spec must be nested at most {MAX_NESTING} levels deep.")
    if not isinstance(values, dict):
        raise BadFileError(f"The model's spec must be a JSON object, got {shown(values)}.")
    version = values.get("format")
    if not isinstance(version, str) or not version.startswith("ddpm-export/"):
        raise unfit("format", version, f"{FORMAT!r}")
    if version.split("/")[1].split(".")[0] != FORMAT.split("/")[1]:
        raise too_new("the format", version, FORMAT)
    optional = {"golden", "source", "graph", "inputs", "plans", "open"}
    required = [f.name for f in dataclasses.fields(ModelSpec) if f.name not in optional]
    missing = [key for key in required if key not in values]
    if missing:
        raise BadFileError(f"The model's spec must have {several(missing)}, which it lacks.")
    known = {f.name: values[f.name] for f in dataclasses.fields(ModelSpec) if f.name in values}
    for name in ("image_shape", "alphas_cumprod", "value_range", "requires", "open"):
        if name == "open" and known.get(name) is None:
            continue
        if not isinstance(known[name], list) or not all(isinstance(v, (int, float, str)) for v in known[name]):
            raise unfit(name, known[name], "a list")
        known[name] = tuple(known[name])
    if all(isinstance(name, str) for name in known["requires"]):
        refuse_newer(known["requires"])  # before what it may have changed is read
    known["value_range"] = tuple(float(v) if is_number(v) else v for v in known["value_range"])
    defaults = known["defaults"]
    wanted = ("sampler", "num_steps", "eta")
    if not isinstance(defaults, dict) or not set(wanted) <= set(defaults):
        raise unfit("defaults", defaults, f"an object with {', '.join(wanted)}")
    times = defaults.get("times")
    if times is not None and not isinstance(times, list):
        raise unfit("defaults.times", times, "a list")
    given = {name: defaults[name] for name in wanted}
    given |= {"times": None if times is None else tuple(times), "plan": defaults.get("plan")}
    fractional = FRACTIONAL_T in known["requires"]
    for name, kind in (("inputs", list), ("plans", dict)):
        if name in known and not isinstance(known[name], kind):
            raise unfit(name, known[name], "a list" if kind is list else "an object")
    try:
        known["inputs"] = tuple(input_from_json(entry) for entry in known.get("inputs", ()))
        T = len(known["alphas_cumprod"])
        plans = known.get("plans", {}).items()
        guidance = defaults.get("guidance")
        guidance = None if guidance is None else guidance_from_json(guidance)
        known["defaults"] = Defaults(**given, guidance=guidance)
        known["plans"] = {name: plan_from_json(name, plan, T, fractional_t=fractional) for name, plan in plans}
    except ValueError as exc:
        raise BadFileError(f"The model's spec cannot be used: {exc}.") from exc
    return ModelSpec(**known)
