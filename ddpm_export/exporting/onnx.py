"""ONNX files: torch's graph, rewritten into the form of docs/format.md section 1. Knows neither samplers nor runtimes.

What torch gives is made portable (opset 18, IR 8, static shapes but for the batch), readable (nodes named by module
path, initializers as in the state dict) and clean (none of the exporter's notes, which hold this machine's paths).
"""

import ast
import math
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import torch
from onnx_ir.passes import InPlacePass
from torch import Tensor, nn

from ddpm_export.errors import ModelRefusedError, first_line
from ddpm_export.exporting.onnx_file import IR_VERSION, OPSET
from ddpm_export.exporting.passes import PASSES, rewritten
from ddpm_export.exporting.program import program_from_network, quiet_torch
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.process.equations import Array

SCOPES = "pkg.torch.onnx.name_scopes"
NO_SCOPE = ("_empty_nn_module_stack_from_metadata_hook",)  # what torch calls a place that it has lost
# operators with an input of a few numbers, and which: those are named by what they are and say
SHORT_INPUTS = {"Reshape": (1, "shape"), "Unsqueeze": (1, "axes"), "Split": (1, "sizes"), "Resize": (2, "scales")}


def model_from_checkpoint(
    checkpoint: Checkpoint, program: torch.export.ExportedProgram, passes: tuple[InPlacePass, ...] = PASSES
) -> onnx.ModelProto:
    """Return a traced network as an ONNX model: inputs and outputs named by the spec, which is its metadata.

    passes: what rewrites it afterwards, for speed. Raises ModelRefusedError where torch cannot express the network in
    ONNX.
    """
    spec = checkpoint.spec
    metadata = {METADATA_KEY: json_from_spec(spec)}
    inputs, outputs = list(spec.input_types), list(spec.outputs)
    network = model_from_network(checkpoint.network, (), inputs, outputs, "denoiser", metadata, program)
    return rewritten(network, passes)


def model_from_network(
    network: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    name: str,
    metadata: dict[str, str],
    program: torch.export.ExportedProgram | None = None,
) -> ir.Model:
    """Return any network as an ONNX model in the form of this file, with these names and metadata.

    Its weights lie where the network has them: they are copied once, when `rewritten` makes a message of the model.

    example: inputs of two images, of which only shapes and types count, to trace it with where `program` is None. The
    first dimension of all is the batch. Raises ModelRefusedError where torch cannot express the network in ONNX.
    """
    if program is None:
        program = program_from_network(network, example)
    model, constants = _torch_export(program, inputs, outputs)
    graph = model.graph
    scopes = _scopes(graph)
    _make_shapes_static(graph, constants)
    _drop_unused(graph, scopes)
    names = _constant_names(graph, constants, scopes, frozenset(network.state_dict()))
    _name_nodes(graph, scopes)

    used = dict.fromkeys(value for node in graph.node for value in node.input if value in names)
    state = {key: k for k, key in enumerate(network.state_dict())}
    order = sorted(used, key=lambda key: state.get(key, len(state)))  # stable: the others by first use
    for key in order:
        kind = onnx.helper.np_dtype_to_tensor_dtype(names[key].dtype)
        weight = graph.initializer.add(name=key, dims=names[key].shape, data_type=kind)
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="the network")

    for carrier in (model, graph, *graph.node, *graph.input, *graph.output):
        carrier.doc_string = ""
        del carrier.metadata_props[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"  # torch calls it by a number
    del graph.value_info[:]  # under the old names; whoever needs shapes infers them
    graph.name = name
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "ddpm-export", ""
    onnx.helper.set_model_props(model, metadata)
    result = ir.from_proto(model)
    for key in order:
        result.graph.initializers[key].const_value = ir.tensor(names[key], name=key)
    return result


def _scalar(s: float, dtype: int = 1, layout: str = "", device: str = "", pin_memory: bool = False) -> ir.Value:
    """Return a number of the dtype it is used in: torch's own makes it a float32, and a float64 of that."""
    del layout, device, pin_memory
    constant: Any = onnxscript.opset18.Constant  # typed for protobuf tensors alone
    value: ir.Value = constant(value=ir.tensor(s, dtype=ir.DataType(dtype)))
    return value


def _torch_export(
    traced: torch.export.ExportedProgram, inputs: list[str], outputs: list[str]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return torch's graph without its constants, and those by name."""
    with quiet_torch():
        warnings.filterwarnings("ignore", r"# The axis name: batch", UserWarning)  # x_t and t share one: that is meant
        try:
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten.scalar_tensor.default: _scalar},
                external_data=False,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as exc:
            raise ModelRefusedError(
                f"torch cannot write the network as ONNX of opset {OPSET}: {first_line(exc)}. Try `format=pt2`."
            ) from exc
        assert program is not None  # dynamo=True gives a program
        constants = {}
        for name, weight in program.model.graph.initializers.items():
            assert weight.const_value is not None
            constants[name] = weight.const_value.numpy()
            weight.const_value = None
        return program.model_proto, constants


def _scopes(graph: onnx.GraphProto) -> list[str]:
    """Return the path of the module that each node comes from, by the exporter's notes; "" is the network itself."""
    by_output: dict[str, str] = {}
    scopes = []
    for node in graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        if SCOPES in notes:
            path = ast.literal_eval(notes[SCOPES])  # ['', 'down.0', 'down.0.attention', 'view']
            scope = path[-2] if len(path) > 1 and path[-2] not in NO_SCOPE else ""
        else:  # put there by an optimisation: it belongs to where its input comes from
            scope = by_output.get(node.input[0], "")
        by_output.update((name, scope) for name in node.output)
        scopes.append(scope)
    return scopes


def _make_shapes_static(graph: onnx.GraphProto, constants: dict[str, Array]) -> None:
    """Give every Reshape a constant shape that begins with 0, which copies the batch, wherever all else is known.

    That leaves torch's group norm, which asks for a shape at run time, as Reshape, InstanceNormalization, Reshape, Mul,
    Add (the last two of which `passes` joins), and lets any reader infer shapes, which a -1 for the batch would end.
    """
    values = (*graph.value_info, *graph.input, *graph.output)
    dims = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}  # 0: not known
    asked = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Shape"}
    for node in graph.node:
        if node.op_type != "Reshape":
            continue
        before, after = dims.get(node.input[0], []), dims.get(node.output[0], [])
        if node.input[1] in asked:
            after = dims.get(asked[node.input[1]], [])
        if before and after and before[0] == after[0] == 0 and all(after[1:]):
            if all(before[1:]) and math.prod(before[1:]) != math.prod(after[1:]):
                continue  # the first dimension is not the batch, or not alone
            shape = [0, *after[1:]]
            node.input[1] = "shape " + " ".join(map(str, shape))
            del node.attribute[:]  # allowzero, by which 0 would mean an empty dimension
            constants[node.input[1]] = np.array(shape, dtype=np.int64)


def _drop_unused(graph: onnx.GraphProto, scopes: list[str]) -> None:
    """Remove the nodes, and their scopes, that nothing reads any more."""
    wanted = {value.name for value in graph.output}
    keep = []
    for k in reversed(range(len(graph.node))):
        if wanted.intersection(graph.node[k].output):
            wanted.update(graph.node[k].input)
            keep.append(k)
    nodes = [graph.node[k] for k in reversed(keep)]
    scopes[:] = [scopes[k] for k in reversed(keep)]
    del graph.node[:]
    graph.node.extend(nodes)


def _constant_names(
    graph: onnx.GraphProto, constants: dict[str, Array], scopes: list[str], state: frozenset[str]
) -> dict[str, Array]:
    """Rename the constants in every node's inputs and return them by their new names.

    A weight is named as in the state dict, once for each module: torch merges equal ones, and folds those of group
    norms into (C, 1, 1). Shapes and axes are named by what they say, all else by the node that reads it first.
    """
    named: dict[str, Array] = {}
    other: dict[str, str] = {}  # torch's name -> ours
    after_norm: dict[str, str] = {}  # values on their way from an InstanceNormalization -> what the next constant is
    for node, scope in zip(graph.node, scopes, strict=True):
        prefix = f"{scope}." if scope else ""
        norm = _next_of_norm(node, after_norm)
        for k, name in enumerate(node.input):
            if name not in constants:
                continue
            value = constants[name]
            own = prefix + (norm or name.rsplit(".", 1)[-1])
            if own in state and (norm or name in state):
                new = own
            elif name in state:
                new = name
            elif SHORT_INPUTS.get(node.op_type, (0, ""))[0] == k > 0:
                new = "_".join([SHORT_INPUTS[node.op_type][1], *(f"{v:g}" for v in value.reshape(-1).tolist())])
            elif node.op_type == "InstanceNormalization":
                new = f"{'ones' if k == 1 else 'zeros'}_{value.size}"
            else:
                new = other.setdefault(
                    name, f"{scope}/{node.op_type}.constant" if scope else f"{node.op_type}.constant"
                )
                while new in named and not np.array_equal(named[new], value):  # another one of that place
                    new = other[name] = f"{new}_"
            node.input[k] = new
            named[new] = value
    return named


def _next_of_norm(node: onnx.NodeProto, after_norm: dict[str, str]) -> str | None:
    """Return "weight" or "bias" where a node applies that of a group norm, followed from InstanceNormalization on."""
    if node.op_type == "InstanceNormalization":
        after_norm[node.output[0]] = "Reshape"
        return None
    at = next((after_norm[name] for name in node.input if name in after_norm), None)
    if at == "Reshape" and node.op_type == "Reshape":
        after_norm[node.output[0]] = "Mul"
    elif at == "Mul" and node.op_type == "Mul":
        after_norm[node.output[0]] = "Add"
        return "weight"
    elif at == "Add" and node.op_type == "Add":
        return "bias"
    return None


def _name_nodes(graph: onnx.GraphProto, scopes: list[str]) -> None:
    """Name each node `module.path/Operator`, numbered from the second on, and each value after its node."""
    outputs = {value.name for value in graph.output}
    counts: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for node, scope in zip(graph.node, scopes, strict=True):
        base = f"{scope}/{node.op_type}" if scope else node.op_type
        number = counts[base] = counts.get(base, -1) + 1
        node.name = f"{base}_{number}" if number else base
        for k, name in enumerate(node.input):
            node.input[k] = renamed.get(name, name)
        for k, name in enumerate(node.output):
            if name and name not in outputs:
                renamed[name] = f"{node.name}.{k}" if len(node.output) > 1 else node.name
                node.output[k] = renamed[name]
