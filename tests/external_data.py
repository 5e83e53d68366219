"""Weights that lie elsewhere than a model: places outside its folder, and what protobuf makes of things said twice."""

import numpy as np

# names that a runtime, a system or a URL library takes for something other than a file of the model's folder
OUTSIDE = [
    *("../secret", "up/secret", "link", "{absolute}", "/dev/zero", "/etc/passwd", "circle", "circle/x", "a\0b", ""),
    *("x\0/../../../secret", "data/..", "../inside/data", "x" * 5000, "a\nb", "data.", ".. /secret", "data:stream"),
    *("*/_ORT_MEM_ADDR_/*", "*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*", "C:\\secret", "C:secret", "\\\\host\\share"),
    *("..\\secret", "file:///etc/passwd", "http://127.0.0.1/x"),
]


def folder_with_secret(tmp_path):
    """Return a folder to open models in, beside a secret that they must not reach."""
    numbers = np.full(30, 0.5, np.float32).tobytes()
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(numbers)
    (inside / "m.onnx.data").write_bytes(numbers)
    (inside / "short").write_bytes(numbers[:50])
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to(tmp_path)
    (inside / "circle").symlink_to("circle")
    return inside


def varint(value):
    head = b""
    while value >= 0x80:
        head, value = head + bytes([value & 0x7F | 0x80]), value >> 7
    return head + bytes([value])


def field(number, content):
    """Return a field of bytes as protobuf writes it."""
    return varint(number << 3 | 2) + varint(len(content)) + content


PLACE = field(1, b"location") + field(2, b"m.onnx.data")
TWICE = {  # protobuf merges them, or takes the last: nobody would have looked at what comes out
    "graphs": field(7, b"") * 2,
    "keys": field(7, field(5, field(13, field(1, b"offset") + PLACE))),
    "values": field(7, field(5, field(13, PLACE + field(2, b"../secret")))),
    "tensors of an attribute": field(7, field(1, field(5, field(5, b"") * 2))),
    "graphs of an attribute": field(7, field(1, field(5, field(6, b"") * 2))),
    "values of a sparse tensor": field(7, field(15, field(1, b"") * 2)),
    "trainings' graphs": field(20, field(1, b"") * 2),
}
