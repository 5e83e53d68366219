"""The rows of a run as values of a one-call graph: chosen by its inputs, or fixed at export."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from ddpm_export.exporting.builder import Builder, Value
from ddpm_export.exporting.philox_graph import add_key
from ddpm_export.model.guidance import MAX_SCALE, Guidance
from ddpm_export.model.spec import GUIDANCE, PLAN, TIMES, ModelSpec
from ddpm_export.model.steps import choose
from ddpm_export.process.rows import Row
from ddpm_export.process.solvers import ddim_weights

TOO_LOW = "strength must be 0 or reach the lowest of the times"


END = 2**31 - 1  # of a vector, in Slice


def require(sentence: str, checked: Value, holds: Value) -> Value:
    """Append a node, called by the sentence, that passes `checked` on where the condition holds, and else fails.

    No operator raises an error of one's own; Gather refuses index 1 of one row, and runtimes tell the node's name.
    """
    g = checked.builder
    index = holds.where(g.value(0), g.value(1))
    return Value(g, g.add(sentence, "Gather", checked.do("Unsqueeze", [0]).name, index.name, axis=0), checked.dtype)


class Rows(NamedTuple):
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


class Known(NamedTuple):
    """Hold pictures [n, C, H, W], where their pixels are made, in this shape, and whether any is known, []."""

    image: Value
    made: Value
    some: Value


class Run(NamedTuple):
    """Name what a whole run shares: rows, round keys, image numbers int64 [n, 1], and the network's further inputs.

    known: what is known of the pictures, None where they are made from noise.
    by_row: whether each image has a seed and a guidance of its own.
    """

    spec: ModelSpec
    rows: Rows
    keys: str
    images: str
    asked: Mapping[str, Value]
    known: Known | None = None
    by_row: bool = False


def add_run(g: Builder, spec: ModelSpec, given: Mapping[str, Value], n: Value, n_is: str) -> Run:
    """Append the checks of all that a whole run shares, and what follows from it; n_is: what n must be."""
    seed, first = given["seed"], given["first"]
    seed = require("seed must be 0 to 2^63 - 1", seed, seed >= 0)
    first = require("first must be 0 to 2^32 - 1", first, (first >= 0) & (first < 2**32))
    n = require(n_is, n, (n >= 1) & (n <= 2**32 - first))
    asked = {}
    for entry in spec.asked_inputs:
        if entry.kind == "label":
            known = (given[entry.name] >= 0) & (given[entry.name] < entry.num_labels)
            asked[entry.name] = require(
                f"{entry.name} must be 0 to {entry.num_labels - 1}", given[entry.name], known.every()
            )
        elif entry.is_given:
            asked[entry.name] = given[entry.name]
    for name, values in asked.items():
        asked[name] = require(f"{name} must be one for each image", values, values.count().equals(n))
    numbers = first.do("Range", first + n, 1).do("Unsqueeze", [1])
    return Run(spec, add_rows(g, spec, given), add_key(g, seed.name), numbers.name, asked)


def _add_fixed_rows(g: Builder, spec: ModelSpec, given: Mapping[str, Value]) -> Rows:
    """Append the rows of the spec's defaults, as constants, and after them those of `_fallback_rows`."""
    plan = choose(spec).plan
    table = [*plan.rows, *_fallback_rows(spec)]
    ages = range(max(len(weights) for row in table for weights in (row.x_0, row.eps)))

    def column(name: str, numbers: Sequence[float], dtype: type = np.float64) -> Value:
        return g.value(numbers, dtype, f"rows/{name}")

    def columns(name: str, weights: list[tuple[float, ...]]) -> list[Value]:
        return [column(f"{name} {age}", [of[age] if age < len(of) else 0.0 for of in weights]) for age in ages]

    t = column("t", [row.t for row in table], np.dtype(spec.t_dtype).type)
    return Rows(
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


def add_rows(g: Builder, spec: ModelSpec, given: Mapping[str, Value]) -> Rows:
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
        plan = require(f"plan must be 0 to {len(plans)}", given["plan"], is_within(given["plan"], 0, len(plans)))
        is_ddim, most = plan.equals(0), g.value([T, *lengths], name="plans/steps").at(plan)
        if "steps" in given:
            steps = require("steps must be the number of the plan's rows", steps, is_ddim | steps.equals(most))
        else:
            steps = is_ddim.where(steps, most)
        times = times.part(0, is_ddim.where(g.value(END), 0))  # beside a plan they do not count
        first = g.value([len(table), *accumulate([0, *lengths[:-1]])], name="plans/first rows").at(plan)
        if any(plan.start != 1.0 for plan in plans):
            start = g.value([1.0, *(plan.start for plan in plans)], np.float32, "plans/starts").at(plan)
    if "steps" in given:
        steps = require(f"steps must be 1 to {T}", steps, (steps >= 1) & (steps <= most))
    if "eta" in given:
        eta = require("eta must be 0 to 1", eta, is_within(eta, 0.0, 1.0))
    if TIMES in given:
        bounded = g.value([T]).followed_by(times, g.value([-1]))
        falls = (bounded.part(0, -1) > bounded.part(1, END)).every()
        times = require(f"times must be empty, or strictly fall from at most {T - 1} to at least 0", times, falls)
    if TIMES in given and "steps" in given:
        fits = times.count().equals(0) | times.count().equals(steps)
        steps = require("steps must be the number of times", steps, fits)

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
    return Rows(
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


def add_rows_below(run: Run, strength: Value) -> Rows:
    """Append the checks of strength, and the rows from the first time below it on: all of them where it is 0."""
    if _fallback_rows(run.spec):
        return _add_rows_or_ddim(run, strength)
    rows, g = run.rows, strength.builder
    below = _below(run, strength, rows.first, rows.first + rows.steps)
    begin = _first_of(require(TOO_LOW, below, below.some()))
    first = rows.first + begin
    reaches = [row.reach for _, plan in sorted(run.spec.plans.items()) for row in plan.rows]
    if any(reach > 1 for reach in reaches):
        read = g.value([k + 1 - reach for k, reach in enumerate(reaches)], name="plans/earliest row read")
        read = read.part(first, rows.first + rows.steps).followed_by(first.do("Unsqueeze", [0]))  # of ddim only itself
        looks_back = "strength must be 0 where a row of the plan looks back beyond it"
        first = require(looks_back, first, (read >= first).every())
    return rows._replace(first=first, steps=rows.steps - begin)


def _add_scales(spec: ModelSpec, given: Mapping[str, Value], t: Value) -> Value:
    """Append the scale of guidance at each time, and where it is open the checks of it and its interval."""
    if GUIDANCE not in given:
        at, fixed = t.cast(np.float32), spec.defaults.guidance or Guidance()
        low, high = fixed.interval or (0.0, spec.num_train_timesteps)
        return ((at >= low) & (at <= high)).where(t.builder.value(fixed.scale, np.float32), 1.0)
    scale, interval = given[GUIDANCE], given["guidance_interval"]
    scale = require(f"guidance must be 0 to {MAX_SCALE:g}", scale, is_within(scale, 0.0, MAX_SCALE))
    ordered = (interval.at(0) >= 0.0) & (interval.at(1) >= interval.at(0))
    interval = require("guidance_interval must be two times, the lower first, from 0 on", interval, ordered)
    at = t.cast(np.float32)
    return ((at >= interval.at(0)) & (at <= interval.at(1))).where(scale, 1.0)


def _add_rows_or_ddim(run: Run, strength: Value) -> Rows:
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
    first = require(TOO_LOW, first, of_plan.some() & (of_ddim.some() | is_ddim.equals(False)))
    return run.rows._replace(first=first, steps=is_ddim.where(g.value(end), g.value(size)) - first)


def _below(run: Run, strength: Value, first: Value | int, end: Value | int) -> Value:
    """Append which of some rows have times below strength: all of them where it is 0."""
    t = run.rows.t.part(first, end).cast(np.float32)
    most = (strength * run.spec.num_train_timesteps + 0.5).do("Floor")
    return strength.equals(0.0) | (t < most)


def _first_of(below: Value) -> Value:
    return below.cast(np.int32).do("ArgMax", axis=0, keepdims=0, dtype=np.int64)


def is_within(number: Value, low: float, high: float) -> Value:
    """Return whether a number lies from low to high; NaN does not."""
    return (number >= low) & (number <= high)  # false for NaN
