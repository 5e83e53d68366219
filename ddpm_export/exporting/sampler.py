"""One-call sampler files: a denoiser's graph inside a Loop, with time grid, coefficients and noise. No torch.

`sampler_from_denoiser` gives the graph of docs/format.md section 5 that runs a whole trajectory, `slice_from_denoiser`
the one that runs some of its steps, from a state to a state. Both compute section 2, in the order of ddpm_export's
diffusion.py and samplers.py.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from ddpm_export.exporting.onnx_file import IR_VERSION, OPSET, graphs_within
from ddpm_export.exporting.philox_graph import Builder, add_key, add_noise, value
from ddpm_export.runtimes.one_call import NOT_FINITE
from ddpm_export.spec import METADATA_KEY, VARIANCE_FRACTION, Defaults, ModelSpec, json_from_spec

__all__ = ["sampler_from_denoiser", "slice_from_denoiser", "spec_of_graph"]

FLOAT, INT64, UINT8, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL
NETWORK = "network/"  # before every name of the denoiser's graph: ours cannot meet one of them


def spec_of_graph(spec: ModelSpec, graph: str) -> ModelSpec:
    """Return the spec of a denoiser's sampler or slice file, without golden vectors.

    There, eta says how much noise is added, up to that of fixed_small: a default of ddpm becomes ddim with eta 1.
    """
    defaults = spec.defaults
    if defaults.sampler == "ddpm":
        defaults = Defaults("ddim", defaults.num_steps, 1.0)
    requires = tuple(name for name in spec.requires if name != VARIANCE_FRACTION)
    return dataclasses.replace(
        spec, graph=graph, defaults=defaults, variance="fixed_small", requires=requires, golden=None
    )


def sampler_from_denoiser(denoiser: ModelProto, spec: ModelSpec) -> ModelProto:
    """Return the one-call sampler of a denoiser: (seed, first, n, steps, eta) -> images, x_0.

    spec: the sampler's own, of `spec_of_graph`.
    """
    g = Builder()
    seed, steps, eta = _checked_settings(g, spec)
    first, n = _checked_images(g, "n", "n must be 1 or more, and first + n at most 2^32")
    run = _Run(spec, add_key(g, seed), _numbers(g, first, n), steps, eta)
    begin = g.constant(0)
    x_T = add_noise(g, "noise 0", run.keys, run.images, begin, spec.image_shape)
    x, x_0 = _add_loop(g, denoiser.graph, run, begin, steps, x_T)
    images, x_0 = _add_outputs(g, spec, x, x_0)
    inputs = [*(value(name, INT64, []) for name in ("seed", "first", "n", "steps")), value("eta", FLOAT, [])]
    return _model(g.graph("sampler", inputs, [images, x_0]), spec)


def slice_from_denoiser(denoiser: ModelProto, spec: ModelSpec) -> ModelProto:
    """Return the slice of a denoiser: (seed, first, steps, eta, x, begin, end) -> x_after, x_0, images.

    spec: the slice's own, of `spec_of_graph`. It runs steps begin to end - 1 of a trajectory of `steps`; where begin is
    0, x counts for its shape alone, and the first state is noise draw 0.
    """
    g = Builder()
    shape = _batch_of(spec)
    seed, steps, eta = _checked_settings(g, spec)
    n = g.add("n", "Squeeze", g.add("rows of x", "Shape", "x", start=0, end=1))
    first, n = _checked_images(g, n, "x must have a row or more, and first + rows at most 2^32")
    begin, end = _checked_range(g, steps)
    run = _Run(spec, add_key(g, seed), _numbers(g, first, n), steps, eta)
    count = g.add("steps to run", "Sub", end, begin)
    x, x_0 = _add_loop(g, denoiser.graph, run, begin, count, _first_state(g, run, begin))
    images, x_0 = _add_outputs(g, spec, x, x_0)
    x_after = value(g.add("x_after", "Identity", x), FLOAT, shape)
    inputs = [
        *(value(name, INT64, []) for name in ("seed", "first", "steps")),
        value("eta", FLOAT, []),
        value("x", FLOAT, shape),
        *(value(name, INT64, []) for name in ("begin", "end")),
    ]
    return _model(g.graph("slice", inputs, [x_after, x_0, images]), spec)


def _model(graph: GraphProto, spec: ModelSpec) -> ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "ddpm-export", ""
    helper.set_model_props(model, {METADATA_KEY: json_from_spec(spec)})
    return model


class _Run(NamedTuple):
    """Name what a whole run shares: round keys, image numbers int64 [n, 1], steps int64 [] and eta float32 []."""

    spec: ModelSpec
    keys: str
    images: str
    steps: str
    eta: str


def _require(g: Builder, sentence: str, checked: str, *conditions: str) -> str:
    """Append a node, called by the sentence, that passes `checked` on where the conditions hold, and else fails.

    No operator raises an error of one's own; Gather refuses index 1 of one row, and runtimes tell the node's name.
    """
    holds = conditions[0]
    for condition in conditions[1:]:
        holds = g.add(f"{condition} and others", "And", holds, condition)
    index = g.add(f"{holds}: row", "Where", holds, g.constant(0), g.constant(1))
    row = g.add(f"{holds}: rows", "Unsqueeze", checked, g.constant([0]))
    return g.add(sentence, "Gather", row, index, axis=0)


def _checked_settings(g: Builder, spec: ModelSpec) -> tuple[str, str, str]:
    """Append the checks of seed, steps and eta; return them."""
    T = spec.num_train_timesteps
    not_negative = g.add("seed >= 0", "GreaterOrEqual", "seed", g.constant(0))
    seed = _require(g, "seed must be 0 to 2^63 - 1", "seed", not_negative)
    low = g.add("steps >= 1", "GreaterOrEqual", "steps", g.constant(1))
    high = g.add("steps <= T", "LessOrEqual", "steps", g.constant(T))
    steps = _require(g, f"steps must be 1 to {T}", "steps", low, high)
    low = g.add("eta >= 0", "GreaterOrEqual", "eta", g.constant(0.0, np.float32))  # false for NaN
    high = g.add("eta <= 1", "LessOrEqual", "eta", g.constant(1.0, np.float32))
    return seed, steps, _require(g, "eta must be 0 to 1", "eta", low, high)


def _checked_images(g: Builder, n: str, sentence: str) -> tuple[str, str]:
    """Append the checks of first and n; return them."""
    low = g.add("first >= 0", "GreaterOrEqual", "first", g.constant(0))
    high = g.add("first < 2^32", "Less", "first", g.constant(2**32))
    first = _require(g, "first must be 0 to 2^32 - 1", "first", low, high)
    low = g.add("n >= 1", "GreaterOrEqual", n, g.constant(1))
    high = g.add("n <= 2^32 - first", "LessOrEqual", n, g.add("2^32 - first", "Sub", g.constant(2**32), first))
    return first, _require(g, sentence, n, low, high)


def _checked_range(g: Builder, steps: str) -> tuple[str, str]:
    """Append the checks of a slice's begin and end; return them."""
    low = g.add("begin >= 0", "GreaterOrEqual", "begin", g.constant(0))
    begin = _require(g, "begin must be 0 or more", "begin", low)
    low = g.add("end > begin", "Greater", "end", begin)
    high = g.add("end <= steps", "LessOrEqual", "end", steps)
    return begin, _require(g, "end must be above begin and at most steps", "end", low, high)


def _numbers(g: Builder, first: str, n: str) -> str:
    """Append the numbers of the images: int64 [n, 1]."""
    numbers = g.add("image numbers", "Range", first, g.add("first + n", "Add", first, n), g.constant(1))
    return g.add("image column", "Unsqueeze", numbers, g.constant([1]))


def _first_state(g: Builder, run: _Run, begin: str) -> str:
    """Append the state that a slice begins with: draw 0 where begin is 0, else x."""
    fresh, given = Builder(g), Builder(g)
    shape = _batch_of(run.spec)
    x_T = add_noise(fresh, "noise 0", run.keys, run.images, g.constant(0), run.spec.image_shape)
    x = given.add("given x", "Identity", "x")
    return g.add(
        "first state",
        "If",
        g.add("begin = 0", "Equal", begin, g.constant(0)),
        then_branch=fresh.graph("from noise", [], [value(x_T, FLOAT, shape)]),
        else_branch=given.graph("from x", [], [value(x, FLOAT, shape)]),
    )


def _add_outputs(g: Builder, spec: ModelSpec, x: str, x_0: str) -> tuple[ValueInfoProto, ValueInfoProto]:
    """Append the outputs images, uint8 [n, H, W, C], and x_0; they fail where the state is not finite."""
    channels, height, width = spec.image_shape
    difference = g.add("x - x", "Sub", x, x)  # 0, and NaN where x is NaN or infinite: it stays so from step to step
    is_zero = g.add("x is finite", "Equal", g.add("sum of x - x", "ReduceSum", difference, keepdims=0), _f(g, 0.0))
    x_0 = g.add("x_0", "Identity", _require(g, NOT_FINITE, x_0, is_zero))
    levels = g.add("levels", "Add", g.add("half levels", "Mul", x_0, _f(g, 127.5)), _f(g, 127.5))
    clipped = g.add("clipped levels", "Clip", levels, _f(g, 0.0), _f(g, 255.0))
    rounded = g.add("rounded levels", "Floor", g.add("levels + 0.5", "Add", clipped, _f(g, 0.5)))
    pixels = g.add("pixels", "Transpose", g.add("bytes", "Cast", rounded, to=UINT8), perm=[0, 2, 3, 1])
    images = g.add("images", "Identity", pixels)
    return value(images, UINT8, ["n", height, width, channels]), value(x_0, FLOAT, _batch_of(spec))


def _batch_of(spec: ModelSpec) -> list[int | str]:
    return ["n", *spec.image_shape]


def _f(g: Builder, number: float) -> str:
    return g.constant(number, np.float32)


def _add_grid(g: Builder, run: _Run) -> dict[str, str]:
    """Append the steps' times, int64, and coefficients, float64 rounded once to float32: vectors [steps] by name."""
    spec = run.spec

    def add(name: str, operator: str, *values: str, **attributes: Any) -> str:
        return g.add(f"grid/{name}", operator, *values, **attributes)

    one = g.constant(1.0, np.float64)
    # t_i = T * (n - i) // n - 1 for i = 0 .. n - 1
    left = add("steps left", "Range", run.steps, g.constant(0), g.constant(-1))
    scaled = add("T * left", "Mul", left, g.constant(spec.num_train_timesteps))
    t = add("t", "Sub", add("T * left // steps", "Div", scaled, run.steps), g.constant(1))
    a = add("a", "Gather", g.constant(spec.alphas_cumprod, np.float64, "alphas_cumprod"), t)
    later = add("a of later steps", "Slice", a, g.constant([1]), g.constant([2**31 - 1]))
    a_prev = add("a_prev", "Concat", later, g.constant([1.0], np.float64), axis=0)
    rest, rest_prev = add("1 - a", "Sub", one, a), add("1 - a_prev", "Sub", one, a_prev)
    # c_noise of Song et al. 2020, eq. 16
    eta = g.add("eta in float64", "Cast", run.eta, to=TensorProto.DOUBLE)
    root = add("sqrt((1 - a_prev) / (1 - a))", "Sqrt", add("(1 - a_prev) / (1 - a)", "Div", rest_prev, rest))
    other = add("1 - a / a_prev", "Sub", one, add("a / a_prev", "Div", a, a_prev))
    other = add("sqrt(1 - a / a_prev)", "Sqrt", other)
    c_noise = add("eta * roots", "Mul", add("eta * root", "Mul", eta, root), other)
    room = add("1 - a_prev - c_noise^2", "Sub", rest_prev, add("c_noise^2", "Mul", c_noise, c_noise))
    room = add("room for eps", "Max", room, g.constant(0.0, np.float64))
    doubles = {
        "sqrt_a": add("sqrt(a)", "Sqrt", a),
        "sqrt_1_minus_a": add("sqrt(1 - a)", "Sqrt", rest),
        "sqrt_a_prev": add("sqrt(a_prev)", "Sqrt", a_prev),
        "c_eps": add("sqrt(room for eps)", "Sqrt", room),
        "c_noise": c_noise,
    }
    if spec.prediction == "eps":
        doubles["1/sqrt_a"] = add("1 / sqrt(a)", "Div", one, doubles["sqrt_a"])
    if spec.prediction == "x_0" or spec.clip_x_0 is not None:
        doubles["1/sqrt_1_minus_a"] = add("1 / sqrt(1 - a)", "Div", one, doubles["sqrt_1_minus_a"])
    return {"t": t, **{name: add(name, "Cast", double, to=FLOAT) for name, double in doubles.items()}}


def _add_loop(g: Builder, network: GraphProto, run: _Run, begin: str, count: str, x: str) -> tuple[str, str]:
    """Append the loop over `count` steps from `begin` on; return the state after it and its last clean image.

    The network's weights lie in the loop's body: from outside it ONNX Runtime would not bring them into its blocked
    layout, and a step would take 1.6 times as long.
    """
    vectors = _add_grid(g, run)
    body = Builder(g)
    shape = _batch_of(run.spec)
    state = [value("step/number", INT64, []), value("step/goes on", BOOL, []), value("step/x_t", FLOAT, shape)]

    def add(name: str, operator: str, *values: str, **attributes: Any) -> str:
        return body.add(f"step/{name}", operator, *values, **attributes)

    index = add("index", "Add", begin, "step/number")
    here = {name: add(name, "Gather", vector, index, axis=0) for name, vector in vectors.items()}
    t = add("t of each image", "Expand", here["t"], add("rows", "Shape", "step/x_t", start=0, end=1))
    predicted = _add_network(body, network, run.spec.prediction, {"x_t": "step/x_t", "t": t})
    x_0, eps = _add_denoised(body, run.spec, predicted, here)
    signal = add("sqrt_a_prev x_0", "Mul", here["sqrt_a_prev"], x_0)
    mean = add("mean", "Add", signal, add("c_eps eps", "Mul", here["c_eps"], eps))
    x_prev = _add_step_noise(body, run, mean, here["c_noise"], index)
    goes_on = add("still goes on", "Identity", "step/goes on")
    outputs = [value(goes_on, BOOL, []), value(x_prev, FLOAT, shape), value(x_0, FLOAT, shape)]
    inputs = [*state, value("step/x_0 before", FLOAT, shape)]
    after = ["state", "clean image"]
    # the clean image, too, is carried from step to step (the first one is of no account): only so it is the last
    g.add("steps", "Loop", count, "", x, x, outputs=after, body=body.graph("step", inputs, outputs))
    return after[0], after[1]


def _add_denoised(g: Builder, spec: ModelSpec, predicted: str, here: Mapping[str, str]) -> tuple[str, str]:
    """Append what a prediction says of x_t: the clean image and the noise in it."""

    def add(name: str, operator: str, *values: str, **attributes: Any) -> str:
        return g.add(f"step/{name}", operator, *values, **attributes)

    x_t, sqrt_a, sqrt_1_minus_a = "step/x_t", here["sqrt_a"], here["sqrt_1_minus_a"]
    x_0 = eps = predicted
    if spec.prediction == "eps":
        difference = add("x_t - noise", "Sub", x_t, add("noise", "Mul", sqrt_1_minus_a, predicted))
        x_0 = add("x_0", "Mul", difference, here["1/sqrt_a"])
    elif spec.prediction == "v":
        signal = add("sqrt_a x_t", "Mul", sqrt_a, x_t)
        x_0 = add("x_0", "Sub", signal, add("sqrt_1_minus_a v", "Mul", sqrt_1_minus_a, predicted))
    if spec.clip_x_0 is not None:
        bound = np.float32(spec.clip_x_0)
        clipped = add("clipped x_0", "Clip", x_0, g.constant(-bound, np.float32), g.constant(bound, np.float32))
        # clipping hides an infinity: v - v is 0, and NaN where the network gave NaN or infinity
        x_0 = add("watched x_0", "Add", clipped, add("network - network", "Sub", predicted, predicted))
    if spec.clip_x_0 is not None or spec.prediction == "x_0":
        difference = add("x_t - signal", "Sub", x_t, add("signal", "Mul", sqrt_a, x_0))
        eps = add("eps", "Mul", difference, here["1/sqrt_1_minus_a"])
    elif spec.prediction == "v":
        noise = add("sqrt_1_minus_a x_t", "Mul", sqrt_1_minus_a, x_t)
        eps = add("eps", "Add", noise, add("sqrt_a v", "Mul", sqrt_a, predicted))
    return x_0, eps


def _add_step_noise(g: Builder, run: _Run, mean: str, c_noise: str, index: str) -> str:
    """Append the state after a step: its mean, and where c_noise is above 0 noise draw index + 1; else none is made."""
    noisy, plain = Builder(g), Builder(g)
    shape = _batch_of(run.spec)
    draw = noisy.add("step/draw", "Add", index, g.constant(1))
    z = add_noise(noisy, "noise", run.keys, run.images, draw, run.spec.image_shape)
    x_noisy = noisy.add("step/with noise", "Add", mean, noisy.add("step/c_noise z", "Mul", c_noise, z))
    x_plain = plain.add("step/without noise", "Identity", mean)
    return g.add(
        "step/x_prev",
        "If",
        g.add("step/adds noise", "Greater", c_noise, g.constant(0.0, np.float32)),
        then_branch=noisy.graph("with noise", [], [value(x_noisy, FLOAT, shape)]),
        else_branch=plain.graph("without noise", [], [value(x_plain, FLOAT, shape)]),
    )


def _add_network(g: Builder, network: GraphProto, output: str, inputs: Mapping[str, str]) -> str:
    """Append a denoiser's nodes and weights, but for what other outputs alone need; return the prediction's name."""
    graph = GraphProto()
    graph.CopyFrom(network)
    _keep_what_is_needed(graph, output)
    _rename(graph, dict(inputs))
    g.nodes.extend(graph.node)
    g.initializers.extend(graph.initializer)
    return NETWORK + output


def _keep_what_is_needed(graph: GraphProto, output: str) -> None:
    wanted, nodes = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(_read_by(node))
            nodes.append(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(kept)


def _read_by(node: NodeProto) -> Iterator[str]:
    """Yield the values that a node reads, those that its inner graphs take from outside among them."""
    yield from node.input
    for graph in graphs_within(node):
        for inner in graph.node:
            yield from _read_by(inner)
        yield from (result.name for result in graph.output)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Put NETWORK before every name of a graph and of the graphs within it; `names` has its inputs' new names."""

    def renamed(name: str) -> str:
        return names.get(name, NETWORK + name) if name else ""  # "": an input that is left out

    for node in graph.node:
        node.name = NETWORK + node.name
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
        for inner in graphs_within(node):
            _rename(inner, names)
            for result in (*inner.input, *inner.output):
                result.name = renamed(result.name)
    for tensor in graph.initializer:
        tensor.name = NETWORK + tensor.name
