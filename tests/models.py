"""Small hand-made denoisers, as files of our format: written with onnx.helper, so that no test needs torch."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.spec import Defaults, ModelSpec
from ddpm_export.model.spec_json import json_from_spec

GREY, COLOUR = (1, 6, 5), (3, 4, 4)
T = 40


def tiny_spec(image_shape=GREY, **changes):
    """Return a spec of T = 40 steps that clips; `changes` replace any field."""
    fields = {
        "name": "tiny",
        "prediction": "eps",
        "state_shape": image_shape,
        "alphas_cumprod": tuple(float(a) for a in np.linspace(0.999, 0.01, T)),
        "clip_x_0": 1.0,
        "defaults": Defaults(sampler="ddim", num_steps=4, eta=0.0),
    }
    return ModelSpec(**{**fields, **changes})


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def constant(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def onnx_file(nodes, initializers=(), spec=None, *, inputs=None, outputs=None, metadata=None):
    """Return the bytes of a file of our format. `inputs` and `outputs`, {name: (type, shape)}, replace the usual ones;
    `metadata` the JSON that belongs to the spec, "" for none.
    """
    spec = spec or tiny_spec()
    shape = ["batch", *spec.state_shape]
    inputs = inputs or {"x_t": (TensorProto.FLOAT, shape), "t": (TensorProto.INT64, ["batch"])}
    outputs = outputs or {spec.prediction: (TensorProto.FLOAT, shape)}
    graph = helper.make_graph(
        list(nodes),
        "denoiser",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    text = json_from_spec(spec) if metadata is None else metadata
    if text:
        model.metadata_props.add(key=METADATA_KEY, value=text)
    return model.SerializeToString()


def weights_of(spec):
    """Return the numbers of `mix_model`'s convolution, one channel to another: (C, C, 3, 3), of gain about 1."""
    channels = spec.state_shape[0]
    return np.linspace(-0.3, 0.5, channels * channels * 9, dtype=np.float32).reshape(channels, channels, 3, 3)


def mix_model(spec=None):
    """Return a file whose eps is tanh of a 3x3 convolution of x_t, plus t / 100: neither linear nor blind to t."""
    spec = spec or tiny_spec()
    nodes = [
        node("Conv", ["x_t", "w"], "mixed", pads=[1, 1, 1, 1]),
        node("Tanh", ["mixed"], "bent"),
        node("Cast", ["t"], "t_float", to=TensorProto.FLOAT),
        node("Mul", ["t_float", "hundredth"], "scaled"),
        node("Reshape", ["scaled", "column"], "shift"),
        node("Add", ["bent", "shift"], spec.prediction),
    ]
    values = [constant("w", weights_of(spec)), constant("hundredth", 0.01), constant("column", [-1, 1, 1, 1], np.int64)]
    return onnx_file(nodes, values, spec)


def text_model(operator, pattern):
    """Return a file with a node that matches text, RegexFullMatch or Tokenizer, by a pattern."""
    options = {"pattern": pattern} if operator == "RegexFullMatch" else {"separators": [pattern], "mark": 0}
    if operator == "Tokenizer":
        options |= {"pad_value": "#", "mincharnum": 1, "domain": "com.microsoft"}
    nodes = [
        node(operator, ["text"], "found", **options),
        node("Size", ["found"], "size"),
        node("Cast", ["size"], "number", to=TensorProto.FLOAT),
        node("Add", ["x_t", "number"], "eps"),
    ]
    model = ModelProto.FromString(onnx_file(nodes, [constant("text", ["abc"], object)]))
    model.opset_import[0].version, model.ir_version = 20, 9
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model.SerializeToString()


def deep_model(spec=None):
    """Return a file of four convolutions with tanh between them, and t / 1000 added: two lie between first and last."""
    spec = spec or tiny_spec()
    rng = np.random.default_rng(0)
    nodes, values, source = [], [], "x_t"
    for k, (channels, out) in enumerate([(spec.state_shape[0], 8), (8, 8), (8, 8), (8, spec.state_shape[0])]):
        name = f"conv_{k}"
        nodes.append(node("Conv", [source, f"{name}.w", f"{name}.b"], f"{name}/Conv", pads=[1, 1, 1, 1]))
        weight = rng.standard_normal((out, channels, 3, 3)) / (3 * np.sqrt(channels))
        values += [constant(f"{name}.w", weight), constant(f"{name}.b", rng.standard_normal(out) / 4)]
        nodes.append(node("Tanh", [f"{name}/Conv"], source := f"{name}/Tanh"))
    nodes += [
        node("Cast", ["t"], "t_float", to=TensorProto.FLOAT),
        node("Mul", ["t_float", "thousandth"], "scaled"),
        node("Reshape", ["scaled", "column"], "shift"),
        node("Add", [source, "shift"], spec.prediction),
    ]
    values += [constant("thousandth", 0.001), constant("column", [-1, 1, 1, 1], np.int64)]
    return onnx_file(nodes, values, spec)


def learned_model(spec=None):
    """Return a file with eps = tanh(x_t) / 2 and variance_fraction = the logistic function of x_t."""
    spec = spec or tiny_spec(variance="learned", requires=("variance_fraction",))
    nodes = [
        node("Tanh", ["x_t"], "bent"),
        node("Mul", ["bent", "half"], spec.prediction),
        node("Sigmoid", ["x_t"], "variance_fraction"),
    ]
    shape = ["batch", *spec.state_shape]
    outputs = dict.fromkeys((spec.prediction, "variance_fraction"), (TensorProto.FLOAT, shape))
    return onnx_file(nodes, [constant("half", 0.5)], spec, outputs=outputs)


def extractor_file(image_shape=GREY, classes=3, dimensions=4):
    """Return a file whose features and logits are two fixed linear maps of the pixels."""
    size = int(np.prod(image_shape))
    rng = np.random.default_rng(0)
    values = [
        constant("f", rng.standard_normal((size, dimensions)) / size**0.5),
        constant("l", rng.standard_normal((size, classes))),
    ]
    nodes = [
        node("Flatten", ["images"], "flat", axis=1),
        node("MatMul", ["flat", "f"], "features"),
        node("MatMul", ["flat", "l"], "logits"),
    ]
    inputs = {"images": (TensorProto.FLOAT, ["batch", *image_shape])}
    outputs = {
        "features": (TensorProto.FLOAT, ["batch", dimensions]),
        "logits": (TensorProto.FLOAT, ["batch", classes]),
    }
    return onnx_file(nodes, values, tiny_spec(image_shape), inputs=inputs, outputs=outputs, metadata="")


def scale_model(spec=None, weight=None, **changes):
    """Return a file with eps = x_t * w; `weight` replaces the initializer w, `changes` go to `onnx_file`."""
    spec = spec or tiny_spec()
    weight = constant("w", 0.5) if weight is None else weight
    return onnx_file([node("Mul", ["x_t", "w"], spec.prediction)], [weight], spec, **changes)


def sick_model(bad_t, threshold=-1e9, spec=None, sick=np.nan):
    """Return a file with eps = x_t, but `sick` at t = bad_t in each image whose first pixel is above `threshold`."""
    spec = spec or tiny_spec()
    nodes = [
        node("Equal", ["t", "bad_t"], "is_bad_t"),
        node("Slice", ["x_t", "zeros", "ones", "axes"], "corner"),
        node("Greater", ["corner", "threshold"], "is_above"),
        node("Reshape", ["is_bad_t", "column"], "is_bad_t_column"),
        node("And", ["is_above", "is_bad_t_column"], "is_sick"),
        node("Where", ["is_sick", "sick", "x_t"], spec.prediction),
    ]
    integers = {"bad_t": [bad_t], "zeros": [0, 0, 0], "ones": [1, 1, 1], "axes": [1, 2, 3], "column": [-1, 1, 1, 1]}
    values = [constant(name, numbers, np.int64) for name, numbers in integers.items()]
    return onnx_file(nodes, [*values, constant("threshold", threshold), constant("sick", sick)], spec)


def gaussian_file(spec, mean, std):
    """Return the best network for pixels that are each N(mean, std^2), as a file: tables over t, then Gather."""
    a = np.asarray(spec.alphas_cumprod)
    nodes = [
        node("Gather", ["slopes", "t"], "slope"),
        node("Gather", ["shifts", "t"], "shift"),
        node("Gather", ["offsets", "t"], "offset"),
        node("Sub", ["x_t", "shift"], "centred"),
        node("Mul", ["centred", "slope"], "scaled"),
        node("Add", ["scaled", "offset"], spec.prediction),
    ]
    slopes = {"eps": np.sqrt(1.0 - a), "x_0": np.sqrt(a) * std**2, "v": np.sqrt(a * (1.0 - a)) * (1.0 - std**2)}
    offsets = {"eps": 0.0 * a, "x_0": mean + 0.0 * a, "v": -np.sqrt(1.0 - a) * mean}
    tables = {"slopes": slopes[spec.prediction] / (a * std**2 + 1.0 - a), "shifts": np.sqrt(a) * mean}
    tables["offsets"] = offsets[spec.prediction]
    return onnx_file(nodes, [constant(name, table.reshape(-1, 1, 1, 1)) for name, table in tables.items()], spec)


def classes_file(spec, means, std):
    """Return `gaussian.classes_model` as a file: pixels that are N(means[y], std^2) in images of label y.

    Where the spec has an input guidance it combines by itself: of an affine prediction that is guiding the mean.
    """
    a = np.asarray(spec.alphas_cumprod)
    slopes = {"eps": np.sqrt(1.0 - a), "x_0": np.sqrt(a) * std**2, "v": np.sqrt(a * (1.0 - a)) * (1.0 - std**2)}
    factors = {"eps": 0.0 * a, "x_0": 1.0 + 0.0 * a, "v": -np.sqrt(1.0 - a)}
    tables = {"slopes": slopes[spec.prediction] / (a * std**2 + 1.0 - a), "roots": np.sqrt(a)}
    tables |= {"factors": factors[spec.prediction], "means": np.asarray(means)}
    mean = "guided" if spec.guides_itself else "own"
    nodes = [
        *(
            node("Gather", [table, by], name)
            for table, by, name in zip(
                ("slopes", "roots", "factors", "means"), "ttty", ("slope", "root", "factor", "own"), strict=True
            )
        ),
        node("Sub", ["own", "of none"], "more"),
        node("Reshape", ["guidance", "column"], "scale"),
        node("Mul", ["more", "scale"], "carried"),
        node("Add", ["carried", "of none"], "guided"),
        node("Mul", ["root", mean], "shift"),
        node("Sub", ["x_t", "shift"], "centred"),
        node("Mul", ["centred", "slope"], "scaled"),
        node("Mul", ["factor", mean], "offset"),
        node("Add", ["scaled", "offset"], spec.prediction),
    ]
    values = [constant(name, table.reshape(-1, 1, 1, 1)) for name, table in tables.items()]
    inputs = {"x_t": (TensorProto.FLOAT, ["batch", *spec.state_shape])}
    inputs |= {name: (TensorProto.INT64, ["batch"]) for name in ("t", "y")}
    if spec.guides_itself:
        inputs["guidance"] = (TensorProto.FLOAT, ["batch", 1])
        values += [constant("of none", means[-1]), constant("column", [-1, 1, 1, 1], np.int64)]
    else:
        nodes = [entry for entry in nodes if entry.output[0] not in ("more", "scale", "carried", "guided")]
    return onnx_file(nodes, values, spec, inputs=inputs)


def told_model(spec):
    """Return a file whose prediction is tanh of x_t, moved by the time and by each input of the spec."""
    names = [spec.prediction, *(f"with {entry.name}" for entry in reversed(spec.inputs)), "bent"]
    nodes = [
        node("Tanh", ["x_t"], "bent"),
        node("Cast", ["t"], "t_float", to=TensorProto.FLOAT),
        node("Mul", ["t_float", "hundredth"], "scaled"),
        node("Reshape", ["scaled", "column"], "shift"),
        node("Add", ["bent", "shift"], names[-2]),
    ]
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    shape = ["batch", *spec.state_shape]
    inputs = {"x_t": (TensorProto.FLOAT, shape), "t": (kinds[spec.t_dtype], ["batch"])}
    for entry, before, after in zip(spec.inputs, names[-2:0:-1], names[-3::-1], strict=True):
        inputs[entry.name] = (kinds[entry.dtype], ["batch", *entry.shape])
        asked, weight = entry.name, f"{entry.name} weight"
        if entry.kind == "label":
            nodes.append(node("Cast", [entry.name], f"{entry.name} float", to=TensorProto.FLOAT))
            asked = f"{entry.name} float"
        if entry.kind != "previous":  # its first number for all of an image
            nodes.append(node("Reshape", [asked, "rows"], f"{entry.name} rows"))
            nodes.append(node("Gather", [f"{entry.name} rows", "first"], f"{entry.name} first", axis=1))
            nodes.append(node("Reshape", [f"{entry.name} first", "column"], f"{entry.name} column"))
            asked = f"{entry.name} column"
        nodes += [node("Mul", [asked, "tenth"], weight), node("Add", [before, weight], after)]
    integers = {"column": [-1, 1, 1, 1], "rows": [0, -1], "first": [0]}
    values = [constant(name, numbers, np.int64) for name, numbers in integers.items()]
    values += [constant("hundredth", 0.01), constant("tenth", 0.1)]
    return onnx_file(nodes, values, spec, inputs=inputs)


def external(location, length=120, offset=0):
    """Return an initializer w, float32 (1, 1, 6, 5), whose numbers lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, *GREY], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def crashing_model():
    """Return a file whose loading ends the process: the least integer divided by -1, while constants are folded."""
    nodes = [
        node("Div", ["least", "minus_one"], "quotient"),
        node("Cast", ["quotient"], "shift", to=TensorProto.FLOAT),
        node("Add", ["x_t", "shift"], "eps"),
    ]
    return onnx_file(nodes, [constant("least", [-(2**63)], np.int64), constant("minus_one", [-1], np.int64)])


def endless_model():
    """Return a file whose eps never comes: a Loop that goes on as long as a constant is true."""
    body = helper.make_graph(
        [node("Identity", ["goes_on"], "still"), node("Neg", ["x"], "x_after")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_after", TensorProto.FLOAT, None),
        ],
    )
    return onnx_file([node("Loop", ["", "true", "x_t"], "eps", body=body)], [constant("true", True, np.bool_)])


def greedy_model(gib):
    """Return a file whose eps needs so much memory, and writes to all of it."""
    nodes = [
        node("ReduceSum", ["x_t"], "sum", keepdims=0),
        node("Expand", ["sum", "many"], "wide"),
        node("ReduceMax", ["wide"], "largest", keepdims=0),
        node("Add", ["x_t", "largest"], "eps"),
    ]
    return onnx_file(nodes, [constant("many", [gib * 2**28], np.int64)])
