"""Hostile .onnx, .ts and .pt2 files: what a stranger can write into each part of a model."""

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
from external_data import TWICE, varint
from models import (
    constant,
    crashing_model,
    endless_model,
    external,
    greedy_model,
    learned_model,
    mix_model,
    node,
    onnx_file,
    scale_model,
    sick_model,
    tiny_spec,
)
from onnx import AttributeProto, ModelProto, TensorProto, helper

from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.spec_json import json_from_spec

from .cases import ANY, BAD, REFUSED, TESTS_GOLDEN, Case, check, family, flips, graph, later, one_call, run, truncations

SPEC = json.loads(json_from_spec(tiny_spec()))
FOUR = frozenset({3, 4})


def changed(**changes):
    return json.dumps({**SPEC, **changes})


def one(name, content, codes=BAD, arguments=None, **rest):
    return Case(name, {"m.onnx": content}, arguments or run(), codes, **rest)


@family("sound files")
def controls(noise):
    """What is damaged below is sound: else a refusal would say nothing."""
    sound = frozenset({0})
    yield one("a denoiser", mix_model(), sound)
    yield one("a learned variance", learned_model(), sound)
    yield one("a sampler in one call", one_call(), sound)
    yield one("a slice", one_call("slice"), sound)
    yield one("checked", mix_model(), sound, check())
    yield one("a sampler checked", one_call(), sound, check())


FOREIGN = {
    "empty": b"",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "text": b"# My model\n" * 99,
    "a page": b"<!DOCTYPE html><html>404</html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
    "a zip": b"PK\x03\x04" + bytes(99),
    "gzip": b"\x1f\x8b\x08" + bytes(99),
    "a program": b"\x7fELF\x02\x01\x01" + bytes(99),
    "a pickle": b"\x80\x04cos\nsystem\n(X\x04\0\0\0true\x85R.",
    "JSON": b'{"ddpm_export": {}}',
}


@family("foreign bytes as .onnx")
def foreign(noise):
    yield from (one(name, content) for name, content in FOREIGN.items())
    yield Case("a folder", {"m.onnx/x": b""}, run())
    yield Case("a pipe", {"m.onnx": os.mkfifo}, run())
    yield Case("a link in a circle", {"m.onnx": lambda path: path.symlink_to("m.onnx")}, run())
    yield Case("a device", {"m.onnx": lambda path: path.symlink_to("/dev/zero")}, run())
    yield Case("nothing", {}, run())
    yield Case("a name too long", {}, run(model="m" * 300 + ".onnx"))


@family("truncated .onnx")
def truncated(noise):
    for content in (mix_model(), one_call()):
        yield from (one(name, part) for name, part in truncations(content, 12))


@family("bit flips in .onnx")
def flipped(noise):
    yield from (one(name, part, ANY) for name, part in flips(mix_model(), 40, noise))
    yield from (one(f"one-call, {name}", part, ANY) for name, part in flips(one_call(), 20, noise))


@family("lying lengths and tags of the protobuf")
def lengths(noise):
    whole = mix_model()
    at = whole.index(b"\x3a")  # the graph's tag
    for size in (0, 1, 2**14, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1):
        yield one(f"a graph of {size} bytes", whole[: at + 1] + varint(size) + whole[at + 3 :])
    for tag in (b"\x3b", b"\x3c", b"\x3d", b"\x3e", b"\x3f", b"\xba\x80\x80\x80\x10", b"\x00", b"\x80" * 10 + b"\x01"):
        yield one(f"the graph's tag as {tag.hex()}", whole[:at] + tag + whole[at + 1 :])
    for end in (b"\x80", b"\x80" * 11, b"\x3a\xff\xff\xff\xff\x0f", b"\x0b", b"\x0c", b"\x72\x02\x0a\x7f"):
        yield one(f"ends in {end.hex()}", whole + end)


LOCATIONS = [
    "../secret",
    "up/secret",
    "link",
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/environ",
    "circle",
    "a\0b",
    "./../secret",
    "inside/../../secret",
    "//etc/passwd",
    "..",
    ".",
    "x" * 5000,
    "up/../up/secret",
]


def beside(location):
    """The files around a model whose weights lie elsewhere: what it may and what it may not read."""
    numbers = np.full(30, 0.5, np.float32).tobytes()
    return {
        "secret": numbers,
        "in/data": numbers,
        "in/link": lambda path: path.symlink_to("../secret"),
        "in/up": lambda path: path.symlink_to(".."),
        "in/circle": lambda path: path.symlink_to("circle"),
        "in/pipe": os.mkfifo,
        "in/m.onnx": scale_model(weight=location) if isinstance(location, TensorProto) else location,
    }


@family("external data outside the folder")
def outside(noise):
    for location in LOCATIONS:
        yield Case(location[:40], beside(external(location)), run(model="in/m.onnx"))


# what a runtime, a system or a URL library takes for something else than a file of the model's folder
TAGS = [
    "*/_ORT_MEM_ADDR_/*",
    "*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*",
    "./*/_ORT_MEM_ADDR_/*",
    "*/_ort_mem_addr_/*",
    "C:\\secret",
    "C:secret",
    "C:/secret",
    "\\\\host\\share\\x",
    "..\\secret",
    "\\secret",
    "file:///etc/passwd",
    "file:data",
    "http://127.0.0.1/x",
    "data:stream",
    "data::$DATA",
    ".. /secret",
    "data.",
    "data ",
    "data/..",
    "../in/data",
    "~root/x*",
    "data?x",
    "<data",
    "da|ta",
    "a\nb",
    "a\x1b[2Jb",
    "a\x7fb",
]


@family("external data at what is no file name")
def tagged(noise):
    for location in TAGS:
        for offset in (0, 4096):
            weight = external(location, 120, offset)
            yield Case(f"{location!r} at {offset}", beside(weight), run(model="in/m.onnx"))
        yield Case(f"check of {location!r}", beside(external(location)), check(model="in/m.onnx"), apart=True)
    for raw in (b"\xff\xfe", b"\xc0\xae\xc0\xae/secret", b"\xed\xa0\x80"):
        whole = scale_model(weight=external("x" * len(raw)))
        yield Case(f"{raw!r}", beside(whole.replace(b"x" * len(raw), raw)), run(model="in/m.onnx"))


@family("external data said twice")
def said_twice(noise):
    """Of two entries a runtime takes the last, or the last that is not empty; protobuf merges messages."""
    for key, value in (
        ("location", "../secret"),
        ("location", "data"),
        ("location", ""),
        ("offset", "4"),
        ("offset", ""),
        ("length", "120"),
        ("prepacked_0", "x|0;4;0"),
        ("prepacked_1", ""),
        ("basepath", ".."),
        ("Location", "data"),
        ("LOCATION", "../secret"),
        ("location\0", "../secret"),
        ("__class__", "x"),
        ("", "data"),
    ):
        for first in (False, True):
            weight = external("data")
            entries = [(entry.key, entry.value) for entry in weight.external_data]
            del weight.external_data[:]
            for one_key, one_value in [(key, value), *entries] if first else [*entries, (key, value)]:
                weight.external_data.add(key=one_key, value=one_value)
            yield Case(f"{key!r} {value!r}, {'first' if first else 'last'}", beside(weight), run(model="in/m.onnx"))
    for key in ("location", "offset", "length"):
        weight = external("data")
        kept = [(entry.key, entry.value) for entry in weight.external_data if entry.key != key]
        del weight.external_data[:]
        for one_key, one_value in kept:
            weight.external_data.add(key=one_key, value=one_value)
        codes = BAD if key == "location" else ANY
        yield Case(f"no {key}", beside(weight), run(model="in/m.onnx"), codes)
    for name, more in TWICE.items():
        yield Case(f"two {name}", beside(scale_model() + more), run(model="in/m.onnx"))


@family("external data that lies")
def external_lies(noise):
    places = [
        ("data", 10**18, 0),
        ("data", 120, 10**18),
        ("data", 120, -4),
        ("data", -1, 0),
        ("data", 4, 0),
        ("none", 120, 0),
        ("pipe", 120, 0),
        ("", 120, 0),
        ("data", 2**63, 2**63),
        ("data", 0, 0),
    ]
    for location, length, offset in places:
        codes = ANY if (length, offset) == (0, 0) else BAD  # ONNX Runtime takes a length of 0 for none said
        files = beside(external(location, length, offset))
        yield Case(f"{location!r}, {length} at {offset}", files, run(model="in/m.onnx"), codes)
    for key, value in (("offset", "x"), ("length", "1e9"), ("location", "../secret"), ("checksum", "x" * 10**6)):
        weight = external("data")
        weight.external_data.add(key=key, value=value)
        yield Case(f"{key} {value[:9]}", beside(weight), run(model="in/m.onnx"), ANY)


@family("external data in every place of a graph")
def external_places(noise):
    secret = external("../secret")
    body = helper.make_graph([node("Add", ["w", "w"], "v")], "body", [], [], [secret])
    usual = [node("Mul", ["x_t", "h"], "eps")]
    half = constant("h", 0.5)
    sparse = helper.make_sparse_tensor(secret, constant("i", [0] * 30, np.int64), [1, 1, 6, 5])
    within = {
        "a constant": node("Constant", [], "c", value=secret),
        "a branch": node("If", ["b"], "c", then_branch=body, else_branch=body),
        "a sparse constant": node("Constant", [], "c", sparse_value=sparse),
    }
    several_graphs = node("Identity", ["x_t"], "c")
    several_graphs.attribute.add(name="gs", type=AttributeProto.GRAPHS).graphs.append(body)
    several_tensors = node("Identity", ["x_t"], "c")
    several_tensors.attribute.add(name="ts", type=AttributeProto.TENSORS).tensors.append(secret)
    within |= {"a list of graphs": several_graphs, "a list of tensors": several_tensors}
    for name, extra in within.items():
        yield Case(name, beside(graph([extra, *usual], [half])), run(model="in/m.onnx"))
    model = ModelProto.FromString(graph(usual, [half]))
    model.graph.sparse_initializer.append(sparse)
    yield Case("a sparse initializer", beside(model.SerializeToString()), run(model="in/m.onnx"))
    model = ModelProto.FromString(graph(usual, [half]))
    model.training_info.add().algorithm.CopyFrom(body)
    yield Case("training", beside(model.SerializeToString()), run(model="in/m.onnx"))
    model = ModelProto.FromString(graph(usual, [half]))
    model.functions.add(name="f", domain="d").node.append(within["a constant"])
    yield Case("a function", beside(model.SerializeToString()), run(model="in/m.onnx"))


@family("weights that claim what is not there")
def weights(noise):
    shapes = [(10**9, 10**9), (1, 1, -6, -5), (2**62, 4), (1, 1, 60_000, 50_000), (2**63 - 1,), (0, 2**40), (1,) * 200]
    for dims in shapes:
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
        yield one(f"float {dims[:4]}", scale_model(weight=tensor))
    for kind in (0, 8, 16, 17, 23, 99, 2**31 - 1):
        yield one(f"type {kind}", scale_model(weight=TensorProto(name="w", data_type=kind, dims=[1], raw_data=b"1234")))
    many = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4000))
    yield one("more bytes than numbers", scale_model(weight=many))
    both = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4), float_data=[1.0, 2.0])
    yield one("bytes and numbers", scale_model(weight=both), ANY)


def attacks():
    folder = TESTS_GOLDEN / "spec_attacks"
    texts = json.loads((folder / "texts.json").read_text("ascii"))["cases"]
    return [case["text"] for case in texts if not case["accepted"]]


@family("a spec that no reader takes")
def specs(noise):
    for k, text in enumerate(noise.sample(attacks(), 40)):
        yield one(f"attack {k}", scale_model(metadata=text or " "), FOUR)


@family("a spec without end")
def endless_specs(noise):
    for opening, closing in (("[", "]"), ('{"a":', "}"), ("[[", "]]")):
        for depth in (33, 1000, 20_000):
            yield one(f"{opening} {depth} deep", scale_model(metadata=opening * depth + closing * depth))
    yield one("300 KiB of spaces", scale_model(metadata=changed() + " " * 300 * 1024))
    yield one("64 MiB of text", later(lambda: scale_model(metadata='{"a": "' + "a" * 2**26 + '"}')))
    yield one(
        "a number of 200,000 digits",
        scale_model(metadata=changed(clip_x_0=1).replace(": 1,", ": " + "9" * 200_000 + ",")),
    )
    yield one("a million keys", scale_model(metadata="{" + ",".join(f'"{k}":0' for k in range(30_000)) + "}"))


@family("graph and spec disagree")
def disagreements(noise):
    for change in (
        {"image_shape": [1, 5, 6]},
        {"image_shape": [3, 6, 5]},
        {"image_shape": [1, 8192, 8192]},
        {"image_shape": [2**13, 2**13, 1]},
        {"prediction": "v"},
        {"requires": ["variance_fraction"], "variance": "learned"},
        {"requires": ["fractional_t"]},
        {"inputs": [{"name": "y", "kind": "label", "shape": [], "none": 1, "classes": ["a"]}], "requires": ["inputs"]},
        {"graph": "sampler"},
        {"graph": "slice"},
    ):
        yield one(str(change)[:60], scale_model(metadata=changed(**change)))


@family("what a newer version would have to read")
def newer(noise):
    four = frozenset({4})
    for change in (
        {"format": "ddpm-export/2"},
        {"requires": ["y"]},
        {"noise": "mt19937"},
        {"requires": ["\x1b[2J"]},
        {"requires": ["variance_fraction", "z" * 9999]},
        {"noise": "n" * 9999},
    ):
        yield one(str(change)[:60], scale_model(metadata=changed(**change)), four)


@family("escape sequences in names")
def escapes(noise):
    text = "\x1b]0;owned\x07\x1b[2J\u202e\nerror: all is well\r"
    for field in ("prediction", "variance", "name", "noise", "format", "graph"):
        yield one(field, scale_model(metadata=changed(**{field: text})), ANY if field == "name" else FOUR)
    yield one("an output", graph([node("Identity", ["x_t"], text)], outputs={text: (1, ["batch", 1, 6, 5])}))
    yield one("an operator", graph([node(text, ["x_t"], "eps")]))
    yield one("a node that fails", graph([node("Reshape", ["x_t", "s"], "eps")], [constant("s", [7, 7], np.int64)]))
    yield Case("a folder", {f"{text.strip()[:9]}\x1b[2J/m.onnx": b"x"}, run(model=f"{text.strip()[:9]}\x1b[2J/m.onnx"))


@family("metadata twice, or none")
def metadata(noise):
    model = ModelProto.FromString(scale_model())
    model.metadata_props.add(key=METADATA_KEY, value="{}")
    yield one("twice", model.SerializeToString())
    yield one("none", scale_model(metadata=""))
    whole = scale_model()
    yield one("not UTF-8", whole.replace(b'"tiny"', b'"\xff\xfe\xfd\xfc"'[:6]))
    key = METADATA_KEY.encode()
    yield one("a key of zeros", whole.replace(key, bytes(len(key))))
    yield one("an empty pair", whole + b"\x72\x00", ANY)
    yield one("a thousand pairs", whole + b"\x72\x04\x0a\x02ab" * 10_000, ANY)


@family("graphs that cannot be")
def impossible(noise):
    half = constant("h", 0.5)
    yield one(
        "a cycle",
        graph([node("Add", ["b", "x_t"], "a"), node("Add", ["a", "x_t"], "b"), node("Add", ["a", "b"], "eps")]),
    )
    yield one("of itself", graph([node("Add", ["eps", "x_t"], "eps")]))
    yield one("one name twice", graph([node("Neg", ["x_t"], "eps"), node("Abs", ["x_t"], "eps")]))
    yield one("an input that is not there", graph([node("Add", ["x_t", "nothing"], "eps")]))
    yield one("an output that is not there", graph([node("Neg", ["x_t"], "a")]))
    yield one("no node", graph([]))
    yield one("an initializer called as an input", graph([node("Neg", ["x_t"], "eps")], [constant("x_t", [0.5])]), ANY)
    yield one("one initializer twice", graph([node("Mul", ["x_t", "h"], "eps")], [half, half]), ANY)
    for op, domain in (("Evil", ""), ("Conv", "com.microsoft"), ("X", "ai.onnx.ml"), ("PyOp", "pyop"), ("Call", "\n")):
        yield one(f"operator {domain!r} {op}", graph([helper.make_node(op, ["x_t"], ["eps"], domain=domain)]))
    for version in (0, -1, 1, 999, 2**62):
        model = ModelProto.FromString(scale_model())
        model.opset_import[0].version = version
        yield one(f"opset {version}", model.SerializeToString(), ANY if version == 1 else BAD)
    for version in (0, -1, 999, 2**62):
        model = ModelProto.FromString(scale_model())
        model.ir_version = version
        yield one(f"IR {version}", model.SerializeToString(), ANY)


def leaf():
    return helper.make_graph([node("Neg", ["x_t"], "v")], "g", [], [helper.make_tensor_value_info("v", 1, None)])


@family("graphs within graphs")
def nested(noise):
    inner = leaf()
    for depth in range(1, 24):  # protobuf itself refuses to write what is deeper
        branch = node("If", ["true"], "v", then_branch=inner, else_branch=inner if depth < 8 else leaf())
        inner = helper.make_graph([branch], "g", [], [helper.make_tensor_value_info("v", 1, None)])
        if depth % 5 == 0 or depth > 20:
            nodes = [branch, node("Identity", ["v"], "eps")]
            yield one(f"{depth} deep", onnx_file(nodes, [constant("true", True, np.bool_)], tiny_spec()), ANY)
    deep = b"\x0a\x00"
    for _ in range(5000):  # Node, Attribute, Graph and again
        deep = b"\x32" + varint(len(deep)) + deep
        deep = b"\x2a" + varint(len(deep)) + deep
        deep = b"\x0a" + varint(len(deep)) + deep
    yield one("5,000 deep", b"\x3a" + varint(len(deep)) + deep + scale_model())


@family("outputs of another kind")
def outputs(noise):
    shape = ["batch", 1, 6, 5]
    for kind, to in (("double", 11), ("float16", 10), ("int64", 7), ("bool", 9), ("string", 8)):
        yield one(kind, graph([node("Cast", ["x_t"], "eps", to=to)], outputs={"eps": (to, shape)}))
    for name, nodes in {
        "one number": [node("ReduceSum", ["x_t"], "eps", keepdims=0)],
        "flat": [node("Flatten", ["x_t"], "eps")],
        "twice as many": [node("Concat", ["x_t", "x_t"], "eps", axis=0)],
        "turned": [node("Transpose", ["x_t"], "eps", perm=[0, 1, 3, 2])],
        "none": [node("Compress", ["x_t", "no"], "eps", axis=0)],
    }.items():
        # said to be of the right shape: only a run shows what it is
        yield one(name, graph(nodes, [constant("no", [False], np.bool_)], outputs={"eps": (1, None)}), BAD)
    yield one("a sequence", graph([node("SequenceConstruct", ["x_t"], "eps")]))
    yield one("another name", graph([node("Neg", ["x_t"], "epsilon")], outputs={"epsilon": (1, shape)}))


@family("not finite")
def not_finite(noise):
    six = frozenset({6})
    for value in (np.nan, np.inf, -np.inf):
        for t in (39, 19):
            yield one(f"{value} at t = {t}", sick_model(t, sick=value), six)
        yield one(f"a weight {value}", scale_model(weight=constant("w", value)), six)
    yield one(
        "too large", graph([node("Mul", ["x_t", "w"], "a"), node("Mul", ["a", "w"], "eps")], [constant("w", 3e38)]), six
    )


def bomb(*sizes, op="ConstantOfShape"):
    nodes = [
        node(op, ["s"], "wide"),
        node("ReduceSum", ["wide"], "sum", keepdims=0),
        node("Add", ["x_t", "sum"], "eps"),
    ]
    return graph(nodes, [constant("s", sizes, np.int64)])


@family("graphs that fill the memory")
def bombs(noise):
    for sizes in ((2**40, 2**10), (2**32,), (2**62,), (2**31, 2**31, 2**31), (-1,), (2**33, 0, 4)):
        codes = ANY if 0 in sizes else BAD
        yield one(f"zeros {sizes}", bomb(*sizes), codes)
    tile = [
        node("Tile", ["x_t", "s"], "wide"),
        node("ReduceSum", ["wide"], "sum", keepdims=0),
        node("Add", ["x_t", "sum"], "eps"),
    ]
    yield one("tiles", graph(tile, [constant("s", [2**12, 2**10, 2**12, 2**12], np.int64)]))
    line = [
        node("Range", ["0", "s", "1"], "wide"),
        node("ReduceSum", ["wide"], "i", keepdims=0),
        node("Cast", ["i"], "f", to=1),
        node("Add", ["x_t", "f"], "eps"),
    ]
    yield one("a range", graph(line, [constant(n, int(n), np.int64) for n in "01"] + [constant("s", 2**40, np.int64)]))
    pad = [
        node("Pad", ["x_t", "s"], "wide"),
        node("ReduceSum", ["wide"], "sum", keepdims=0),
        node("Add", ["x_t", "sum"], "eps"),
    ]
    yield one("padding", graph(pad, [constant("s", [0, 0, 2**20, 2**20, 0, 0, 2**20, 2**20], np.int64)]))
    doubling, name = [], "x_t"
    for k in range(40):
        doubling.append(node("Concat", [name, name], name := f"c{k}", axis=3))
    doubling += [node("ReduceSum", [name], "sum", keepdims=0), node("Add", ["x_t", "sum"], "eps")]
    limits = ("--untrusted", "30s,4GiB")
    yield one("doubled forty times", graph(doubling), arguments=run(*limits), apart=True)
    yield one("100 GiB", greedy_model(100))


@family("graphs without end or that crash, in a child")
def in_a_child(noise):
    limits = ("--untrusted", "3s")
    yield one("a loop without end", endless_model(), arguments=run(*limits), apart=True)
    yield one("integers that crash at load", crashing_model(), arguments=run(*limits), apart=True)
    yield one("100 GiB", greedy_model(100), arguments=run(*limits), apart=True)
    yield one("a loop without end, checked", endless_model(), arguments=check("--untrusted", "3s"), apart=True)
    yield one("integers that crash, checked", crashing_model(), arguments=check(), apart=True)
    model = ModelProto.FromString(one_call())
    endless = ModelProto.FromString(endless_model())
    loop = endless.graph.node[0]
    model.graph.node.insert(0, node("ConstantOfShape", ["s_"], "x_t"))
    loop.output[0] = loop.name = "never"
    model.graph.node.insert(1, loop)
    model.graph.initializer.extend([*endless.graph.initializer, constant("s_", [2], np.int64)])
    model.graph.node.extend([node("Shape", ["never"], "sh")])
    for each in model.graph.node:
        for k, name in enumerate(each.output):
            if name == "x_0":
                each.output[k] = "x_0 before"
    late = [
        node("ReduceSum", ["never"], "late", keepdims=0),
        helper.make_node("Add", ["x_0 before", "late"], ["x_0"], name="too late"),
    ]
    model.graph.node.extend(late)
    yield one("a one-call file without end", model.SerializeToString(), arguments=run(*limits), apart=True)
    yield one("the same checked", model.SerializeToString(), arguments=check("--untrusted", "3s"), apart=True)


def rewired(kind, **outputs):
    """Return a one-call file whose outputs are made by other nodes, by name."""
    model = ModelProto.FromString(one_call(kind))
    for name, (op, attributes, extra) in outputs.items():
        for each in model.graph.node:
            for k, given in enumerate(each.output):
                if given == name:
                    each.output[k] = f"{name} before"
        made = helper.make_node(op, [f"{name} before", *extra], [name], name=f"{name} otherwise", **attributes)
        model.graph.node.append(made)
        for output in model.graph.output:
            if output.name == name:
                output.type.tensor_type.ClearField("shape")
                if op == "Cast":
                    output.type.tensor_type.elem_type = attributes["to"]
    model.graph.initializer.append(constant("no_", [0], np.int64))
    return model.SerializeToString()


@family("one-call files that give something else")
def one_call_outputs(noise):
    for kind, names in (("sampler", ("images", "x_0")), ("slice", ("images", "x_0", "x_after"))):
        for name in names:
            for what, change in {
                "another dtype": ("Cast", {"to": 11}, ()),
                "another shape": ("Flatten", {}, ()),
                "one line of it": ("Gather", {"axis": 2}, ("no_",)),
                "text": ("Cast", {"to": 8}, ()),
            }.items():
                yield one(f"{kind} {name}, {what}", rewired(kind, **{name: change}))
    for name in ("x_0",):
        model = ModelProto.FromString(one_call())
        for each in model.graph.node:
            for k, given in enumerate(each.output):
                if given == name:
                    each.output[k] = "before"
        model.graph.node.append(helper.make_node("Div", ["before", "zero_"], [name], name="divided"))
        model.graph.initializer.append(constant("zero_", 0.0))
        yield one(f"{name} divided by 0", model.SerializeToString(), frozenset({6}))


def with_golden(golden):
    return scale_model(metadata=changed(golden=golden))


@family("golden vectors that cannot be meant")
def golden(noise):
    case = {"seed": 0, "image": 0, "t": 0, "positions": [0], "values": [0.1], "mean": 0.0, "norm": 1.0, "max_abs": 0.5}
    tolerance = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
    values = [{}, [], 7, "x", {"cases": []}, {"cases": [case] * 65, "tolerance": tolerance}, {"cases": [[]]}]
    values += [
        {"cases": [{**case, name: value}], "tolerance": tolerance}
        for name, value in (
            ("seed", 2**63),
            ("seed", -1),
            ("image", 2**32),
            ("t", 40),
            ("t", 1.5),
            ("positions", [30]),
            ("positions", [-1]),
            ("positions", [0] * 5000),
            ("values", [1e40]),
            ("values", ["x"]),
            ("mean", 1e300),
            ("norm", None),
            ("max_abs", 1e29),
            ("positions", []),
            ("values", []),
        )
    ]
    values += [{"cases": [case], "tolerance": {"float32": number}} for number in (1e30, 1, 0, -1, None, "x")]
    values += [{"cases": [case], "tolerance": tolerance}]  # wrong, and well made
    for k, value in enumerate(values):
        yield one(f"{k}: {str(value)[:50]}", with_golden(value), FOUR, check())


@family("plans that cannot be walked")
def plans(noise):
    row = [39, 0.1, [0.5], [0.25], []]
    planned = ("run", "m.onnx", "--n", "1", "--seed", "0", "--plan", "p", "--out", "out/a.npy")
    for name, plan in {
        "no rows": {"rows": []},
        "10,001 rows": {"rows": [row] * 2000 * 5 + [row]},
        "a time beyond T": {"rows": [[40, *row[1:]]]},
        "a weight too large": {"rows": [[39, 0.1, [1e300], [0.25], []]]},
        "looks back before its start": {"rows": [[39, 0.1, [0.5, 0.5], [], []]]},
        "three noises": {"rows": [[39, 0.1, [0.5], [], [1, 1, 1]]]},
        "no list": {"rows": {"0": row}},
        "start 0": {"rows": [row], "start": 0},
    }.items():
        codes = frozenset({3, 6}) if name == "a weight too large" else BAD
        yield one(name, scale_model(metadata=changed(plans={"p": plan})), codes, planned)
    yield one(
        "overflows",
        scale_model(metadata=changed(plans={"p": {"rows": [[39, 0.1, [3e38], [3e38], []]]}})),
        frozenset({3, 6}),
        ("run", "m.onnx", "--n", "1", "--seed", "0", "--plan", "p", "--out", "out/a.npy"),
    )


def archive(entries, compression=zipfile.ZIP_STORED):
    def write(path: Path):
        with zipfile.ZipFile(path, "w", compression) as made:
            for name, content in entries:
                made.writestr(name, bytes(content) if isinstance(content, int) else content)

    return write


@family("archives of torch")
def archives(noise):
    spec = ("m/extra/ddpm_export.json", changed())
    for ending in ("ts", "pt2"):
        name = f"m.{ending}"
        yield Case(f"{name} without --trust", {name: b"PK\x03\x04"}, run(model=name))
        for what, content in {
            "no zip": b"not a zip",
            "empty": archive([]),
            "no spec": archive([("m/data.pkl", b"")]),
            "two specs": archive([spec, ("n/extra/ddpm_export.json", changed())]),
            "a large spec": archive([("m/extra/ddpm_export.json", b" " * 2**20)]),
            "a bomb": archive([spec, ("m/data.pkl", 2**28)], zipfile.ZIP_DEFLATED),
            "LZMA": archive([spec, ("m/code.py", 2**28)], zipfile.ZIP_LZMA),
            "a spec that is none": archive([("m/extra/ddpm_export.json", "[" * 9999)]),
            "names that lead out": archive([("../../x", b""), ("/etc/x", b""), spec]),
            "no program": archive([spec]),
        }.items():
            yield Case(f"{name}: {what}", {name: content}, run("--trust", model=name), FOUR)


@family("sizes of the end of an archive")
def ends_of_archives(noise):
    import io

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("m/extra/ddpm_export.json", changed())
    whole = file.getvalue()
    at = whole.index(b"PK\x05\x06")
    for offset, size in ((8, "H"), (10, "H"), (12, "I"), (16, "I"), (20, "H")):
        for value in (0, 7, 2 ** (16 if size == "H" else 32) - 1):
            part = struct.pack(f"<{size}", value)
            content = whole[: at + offset] + part + whole[at + offset + len(part) :]
            yield Case(f"{value} at {offset}", {"m.ts": content}, run("--trust", model="m.ts"), REFUSED)
