"""One-call sampler files: a denoiser's graph inside a Loop, with the table of rows and the noise. No torch.

`sampler_from_denoiser` gives the graph of docs/format.md section 5 that runs a whole trajectory, `slice_from_denoiser`
the one that runs some of its steps, from a state to a state, `edit_from_denoiser` the one that is given pictures,
`rows_from_denoiser` one for servers, whose every row is asked for by itself. The mathematics is that of ddpm_export's
diffusion.py, samplers.py and given.py, on values of the graph.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from ddpm_export.errors import ModelRefusedError, UsageError, shown
from ddpm_export.exporting.builder import Builder, Value, value
from ddpm_export.exporting.onnx_file import IR_VERSION, OPSET, rename
from ddpm_export.exporting.philox_graph import add_key, add_noise
from ddpm_export.exporting.proof import of_one_plan
from ddpm_export.model.guidance import MAX_SCALE, Guidance
from ddpm_export.model.inputs import OWN_GUIDANCE
from ddpm_export.model.spec import (
    GUIDANCE,
    METADATA_KEY,
    OPEN,
    OPENABLE,
    PLAN,
    RAW_EPS,
    TIMES,
    ModelSpec,
    json_from_spec,
)
from ddpm_export.model.steps import choose
from ddpm_export.process.equations import VARIANCE_FRACTION, Level, clean_and_noise, combine
from ddpm_export.process.noise import GIVEN, SAMPLING
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.solvers import ddim_weights
from ddpm_export.process.walk import weighted_sum
from ddpm_export.runtimes.one_call import NOT_FINITE, history_size, inputs_of, names_of, outputs_of

TOO_LOW = "strength must be 0 or reach the lowest of the times"
END = 2**31 - 1  # of a vector, in Slice
ROWS = "ddpm_export_rows"  # the key of metadata that has the inputs of a graph of rows, and what each may be
NETWORK = "network/"  # before every name of the denoiser's graph: ours cannot meet one of them


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
        raise UsageError(f"What can be open in this {graph} is {', '.join(possible)}, got {shown(missing[0])}.")
    opened = None if is_all else tuple(name for name in possible if name in opens)
    defaults, plans = spec.defaults, spec.plans
    if opened is not None and PLAN not in opened:
        if {"steps", "eta", TIMES}.intersection(opened):  # which do not apply beside a plan
            defaults = dataclasses.replace(defaults, plan=None)
        plans = {name: plan for name, plan in plans.items() if name == defaults.plan}
    if opened is not None and "steps" in opened and TIMES not in opened:
        defaults = dataclasses.replace(defaults, times=None)
    learned = [name for name, plan in plans.items() if plan.needs_learned_variance]
    if learned:
        raise ModelRefusedError(
            f"Plan {learned[0]} needs a learned variance, which a one-call file has no place for. Leave the plan out."
        )
    taken = sorted(names_of(graph).intersection(one.name for one in spec.inputs))
    if taken:
        raise ModelRefusedError(f"Input {taken[0]!r} is called as one that every one-call {graph} has. Rename it.")
    if defaults.sampler == "ddpm":
        defaults = dataclasses.replace(defaults, sampler="ddim", eta=1.0)
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
        open=opened,
    )


def sampler_from_denoiser(denoiser: ModelProto, spec: ModelSpec) -> ModelProto:
    """Return the one-call sampler of a denoiser: (seed, first, n, steps, eta, times, ...) -> images, x_0.

    spec: the sampler's own, of `spec_of_graph`.
    """
    g, given = _begun(spec)
    n_is = "n must be 1 or more, and first + n at most 2^32"
    run = _add_run(g, spec, given, given["n"], n_is)
    x = _add_first_noise(g, run)
    carried = {"x": x, **{name: x.zeros(*shape) for name, shape in _remembered(spec).items()}}
    after = _add_loop(g, denoiser.graph, run, g.value(0), run.rows.steps, carried)
    return _model(g, spec, {"images": _pixels(after["x"]), "x_0": after["x"]})


def slice_from_denoiser(denoiser: ModelProto, spec: ModelSpec) -> ModelProto:
    """Return the slice of a denoiser: (seed, first, steps, eta, times, ..., x, begin, end, ...) -> x_after, x_0, ...

    spec: the slice's own, of `spec_of_graph`. It runs steps begin to end - 1 of a trajectory of `steps`; where begin is
    0, x counts only for its shape, and the first state is noise draw 0.
    """
    g, given = _begun(spec)
    n_is = "x must have a row or more, and first + rows at most 2^32"
    run = _add_run(g, spec, given, given["x"].count(), n_is)
    steps, begin, end = run.rows.steps, given["begin"], given["end"]
    begin = _require("begin must be 0 or more", begin, begin >= 0)
    end = _require("end must be above begin and at most steps", end, (end > begin) & (end <= steps))
    carried = _add_first_state(g, run, begin, {name: given[name] for name in ("x", *_remembered(spec))})
    carried.setdefault("x_0_prev", carried["x"])  # where the network is not told it, its first value does not count
    after = _add_loop(g, denoiser.graph, run, begin, end - begin, carried)
    pictured = end.equals(steps).where(after["x"], after["x_0_prev"])
    named = {"x_after": "x", "x_0": "x_0_prev", "history_after": "history"}
    results = {name: after[own] for name, own in named.items() if own in after}
    return _model(g, spec, {**results, "images": _pixels(pictured), "num_steps": steps})


def edit_from_denoiser(denoiser: ModelProto, spec: ModelSpec) -> ModelProto:
    """Return the edit of a denoiser: (seed, first, steps, eta, times, ..., image, mask, strength, ...) -> images, x_0.

    spec: the edit's own, of `spec_of_graph`. It keeps known pixels as `given.known_pixels` does, and begins with noise,
    or with the image noised to the first of the times that strength leaves.
    """
    g, given = _begun(spec)
    image, mask, strength = given["image"], given["mask"], given["strength"]
    n, n_is = image.count(), "image must have a row or more, and first + rows at most 2^32"
    image = _require("image must be -1 to 1", image, _within(image, -1.0, 1.0).every())
    mask = _require("mask must be one for each image", mask, mask.count().equals(n))
    mask = _require("mask must be 0 to 1", mask, _within(mask, 0.0, 1.0).every())
    run = _add_run(g, spec, given, n, n_is)
    strength = _require("strength must be 0 to 1", strength, _within(strength, 0.0, 1.0))
    known = _Known(image, mask > 0.0, mask.equals(0.0).some())
    run = run._replace(rows=_add_rows_below(run, strength), known=known)
    z = _add_noise(g, "noise 0", run, g.value(0))
    a = Level(run.rows.a, lambda of: of.cast(np.float32).at(run.rows.first))
    x = strength.equals(0.0).where(z if run.rows.start is None else z * run.rows.start, a.signal * image + a.noise * z)
    x = _add_known(g, "known 0", run, x, g.value(0), a, known.some)
    carried = {"x": x, **{name: x.zeros(*shape) for name, shape in _remembered(spec).items()}}
    after = _add_loop(g, denoiser.graph, run, g.value(0), run.rows.steps, carried)
    picture = mask * after["x"] + (1.0 - mask) * image
    return _model(g, spec, {"images": _pixels(picture), "x_0": picture})


def rows_inputs(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Return the inputs of a graph of rows by name: dtype, the shape of one row, min and max where it has limits.

    Raises ModelRefusedError for a network's input that is called as one of the others.
    """
    inputs: dict[str, dict[str, Any]] = {
        "seed": {"dtype": "int64", "shape": [], "min": 0, "max": 2**63 - 1},
        "image": {"dtype": "int64", "shape": [], "min": 0, "max": 2**32 - 1},
    }
    for one in spec.inputs:
        if one.is_told:
            if one.name in (*inputs, "guidance", "images"):
                raise ModelRefusedError(f"Input {one.name!r} is called as one that every graph of rows has. Rename it.")
            limits = {"min": 0, "max": one.num_labels - 1} if one.kind == "label" else {}
            inputs[one.name] = {"dtype": one.dtype, "shape": list(one.shape), **limits}
    if spec.takes_guidance:
        inputs["guidance"] = {"dtype": "float32", "shape": [], "min": 0.0, "max": MAX_SCALE}
    return inputs


def rows_from_denoiser(denoiser: ModelProto, spec: ModelSpec, plan: Plan) -> ModelProto:
    """Return a graph of rows: (seed, image, labels and other inputs, guidance), each [n, ...] -> images, by one plan.

    spec: the denoiser's. Row by row it is what the sampler makes of that seed and image; what they have in common is
    the plan, since a loop has one number of steps, and the interval of guidance, the spec's own.
    """
    taken = rows_inputs(spec)
    inner = spec_of_graph(of_one_plan(spec, plan), "sampler")
    inner = dataclasses.replace(inner, requires=tuple(name for name in inner.requires if name != GUIDANCE))
    g = Builder(scope="run")
    given = {name: g.input(name, np.dtype(one["dtype"]).type, ["n", *one["shape"]]) for name, one in taken.items()}
    n = given["seed"].count()
    for name, one in taken.items():
        checked = _require(f"{name} must be one for each image", given[name], given[name].count().equals(n))
        if "min" in one:
            within = _within(checked, one["min"], one["max"]).every()
            checked = _require(f"{name} must be {one['min']} to {one['max']}", checked, within)
        given[name] = checked
    fixed = {"steps": g.value(len(plan.rows)), "eta": g.value(0.0, np.float32), "plan": g.value(1)}
    rows = _add_rows(g, inner, {**fixed, "times": g.value([], np.int64, "no times")})
    if spec.takes_guidance:
        interval = spec.defaults.guidance.interval if spec.defaults.guidance is not None else None
        low, high = interval or (0, spec.num_train_timesteps)
        inside = g.value([[low <= row.t <= high] for row in plan.rows], np.bool_, "guided rows")
        rows = rows._replace(scale=inside.where(given["guidance"], 1.0))  # (rows, n)
    keys = add_key(g, given["seed"].do("Unsqueeze", [1]).name)
    told = {one.name: given[one.name] for one in spec.inputs if one.is_told}
    run = _Run(inner, rows, keys, given["image"].do("Unsqueeze", [1]).name, told, by_row=True)
    x = _add_first_noise(g, run)
    carried = {"x": x, **{name: x.zeros(*shape) for name, shape in _remembered(inner).items()}}
    after = _add_loop(g, denoiser.graph, run, g.value(0), g.value(len(plan.rows)), carried)
    model = _model(g, inner, {"images": _pixels(after["x"])})
    del model.metadata_props[:]  # no reader of ours takes it for a sampler
    helper.set_model_props(model, {ROWS: json.dumps(taken)})
    return model


def _begun(spec: ModelSpec) -> tuple[Builder, dict[str, Value]]:
    """Return a graph that has its inputs, and these by name."""
    g = Builder(scope="run")
    return g, {name: g.input(name, np.dtype(kind).type, shape) for name, (kind, shape) in inputs_of(spec).items()}


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


def _require(sentence: str, checked: Value, holds: Value) -> Value:
    """Append a node, called by the sentence, that passes `checked` on where the condition holds, and else fails.

    No operator raises an error of one's own; Gather refuses index 1 of one row, and runtimes tell the node's name.
    """
    g = checked.builder
    index = holds.where(g.value(0), g.value(1))
    return Value(g, g.add(sentence, "Gather", checked.do("Unsqueeze", [0]).name, index.name, axis=0), checked.dtype)


class _Rows(NamedTuple):
    """Hold the table that the loop walks, a vector for each column: the rows of plans, then those of ddim.

    Numbers are float64; t is as the network wants it. first: the index of a run's first row. steps: how many it has.
    start: the weight of noise draw 0, None for 1. scale: that of guidance, None where the graph takes none. raw_eps:
    whether the noise stays what the network says where the clean image is clipped, None for never. a_next: a of the row
    that reads the state after this one, 1 of the picture.
    """

    t: Value
    a: Value
    x_0: list[Value]
    eps: list[Value]
    noise: Value
    first: Value
    steps: Value
    start: Value | None
    scale: Value | None
    raw_eps: Value | None
    a_next: Value


class _Known(NamedTuple):
    """Hold pictures [n, C, H, W], where their pixels are made, in this shape, and whether any is known, []."""

    image: Value
    made: Value
    some: Value


class _Run(NamedTuple):
    """Name what a whole run shares: rows, round keys, image numbers int64 [n, 1], and the network's further inputs.

    known: what is known of the pictures, None where they are made from noise.
    by_row: whether each image has a seed and a guidance of its own.
    """

    spec: ModelSpec
    rows: _Rows
    keys: str
    images: str
    told: Mapping[str, Value]
    known: _Known | None = None
    by_row: bool = False


def _add_run(g: Builder, spec: ModelSpec, given: Mapping[str, Value], n: Value, n_is: str) -> _Run:
    """Append the checks of all that a whole run shares, and what follows from it; n_is: what n must be."""
    seed, first = given["seed"], given["first"]
    seed = _require("seed must be 0 to 2^63 - 1", seed, seed >= 0)
    first = _require("first must be 0 to 2^32 - 1", first, (first >= 0) & (first < 2**32))
    n = _require(n_is, n, (n >= 1) & (n <= 2**32 - first))
    told = {}
    for one in spec.inputs:
        if one.kind == "label":
            known = (given[one.name] >= 0) & (given[one.name] < one.num_labels)
            told[one.name] = _require(f"{one.name} must be 0 to {one.num_labels - 1}", given[one.name], known.every())
        elif one.is_told:
            told[one.name] = given[one.name]
    for name, values in told.items():
        told[name] = _require(f"{name} must be one for each image", values, values.count().equals(n))
    numbers = first.do("Range", first + n, 1).do("Unsqueeze", [1])
    return _Run(spec, _add_rows(g, spec, given), add_key(g, seed.name), numbers.name, told)


def _add_fixed_rows(g: Builder, spec: ModelSpec, given: Mapping[str, Value]) -> _Rows:
    """Append the rows of the spec's defaults, as constants, and after them those of `_fallback_rows`."""
    plan = choose(spec).plan
    table = [*plan.rows, *_fallback_rows(spec)]
    ages = range(max(len(weights) for row in table for weights in (row.x_0, row.eps)))

    def column(name: str, numbers: Sequence[float], dtype: type = np.float64) -> Value:
        return g.value(numbers, dtype, f"rows/{name}")

    def columns(name: str, weights: list[tuple[float, ...]]) -> list[Value]:
        return [column(f"{name} {age}", [of[age] if age < len(of) else 0.0 for of in weights]) for age in ages]

    t = column("t", [row.t for row in table], np.dtype(spec.t_dtype).type)
    return _Rows(
        t=t,
        a=column("a", [row.a for row in table]),
        x_0=columns("x_0", [row.x_0 for row in table]),
        eps=columns("eps", [row.eps for row in table]),
        noise=column("noise", [row.noise[0] if row.noise else 0.0 for row in table]),
        first=g.value(0),
        steps=g.value(len(plan.rows)),
        start=None if plan.start == 1.0 else g.value(plan.start, np.float32),
        scale=_add_scales(spec, given, t) if GUIDANCE in spec.requires else None,
        raw_eps=column("raw_eps", [row.raw_eps for row in table], np.bool_) if plan.raw_eps else None,
        a_next=column("a_next", [*_a_next(plan.rows), *_a_next(_fallback_rows(spec))]),
    )


def _fallback_rows(spec: ModelSpec) -> tuple[Row, ...]:
    """Return the rows of ddim that an edit runs from a strength on, at which its fixed plan looks back further."""
    if spec.graph != "edit" or PLAN in spec.open_choices or spec.defaults.plan is None:
        return ()
    if all(row.reach <= 1 for row in spec.plans[spec.defaults.plan].rows):
        return ()
    return choose(spec, sampler="ddim", num_steps=spec.defaults.num_steps).plan.rows


def _a_next(rows: Sequence[Row]) -> list[float]:
    return [*(row.a for row in rows[1:]), *([1.0] if rows else [])]


def _add_rows(g: Builder, spec: ModelSpec, given: Mapping[str, Value]) -> _Rows:
    """Append the checks of what is open of steps, eta, times and plan, and the rows that they ask for."""
    if not {"steps", "eta", TIMES, PLAN}.intersection(given):
        return _add_fixed_rows(g, spec, given)
    T, fixed = spec.num_train_timesteps, spec.defaults
    eta = given["eta"] if "eta" in given else g.value(fixed.eta, np.float32)
    times = given[TIMES] if TIMES in given else g.value(fixed.times or [], name="fixed times")
    if "steps" in given:
        steps = given["steps"]
    else:
        steps = times.count().equals(0).where(g.value(fixed.num_steps), times.count())
    plans = [plan for _, plan in sorted(spec.plans.items())]
    table = [row for plan in plans for row in plan.rows]
    most, first, start, is_ddim = g.value(T), g.value(0), None, None
    if plans:
        lengths = [len(plan.rows) for plan in plans]
        plan = _require(f"plan must be 0 to {len(plans)}", given["plan"], _within(given["plan"], 0, len(plans)))
        is_ddim, most = plan.equals(0), g.value([T, *lengths], name="plans/steps").at(plan)
        if "steps" in given:
            steps = _require("steps must be the number of the plan's rows", steps, is_ddim | steps.equals(most))
        else:
            steps = is_ddim.where(steps, most)
        times = times.part(0, is_ddim.where(g.value(END), 0))  # beside a plan they do not count
        first = g.value([len(table), *accumulate([0, *lengths[:-1]])], name="plans/first rows").at(plan)
        if any(plan.start != 1.0 for plan in plans):
            start = g.value([1.0, *(plan.start for plan in plans)], np.float32, "plans/starts").at(plan)
    if "steps" in given:
        steps = _require(f"steps must be 1 to {T}", steps, (steps >= 1) & (steps <= most))
    if "eta" in given:
        eta = _require("eta must be 0 to 1", eta, _within(eta, 0.0, 1.0))
    if TIMES in given:
        bounded = g.value([T]).followed_by(times, g.value([-1]))
        falls = (bounded.part(0, -1) > bounded.part(1, END)).every()
        times = _require(f"times must be empty, or strictly fall from at most {T - 1} to at least 0", times, falls)
    if TIMES in given and "steps" in given:
        fits = times.count().equals(0) | times.count().equals(steps)
        steps = _require("steps must be the number of times", steps, fits)

    # ddim's: where no times are given, t_i = T * (n - i) // n - 1 for i = 0 .. n - 1
    n = steps if is_ddim is None else is_ddim.where(steps, 1)
    t = times.followed_by(n.do("Range", 0, -1) * T // n - 1).part(0, n)
    a = g.value(spec.alphas_cumprod, np.float64, "grid/alphas_cumprod").at(t)
    a_next = a.part(1, END).followed_by(g.value([1.0], np.float64))
    x_0, eps, noise = ddim_weights(a, a_next, eta.cast(np.float64))

    def column(name: str, of_plans: list[float], of_ddim: Value) -> Value:
        return g.value(of_plans, of_ddim.dtype, f"plans/{name}").followed_by(of_ddim) if plans else of_ddim

    def columns(name: str, of_plans: list[tuple[float, ...]], of_ddim: Value) -> list[Value]:
        ages = range(max([1, *map(len, of_plans)]))
        padded = [[weights[age] if age < len(weights) else 0.0 for weights in of_plans] for age in ages]
        return [column(f"{name} {age}", padded[age], of_ddim * 0.0 if age else of_ddim) for age in ages]

    all_t = column("t", [row.t for row in table], t.cast(np.dtype(spec.t_dtype).type))
    return _Rows(
        t=all_t,
        a=column("a", [row.a for row in table], a),
        x_0=columns("x_0", [row.x_0 for row in table], x_0),
        eps=columns("eps", [row.eps for row in table], eps),
        noise=column("noise", [row.noise[0] if row.noise else 0.0 for row in table], noise),
        first=first,
        steps=steps,
        start=start,
        scale=_add_scales(spec, given, all_t) if GUIDANCE in spec.requires else None,
        raw_eps=column("raw_eps", [row.raw_eps for row in table], t < 0) if any(row.raw_eps for row in table) else None,
        a_next=column("a_next", [a for plan in plans for a in _a_next(plan.rows)], a_next),
    )


def _add_rows_below(run: _Run, strength: Value) -> _Rows:
    """Append the checks of strength, and the rows from the first time below it on: all of them where it is 0."""
    if _fallback_rows(run.spec):
        return _add_rows_or_ddim(run, strength)
    rows, g = run.rows, strength.builder
    below = _below(run, strength, rows.first, rows.first + rows.steps)
    begin = _first_of(_require(TOO_LOW, below, below.some()))
    first = rows.first + begin
    reaches = [row.reach for _, plan in sorted(run.spec.plans.items()) for row in plan.rows]
    if any(reach > 1 for reach in reaches):
        read = g.value([k + 1 - reach for k, reach in enumerate(reaches)], name="plans/earliest row read")
        read = read.part(first, rows.first + rows.steps).followed_by(first.do("Unsqueeze", [0]))  # of ddim only itself
        looks_back = "strength must be 0 where a row of the plan looks back beyond it"
        first = _require(looks_back, first, (read >= first).every())
    return rows._replace(first=first, steps=rows.steps - begin)


def _add_scales(spec: ModelSpec, given: Mapping[str, Value], t: Value) -> Value:
    """Append the scale of guidance at each time, and where it is open the checks of it and its interval."""
    if GUIDANCE not in given:
        at, fixed = t.cast(np.float32), spec.defaults.guidance or Guidance()
        low, high = fixed.interval or (0.0, spec.num_train_timesteps)
        return ((at >= low) & (at <= high)).where(t.builder.value(fixed.scale, np.float32), 1.0)
    scale, interval = given[GUIDANCE], given["guidance_interval"]
    scale = _require(f"guidance must be 0 to {MAX_SCALE:g}", scale, _within(scale, 0.0, MAX_SCALE))
    ordered = (interval.at(0) >= 0.0) & (interval.at(1) >= interval.at(0))
    interval = _require("guidance_interval must be two times, the lower first, from 0 on", interval, ordered)
    at = t.cast(np.float32)
    return ((at >= interval.at(0)) & (at <= interval.at(1))).where(scale, 1.0)


def _add_rows_or_ddim(run: _Run, strength: Value) -> _Rows:
    """Append the check of strength, and the rows below it: of a fixed plan, or of ddim where the plan looks back."""
    g = strength.builder
    reaches = [row.reach for row in choose(run.spec).plan.rows]
    size = len(reaches)
    end = size + len(_fallback_rows(run.spec))
    of_plan, of_ddim = _below(run, strength, 0, size), _below(run, strength, size, end)
    begin = _first_of(of_plan)
    read = g.value([k + 1 - reach for k, reach in enumerate(reaches)], name="rows/earliest row read")
    is_ddim = (strength > 0.0) & (read.part(begin, size) < begin).some()
    first = is_ddim.where(_first_of(of_ddim) + size, begin)
    first = _require(TOO_LOW, first, of_plan.some() & (of_ddim.some() | is_ddim.equals(False)))
    return run.rows._replace(first=first, steps=is_ddim.where(g.value(end), g.value(size)) - first)


def _below(run: _Run, strength: Value, first: Value | int, end: Value | int) -> Value:
    """Append which of some rows have times below strength: all of them where it is 0."""
    t = run.rows.t.part(first, end).cast(np.float32)
    most = (strength * run.spec.num_train_timesteps + 0.5).do("Floor")
    return strength.equals(0.0) | (t < most)


def _first_of(below: Value) -> Value:
    return below.cast(np.int32).do("ArgMax", axis=0, keepdims=0, dtype=np.int64)


def _within(number: Value, low: float, high: float) -> Value:
    return (number >= low) & (number <= high)  # false for NaN


def _remembered(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return what a step needs of those before it, as the graph's inputs are called: dimensions before [n, C, H, W]."""
    size = history_size(spec)
    previous = [one.name for one in spec.inputs if one.kind == "previous"]
    return {**dict.fromkeys(previous, ()), **({"history": (size,)} if size else {})}


def _add_noise(g: Builder, name: str, run: _Run, draw: Value, domain: int = SAMPLING) -> Value:
    seeds, shape = "n" if run.by_row else 1, run.spec.state_shape
    return Value(g, add_noise(g, name, run.keys, run.images, draw.name, shape, domain, seeds=seeds), np.float32)


def _add_first_noise(g: Builder, run: _Run) -> Value:
    z = _add_noise(g, "noise 0", run, g.value(0))
    return z if run.rows.start is None else z * run.rows.start


def _add_first_state(g: Builder, run: _Run, begin: Value, given: Mapping[str, Value]) -> dict[str, Value]:
    """Append what a slice begins with: draw 0 where begin is 0, and zeros for the rest, else what is given."""
    fresh, resumed = Builder(g, "fresh"), Builder(g, "resumed")
    x, sizes = _add_first_noise(fresh, run), {"x": (), **_remembered(run.spec)}
    if OPEN in run.spec.requires:  # what is given may have other sizes, or none
        begun = [x if name == "x" else x.zeros(*sizes[name]) for name in given]
    else:
        begun = [x if name == "x" else values.within(fresh).zeros() for name, values in given.items()]
    taken = [values.within(resumed).do("Identity") for values in given.values()]
    shapes: list[list[int | str]] = [[*sizes[name], "n", *run.spec.state_shape] for name in given]

    def infos(values: list[Value]) -> list[ValueInfoProto]:
        return [value(one.name, TensorProto.FLOAT, shape) for one, shape in zip(values, shapes, strict=True)]

    outputs = [f"first/{name}" for name in given]
    then, otherwise = fresh.graph("from noise", [], infos(begun)), resumed.graph("from a state", [], infos(taken))
    g.add("first state", "If", begin.equals(0).name, outputs=outputs, then_branch=then, else_branch=otherwise)
    return {name: Value(g, f"first/{name}", np.float32) for name in given}


def _add_known(g: Builder, name: str, run: _Run, x: Value, draw: Value, a: Level, condition: Value) -> Value:
    """Append a state with the known pixels in it, noised to its level by a draw of their noise, on a condition."""
    known = run.known
    assert known is not None
    mixed, plain = Builder(g, name), Builder(g, f"{name}/none")
    z = _add_noise(mixed, f"{name}/noise", run, draw.within(mixed), GIVEN)
    signal, rest = a.signal.within(mixed), a.noise.within(mixed)
    there = signal * known.image.within(mixed) + rest * z
    results = [known.made.within(mixed).where(x.within(mixed), there), x.within(plain).do("Identity")]
    return _add_if(g, f"{name}/x", condition, results, run)


def _add_if(g: Builder, name: str, condition: Value, results: list[Value], run: _Run) -> Value:
    """Append states of which the first is made where a condition holds, else the second, each in a graph of its own."""
    shape: list[int | str] = ["n", *run.spec.state_shape]
    then, otherwise = (
        one.builder.graph(one.builder.scope, [], [value(one.name, TensorProto.FLOAT, shape)]) for one in results
    )
    return Value(g, g.add(name, "If", condition.name, then_branch=then, else_branch=otherwise), np.float32)


def _pixels(x: Value) -> Value:
    """Append the pixels of images: uint8 [n, H, W, C]."""
    levels = (x * 127.5 + 127.5).do("Clip", 0.0, 255.0)
    return (levels + 0.5).do("Floor").cast(np.uint8).do("Transpose", perm=[0, 2, 3, 1])


def _add_loop(
    g: Builder, network: GraphProto, run: _Run, begin: Value, count: Value, carried: Mapping[str, Value]
) -> dict[str, Value]:
    """Append the loop over `count` rows from `begin` on; return what it leaves of what is carried from row to row.

    carried: x, the state; where they are needed x_0_prev, the clean image found last, and history, [k, n, C, H, W] of
    the x_0 and eps found last, newest first. The network's weights lie in the loop's body: from outside it ONNX Runtime
    would not bring them into its blocked layout, and a step would take 1.6 times as long.
    """
    spec, rows = run.spec, run.rows
    carried = {**carried, "watched": _watched(carried["x"])}
    shape: list[int | str] = ["n", *spec.state_shape]
    shapes = {"x": shape, "x_0_prev": shape, "history": [history_size(spec), *shape], "watched": []}
    body = Builder(g, "step")
    number = body.input("step/number")
    body.input("step/goes on", np.bool_)
    before = {name: body.input(f"step/{name} before", np.float32, shapes[name]) for name in carried}
    step = number + begin.within(body)
    index = step + rows.first.within(body)

    def here(column: Value) -> Value:
        """Bring a column's number of this row to float32: all are rounded before the loop."""
        return column.cast(np.float32).within(body).at(index)

    x_t, t = before["x"], rows.t.within(body).at(index)
    told = {name: one.within(body) for name, one in run.told.items()}
    told |= {name: before[name] for name in _remembered(spec) if name != "history"}
    add_guided = _add_guided_rows if run.by_row else _add_guided
    predicted = add_guided(body, network, spec, x_t, t, told, None if rows.scale is None else here(rows.scale))
    x_0, eps = clean_and_noise(predicted, x_t, Level(rows.a, here), spec.prediction, spec.clip_x_0)
    if rows.raw_eps is not None:
        _, raw = clean_and_noise(predicted, x_t, Level(rows.a, here), spec.prediction, None)
        eps = rows.raw_eps.within(body).at(index).where(raw, eps)
    found = [(x_0, eps)]
    after = {"x_0_prev": x_0}
    if "history" in before:
        history, pairs = before["history"], history_size(spec) // 2
        found += [(history.at(2 * age), history.at(2 * age + 1)) for age in range(pairs)]
        newest = [one.do("Unsqueeze", [0]) for one in found[0]]
        after["history"] = newest[0].followed_by(newest[1], *([history.part(0, 2 * pairs - 2)] if pairs > 1 else []))
    mean = weighted_sum([here(weight) for weight in rows.x_0], [here(weight) for weight in rows.eps], found)
    after["x"] = _add_step_noise(body, run, mean, here(rows.noise), step)
    if run.known is not None:
        is_noisy = rows.a_next.within(body).at(index) < 1.0  # the picture is mixed after the loop
        some = run.known.some.within(body) & is_noisy
        after["x"] = _add_known(body, "known i", run, after["x"], step + 1, Level(rows.a_next, here), some)
    # clipping hides an infinity: what the network says is watched, too
    after["watched"] = before["watched"] + _watched(predicted) + _watched(after["x"])
    goes_on = after["watched"].equals(0.0)
    outputs = [value(goes_on.name, TensorProto.BOOL, [])]
    outputs += [value(after[name].name, TensorProto.FLOAT, shapes[name]) for name in carried]
    left = {name: Value(g, f"left/{name}", np.float32) for name in carried}
    g.add(
        "steps",
        "Loop",
        *(count.name, g.constant(True, np.bool_), *(one.name for one in carried.values())),
        outputs=[one.name for one in left.values()],
        body=body.graph("step", body.inputs, outputs),
    )
    return {**left, "x": _require(NOT_FINITE, left["x"], left["watched"].equals(0.0))}


def _watched(values: Value) -> Value:
    """Return 0 for finite values, and NaN where one is NaN or infinite."""
    return (values - values).sum()


def _add_step_noise(g: Builder, run: _Run, mean: Value, std: Value, step: Value) -> Value:
    """Append the state after a row: its mean, and where std is above 0 noise draw step + 1; else none is made."""
    noisy, plain = Builder(g, "noisy"), Builder(g, "plain")
    z = _add_noise(noisy, "noise i", run, step.within(noisy) + 1)
    x = [mean.within(noisy) + std.within(noisy) * z, mean.within(plain).do("Identity")]
    return _add_if(g, "step/x", std > 0.0, x, run)


def _add_guided(
    g: Builder, network: GraphProto, spec: ModelSpec, x_t: Value, t: Value, told: dict[str, Value], scale: Value | None
) -> Value:
    """Append the network, evaluated as guidance wants it; return the prediction.

    It has the rows of c, the label's, and where both count after them those of u, "no class". Where one counts, u is
    the same rows as c: u + scale (c - u) then is what they say, to the bit, and they cost what one evaluation costs.
    """
    count = x_t.count()
    if scale is None or spec.guides_itself:
        if scale is not None:
            told = {**told, OWN_GUIDANCE: scale.do("Expand", x_t.sizes(start=0, end=1).followed_by(g.value([1])))}
        inputs = {"x_t": x_t, "t": t.do("Expand", x_t.sizes(start=0, end=1)), **told}
        return _add_network(g, network, spec.prediction, inputs)
    more = (scale.equals(0.0) | scale.equals(1.0)).where(g.value(0), count)
    c, u = _add_both(g, network, spec, x_t, t, told, scale, count, more)
    guided: Value = combine([{spec.prediction: c}, {spec.prediction: u}], scale)[spec.prediction]
    return guided


def _add_guided_rows(
    g: Builder, network: GraphProto, spec: ModelSpec, x_t: Value, t: Value, told: dict[str, Value], scale: Value | None
) -> Value:
    """Append the network as `_add_guided` does, for a scale of each image, [n].

    Rows of u follow those of c where any image needs both; each is what it would be by itself.
    """
    if scale is None or spec.guides_itself:
        own = {} if scale is None else {OWN_GUIDANCE: scale.do("Unsqueeze", [1])}
        inputs = {"x_t": x_t, "t": t.do("Expand", x_t.sizes(start=0, end=1)), **told, **own}
        return _add_network(g, network, spec.prediction, inputs)
    count = x_t.count()
    plain = scale.equals(0.0) | scale.equals(1.0)
    more = plain.every().where(g.value(0), count)
    c, u = _add_both(g, network, spec, x_t, t, told, scale, count, more)
    guided: Value = combine([{spec.prediction: c}, {spec.prediction: u}], _column(scale))[spec.prediction]
    return _column(plain).where(c, guided)


def _add_both(
    g: Builder,
    network: GraphProto,
    spec: ModelSpec,
    x_t: Value,
    t: Value,
    told: dict[str, Value],
    scale: Value,
    count: Value,
    more: Value,
) -> tuple[Value, Value]:
    """Append the network on the `count` rows of c and, after them, `more` of u; return c and u, or c twice."""
    label = spec.label
    assert label is not None
    assert label.none is not None
    none = told[label.name] * 0 + int(label.none)
    inputs = {name: one.followed_by(one.part(0, more)) for name, one in {"x_t": x_t, **told}.items()}
    inputs[label.name] = scale.equals(0.0).where(none, told[label.name]).followed_by(none.part(0, more))
    inputs["t"] = t.do("Expand", inputs["x_t"].sizes(start=0, end=1))
    both = _add_network(g, network, spec.prediction, inputs)
    return both.part(0, count), both.part(more, END)


def _column(values: Value) -> Value:
    """Return a value for each image, [n], so that it meets images [n, C, H, W]."""
    return values.do("Unsqueeze", [1, 2, 3])


def _add_network(g: Builder, network: GraphProto, output: str, inputs: Mapping[str, Value]) -> Value:
    """Append a denoiser's nodes and weights; return the prediction."""
    graph = GraphProto()
    graph.CopyFrom(network)
    rename(graph, NETWORK, {name: one.name for name, one in inputs.items()})
    g.nodes.extend(graph.node)
    g.initializers.extend(graph.initializer)
    return Value(g, NETWORK + output, np.float32)
