"""An ONNX model as a file: which versions, and where the weights go. Knows no torch and no runtime."""

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from ddpm_export.model.codec import METADATA_KEY, metadata_from
from ddpm_export.runtimes.external_data import WEIGHTS_SHA256, digest_of_weights
from ddpm_export.system.files import replacing

OPSET = 18  # 17 gives an invalid Split, 21 a GroupNormalization for which no runtime has a kernel
IR_VERSION = 8  # what ONNX Runtime 1.16, Debian's build and the browser read
WEIGHTS_ENDING = re.compile(r"(\.[0-9a-f]{16})?\.data")  # without a digest: as earlier versions called them
MAX_INLINE_BYTES = 2**31 - 2**24  # protobuf ends at 2 GB; some of it is the graph and its metadata


@contextmanager
def writing_model(
    model: ModelProto, path: Path, *, weights_in: Path | None = None, max_inline_bytes: int | None = None
) -> Iterator[Path]:
    """Write a model beside `path` and give it that name if no error follows.

    Weights of more than max_inline_bytes (2 GB, where it is not given) go into a sibling named by their digest: however
    this ends, the model that is there has the weights that it was written with. Those of the one before are removed.
    weights_in: the folder of the files that hold weights of the model, which are copied from there.
    """
    if fits_inline(model, max_inline_bytes):
        if weights_in is not None:
            read_weights(model, weights_in)
        with replacing(path) as beside:
            _seal(model)
            beside.write_bytes(model.SerializeToString(deterministic=True))
            onnx.checker.check_model(str(beside), full_check=True)
            yield beside
        return
    weights = path.with_name(f"{path.name}.{_digest_of_weights(model, weights_in)}.data")
    with replacing(path) as beside, replacing(weights) as data:
        _move_weights(model, data, weights_in)
        beside.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(beside), full_check=True)
        yield beside
        _point_weights_to(model, weights.name)
        _seal(model, data)
        beside.write_bytes(model.SerializeToString(deterministic=True))
    for other in path.parent.glob(f"{glob.escape(path.name)}.*"):
        if other != weights and WEIGHTS_ENDING.fullmatch(other.name.removeprefix(path.name)):
            other.unlink()


def _seal(model: ModelProto, *files: Path) -> None:
    """Write into a model's metadata the digest of all else in it, and of its files of weights, where it has a spec."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            digest = digest_of_weights(model.SerializeToString(deterministic=True), files)
            entry.value = metadata_from({**json.loads(entry.value), WEIGHTS_SHA256: digest})


def _digest_of_weights(model: ModelProto, weights_in: Path | None) -> str:
    digest = hashlib.sha256()
    for tensor in tensors_of(model.graph):
        digest.update(_bytes_of(tensor, weights_in))
    return digest.hexdigest()[:16]


def _place_of(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _bytes_of(tensor: TensorProto, folder: Path | None) -> bytes:
    """Return a weight's bytes, from the folder where they lie in a file."""
    if folder is None or tensor.data_location != TensorProto.EXTERNAL:
        return tensor.raw_data
    place = _place_of(tensor)
    with (folder / place["location"]).open("rb") as file:
        file.seek(int(place.get("offset", 0)))
        return file.read(int(place.get("length", -1)))


def fits_inline(model: ModelProto, most: int | None = None) -> bool:
    """Return whether a model's weights, together, are small enough to lie in the message itself."""
    sizes = (int(_place_of(tensor).get("length", len(tensor.raw_data))) for tensor in tensors_of(model.graph))
    return sum(sizes) <= (MAX_INLINE_BYTES if most is None else most)


def graphs_within(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node runs, such as a loop's body."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and all graphs within it."""
    yield graph
    for node in graph.node:
        for inner in graphs_within(node):
            yield from graphs_of(inner)


def rename(graph: GraphProto, prefix: str, names: Mapping[str, str]) -> None:
    """Put a prefix before every name of a graph and of the graphs within it; `names` has its inputs' new names."""

    def renamed(name: str) -> str:
        return names.get(name, prefix + name) if name else ""  # "": an input that is left out

    for node in graph.node:
        node.name = prefix + node.name
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
        for inner in graphs_within(node):
            rename(inner, prefix, names)
            for result in (*inner.input, *inner.output):
                result.name = renamed(result.name)
    for tensor in graph.initializer:
        tensor.name = prefix + tensor.name


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield the initializers of a graph and of the graphs within it."""
    for entry in graphs_of(graph):
        yield from entry.initializer


def read_weights(model: ModelProto, folder: Path) -> None:
    """Read the weights of a model, and of the graphs within it, that lie in files of a folder."""
    for tensor in tensors_of(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _move_weights(model: ModelProto, data: Path, weights_in: Path | None) -> None:
    """Move every weight's bytes into a file, each at a page's start, so that a runtime can map it."""
    with data.open("wb") as file:
        for tensor in tensors_of(model.graph):
            content = _bytes_of(tensor, weights_in)
            if len(content) < 1024:  # shapes: a reader wants them with the graph
                continue
            file.write(b"\0" * (-file.tell() % 4096))
            place = {"location": data.name, "offset": str(file.tell()), "length": str(len(content))}
            file.write(content)
            tensor.ClearField("raw_data")
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)


def _point_weights_to(model: ModelProto, name: str) -> None:
    for tensor in tensors_of(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
