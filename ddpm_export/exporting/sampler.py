"""One-call sampler files: a denoiser's graph inside a Loop, with the table of rows and the noise. No torch.

`sampler_from_denoiser` gives the graph of docs/format.md section 5 that runs a whole trajectory, `slice_from_denoiser`
the one that runs some of its steps, from a state to a state, `edit_from_denoiser` the one that is given pictures,
`rows_from_denoiser` one for servers, whose every row is asked for by itself. The mathematics is that of ddpm_export's
diffusion.py, samplers.py and given.py, on values of the graph.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from ddpm_export.errors import ModelRefusedError, UsageError, shown
from ddpm_export.exporting.builder import Builder, Value, value
from ddpm_export.exporting.graph_loop import (
    Stages,
    add_first_noise,
    add_first_state,
    add_known,
    add_loop,
    add_noise_of,
    prepared,
    remembered,
    results_of,
)
from ddpm_export.exporting.graph_rows import (
    Known,
    Run,
    add_rows,
    add_rows_below,
    add_run,
    is_within,
    require,
)
from ddpm_export.exporting.onnx_file import IR_VERSION, OPSET
from ddpm_export.exporting.philox_graph import add_key
from ddpm_export.exporting.proof import of_one_plan
from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.guidance import MAX_SCALE
from ddpm_export.model.spec import GUIDANCE, OPEN, OPENABLE, PLAN, RAW_EPS, TIMES, ModelSpec
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.model.stages import ENCODE
from ddpm_export.process.equations import VARIANCE_FRACTION, Level
from ddpm_export.process.rows import Plan
from ddpm_export.runtimes.one_call import RESULTS, inputs_of, names_of, outputs_of

MAX_FLOAT = float(np.finfo(np.float32).max)
NO_STAGES: Stages = MappingProxyType({})
ROWS = "ddpm_export_rows"  # the key of metadata that has the inputs of a graph of rows, and what each may be


def spec_of_graph(spec: ModelSpec, graph: str, opens: Sequence[str] = OPENABLE) -> ModelSpec:
    """Return the spec of a denoiser's sampler, slice or edit file, without golden vectors.

    There, eta says how much noise is added, up to that of fixed_small: a default of ddpm becomes ddim with eta 1.
    opens: the choices that are inputs of the graph; the others are fixed to the defaults, and plans left out that the
    graph then cannot run. Choices that the network does not have count only where all are open.
    Raises ModelRefusedError for a plan that weighs a learned variance, and for an input called as one of the graph's,
    UsageError for a choice that there is not.
    """
    possible = ("steps", "eta", TIMES, *([PLAN] if spec.plans else ()), *([GUIDANCE] if spec.takes_guidance else ()))
    is_all = set(possible) <= set(opens) <= set(OPENABLE)
    missing = [name for name in opens if name not in possible and not is_all]
    if missing:
        raise UsageError(
            f"open must be some of {', '.join(possible)} for this {graph}, got {shown(missing[0])}.", "open"
        )
    opened = None if is_all else tuple(name for name in possible if name in opens)
    defaults, plans = spec.defaults, spec.plans
    if opened is not None and PLAN not in opened:
        if {"steps", "eta", TIMES}.intersection(opened):  # which do not apply beside a plan
            defaults = dataclasses.replace(defaults, plan=None)
        plans = {name: plan for name, plan in plans.items() if name == defaults.plan}
    if opened is not None and "steps" in opened and TIMES not in opened:
        defaults = dataclasses.replace(defaults, times=None)
    if graph == "edit" and not spec.state_is_picture and (spec.stages or spec.units):
        raise ModelRefusedError("A one-call edit takes states; of a model with stages or a scale, edit by its .onnx.")
    learned = [name for name, plan in plans.items() if plan.needs_learned_variance]
    if learned:
        raise ModelRefusedError(
            f"Plan {learned[0]} needs a learned variance, which a one-call file has no place for. Leave the plan out."
        )
    taken = sorted(names_of(graph).intersection(entry.name for entry in spec.asked_inputs))
    if taken:
        raise ModelRefusedError(
            f"Input {taken[0]!r} has the name of an input or output of every one-call {graph}. Rename it."
        )
    if defaults.sampler == "ddpm":
        defaults = dataclasses.replace(defaults, sampler="ddim", eta=1.0)
    within = {name: stage for name, stage in spec.stages.items() if name != ENCODE}
    used = {TIMES: defaults.times, PLAN: defaults.plan, GUIDANCE: defaults.guidance}
    added = tuple(name for name, value in used.items() if name in (possible if is_all else opened or ()) or value)
    kept = tuple(name for name in spec.requires if name not in (VARIANCE_FRACTION, TIMES, PLAN, GUIDANCE))
    if not is_all and not any(plan.raw_eps for plan in plans.values()):
        kept = tuple(name for name in kept if name != RAW_EPS)
    return dataclasses.replace(
        spec,
        graph=graph,
        defaults=defaults,
        variance="fixed_small",
        requires=(*kept, *(() if is_all else (OPEN,)), *added),
        golden=None,
        plans=plans,
        stages={name: dataclasses.replace(stage, file=None, sha256=None) for name, stage in within.items()},
        open=opened,
    )


def sampler_from_denoiser(denoiser: ModelProto, spec: ModelSpec, stages: Stages = NO_STAGES) -> ModelProto:
    """Return the one-call sampler of a denoiser: (seed, first, n, steps, eta, times, ...) -> images, x_0.

    spec: the sampler's own, of `spec_of_graph`.
    """
    g, given = _begun(spec)
    n_is = "n must be 1 or more, and first + n at most 2^32"
    run = prepared(g, add_run(g, spec, given, given["n"], n_is), stages)
    x = _walked(g, denoiser, run, add_first_noise(g, run))
    return _model(g, spec, {**results_of(spec, x, stages), "x_0": x})


def slice_from_denoiser(denoiser: ModelProto, spec: ModelSpec, stages: Stages = NO_STAGES) -> ModelProto:
    """Return the slice of a denoiser: (seed, first, steps, eta, times, ..., x, begin, end, ...) -> x_after, x_0, ...

    spec: the slice's own, of `spec_of_graph`. It runs steps begin to end - 1 of a trajectory of `steps`; where begin is
    0, x counts only for its shape, and the first state is noise draw 0.
    """
    g, given = _begun(spec)
    n_is = "x must have a row or more, and first + rows at most 2^32"
    run = prepared(g, add_run(g, spec, given, given["x"].count(), n_is), stages)
    steps, begin, end = run.rows.steps, given["begin"], given["end"]
    begin = require("begin must be 0 or more", begin, begin >= 0)
    end = require("end must be above begin and at most steps", end, (end > begin) & (end <= steps))
    stored = add_first_state(g, run, begin, {name: given[name] for name in ("x", *remembered(spec))})
    stored.setdefault("x_0_prev", stored["x"])  # where the network is not told it, its first value does not count
    after = add_loop(g, denoiser.graph, run, begin, end - begin, stored)
    pictured = end.equals(steps).where(after["x"], after["x_0_prev"])
    named = {"x_after": "x", "x_0": "x_0_prev", "history_after": "history"}
    results = {name: after[own] for name, own in named.items() if own in after}
    return _model(g, spec, {**results, **results_of(spec, pictured, stages), "num_steps": steps})


def edit_from_denoiser(denoiser: ModelProto, spec: ModelSpec, stages: Stages = NO_STAGES) -> ModelProto:
    """Return the edit of a denoiser: (seed, first, steps, eta, times, ..., image, mask, strength, ...) -> images, x_0.

    spec: the edit's own, of `spec_of_graph`. It keeps known pixels as `given.known_pixels` does, and begins with noise,
    or with the image noised to the first of the times that strength leaves.
    """
    g, given = _begun(spec)
    image, mask, strength = given["image"], given["mask"], given["strength"]
    n, n_is = image.count(), "image must have a row or more, and first + rows at most 2^32"
    if spec.is_picture:
        image = require("image must be -1 to 1", image, is_within(image, -1.0, 1.0).every())
    else:
        image = require("image must be finite", image, is_within(image, -MAX_FLOAT, MAX_FLOAT).every())
    mask = require("mask must be one for each image", mask, mask.count().equals(n))
    mask = require("mask must be 0 to 1", mask, is_within(mask, 0.0, 1.0).every())
    run = prepared(g, add_run(g, spec, given, n, n_is), stages)
    strength = require("strength must be 0 to 1", strength, is_within(strength, 0.0, 1.0))
    known = Known(image, mask > 0.0, mask.equals(0.0).some())
    run = run._replace(rows=add_rows_below(run, strength), known=known)
    z = add_noise_of(g, "noise 0", run, g.value(0))
    a = Level(run.rows.a, lambda of: of.cast(np.float32).at(run.rows.first))
    x = strength.equals(0.0).where(z if run.rows.start is None else z * run.rows.start, a.signal * image + a.noise * z)
    x = add_known(g, "known 0", run, x, g.value(0), a, known.some)
    picture = mask * _walked(g, denoiser, run, x) + (1.0 - mask) * image
    return _model(g, spec, {**results_of(spec, picture, stages), "x_0": picture})


def rows_inputs(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Return the inputs of a graph of rows by name: dtype, the shape of one row, min and max where it has limits.

    Raises ModelRefusedError for a network's input that is called as one of the others.
    """
    inputs: dict[str, dict[str, Any]] = {
        "seed": {"dtype": "int64", "shape": [], "min": 0, "max": 2**63 - 1},
        "image": {"dtype": "int64", "shape": [], "min": 0, "max": 2**32 - 1},
    }
    for entry in spec.asked_inputs:
        if entry.is_given:
            if entry.name in (*inputs, "guidance", *RESULTS):
                raise ModelRefusedError(
                    f"Input {entry.name!r} has the name of an input or output of every graph of rows. Rename it."
                )
            limits = {"min": 0, "max": entry.num_labels - 1} if entry.kind == "label" else {}
            inputs[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), **limits}
    if spec.takes_guidance:
        inputs["guidance"] = {"dtype": "float32", "shape": [], "min": 0.0, "max": MAX_SCALE}
    return inputs


def rows_from_denoiser(denoiser: ModelProto, spec: ModelSpec, plan: Plan, stages: Stages = NO_STAGES) -> ModelProto:
    """Return a graph of rows: (seed, image, labels and other inputs, guidance), each [n, ...] -> images, by one plan.

    spec: the denoiser's. Row by row it is what the sampler makes of that seed and image; what they have in common is
    the plan, since a loop has one number of steps, and the interval of guidance, the spec's own.
    """
    taken = rows_inputs(spec)
    inner = spec_of_graph(of_one_plan(spec, plan), "sampler")
    inner = dataclasses.replace(inner, requires=tuple(name for name in inner.requires if name != GUIDANCE))
    g = Builder(scope="run")
    given = {
        name: g.input(name, np.dtype(entry["dtype"]).type, ["n", *entry["shape"]]) for name, entry in taken.items()
    }
    n = given["seed"].count()
    for name, entry in taken.items():
        checked = require(f"{name} must be one for each image", given[name], given[name].count().equals(n))
        if "min" in entry:
            within = is_within(checked, entry["min"], entry["max"]).every()
            checked = require(f"{name} must be {entry['min']} to {entry['max']}", checked, within)
        given[name] = checked
    fixed = {"steps": g.value(len(plan.rows)), "eta": g.value(0.0, np.float32), "plan": g.value(1)}
    rows = add_rows(g, inner, {**fixed, "times": g.value([], np.int64, "no times")})
    if spec.takes_guidance:
        interval = spec.defaults.guidance.interval if spec.defaults.guidance is not None else None
        low, high = interval or (0, spec.num_train_timesteps)
        inside = g.value([[low <= row.t <= high] for row in plan.rows], np.bool_, "guided rows")
        rows = rows._replace(scale=inside.where(given["guidance"], 1.0))  # (rows, n)
    keys = add_key(g, given["seed"].do("Unsqueeze", [1]).name)
    asked = {entry.name: given[entry.name] for entry in spec.asked_inputs if entry.is_given}
    run = Run(inner, rows, keys, given["image"].do("Unsqueeze", [1]).name, asked, by_row=True)
    run = prepared(g, run._replace(rows=rows._replace(steps=g.value(len(plan.rows)))), stages)
    model = _model(g, inner, results_of(inner, _walked(g, denoiser, run, add_first_noise(g, run)), stages))
    del model.metadata_props[:]  # no reader of ours takes it for a sampler
    helper.set_model_props(model, {ROWS: json.dumps(taken)})
    return model


def _begun(spec: ModelSpec) -> tuple[Builder, dict[str, Value]]:
    """Return a graph that has its inputs, and these by name."""
    g = Builder(scope="run")
    return g, {name: g.input(name, np.dtype(kind).type, shape) for name, (kind, shape) in inputs_of(spec).items()}


def _walked(g: Builder, denoiser: ModelProto, run: Run, x: Value) -> Value:
    """Append the loop over all rows of a run from a state on; return the state that it ends in."""
    stored = {"x": x, **{name: x.zeros(*shape) for name, shape in remembered(run.spec).items()}}
    return add_loop(g, denoiser.graph, run, g.value(0), run.rows.steps, stored)["x"]


def _model(g: Builder, spec: ModelSpec, results: Mapping[str, Value]) -> ModelProto:
    outputs = []
    for name, (kind, shape) in outputs_of(spec).items():
        if name not in results:
            continue
        g.add(name, "Identity", results[name].name)
        outputs.append(value(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape))
    graph = g.graph(str(spec.graph), g.inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "ddpm-export", ""
    helper.set_model_props(model, {METADATA_KEY: json_from_spec(spec)})
    return model
