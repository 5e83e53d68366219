"""The graph of a foreign .onnx: what it takes and gives, and the denoiser of our format around its nodes. No torch."""

from collections import defaultdict
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from ddpm_export.errors import BadFileError, ModelRefusedError, first_line, several
from ddpm_export.exporting.builder import Builder, Value, value
from ddpm_export.exporting.denoiser_graph import graph_from_model
from ddpm_export.exporting.foreign import ForeignNetwork, Place, model_from_foreign
from ddpm_export.exporting.onnx_file import IR_VERSION, OPSET, fits_inline, graphs_of, rename, tensors_of
from ddpm_export.exporting.original import Original, with_rounded_graph
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.runtimes.external_data import check_external_data
from ddpm_export.runtimes.onnx import evaluate_from_bytes

OWN = ("", "ai.onnx")  # the domain of ONNX's own operators, by its two names
THEIRS = "theirs/"  # before every name of the foreign graph: ours cannot meet one of them
HALF, MAX_HALF_ERROR = TensorProto.FLOAT16, 0.02
DEFINITIONS_DEEP = 4  # operators whose definitions use operators that have definitions
TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def places_of(path: Path) -> tuple[dict[str, Place], dict[str, Place]]:
    """Return the inputs and outputs of an ONNX file, by name. Raises BadFileError for what is none."""
    graph = _read(path, weights=False).graph
    weights = {tensor.name for tensor in graph.initializer}  # which old files name among the inputs
    inputs = {entry.name: _place(path, entry) for entry in graph.input if entry.name not in weights}
    return inputs, {entry.name: _place(path, entry) for entry in graph.output}


def _place(path: Path, info: ValueInfoProto) -> Place:
    kind = info.type.tensor_type
    try:
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    except (KeyError, TypeError):
        dtype = np.dtype(object)
    if dtype.kind not in "iuf":
        raise ModelRefusedError(
            f"{path}: its {info.name[:80]!r} is not numeric: a sampler can neither set nor read it."
        )
    sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    return Place(info.name, dtype.name, tuple(sizes))


def _read(path: Path, *, weights: bool) -> ModelProto:
    check_external_data(path)
    try:
        return onnx.load(path, load_external_data=weights)
    except Exception as exc:  # protobuf's, the system's, and onnx's own, which share no base class
        raise BadFileError(f"{path}: cannot be read as ONNX: {first_line(exc)}. Copy it again.") from exc


def denoiser_from_foreign(network: ForeignNetwork, portable: ModelProto) -> ModelProto:
    """Return the denoiser that a foreign network is: its nodes as they are, and around them what is missing.

    That is: the time as it is told it, the scale of the state, layouts, dtypes and shapes, and image by image where it
    takes no more. portable: of `_portable`, which this changes.
    Raises ModelRefusedError for what is no valid graph then.
    """
    theirs, spec = portable.graph, network.spec
    g = Builder(scope="import")
    ours = {name: g.input(name, dtype.type, ["batch", *shape]) for name, (dtype, shape) in spec.input_types.items()}
    x_t, t, levels = ours["x_t"], ours["t"], network.levels

    def table(numbers: Array, name: str, ones: int = len(spec.state_shape)) -> Value:
        return g.value(numbers.reshape(-1, *(1,) * ones), np.float32, f"import/{name}").at(t)

    given = dict(ours)
    if levels.asked is not None:
        given["t"] = table(levels.asked, network.time, 0)
    if levels.scale is not None:
        given["x_t"] = x_t * table(levels.scale, "scale")
    for name, (_, shape) in spec.input_types.items():
        place = network.places[name]
        if network.is_nhwc and len(shape) == 3:
            given[name] = given[name].do("Transpose", perm=TO_NHWC)
        if np.dtype(given[name].dtype).name != place.dtype:
            given[name] = given[name].cast(np.dtype(place.dtype).type)
    options = _one_by_one(g, theirs, network, given) if network.one_by_one else _add(g, theirs, network, given, -1)
    if options.dtype != np.float32:
        options = options.cast(np.float32)
    if network.is_nhwc:
        options = options.do("Transpose", perm=TO_NCHW)
    if levels.skip is not None and levels.out is not None:
        options = x_t * table(levels.skip, "skip") + options * table(levels.out, "out")
    g.add(spec.prediction, "Identity", options.name)
    result = value(spec.prediction, onnx.TensorProto.FLOAT, ["batch", *spec.state_shape])
    graph = g.graph("denoiser", g.inputs, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "ddpm-export", ""
    if fits_inline(model):
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as exc:  # the checker's and shape inference's own
            raise ModelRefusedError(
                f"{network.path}: is not a valid graph of opset {OPSET}: {first_line(exc)}. Export it with that opset."
            ) from exc
    return model


def _one_by_one(g: Builder, theirs: GraphProto, network: ForeignNetwork, given: dict[str, Value]) -> Value:
    """Append a Scan over the images, whose body is the network, its weights within."""
    body = Builder(g, "import/image")
    own = {
        name: body.input(f"import/image/{name}", entry.dtype, network.shape_in(_shape_of(network, name)))
        for name, entry in given.items()
    }
    options = _add(body, theirs, network, own, 1).do("Squeeze", [0])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(options.dtype))
    image = body.graph("image", body.inputs, [value(options.name, kind, network.shape_in(network.spec.state_shape))])
    names = [entry.name for entry in given.values()]
    return Value(g, g.add("import/images", "Scan", *names, body=image, num_scan_inputs=len(names)), options.dtype)


def _add(g: Builder, theirs: GraphProto, network: ForeignNetwork, given: dict[str, Value], batch: int) -> Value:
    """Append the nodes and weights, fed with values in the shapes that they take; return the output, [batch, ...]."""
    feeds = {}
    for name, entry in given.items():
        place, shape = network.places[name], network.shape_in(_shape_of(network, name))
        wanted = place.shape_for(shape, batch)
        if batch == 1 or wanted != [-1, *shape]:
            entry = entry.do("Reshape", wanted)
        feeds[place.name] = entry.name
    rename(theirs, THEIRS, feeds)
    g.nodes.extend(theirs.node)
    g.initializers.extend(theirs.initializer)
    output = feeds.get(network.output.name, THEIRS + network.output.name)
    options = Value(g, output, np.dtype(network.output.dtype).type)
    return options.do("Reshape", [batch, *network.shape_in(network.spec.state_shape)])


def _shape_of(network: ForeignNetwork, name: str) -> tuple[int, ...]:
    return tuple(network.spec.input_types[name][1])


def _portable(path: Path) -> ModelProto:
    """Return a foreign model with its weights, of opset 18 and ONNX's own operators, without functions and notes."""
    model = _read(path, weights=True)
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    names = [name for node in nodes for name in (*node.input, *node.output, node.name, node.op_type)]
    names += [entry.name for entry in (*model.graph.initializer, *model.graph.input, *model.graph.output)]
    if not all(isinstance(name, str) for name in names):  # protobuf gives bytes where they are not
        raise BadFileError(f"{path}: damaged: its names are not UTF-8. Copy the file again.")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opset = max((entry.version for entry in model.opset_import if entry.domain in OWN), default=1)
    foreign = sorted(
        {
            f"{node.op_type} of {node.domain}"
            for graph in graphs_of(model.graph)
            for node in graph.node
            if node.domain not in OWN
        }
    )
    if foreign:
        raise ModelRefusedError(
            f"{path}: has operators that are not ONNX's own: {several(foreign)}. Export it without optimisations for "
            "one runtime."
        )
    if opset < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as exc:  # its own, and plain RuntimeErrors
            raise ModelRefusedError(
                f"{path}: cannot be brought from opset {opset} to {OPSET}: {first_line(exc)}. Export it with "
                "that opset."
            ) from exc
    elif opset > OPSET:
        model = _defined(path, model, opset)
    _tidy(model.graph)
    return model


def _defined(path: Path, model: ModelProto, opset: int) -> ModelProto:
    """Return a model of a later opset with the operators that came since replaced by their definitions in ONNX.

    The others are taken for what they say: most changed but the types that they take, and the proof sees to that.
    """
    for _ in range(DEFINITIONS_DEEP):
        types = _types(model)
        functions: dict[str, FunctionProto] = {}
        for graph in graphs_of(model.graph):
            for node in graph.node:
                try:
                    definition = _definition(node, opset, [types[name] for name in node.input if name])
                except Exception as exc:  # a type that is not known, or what onnx makes of a node that is none
                    raise ModelRefusedError(
                        f"{path}: its {node.op_type[:80]} of opset {opset} has no definition for opset {OPSET}: "
                        f"{first_line(exc)}. Export it with opset {OPSET}."
                    ) from exc
                if definition is not None:
                    definition.name, definition.domain = f"{node.op_type}_{len(functions)}", THEIRS
                    node.op_type, node.domain = definition.name, THEIRS
                    functions[definition.name] = definition
        if not functions:
            break
        model.functions.extend(functions.values())
        model.opset_import.append(helper.make_opsetid(THEIRS, 1))
        model = onnx.inliner.inline_local_functions(model)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if onnx.defs.has(node.op_type, OPSET):  # what it was not asked then, and is asked nothing new by now
                now, then = (onnx.defs.get_schema(node.op_type, version, "").attributes for version in (opset, OPSET))
                kept = [a for a in node.attribute if a.name in then or a != now[a.name].default_value]
                del node.attribute[:]
                node.attribute.extend(kept)
    return model


def _types(model: ModelProto) -> defaultdict[str, TypeProto]:
    """Return what is known of the type of every value, by name."""
    known: defaultdict[str, TypeProto] = defaultdict(TypeProto)
    if fits_inline(model):
        model = onnx.shape_inference.infer_shapes(model)
    for graph in graphs_of(model.graph):
        for entry in (*graph.input, *graph.output, *graph.value_info):
            known[entry.name] = entry.type
        for tensor in graph.initializer:
            known[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return known


def _definition(node: NodeProto, opset: int, inputs: list[TypeProto]) -> Any:
    """Return the FunctionProto of an operator that came after OPSET; None for one that was there, or has none."""
    schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    versions = (*schema.function_opset_versions, *schema.context_dependent_function_opset_versions)
    if schema.since_version <= OPSET or not versions:
        return None
    stated = {attribute.name for attribute in node.attribute}
    defaults = {name: entry.default_value for name, entry in schema.attributes.items() if entry.default_value.name}
    node.attribute.extend(entry for name, entry in defaults.items() if name not in stated)
    if schema.has_function:
        content = schema.get_function_with_opset_version(min(versions)).SerializeToString()
    else:
        known = [entry.SerializeToString() for entry in inputs]
        content = schema.get_context_dependent_function_with_opset_version(
            min(versions), node.SerializeToString(), known
        )
    definition = FunctionProto.FromString(content)
    del definition.opset_import[:]
    definition.opset_import.append(helper.make_opsetid("", opset))  # the inliner passes over others than the model's
    return definition


def _tidy(graph: GraphProto) -> None:
    """Name every node, leave out notes and shapes, and let every weight's numbers be raw, as our files have them."""
    for entry in graphs_of(graph):
        entry.doc_string = ""
        del entry.value_info[:]
        for number, node in enumerate(entry.node):
            node.name = node.name or f"{node.op_type}_{number}"
            node.doc_string, node.domain = "", ""
            del node.metadata_props[:]
    for tensor in tensors_of(graph):
        tensor.doc_string = ""
        if not tensor.HasField("raw_data") and tensor.data_type != onnx.TensorProto.STRING:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def original_from_foreign(network: ForeignNetwork, storage: str, stack: ExitStack) -> Original:
    """Return a foreign .onnx as it runs by itself, which is all that there is to compare with."""
    portable, exact = _portable(network.path), None
    if any(tensor.data_type == HALF for tensor in tensors_of(portable.graph)):
        own, network = model_from_foreign(network), _in_float32(network, portable)
        exact = _as_it_runs(network, portable)
        _compare(network, own, exact)
    graph = graph_from_model(denoiser_from_foreign(network, portable), "float32", stack)
    exact = exact or model_from_foreign(network)
    original = Original(network.spec, exact, exact, storage, None, lambda _: graph, nullcontext, remedy=network.remedy)
    return original if storage == "float32" else with_rounded_graph(original, str(network.path), stack)


def _in_float32(network: ForeignNetwork, model: ModelProto) -> ForeignNetwork:
    """Let a model of float16 compute in float32, and return its network with what it takes and gives by then."""
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    constants = [attribute.t for node in nodes for attribute in node.attribute if attribute.HasField("t")]
    for tensor in (*tensors_of(model.graph), *constants):
        if tensor.data_type == HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for graph in graphs_of(model.graph):
        for entry in (*graph.input, *graph.output):
            if entry.type.tensor_type.elem_type == HALF:
                entry.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "stash_type") and attribute.i == HALF:
                attribute.i = TensorProto.FLOAT
    wide = {"float16": "float32"}
    places = {key: replace(place, dtype=wide.get(place.dtype, place.dtype)) for key, place in network.places.items()}
    return replace(network, places=places, output=replace(network.output, dtype="float32"))


def _as_it_runs(network: ForeignNetwork, model: ModelProto) -> Model:
    """Return what a model in memory says, as the Model of its network's spec."""
    if not fits_inline(model):
        raise ModelRefusedError(f"{network.path}: one of float16 must be below 1 GB. Export it as float32.")
    evaluate = evaluate_from_bytes(model.SerializeToString(), [network.output.name], threads=1)
    return model_from_foreign(network, lambda _, feeds: np.asarray(evaluate(feeds)[0]))


def _compare(network: ForeignNetwork, own: Model, wide: Model) -> None:
    """Raise ModelRefusedError where a network in float32 is another than in float16."""
    t = np.array([0, network.spec.num_train_timesteps - 1])
    feeds = {"x_t": noise_stream(0, range(2), network.spec.state_shape)(0), "t": t.astype(network.spec.t_dtype)}
    feeds |= example_of_inputs(network.spec.inputs, 0, (0, 1))
    found, expected = (model(**feeds)[network.spec.prediction] for model in (wide, own))
    error = float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))
    if not error <= MAX_HALF_ERROR:
        raise ModelRefusedError(
            f"{network.path}: computes in float16, and in float32 gives something else (relative error {error:.3g}, at "
            f"most {MAX_HALF_ERROR}). Export it as float32."
        )
