"""Hostile data: arrays, pictures, data sets, extractors, and folders of a training that was cut off."""

import gzip
import json
import os
import pickle
import struct
import zlib

import numpy as np
from models import constant, external, extractor_file, node, onnx_file, scale_model, tiny_spec
from onnx import TensorProto
from python2_pickle import python2_pickle

from .cases import (
    ANY,
    BAD,
    REFUSED,
    Case,
    checkpoint,
    evaluate,
    family,
    files_of_eval,
    fill,
    flips,
    later,
    npy,
    packed_zeros,
    png,
    run,
    truncations,
    vary,
)

GREY_28, COLOUR_32, SMALL = (1, 28, 28), (3, 32, 32), (1, 6, 5)
ZERO = frozenset({0})


def folder_of(images=12, shape=(6, 5)):
    return {f"data/{k:02}.png": png(shape) for k in range(images)}


def of_eval(name, files, data="data", codes=BAD, options=(), shape=SMALL, **rest):
    return Case(name, {**files_of_eval(shape), **files}, evaluate(data, *options), codes, **rest)


@family("sound data")
def controls(noise):
    yield of_eval("a folder", folder_of(), codes=ZERO)
    yield of_eval("Fashion-MNIST", mnist(), "fashion-mnist:data", ZERO, shape=GREY_28)
    yield of_eval("CIFAR-10, binary", cifar(), "cifar10:data", ZERO, shape=COLOUR_32)
    yield of_eval("CIFAR-10, pickled", cifar_python(), "cifar10:data", ZERO, shape=COLOUR_32)
    yield of_eval("an LMDB", {"data": lmdb}, "lmdb:data", ZERO)
    yield Case("a picture", {"m.onnx": scale_model(), "p.png": png((6, 5))}, vary("p.png"), ZERO)


def header(text, data=b"", version=(1, 0), length=None):
    text = text.encode() if isinstance(text, str) else text
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + text + data


def shaped(shape, descr="|u1", order="False"):
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n"


HEADERS = {
    "no header": b"\x93NUMPY\x01\x00",
    "another magic": b"\x93NUMPZ" + bytes(99),
    "version 9": header(shaped("(12, 6, 5, 1)"), bytes(360), (9, 0)),
    "a header of 65,535 bytes": header(shaped("(12, 6, 5, 1)"), bytes(360), length=65_535),
    "a header of 4 GiB": header(shaped("(12, 6, 5, 1)"), bytes(360), (2, 0), 2**32 - 1),
    "a call": header("__import__('os').system('touch owned')\n"),
    "nested": header("(" * 9000 + ")" * 9000 + "\n"),
    "no dictionary": header("[1, 2]\n"),
    "a key too many": header("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'x': 1}\n", b"x"),
    "2^62 images": header(shaped(f"({2**62}, 6, 5, 1)"), bytes(360)),
    "2^70 images": header(shaped(f"({2**70}, 6, 5, 1)"), bytes(360)),
    "a negative size": header(shaped("(-1, 6, 5, 1)"), bytes(360)),
    "a size that is none": header(shaped("('a', 6, 5, 1)"), bytes(360)),
    "more than it has": header(shaped("(10000, 6, 5, 1)"), bytes(360)),
    "objects": header(shaped("(1,)", "|O"), pickle.dumps([1])),
    "another dtype": header(shaped("(12, 6, 5, 1)", "<f8"), bytes(8 * 360)),
    "complex": header(shaped("(12, 6, 5, 1)", "<c16"), bytes(16 * 360)),
    "text": header(shaped("(12, 6, 5, 1)", "<U4"), bytes(16 * 360)),
    "a dtype of 2 GiB": header(shaped("(1, 6, 5, 1)", "|V2147483647"), bytes(360)),
    "records": header("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (12, 6, 5, 1), }\n", bytes(360)),
    "three dimensions": header(shaped("(12, 6, 5)"), bytes(360)),
    "no images": header(shaped("(0, 6, 5, 1)")),
    "another size": header(shaped("(12, 5, 6, 1)"), bytes(360)),
    "200 dimensions": header(shaped("(" + "1, " * 200 + ")"), b"x"),
}


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


@family("arrays as samples")
def samples(noise):
    for name, content in HEADERS.items():
        yield of_eval(name, {**folder_of(), "s.npy": content})
    for name, content in {
        "a pickle of objects": npy(np.array([Evil()], dtype=object)),
        "a bare pickle": pickle.dumps([1]),
        "an archive": b"PK\x03\x04" + bytes(200),
        "empty": b"",
        "text": b"hello",
        "a pipe": os.mkfifo,
        "a circle": lambda path: path.symlink_to("s.npy"),
        "a device": lambda path: path.symlink_to("/dev/zero"),
    }.items():
        yield of_eval(name, {**folder_of(), "s.npy": content})
    yield of_eval("not there", folder_of(), options=("--samples", "no.npy"))


@family("arrays as --input, --from and --mask")
def given(noise):
    vector = {"name": "w", "kind": "vector", "shape": [2], "none": 0.0}
    from ddpm_export.model.inputs import Input

    assert vector
    spec = tiny_spec(inputs=(Input("w", "vector", (2,), none=0.0),), requires=("inputs",))
    shape = ["batch", 1, 6, 5]
    inputs = {"x_t": (1, shape), "t": (TensorProto.INT64, ["batch"]), "w": (1, ["batch", 2])}
    nodes = [node("ReduceMean", ["w"], "m", keepdims=0), node("Mul", ["x_t", "m"], "eps")]
    told = onnx_file(nodes, (), spec, inputs=inputs)
    files = {"m.onnx": told}
    yield Case("sound", {**files, "a.npy": npy(np.ones((1, 2), np.float32))}, run("--input", "w=a.npy"), ZERO)
    for name in (
        "no header",
        "a call",
        "nested",
        "2^62 images",
        "objects",
        "text",
        "complex",
        "a dtype of 2 GiB",
        "no images",
        "200 dimensions",
        "more than it has",
    ):
        yield Case(f"--input {name}", {**files, "a.npy": HEADERS[name]}, run("--input", "w=a.npy"), REFUSED)
        yield Case(f"--from {name}", {"m.onnx": scale_model(), "a.npy": HEADERS[name]}, run("--from", "a.npy"), REFUSED)
    for name, values in {"NaN": [np.nan, 1], "infinite": [np.inf, 1], "float64 too large": [1e300, 1]}.items():
        yield Case(name, {**files, "a.npy": npy(np.array([values]))}, run("--input", "w=a.npy"), REFUSED)
    yield Case(
        "noise that is NaN",
        {"m.onnx": scale_model(), "a.npy": npy(np.full((1, 1, 6, 5), np.nan, np.float32))},
        run("--from", "a.npy"),
        REFUSED,
    )


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, data, depth=8, colour=0, more=b""):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_chunk(kind):
    return raw_png(5, 6, zlib.compress(bytes(35)), more=chunk(kind, b"a\0\0" + packed_zeros()))


PICTURES = {
    "2^31 x 2^31": raw_png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(99))),
    "30,000 x 30,000 of zeros": later(lambda: raw_png(30_000, 30_000, zlib.compress(bytes(10**8), 9))),
    "no pixels": raw_png(0, 0, zlib.compress(b"")),
    "half of them": raw_png(5, 6, zlib.compress(bytes(10))),
    "no zlib": raw_png(5, 6, b"hello"),
    "a text of 256 MiB": later(lambda: with_chunk(b"zTXt")),
    "a profile of 256 MiB": later(lambda: with_chunk(b"iCCP")),
    "a depth of 7": raw_png(5, 6, zlib.compress(bytes(35)), depth=7),
    "a palette that is not there": raw_png(5, 6, zlib.compress(bytes(35)), colour=3),
    "a chunk of 4 GiB": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"IHDR",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n(owned) (w) file\n",
    "PDF": b"%PDF-1.4\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "a PPM that lies": b"P6\n99999999 99999999\n255\n" + bytes(99),
    "a BMP that lies": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 2**30, -(2**30), 1, 24, 0, 0, 1, 1, 0, 0),
    "a GIF that lies": b"GIF89a"
    + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    + b"\x2c"
    + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
    + b"\x08\x00\x3b",
    "a TIFF of itself": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "empty": b"",
    "text": b"hello",
}


@family("pictures that are none")
def pictures(noise):
    for name, content in PICTURES.items():
        codes = ANY if name in ("a text of 256 MiB", "a profile of 256 MiB", "half of them") else BAD
        yield Case(name, {"m.onnx": scale_model(), "p.png": content}, vary("p.png"), codes)
    for name, make in {
        "a pipe": os.mkfifo,
        "a circle": lambda path: path.symlink_to("p.png"),
        "a device": lambda path: path.symlink_to("/dev/zero"),
    }.items():
        yield Case(name, {"m.onnx": scale_model(), "p.png": make}, vary("p.png"))
    yield Case(
        "a mask that is none", {"m.onnx": scale_model(), "p.png": png((6, 5)), "k.png": b"x"}, fill("p.png", "k.png")
    )


@family("damaged pictures")
def damaged_pictures(noise):
    for kind, ending in (
        ("PNG", "png"),
        ("JPEG", "jpg"),
        ("GIF", "gif"),
        ("WEBP", "webp"),
        ("TIFF", "tif"),
        ("BMP", "bmp"),
    ):
        whole = png((6, 5), kind)
        for name, part in (*truncations(whole, 3), *flips(whole, 4, noise)):
            files = {"m.onnx": scale_model(), f"p.{ending}": part}
            yield Case(f"{kind}: {name}", files, vary(f"p.{ending}"), ANY)


@family("folders of pictures")
def folders(noise):
    yield of_eval("empty", {"data/readme.txt": b""})
    yield of_eval("not there", {}, "no")
    yield of_eval("a file", {"data": b"x"})
    yield of_eval("only broken ones", {f"data/{k}.png": b"x" for k in range(9)})
    yield of_eval("a circle of folders", {**folder_of(), "data/up": lambda path: path.symlink_to(".")}, codes=ANY)
    yield of_eval("a pipe among them", {**folder_of(), "data/z.png": os.mkfifo}, codes=ANY)
    yield of_eval(
        "a device among them", {**folder_of(), "data/z.png": lambda path: path.symlink_to("/dev/zero")}, codes=ANY
    )
    yield of_eval("folders called .png", {**folder_of(), "data/z.png/x": b""}, codes=ANY)
    yield of_eval("escapes in a name", {"data/\x1b[2J.png": b"x"})
    yield of_eval("a bomb", {"data/a.png": PICTURES["30,000 x 30,000 of zeros"]})


def idx(shape, data, code=8):
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape) + data


def mnist(**changes):
    files = {
        "train-images-idx3-ubyte": idx((12, 28, 28), bytes(range(256)) * 36 + bytes(192)),
        "train-labels-idx1-ubyte": idx((12,), bytes(12)),
    }
    return {f"data/{name}": content for name, content in {**files, **changes}.items()}


@family("idx files")
def idx_files(noise):
    pixels = bytes(12 * 784)
    for name, content in {
        "empty": b"",
        "three bytes": b"\0\0\x08",
        "no dimension": b"\0\0\x08\0",
        "255 dimensions": b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x",
        "floats": idx((12, 28, 28), pixels, 13),
        "2^96 pixels": idx((2**32 - 1,) * 3, pixels),
        "2^31 images": idx((2**31, 28, 28), pixels),
        "no images": idx((0, 28, 28), b""),
        "one byte less": idx((12, 28, 28), pixels[1:]),
        "one byte more": idx((12, 28, 28), pixels + b"x"),
        "another size": idx((12, 27, 28), bytes(12 * 756)),
        "a pipe": os.mkfifo,
        "a folder": lambda path: path.mkdir(),
    }.items():
        files = mnist(**{"train-images-idx3-ubyte": content})
        yield of_eval(name, files, "fashion-mnist:data", REFUSED, shape=GREY_28, apart=name == "a pipe")
    for name, content in {"13 labels": idx((13,), bytes(13)), "labels 255": idx((12,), b"\xff" * 12)}.items():
        codes = ANY if "255" in name else BAD
        yield of_eval(name, mnist(**{"train-labels-idx1-ubyte": content}), "fashion-mnist:data", codes, shape=GREY_28)


@family("gzip of idx files")
def gzips(noise):
    whole = gzip.compress(mnist()["data/train-images-idx3-ubyte"], mtime=0)
    parts = [*truncations(whole, 8), *flips(whole, 12, noise)]
    parts += [
        ("256 MiB", later(lambda: gzip.compress(idx((12, 28, 28), bytes(2**28))))),
        ("not gzip", b"\x1f\x8bhello"),
    ]
    parts += [
        ("gzip in gzip", gzip.compress(whole)),
        ("two of them", whole + whole),
        ("something after it", whole + b"x"),
    ]
    labels = gzip.compress(idx((12,), bytes(12)))
    for name, part in parts:
        files = {"data/train-images-idx3-ubyte.gz": part, "data/train-labels-idx1-ubyte.gz": labels}
        yield of_eval(name, files, "fashion-mnist:data", ANY, shape=GREY_28)


def cifar(first=None):
    rows = b"".join(bytes([k % 10]) + bytes([k]) * 3072 for k in range(4))
    return {f"data/data_batch_{k}.bin": rows if first is None or k > 1 else first for k in range(1, 6)}


def batch(**changes):
    data = np.arange(4 * 3072, dtype=np.uint64).astype(np.uint8).reshape(4, 3072)
    values = {"data": data, "labels": [0, 1, 2, 3], "batch_label": "x", "filenames": ["a.png"] * 4, **changes}
    return python2_pickle(values)


def cifar_python(first=None):
    return {f"data/data_batch_{k}": batch() if first is None or k > 1 else first for k in range(1, 6)}


@family("CIFAR-10, binary")
def cifar_binary(noise):
    row = bytes([1]) + bytes(3072)
    for name, content in {
        "empty": b"",
        "one byte less": row[1:],
        "one byte more": row + b"x",
        "a label of 10": bytes([10]) + bytes(3072),
        "a label of 255": bytes([255]) + bytes(3072),
        "65 MiB": later(lambda: row * 22_000),
        "a folder": lambda path: path.mkdir(),
        "a pipe": os.mkfifo,
        "a device": lambda path: path.symlink_to("/dev/zero"),
    }.items():
        yield of_eval(name, cifar(content), "cifar10:data", shape=COLOUR_32, apart=name == "a pipe")


@family("CIFAR-10, pickled")
def cifar_pickled(noise):
    def calls(module, name, argument):
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(X\x0b\0\0\0touch owned" + b"tR."

    contents = {
        f"{m}.{n}": calls(m, n, "")
        for m, n in (
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("numpy", "load"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy", "fromfile"),
            ("copyreg", "_reconstructor"),
            ("ddpm_export.scoring.datasets.cifar", "_Array"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
        )
    }
    contents |= {
        "a memo of 2^31": b"\x80\x02}r\xff\xff\xff\x7f.",
        "a memo by text": b"}p99999999999\n.",
        "doubling": b"\x80\x02]" + b"2" * 60 + b".",
        "shared pairs": b"\x80\x02)" + b"".join(b"q%ch%ch%c\x86" % (k, k, k) for k in range(60)) + b".",
        "a key of shared pairs": b"\x80\x02})" + b"".join(b"q%ch%ch%c\x86" % (k, k, k) for k in range(60)) + b"K\x01s.",
        "100,000 lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "text of 4 GiB": b"\x80\x02X\xff\xff\xff\xff.",
        "a frame of 2^63": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "bytes of 2^63": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "a persistent name": b"\x80\x02X\x01\0\0\0aQ.",
        "an extension": b"\x80\x02\x82\x01.",
        "an integer of 2^31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "a list": pickle.dumps([1], 2),
        "labels that are text": batch(labels=["a"] * 4),
        "labels that nest": batch(labels=[[0]] * 4),
        "labels of 10": batch(labels=[10] * 4),
        "labels of 2^70": batch(labels=[2**70] * 4),
        "five labels": batch(labels=[0] * 5),
        "no labels": batch(labels=[]),
        "floats": batch(data=np.zeros((4, 3072))),
        "objects": batch(data=np.zeros((4, 3072), object)),
        "records": batch(data=np.zeros(4, [("a", "u1", 3072)])),
        "text as data": batch(data="x"),
        "another width": batch(data=np.zeros((4, 3071), np.uint8)),
        "in columns": batch(data=np.zeros((4, 3072), np.uint8, "F")),
        "empty": b"",
        "text": b"hello",
        "a device": lambda path: path.symlink_to("/dev/zero"),
    }
    for name, content in contents.items():
        yield of_eval(name, cifar_python(content), "cifar10:data", shape=COLOUR_32, apart="pairs" in name)
    for name, part in (*truncations(batch(), 6), *flips(batch(), 20, noise, within=400)):
        yield of_eval(name, cifar_python(part), "cifar10:data", ANY, shape=COLOUR_32)


def lmdb(path, change=lambda raw: raw, values=12):
    import lmdb

    with lmdb.open(str(path), map_size=2**22) as database, database.begin(write=True) as transaction:
        for k in range(values):
            transaction.put(b"%02d" % k, png((6, 5)) if values < 100 else bytes(900))
    file = path / "data.mdb"
    file.write_bytes(change(file.read_bytes()))


@family("LMDB")
def lmdbs(noise):
    def damaged(change, **rest):
        return {"data": lambda path: lmdb(path, change, **rest)}

    changes = {
        "empty": lambda raw: raw[:0],
        "one page": lambda raw: raw[:4096],
        "half": lambda raw: raw[: len(raw) // 2],
        "one byte less": lambda raw: raw[:-1],
        "zeros": lambda raw: bytes(len(raw)),
        "no magic": lambda raw: raw[:16] + bytes(4) + raw[20:],
        "another version": lambda raw: raw[:20] + b"\xff" + raw[21:],
        "pages of 1 byte": lambda raw: raw[:40] + struct.pack("<I", 1) + raw[44:],
        "pages of 2 GiB": lambda raw: raw[:40] + struct.pack("<I", 2**31) + raw[44:],
        "a map of 2^62 bytes": lambda raw: raw[:32] + struct.pack("<Q", 2**62) + raw[40:],
        "a root beyond": lambda raw: raw.replace(struct.pack("<Q", 4), struct.pack("<Q", 2**40)),
        "text": lambda raw: raw[:0] + b"hello" * 9999,
    }
    for name, change in changes.items():
        yield of_eval(name, damaged(change), "lmdb:data", ANY, apart=True)
    for k in range(16):
        at, bit = noise.randrange(8192, 4096 * 8), noise.randrange(8)

        def flip(raw, at=at, bit=bit):
            at %= len(raw)
            return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]

        yield of_eval(f"bit {bit} of byte {at} ({k})", damaged(flip), "lmdb:data", ANY, apart=True)
    yield of_eval("values that are no pictures", {"data": lambda path: lmdb(path, values=200)}, "lmdb:data")
    yield of_eval("a pipe", {"data/data.mdb": os.mkfifo}, "lmdb:data", apart=True)


@family("LMDB whose values claim another size")
def lmdb_values(noise):
    for size in (2**31 - 1, 2**32 - 1, 10**6, 0):

        def forge(raw, size=size):
            at = raw.index(b"00\x89PNG") - 8  # of the node: low and high half of the size, flags, length of the key
            return raw[:at] + struct.pack("<HH", size & 65_535, size >> 16) + raw[at + 4 :]

        yield of_eval(
            f"{size} bytes", {"data": lambda path, forge=forge: lmdb(path, forge)}, "lmdb:data", ANY, apart=True
        )


@family("extractors")
def extractors(noise):
    whole = extractor_file()
    for name, part in (*truncations(whole, 5), *flips(whole, 12, noise)):
        yield of_eval(name, {**folder_of(), "e.onnx": part}, codes=ANY)
    for name, content in {
        "a denoiser": scale_model(),
        "text": b"hello",
        "of another size": extractor_file((1, 5, 6)),
        "of colour": extractor_file((3, 6, 5)),
        "no features": onnx_file(
            [node("Flatten", ["images"], "logits")],
            inputs={"images": (1, ["b", 1, 6, 5])},
            outputs={"logits": (1, ["b", 30])},
            metadata="",
        ),
        "weights outside": onnx_file(
            [node("Mul", ["images", "w"], "m"), node("Flatten", ["m"], "features"), node("Flatten", ["m"], "logits")],
            [external("../secret")],
            inputs={"images": (1, ["b", 1, 6, 5])},
            outputs={"features": (1, ["b", 30]), "logits": (1, ["b", 30])},
            metadata="",
        ),
        "features of rank 4": onnx_file(
            [node("Neg", ["images"], "features"), node("Flatten", ["images"], "logits")],
            inputs={"images": (1, ["b", 1, 6, 5])},
            outputs={"features": (1, ["b", 1, 6, 5]), "logits": (1, ["b", 30])},
            metadata="",
        ),
        "integers": onnx_file(
            [
                node("Flatten", ["images"], "f"),
                node("Cast", ["f"], "features", to=7),
                node("Cast", ["f"], "logits", to=7),
            ],
            inputs={"images": (1, ["b", 1, 6, 5])},
            outputs={"features": (7, ["b", 30]), "logits": (7, ["b", 30])},
            metadata="",
        ),
        "NaN": onnx_file(
            [node("Flatten", ["images"], "f"), node("Mul", ["f", "n"], "features"), node("Mul", ["f", "n"], "logits")],
            [constant("n", np.nan)],
            inputs={"images": (1, ["b", 1, 6, 5])},
            outputs={"features": (1, ["b", 30]), "logits": (1, ["b", 30])},
            metadata="",
        ),
    }.items():
        yield of_eval(name, {**folder_of(), "e.onnx": content}, codes=REFUSED)


TOY = {
    "dataset": "folder",
    "network": {
        "image_shape": [1, 8, 8],
        "base_channels": 8,
        "channel_multipliers": [1],
        "blocks_per_level": 1,
        "attention_levels": [],
        "groups": 4,
    },
    "num_train_timesteps": 20,
    "batch_size": 4,
    "steps": 4,
    "warmup_steps": 1,
    "log_every": 1,
    "checkpoint_every": 2,
    "picture_every": 1000,
}


def training(name, files=(), config=TOY, codes=REFUSED, data="data", options=()):
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    arguments = ("train", "--config", "t.json", "--data", data, "--out", "runs", *options)
    return Case(name, {**folder_of(12, (8, 8)), "t.json": raw, **dict(files)}, arguments, codes)


@family("configurations of a training")
def train_configs(noise):
    for name, value in (
        ("steps", 0),
        ("steps", 10**400),
        ("steps", "x"),
        ("batch_size", 0),
        ("batch_size", -1),
        ("dataset", "evil"),
        ("dataset", "../x"),
        ("num_train_timesteps", 10**12),
        ("num_train_timesteps", 0),
        ("loss", "eval"),
        ("evil", 1),
        ("network", []),
        ("learning_rate", "x"),
        ("learning_rate", None),
        ("schedule", "__import__"),
        ("seed", 10**40),
    ):
        yield training(f"{name} {value!r:.20}", config={**TOY, name: value})
    for name, raw in {"no JSON": b"{", "deep": b"[" * 90_000, "not UTF-8": b"\xff", "a list": b"[]"}.items():
        yield training(name, config=raw)


@family("folders of a training that was cut off")
def train_folders(noise):
    yield training("log.jsonl is a folder", {"runs/log.jsonl/x": b"", "runs/checkpoint.pt": checkpoint()})
    yield training("no checkpoint of ours", {"runs/checkpoint.pt": b"hello"})
    yield training("half a checkpoint", {"runs/checkpoint.pt": checkpoint()[:999]})
    yield training("of another configuration", {"runs/checkpoint.pt": checkpoint()})
    yield training("a pipe", {"runs/checkpoint.pt": os.mkfifo})
    yield training("runs is a file", {"runs": b"x"})
    yield training("--start that is none", {"c.pt": b"x"}, options=("--start", "c.pt"))
    yield training(
        "--start of another network",
        {"c.pt": checkpoint()},
        {**TOY, "network": {**TOY["network"], "base_channels": 16}},
        options=("--start", "c.pt"),
    )
    yield training(
        "--start of a pickle that calls",
        {"c.pt": b"\x80\x02cos\nsystem\n(X\x0b\0\0\0touch ownedtR."},
        options=("--start", "c.pt"),
    )
    yield training("data of other sizes only", {"bad/a.png": b"x"}, data="bad")
