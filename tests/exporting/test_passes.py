"""Each graph pass computes the same numbers, on graphs made for it and on networks of every family that is imported."""

import json
from collections import Counter

import numpy as np
import pytest
from models import constant, node, onnx_file, tiny_spec
from representative import representative

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx_ir")

from ddpm_export.exporting.passes import PASSES, WEIGHTS_KEPT, rewritten  # noqa: E402
from ddpm_export.runtimes.onnx import model_from_bytes  # noqa: E402

MAX_RELATIVE_ERROR = 2e-6  # sums in another order; the proof of an export allows 1e-5
SPEC = tiny_spec((4, 6, 5))
KEPT = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def spread(*shape):
    """Return as many numbers, none of them like its neighbour, about 0."""
    return (np.arange(np.prod(shape), dtype=np.float32) * 7 % 11 - 5).reshape(shape) / 10


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


def norm(**changes):
    """Return a group norm of two groups as torch exports it; changes replace constants."""
    nodes = [
        node("Reshape", ["x_t", "groups"], "norm/Reshape"),
        node("InstanceNormalization", ["norm/Reshape", "ones", "zeros"], "norm/InstanceNormalization", epsilon=0.1),
        node("Reshape", ["norm/InstanceNormalization", "shape"], "norm/Reshape_1"),
        node("Mul", ["norm/Reshape_1", "norm.weight"], "norm/Mul"),
        node("Add", ["norm/Mul", "norm.bias"], "norm/Add"),
        node("Tanh", ["norm/Add"], "eps"),
    ]
    values = {"norm.weight": spread(4, 1, 1) + 2, "norm.bias": spread(4, 1, 1), "ones": [1, 1], "zeros": [0, 0]}
    shapes = {"groups": [0, 2, 60], "shape": [0, 4, 6, 5]}
    constants = [constant(name, value) for name, value in {**values, **changes}.items()]
    constants += [constant(name, value, np.int64) for name, value in shapes.items()]
    return onnx.ModelProto.FromString(onnx_file(nodes, constants, SPEC))


def doubled(scales=(1, 1, 2, 2), size=3, how=KEPT, **attributes):
    """Return an image of half the size, doubled and convolved."""
    nodes = [
        node("AveragePool", ["x_t"], "half", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Resize", ["half", "", "scales"], "up/Resize", **how),
        node("Conv", ["up/Resize", "w", "b"], "up.conv/Conv", **{"pads": [size // 2] * 4, **attributes}),
        node("Slice", ["up.conv/Conv", "from", "to"], "eps"),
    ]
    constants = [constant("w", spread(4, 4, size, size)), constant("b", spread(4)), constant("scales", scales)]
    constants += [constant("from", [0, 0, 0, 0], np.int64), constant("to", [99, 4, 6, 5], np.int64)]
    return onnx.ModelProto.FromString(onnx_file(nodes, constants, SPEC))


def assert_same_outputs(model, other, spec=SPEC, inputs=None):
    rng = np.random.default_rng(0)
    x_t = rng.standard_normal((3, *spec.state_shape), np.float32)
    t = np.array([0, spec.num_train_timesteps // 2, spec.num_train_timesteps - 1], spec.t_dtype)
    item, two = (model_from_bytes(m.SerializeToString(), spec)(x_t, t, **(inputs or {})) for m in (model, other))
    for name in spec.outputs:
        scale = np.abs(item[name]).max()
        np.testing.assert_allclose(two[name], item[name], rtol=0, atol=MAX_RELATIVE_ERROR * scale)


def assert_sound(model):
    """What docs/format.md section 1 promises of a graph holds of a rewritten one."""
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert [entry.key for entry in model.metadata_props] == ["ddpm_export"]
    graph = model.graph
    names = [node.name for node in graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert not graph.value_info
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    for carrier in (model, graph, *graph.node, *graph.input, *graph.output):
        assert not carrier.doc_string
        assert carrier is model or not carrier.metadata_props


def test_scale_and_shift_of_a_group_norm_become_one_node():
    model = norm()
    before = model.SerializeToString()
    other = rewritten(model)
    assert model.SerializeToString() == before
    assert_sound(other)
    assert [n.name for n in other.graph.node][2:4] == ["norm/Reshape_1", "norm/BatchNormalization"]
    assert not {"Mul", "Add"} & set(operators(other))
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in other.graph.initializer}
    np.testing.assert_array_equal(tensors["norm.weight"], spread(4) + 2)
    np.testing.assert_array_equal(tensors["norm.bias"], spread(4))
    assert_same_outputs(model, other)


@pytest.mark.parametrize("changes", [{"norm.weight": 2.0}, {"norm.bias": spread(1, 6, 5)}], ids=["one", "by pixel"])
def test_another_scale_and_shift_stay(changes):
    model = norm(**changes)
    assert operators(rewritten(model)) == operators(model)


def test_a_norm_that_shares_its_scale_stays():
    model = norm()
    model.graph.node[-1].CopyFrom(node("Mul", ["norm/Add", "norm.weight"], "eps"))
    assert operators(rewritten(model)) == operators(model)


def test_a_doubled_image_is_convolved_by_rows():
    model = doubled()
    other = rewritten(model)
    assert_sound(other)
    assert operators(other) == operators(model) + Counter(Conv=1, Concat=1, Reshape=3)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in other.graph.initializer}
    np.testing.assert_allclose(tensors["w.even_rows"].sum((2, 3)), spread(4, 4, 3, 3).sum((2, 3)), atol=1e-6)
    assert tensors["w.odd_rows"].shape == (4, 4, 2, 3)
    assert "w" not in tensors
    assert_same_outputs(model, other)


def test_names_stay_apart_where_two_convolutions_share_a_scope():
    model = doubled()
    more = [type(item).FromString(item.SerializeToString()) for item in model.graph.node]
    for item in more[1:]:
        item.name += "_1"
        item.input[:] = [name + "_1" if "/" in name else name for name in item.input]
        item.output[0] += "_1"
    more[2].input[1] = "w_1"
    model.graph.initializer.append(constant("w_1", spread(4, 4, 3, 3)[::-1]))
    del model.graph.node[-1], more[0], more[-1]
    model.graph.node.extend(more)
    model.graph.node.append(node("Add", ["up.conv/Conv", "up.conv/Conv_1"], "both"))
    model.graph.node.append(node("Slice", ["both", "from", "to"], "eps"))
    other = rewritten(model)
    assert_sound(other)
    assert operators(other)["Conv"] == 4
    assert_same_outputs(model, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"scales": (1, 1, 3, 2)},
        {"size": 1},
        {"strides": [2, 1]},
        {"how": {**KEPT, "mode": "linear"}},
        {"how": {**KEPT, "coordinate_transformation_mode": "half_pixel"}},
        {"how": {**KEPT, "nearest_mode": "ceil"}},
        {"pads": [2, 1, 0, 1]},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    ],
    ids=str,
)
def test_other_ways_to_enlarge_stay(changes):
    model = doubled(**changes)
    assert operators(rewritten(model)) == operators(model)


def test_what_a_weight_is_rounded_to_does_not_depend_on_the_passes_that_keep_weights():
    assert set(WEIGHTS_KEPT) < set(PASSES)
    model = doubled()
    assert operators(rewritten(model, WEIGHTS_KEPT)) == operators(model)


def family(name, folder, recorded):
    """Return the checkpoint of a small network of a project, with norms and an upsampling in it."""
    from ddpm_export.importers.load import load_checkpoint
    from tests.oracles.weights import ORACLES

    if name == "diffusers":
        diffusers = pytest.importorskip("diffusers")
        from benchmarks.importing.diffusers import SMALL, network_of

        network = network_of({**SMALL, "sample_size": 8, "block_out_channels": (4, 8), "norm_num_groups": 2}, 0)
        diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(folder)
        return load_checkpoint(folder)
    if name == "lucidrains":
        torch = pytest.importorskip("torch")
        pytest.importorskip("denoising_diffusion_pytorch")
        from benchmarks.importing.lucidrains import diffusion_and_ema, trainer_contents

        options = {"image_size": 8, "timesteps": 30}
        unet = {"dim": 4, "dim_mults": (1, 2), "channels": 1, "attn_heads": (1, 2), "attn_dim_head": (2, 3)}
        torch.save(trainer_contents(*diffusion_and_ema(unet, options, seed=0)), folder / "model.pt")
        return load_checkpoint(folder / "model.pt", options=options)
    return load_checkpoint(recorded(name), options=json.loads((ORACLES / name / "config.json").read_text()))


@pytest.mark.long
@pytest.mark.torch
@representative("name", ["diffusers", "lucidrains", "guided-a", "tqch-c"])
def test_imported_networks_compute_the_same(name, tmp_path, recorded):
    from ddpm_export.exporting.onnx import model_from_checkpoint
    from ddpm_export.exporting.program import program_from_checkpoint
    from ddpm_export.model.examples import example_of_inputs

    checkpoint = family(name, tmp_path, recorded)
    model = model_from_checkpoint(checkpoint, program_from_checkpoint(checkpoint), passes=())
    other = rewritten(model)
    assert_sound(other)
    before, after = operators(model), operators(other)
    assert after["BatchNormalization"] == before["InstanceNormalization"]  # every group norm; lucidrains has none
    assert 0 < after["Concat"] - before["Concat"] <= before["Resize"]  # some double an image for a shortcut only
    spec = checkpoint.spec
    assert_same_outputs(model, other, spec, example_of_inputs(spec.inputs, 0, range(3)))
