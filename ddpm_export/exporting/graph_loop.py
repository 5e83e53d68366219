"""The walk as a loop of a one-call graph: noise, known pixels, guidance, the network, the pixels."""

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from ddpm_export.exporting.builder import Builder, Value, value
from ddpm_export.exporting.graph_rows import END, Run, require
from ddpm_export.exporting.onnx_file import rename
from ddpm_export.exporting.philox_graph import add_noise
from ddpm_export.model.inputs import OWN_GUIDANCE
from ddpm_export.model.spec import OPEN, ModelSpec
from ddpm_export.model.stages import AFTER, BEFORE
from ddpm_export.process.equations import Level, clean_and_noise, combine
from ddpm_export.process.noise import GIVEN, SAMPLING
from ddpm_export.process.walk import weighted_sum
from ddpm_export.runtimes.one_call import NOT_FINITE, history_size

Stages = Mapping[str, ModelProto]  # by name
NETWORK = "network/"  # before every name of the denoiser's graph: ours cannot meet one of them


def remembered(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return what a step needs of those before it, as the graph's inputs are called: dimensions before [n, *shape]."""
    size = history_size(spec)
    previous = [entry.name for entry in spec.inputs if entry.kind == "previous"]
    return {**dict.fromkeys(previous, ()), **({"history": (size,)} if size else {})}


def add_noise_of(g: Builder, name: str, run: Run, draw: Value, domain: int = SAMPLING) -> Value:
    """Return a draw of noise for every image of a run."""
    seeds, shape = "n" if run.by_row else 1, run.spec.state_shape
    return Value(g, add_noise(g, name, run.keys, run.images, draw.name, shape, domain, seeds=seeds), np.float32)


def add_first_noise(g: Builder, run: Run) -> Value:
    """Return the noise that a run begins with."""
    z = add_noise_of(g, "noise 0", run, g.value(0))
    return z if run.rows.start is None else z * run.rows.start


def add_first_state(g: Builder, run: Run, begin: Value, given: Mapping[str, Value]) -> dict[str, Value]:
    """Append what a slice begins with: draw 0 where begin is 0, and zeros for the rest, else what is given."""
    fresh, resumed = Builder(g, "fresh"), Builder(g, "resumed")
    x, sizes = add_first_noise(fresh, run), {"x": (), **remembered(run.spec)}
    if OPEN in run.spec.requires:  # what is given may have other sizes, or none
        begun = [x if name == "x" else x.zeros(*sizes[name]) for name in given]
    else:
        begun = [x if name == "x" else values.within(fresh).zeros() for name, values in given.items()]
    taken = [values.within(resumed).do("Identity") for values in given.values()]
    shapes: list[list[int | str]] = [[*sizes[name], "n", *run.spec.state_shape] for name in given]

    def infos(values: list[Value]) -> list[ValueInfoProto]:
        return [value(entry.name, TensorProto.FLOAT, shape) for entry, shape in zip(values, shapes, strict=True)]

    outputs = [f"first/{name}" for name in given]
    then, otherwise = fresh.graph("from noise", [], infos(begun)), resumed.graph("from a state", [], infos(taken))
    g.add("first state", "If", begin.equals(0).name, outputs=outputs, then_branch=then, else_branch=otherwise)
    return {name: Value(g, f"first/{name}", np.float32) for name in given}


def add_known(g: Builder, name: str, run: Run, x: Value, draw: Value, a: Level, condition: Value) -> Value:
    """Append a state with the known pixels in it, noised to its level by a draw of their noise, on a condition."""
    known = run.known
    assert known is not None
    mixed, plain = Builder(g, name), Builder(g, f"{name}/none")
    z = add_noise_of(mixed, f"{name}/noise", run, draw.within(mixed), GIVEN)
    signal, rest = a.signal.within(mixed), a.noise.within(mixed)
    there = signal * known.image.within(mixed) + rest * z
    results = [known.made.within(mixed).where(x.within(mixed), there), x.within(plain).do("Identity")]
    return _add_if(g, f"{name}/x", condition, results, run)


def _add_if(g: Builder, name: str, condition: Value, results: list[Value], run: Run) -> Value:
    """Append states of which the first is made where a condition holds, else the second, each in a graph of its own."""
    shape: list[int | str] = ["n", *run.spec.state_shape]
    then, otherwise = (
        entry.builder.graph(entry.builder.scope, [], [value(entry.name, TensorProto.FLOAT, shape)]) for entry in results
    )
    return Value(g, g.add(name, "If", condition.name, then_branch=then, else_branch=otherwise), np.float32)


def add_stage(g: Builder, stages: Stages, name: str, inputs: Mapping[str, Value]) -> dict[str, Value]:
    """Append the graph of a stage; return its outputs by name."""
    prefix = f"{name}/"
    graph = GraphProto()
    graph.CopyFrom(stages[name].graph)
    outputs = [output.name for output in graph.output]
    rename(graph, prefix, {key: entry.name for key, entry in inputs.items()})
    g.nodes.extend(graph.node)
    g.initializers.extend(graph.initializer)
    return {key: Value(g, prefix + key, np.float32) for key in outputs}


def prepared(g: Builder, run: Run, stages: Stages) -> Run:
    """Return a run whose network is given what `before` makes of what is asked, where there is that stage."""
    stage = run.spec.stages.get(BEFORE)
    if stage is None:
        return run
    made = add_stage(g, stages, BEFORE, {entry.name: run.asked[entry.name] for entry in stage.inputs})
    own = {entry.name for entry in run.spec.inputs}
    return run._replace(asked={**{name: value for name, value in run.asked.items() if name in own}, **made})


def results_of(spec: ModelSpec, x: Value, stages: Stages) -> dict[str, Value]:
    """Append what a user gets of states: images, uint8 [n, H, W, C], or values, float32, by the output's name."""
    g = x.builder
    if spec.units is not None:
        scale, shift = spec.units.factors(len(spec.state_shape))
        x = x * g.value(scale, np.float32, "units/scale") + g.value(shift, np.float32, "units/shift")
    if (after := spec.stages.get(AFTER)) is not None:
        x = add_stage(g, stages, AFTER, {"x": x})[after.result]
    if not spec.is_picture:
        return {"values": x}
    levels = (x * 127.5 + 127.5).do("Clip", 0.0, 255.0)
    return {"images": (levels + 0.5).do("Floor").cast(np.uint8).do("Transpose", perm=[0, 2, 3, 1])}


def add_loop(
    g: Builder, network: GraphProto, run: Run, begin: Value, count: Value, kept: Mapping[str, Value]
) -> dict[str, Value]:
    """Append the loop over `count` rows from `begin` on; return what it leaves of what is carried from row to row.

    carried: x, the state; where they are needed x_0_prev, the clean image found last, and history, [k, n, C, H, W] of
    the x_0 and eps found last, newest first. The network's weights lie in the loop's body: from outside it ONNX Runtime
    would not bring them into its blocked layout, and a step would take 1.6 times as long.
    """
    spec, rows = run.spec, run.rows
    kept = {**kept, "watched": _watched(kept["x"])}
    shape: list[int | str] = ["n", *spec.state_shape]
    shapes = {"x": shape, "x_0_prev": shape, "history": [history_size(spec), *shape], "watched": []}
    body = Builder(g, "step")
    number = body.input("step/number")
    body.input("step/goes on", np.bool_)
    before = {name: body.input(f"step/{name} before", np.float32, shapes[name]) for name in kept}
    step = number + begin.within(body)
    index = step + rows.first.within(body)

    def here(column: Value) -> Value:
        """Bring a column's number of this row to float32: all are rounded before the loop."""
        return column.cast(np.float32).within(body).at(index)

    x_t, t = before["x"], rows.t.within(body).at(index)
    asked = {name: entry.within(body) for name, entry in run.asked.items()}
    asked |= {name: before[name] for name in remembered(spec) if name != "history"}
    add_guided = _add_guided_rows if run.by_row else _add_guided
    predicted = add_guided(body, network, spec, x_t, t, asked, None if rows.scale is None else here(rows.scale))
    x_0, eps = clean_and_noise(predicted, x_t, Level(rows.a, here), spec.prediction, spec.clip_x_0)
    if rows.raw_eps is not None:
        _, raw = clean_and_noise(predicted, x_t, Level(rows.a, here), spec.prediction, None)
        eps = rows.raw_eps.within(body).at(index).where(raw, eps)
    found = [(x_0, eps)]
    after = {"x_0_prev": x_0}
    if "history" in before:
        history, pairs = before["history"], history_size(spec) // 2
        found += [(history.at(2 * age), history.at(2 * age + 1)) for age in range(pairs)]
        newest = [entry.do("Unsqueeze", [0]) for entry in found[0]]
        after["history"] = newest[0].followed_by(newest[1], *([history.part(0, 2 * pairs - 2)] if pairs > 1 else []))
    mean = weighted_sum([here(weight) for weight in rows.x_0], [here(weight) for weight in rows.eps], found)
    after["x"] = _add_step_noise(body, run, mean, here(rows.noise), step)
    if run.known is not None:
        is_noisy = rows.a_next.within(body).at(index) < 1.0  # the picture is mixed after the loop
        some = run.known.some.within(body) & is_noisy
        after["x"] = add_known(body, "known i", run, after["x"], step + 1, Level(rows.a_next, here), some)
    # clipping hides an infinity: what the network says is watched, too
    after["watched"] = before["watched"] + _watched(predicted) + _watched(after["x"])
    goes_on = after["watched"].equals(0.0)
    outputs = [value(goes_on.name, TensorProto.BOOL, [])]
    outputs += [value(after[name].name, TensorProto.FLOAT, shapes[name]) for name in kept]
    left = {name: Value(g, f"left/{name}", np.float32) for name in kept}
    g.add(
        "steps",
        "Loop",
        *(count.name, g.constant(True, np.bool_), *(entry.name for entry in kept.values())),
        outputs=[entry.name for entry in left.values()],
        body=body.graph("step", body.inputs, outputs),
    )
    return {**left, "x": require(NOT_FINITE, left["x"], left["watched"].equals(0.0))}


def _watched(values: Value) -> Value:
    """Return 0 for finite values, and NaN where one is NaN or infinite."""
    return (values - values).sum()


def _add_step_noise(g: Builder, run: Run, mean: Value, std: Value, step: Value) -> Value:
    """Append the state after a row: its mean, and where std is above 0 noise draw step + 1; else none is made."""
    noisy, plain = Builder(g, "noisy"), Builder(g, "plain")
    z = add_noise_of(noisy, "noise i", run, step.within(noisy) + 1)
    x = [mean.within(noisy) + std.within(noisy) * z, mean.within(plain).do("Identity")]
    return _add_if(g, "step/x", std > 0.0, x, run)


def _add_guided(
    g: Builder, network: GraphProto, spec: ModelSpec, x_t: Value, t: Value, asked: dict[str, Value], scale: Value | None
) -> Value:
    """Append the network, evaluated as guidance wants it; return the prediction.

    It has the rows of c, the label's, and where both count after them those of u, "no class". Where one counts, u is
    the same rows as c: u + scale (c - u) then is what they say, to the bit, and they cost what one evaluation costs.
    """
    count = x_t.count()
    if scale is None or spec.guides_itself:
        if scale is not None:
            asked = {**asked, OWN_GUIDANCE: scale.do("Expand", x_t.sizes(start=0, end=1).followed_by(g.value([1])))}
        inputs = {"x_t": x_t, "t": t.do("Expand", x_t.sizes(start=0, end=1)), **asked}
        return _add_network(g, network, spec.prediction, inputs)
    more = (scale.equals(0.0) | scale.equals(1.0)).where(g.value(0), count)
    c, u = _add_both(g, network, spec, x_t, t, asked, scale, count, more)
    guided: Value = combine([{spec.prediction: c}, {spec.prediction: u}], scale)[spec.prediction]
    return guided


def _add_guided_rows(
    g: Builder, network: GraphProto, spec: ModelSpec, x_t: Value, t: Value, asked: dict[str, Value], scale: Value | None
) -> Value:
    """Append the network as `_add_guided` does, for a scale of each image, [n].

    Rows of u follow those of c where any image needs both; each is what it would be by itself.
    """
    if scale is None or spec.guides_itself:
        own = {} if scale is None else {OWN_GUIDANCE: scale.do("Unsqueeze", [1])}
        inputs = {"x_t": x_t, "t": t.do("Expand", x_t.sizes(start=0, end=1)), **asked, **own}
        return _add_network(g, network, spec.prediction, inputs)
    count = x_t.count()
    plain = scale.equals(0.0) | scale.equals(1.0)
    more = plain.every().where(g.value(0), count)
    c, u = _add_both(g, network, spec, x_t, t, asked, scale, count, more)
    guided: Value = combine([{spec.prediction: c}, {spec.prediction: u}], _column(scale, spec))[spec.prediction]
    return _column(plain, spec).where(c, guided)


def _add_both(
    g: Builder,
    network: GraphProto,
    spec: ModelSpec,
    x_t: Value,
    t: Value,
    asked: dict[str, Value],
    scale: Value,
    count: Value,
    more: Value,
) -> tuple[Value, Value]:
    """Append the network on the `count` rows of c and, after them, `more` of u; return c and u, or c twice."""
    label = spec.label
    assert label is not None
    assert label.none is not None
    none = asked[label.name] * 0 + int(label.none)
    inputs = {name: entry.followed_by(entry.part(0, more)) for name, entry in {"x_t": x_t, **asked}.items()}
    inputs[label.name] = scale.equals(0.0).where(none, asked[label.name]).followed_by(none.part(0, more))
    inputs["t"] = t.do("Expand", inputs["x_t"].sizes(start=0, end=1))
    both = _add_network(g, network, spec.prediction, inputs)
    return both.part(0, count), both.part(more, END)


def _column(values: Value, spec: ModelSpec) -> Value:
    """Return a value for each image, [n], so that it meets their states, [n, *shape]."""
    return values.do("Unsqueeze", list(range(1, 1 + len(spec.state_shape))))


def _add_network(g: Builder, network: GraphProto, output: str, inputs: Mapping[str, Value]) -> Value:
    """Append a denoiser's nodes and weights; return the prediction."""
    graph = GraphProto()
    graph.CopyFrom(network)
    rename(graph, NETWORK, {name: entry.name for name, entry in inputs.items()})
    g.nodes.extend(graph.node)
    g.initializers.extend(graph.initializer)
    return Value(g, NETWORK + output, np.float32)
