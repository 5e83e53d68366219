"""Hostile checkpoints: .pt, .safetensors, folders of diffusers, and what goes with an export."""

import io
import json
import os
import pickle
import pickletools
import struct
import warnings
import zipfile

import torch
from models import mix_model, tiny_spec

from ddpm_export.model.spec_json import json_from_spec

from .cases import (
    ANY,
    BAD,
    REFUSED,
    Case,
    against,
    checkpoint,
    contents_of,
    export,
    family,
    flips,
    later,
    sound_checkpoint,
    truncations,
)

USAGE, SOUND = frozenset({2, 3}), frozenset({0})


def one(name, content, codes=BAD, file="c.pt", **rest):
    if 0 in codes and codes != SOUND:
        return Case(name, {file: content, "m.onnx": mix_model()}, against(file), codes, **rest)
    return Case(name, {file: content}, export(file), codes, **rest)


@family("sound checkpoints")
def controls(noise):
    yield one("ours", checkpoint(), frozenset({0}))
    yield Case("an exported file", {"c.onnx": mix_model()}, export("c.onnx", "--format", "sampler"), frozenset({0}))
    yield Case("plans", {"c.pt": checkpoint(), "p.json": PLANS}, export("c.pt", "--plans", "p.json"), frozenset({0}))


ROW = [39, 0.01, [0.5], [0.25], []]
PLANS = json.dumps({"p": {"rows": [ROW]}}).encode()


@family("truncated .pt")
def truncated(noise):
    yield from (one(name, part) for name, part in truncations(checkpoint(), 12))


@family("bit flips in .pt")
def flipped(noise):
    whole = checkpoint()
    yield from (one(name, part, ANY) for name, part in flips(whole, 12, noise))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        for name, part in flips(archive.read(pickled), 16, noise):
            yield one(f"the pickle: {name}", repacked(whole, {pickled: part}), ANY)


def repacked(whole, changes, compression=zipfile.ZIP_STORED, more=()):
    """Return an archive with other contents for some names, its checksums right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name, old.read(name)))
        for name, content in more:
            new.writestr(name, content)
    return file.getvalue()


def with_pickle(raw):
    whole = checkpoint()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
    return repacked(whole, {name: raw})


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gadget(module, name, argument):
    text = argument.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(X" + struct.pack("<I", len(text)) + text + b"tR."


GADGETS = [
    ("os", "system", "touch owned"),
    ("posix", "system", "touch owned"),
    ("subprocess", "call", "touch owned"),
    ("builtins", "eval", "open('owned','w')"),
    ("builtins", "exec", "open('owned','w')"),
    ("__builtin__", "eval", "open('owned','w')"),
    ("builtins", "open", "owned"),
    ("shutil", "rmtree", "."),
    ("torch", "load", "c.pt"),
    ("torch.serialization", "load", "c.pt"),
    ("torch.hub", "load", "x"),
    ("torch.utils.cpp_extension", "load", "x"),
    ("pickle", "loads", "x"),
    ("numpy", "load", "c.pt"),
    ("importlib", "import_module", "antigravity"),
    ("webbrowser", "open", "http://127.0.0.1"),
    ("socket", "create_connection", "127.0.0.1"),
    ("torch._C", "_set_backcompat_broadcast_warn", "x"),
    ("torch", "save", "owned"),
    ("torch.jit", "load", "c.pt"),
    ("runpy", "run_path", "c.pt"),
    ("ctypes", "CDLL", "c.pt"),
    ("operator", "attrgetter", "system"),
    ("pip", "main", "install"),
]


@family("pickles that call functions")
def gadgets(noise):
    for module, name, argument in GADGETS:
        raw = gadget(module, name, argument)
        yield one(f"{module}.{name}, plain", raw)
        yield one(f"{module}.{name}, packed", with_pickle(raw))


@family("pickles of another kind")
def pickles(noise):
    for k, value in enumerate(([], 7, None, "x", {1: 2}, {"format": 7}, {"ema": 1}, {"a": torch.ones(2)}, set(), {})):
        yield one(f"{k}: {value!r:.30}", contents_of(value))
    for protocol in range(6):
        yield one(f"protocol {protocol}", pickle.dumps({"ema": {}}, protocol))
    raw = b"\x80\x02" + b"]" * 100_000 + b"."
    yield one("100,000 lists", with_pickle(raw))
    yield one("a memo beyond", with_pickle(b"\x80\x02h\xff."))
    yield one("no end", with_pickle(b"\x80\x02}"))
    yield one("a number of 2^31 bytes", with_pickle(b"\x80\x02\x8b\xff\xff\xff\x7f."))
    yield one("a text of 2^31 bytes", with_pickle(b"\x80\x02X\xff\xff\xff\x7f."))


def nested(depth, opening, closing):
    return b"\x80\x02" + opening * depth + closing * depth + b"."


@family("pickles that nest or share")
def nesting(noise):
    yield one("lists", with_pickle(b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b"."), apart=True)
    yield one("tuples", with_pickle(b"\x80\x02)" + b"\x85" * 30_000 + b"."), apart=True)
    yield one("a key of nested tuples", with_pickle(b"\x80\x02})" + b"\x85" * 30_000 + b"K\x01s."), apart=True)
    # each the pair of the one before twice: its hash takes 2^60 steps
    yield one("a key of shared tuples", with_pickle(b"\x80\x02}" + shared_tuples(60) + b"K\x01s."), apart=True)
    yield one("a value of shared tuples", with_pickle(b"\x80\x02}X\x01\0\0\0a" + shared_tuples(60) + b"s."), apart=True)
    twice = b"".join(b"q" + bytes([k]) + b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(60))
    yield one("shared pairs", with_pickle(b"\x80\x02)" + twice + b"."), apart=True)
    state = {"format": sound_checkpoint()["format"], "config": {"network": {"image_shape": [1, 8, 8]}}}
    yield one("a list of itself", with_pickle(b"\x80\x02]q\x00h\x00a."))
    yield one("half a checkpoint", contents_of(state))


def shared_tuples(count):
    return b")" + b"".join(b"q" + bytes([k]) + b"0h" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(count))


def zipped(entries):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as made:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            made.writestr(name, content)
    return file.getvalue()


def legacy(values):
    file = io.BytesIO()
    torch.save(values, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@family("checkpoints that two readers read as two")
def ambiguous(noise):
    """Of equal names zipfile takes the last and torch the first, whatever their case; torch looks for a first byte."""
    with zipfile.ZipFile(io.BytesIO(checkpoint())) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    top = entries[0][0].partition("/")[0]
    (good,) = [entry for entry in entries if entry[0].endswith("data.pkl")]
    others = [entry for entry in entries if entry is not good]
    bomb = b"\x80\x02}" + shared_tuples(60) + b"K\x01s."
    hostile = {"a bomb": bomb, "os.system": gadget("os", "system", "touch owned"), "nothing": pickle.dumps({}, 2)}
    for name in (
        f"{top}/data.pkl",
        f"{top}/DATA.PKL",
        f"{top}/Data.pkl",
        f"{top.upper()}/data.pkl",
        f"{top}/./data.pkl",
        f"{top}//data.pkl",
        f"{top}\\data.pkl",
        "other/data.pkl",
        "data.pkl",
    ):
        yield one(f"a bomb as {name} before", zipped([(name, bomb), good, *others]), apart=True)
        yield one(f"a bomb as {name} behind", zipped([good, *others, (name, bomb)]), apart=True)
    for what, raw in hostile.items():
        whole = checkpoint()
        yield one(f"{what} before an archive", raw + whole, apart=True)
        yield one(f"{what} behind an archive", whole + raw, apart=True)
        yield one(f"{what} as a comment", whole[:-2] + struct.pack("<H", len(raw)) + raw, apart=True)
        yield one(f"{what} after the pickle", zipped([(good[0], good[1] + raw), *others]), apart=True)
        with_it = zipped([(good[0], raw), *others])
        yield one(f"{what} in an archive before an archive", with_it + whole, apart=True)
        yield one(f"{what} in an archive behind an archive", whole + with_it, apart=True)
        yield one(f"{what} in a legacy file before an archive", legacy_with(raw, 3) + whole, apart=True)
    yield one("a legacy file before an archive", legacy(sound_checkpoint()) + checkpoint(), apart=True)
    yield one("a tensor twice", zipped([*entries, (f"{top}/data/0", bytes(8))]), apart=True)


def legacy_with(raw, number):
    """Return a file of torch before 1.6 with another pickle for one of its five."""
    content = legacy({"a": 1})
    file, ends = io.BytesIO(content), [0]
    for _ in range(5):
        list(pickletools.genops(file))
        ends.append(file.tell())
    return content[: ends[number]] + raw + content[ends[number + 1] :]


@family("checkpoints that take all time or memory")
def endless(noise):
    bomb = b"\x80\x02}" + shared_tuples(60) + b"K\x01s."
    for number in range(5):
        yield one(f"pickle {number} of a legacy file", legacy_with(bomb, number), apart=True)
        yield one(f"pickle {number} of a legacy file calls", legacy_with(gadget("os", "system", "touch owned"), number))
    shared = b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(60))
    for name, raw in {
        "lists that are shared": b"\x80\x02](Nq\0" + shared + b"e.",
        "a list of itself": b"\x80\x02]q\x00h\x00a.",
        "a dictionary of itself": b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.",
        "instructions": b"\x80\x02" + b"N0" * 2**22 + b"N.",
        "a list of five million": b"\x80\x02](" + b"N" * 5_000_000 + b"e.",
        "a memo far away": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "1 TiB of nothing": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.",
        "64 GiB of nothing": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x10\x85R.",
        "a number of 200,000 digits": b"\x80\x02\x8b\x00\x44\x01\x00" + b"\x7f" * 82_944 + b".",
        "a key of shared tuples in a set": b"\x80\x02cbuiltins\nset\n](" + shared_tuples(60) + b"e\x85R.",
    }.items():
        yield one(name, with_pickle(raw), apart=True)
    yield one("a tensor of 2^40 by strides", changed(extra=torch.zeros(1).expand(2**40)), ANY, apart=True)


@family("archives that unpack without end")
def bombs(noise):
    whole = checkpoint()
    for name, kind in (("deflated zeros", zipfile.ZIP_DEFLATED), ("LZMA", zipfile.ZIP_LZMA)):
        yield one(name, later(lambda kind=kind: repacked(whole, {}, kind, [("archive/data/999", bytes(2**28))])))
    yield one("one entry 400 times", same_entry(400, 2**22))
    yield one("names that lead out", repacked(whole, {}, more=[("../owned", b"x"), ("/owned", b"x")]), ANY)
    yield one("a wrong checksum", wrong_checksum(whole))


def same_entry(times, size):
    """Return an archive whose directory names one entry's bytes many times."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/data/0", bytes(size))
        first = archive.infolist()[1]
        for k in range(times):
            twin = zipfile.ZipInfo(f"a/data/{k + 1}")
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(twin, name, getattr(first, name))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True
    return file.getvalue()


def wrong_checksum(whole):
    at = whole.rindex(b"PK\x01\x02")
    return whole[: at + 16] + b"\0\0\0\1" + whole[at + 20 :]


def changed(**changes):
    return contents_of({**sound_checkpoint(), **changes})


@family("tensors that are not what they say")
def tensors(noise):
    state = sound_checkpoint()["ema"]
    name = next(iter(state))
    base = state[name]
    for what, value in {
        "one number for all": torch.zeros(1).expand(base.shape),
        "strides beyond": base[:1].as_strided(base.shape, (0,) * base.dim()),
        "a shape of 2^40": torch.zeros(1).expand(2**20, 2**20),
        "integers": base.long(),
        "bfloat16": base.bfloat16(),
        "complex": base.to(torch.complex64),
        "NaN": base * float("nan"),
        "empty": torch.zeros(0),
        "sparse": base.reshape(-1, base.shape[-1]).to_sparse(),
        "a text": "x",
        "none": None,
        "meta": torch.empty(base.shape, device="meta"),
    }.items():
        codes = ANY if what in ("one number for all", "strides beyond", "bfloat16") else REFUSED
        yield one(what, changed(ema={**state, name: value}), codes)
    yield one("one missing", changed(ema={key: value for key, value in state.items() if key != name}))
    yield one("one too many", changed(ema={**state, "evil\x1b[2J": base}))
    yield one("names that are numbers", changed(ema={7: base}))
    yield one("a million names", changed(ema={f"n{k}": base for k in range(20_000)}))


@family("networks that no memory holds")
def sizes(noise):
    config = sound_checkpoint()["config"]["network"]
    for name, value in (
        ("base_channels", 2**40),
        ("base_channels", -8),
        ("base_channels", 0),
        ("base_channels", 8.5),
        ("groups", 0),
        ("blocks_per_level", 10**9),
        ("channel_multipliers", [1] * 10**5),
        ("channel_multipliers", [2**62]),
        ("image_shape", [1, 2**30, 2**30]),
        ("image_shape", [1, 0, 8]),
        ("image_shape", []),
        ("image_shape", "abc"),
        ("num_classes", 10**12),
        ("head_channels", 0),
        ("attention_levels", [7]),
        ("dropout", float("nan")),
        ("evil", 1),
        ("base_channels", "8"),
        ("base_channels", None),
        ("base_channels", 10**400),
    ):
        yield one(f"{name} {value!r:.30}", changed(config={"network": {**config, name: value}}), REFUSED)
    yield one("no config", changed(config=None))
    yield one("a config that is none", changed(config={"network": [1]}))


@family("specs in a checkpoint")
def specs(noise):
    sound = json.loads(json_from_spec(tiny_spec((1, 8, 8))))
    for change in (
        {"alphas_cumprod": []},
        {"alphas_cumprod": [0.5, 0.9]},
        {"alphas_cumprod": [float("nan")]},
        {"prediction": "z"},
        {"image_shape": [3, 8, 8]},
        {"image_shape": [1, 16, 16]},
        {"format": "ddpm-export/9"},
        {"requires": ["y"]},
        {"defaults": {"num_steps": 10**9}},
        {"clip_x_0": -1},
        {"variance": "learned"},
        {"graph": "sampler"},
        {"inputs": [{"name": "y", "kind": "label", "shape": [], "none": 1, "classes": ["a"]}]},
    ):
        yield one(str(change)[:50], changed(spec=json.dumps({**sound, **change})), REFUSED)
    for text in ("", "{", "[" * 50_000, 7, None, b"x"):
        yield one(f"{text!r:.20}", changed(spec=text), REFUSED)


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@family("headers of safetensors")
def safetensors_headers(noise):
    headers = {
        "beyond the end": {"a": tensor(offsets=(0, 800))},
        "overlapping": {"a": tensor(), "b": tensor()},
        "a hole": {"a": tensor(), "b": tensor(offsets=(16, 24))},
        "backwards": {"a": tensor(offsets=(8, 0))},
        "negative": {"a": tensor(offsets=(-8, 0))},
        "a size that disagrees": {"a": tensor(shape=(200,))},
        "an unknown dtype": {"a": tensor("F128")},
        "a shape of 2^62": {"a": tensor(shape=(2**31, 2**31))},
        "a shape that overflows": {"a": tensor(shape=(2**32, 2**32, 2**32))},
        "a negative shape": {"a": tensor(shape=(-2,))},
        "no object": [1],
        "metadata that is none": {"__metadata__": 7},
        "a name that is none": {"": tensor()},
        "another layout": {"a": tensor()},
        "escapes": {"\x1b[2J": tensor()},
    }
    for name, header in headers.items():
        yield one(name, safetensors(header, bytes(24 if name == "a hole" else 8)), file="c.safetensors")
    for length in (0, 7, 2**20, 2**32, 2**63, 2**64 - 1):
        content = safetensors({"a": tensor()}, bytes(8), length)
        yield one(f"a header of {length} bytes", content, file="c.safetensors")
    for name, text in {
        "deep": b"[" * 90_000,
        "twice": b'{"a":1,"a":2}',
        "not UTF-8": b'{"\xff":1}',
        "zeros": bytes(64),
    }.items():
        yield one(name, safetensors(text), file="c.safetensors")


def sound_safetensors():
    from safetensors.torch import save

    return save({name: value.contiguous() for name, value in sound_checkpoint()["ema"].items()})


@family("truncated and flipped safetensors")
def safetensors_damage(noise):
    whole = sound_safetensors()
    yield from (one(name, part, file="c.safetensors") for name, part in truncations(whole, 8))
    yield from (one(name, part, file="c.safetensors") for name, part in flips(whole, 10, noise, within=1500))


MODEL = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [4],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "norm_num_groups": 2,
    "attention_head_dim": 2,
}
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 50, "beta_start": 0.001, "beta_end": 0.2}
INDEX = {
    "_class_name": "DDPMPipeline",
    "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
}
WEIGHTS = "diffusion_pytorch_model"


def folder(name, codes=BAD, *, model=None, scheduler=None, index=None, **files):
    """A case of a pipeline's folder; entries take the place of the sound ones, files are beside the model's."""
    made = {"d/model_index.json": index, "d/unet/config.json": model, "d/scheduler/scheduler_config.json": scheduler}
    sound = dict(zip(made, (INDEX, MODEL, SCHEDULER), strict=True))
    contents = {}
    for path, change in made.items():
        value = {**sound[path], **change} if isinstance(change, dict) else change
        value = sound[path] if change is None else value
        contents[path] = value if isinstance(value, bytes) else json.dumps(value).encode()
    files = files or {f"{WEIGHTS}.safetensors": sound_diffusers()}
    contents |= {f"d/unet/{path}": content for path, content in files.items()}
    if 0 in codes:
        return Case(name, {**contents, "m.onnx": mix_model()}, against("d"), codes)
    return Case(name, contents, export("d"), codes)


def sound_diffusers():
    from diffusers import UNet2DModel
    from safetensors.torch import save

    torch.manual_seed(0)
    network = UNet2DModel(**{key: value for key, value in MODEL.items() if key[0] != "_"})
    return save(network.state_dict())


@family("configurations of diffusers")
def diffusers_configs(noise):
    for name, value in (
        ("_class_name", "os.system"),
        ("_class_name", 7),
        ("_class_name", None),
        ("sample_size", 2**40),
        ("sample_size", -1),
        ("sample_size", "8"),
        ("in_channels", 2**40),
        ("in_channels", 0),
        ("block_out_channels", [2**40]),
        ("block_out_channels", []),
        ("block_out_channels", [4] * 50_000),
        ("down_block_types", ["Evil"]),
        ("layers_per_block", 10**9),
        ("layers_per_block", -1),
        ("norm_num_groups", 0),
        ("act_fn", "__import__('os')"),
        ("evil", 1),
        ("attention_head_dim", 0),
        ("time_embedding_type", "x"),
        ("center_input_sample", 7),
        ("mid_block_type", "os.system"),
        ("resnet_time_scale_shift", []),
        ("class_embed_type", "timestep"),
    ):
        codes = ANY if name in ("evil", "attention_head_dim", "center_input_sample", "mid_block_type") else REFUSED
        yield folder(f"{name} {value!r:.30}", codes, model={name: value})


@family("schedulers of diffusers")
def schedulers(noise):
    for name, value in (
        ("_class_name", "os.system"),
        ("_class_name", []),
        ("num_train_timesteps", 10**9),
        ("num_train_timesteps", 0),
        ("num_train_timesteps", -1),
        ("num_train_timesteps", "x"),
        ("num_train_timesteps", 1.5),
        ("beta_start", float("nan")),
        ("beta_start", -1),
        ("beta_end", 1e300),
        ("beta_end", 2),
        ("beta_schedule", "__import__"),
        ("trained_betas", []),
        ("trained_betas", [0.1] * 10**6),
        ("trained_betas", [float("inf")]),
        ("trained_betas", ["x"]),
        ("variance_type", 7),
        ("prediction_type", "x"),
        ("clip_sample_range", -1),
        ("timestep_spacing", "x"),
        ("evil", 1),
        ("thresholding", True),
        ("rescale_betas_zero_snr", True),
        ("steps_offset", 10**9),
    ):
        codes = ANY if name in ("evil", "steps_offset", "thresholding", "rescale_betas_zero_snr") else REFUSED
        yield folder(f"{name} {value!r:.30}", codes, scheduler={name: value})


BROKEN = {
    "empty": b"",
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "not UTF-8": b'{"a": "\xff"}',
    "a list": b"[]",
    "large": b" " * 2**25,
    "NaN": b'{"sample_size": NaN}',
    "zeros": bytes(99),
    "twice": b'{"a":1}{"a":2}',
}


@family("JSON of diffusers that is none")
def diffusers_json(noise):
    for name, raw in BROKEN.items():
        yield folder(f"model: {name}", model=raw)
        yield folder(f"scheduler: {name}", REFUSED, scheduler=raw)
        yield folder(f"index: {name}", ANY if name in ("NaN",) else REFUSED, index=raw)


@family("shards of diffusers")
def shards(noise):
    for name, places in {
        "out of the folder": {"a": "../../secret.safetensors"},
        "absolute": {"a": "/etc/passwd"},
        "not there": {"a": "no.safetensors"},
        "no file": {"a": 7},
        "no map": [],
        "escapes": {"a": "\x1b[2J.safetensors"},
        "hidden": {"a": ".x.safetensors"},
        "NUL": {"a": "a\0.safetensors"},
        "itself": {"a": f"{WEIGHTS}.safetensors.index.json"},
    }.items():
        raw = json.dumps({"weight_map": places}).encode()
        yield folder(name, **{f"{WEIGHTS}.safetensors.index.json": raw})
    two = json.dumps({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}).encode()
    inner = safetensors({"z": tensor()}, bytes(8))
    files = {f"{WEIGHTS}.safetensors.index.json": two, "x.safetensors": inner, "y.safetensors": inner}
    yield folder("other names", **files)
    yield folder("a pipe", **{f"{WEIGHTS}.safetensors": os.mkfifo})
    yield folder("a circle", **{f"{WEIGHTS}.safetensors": lambda path: path.symlink_to(path.name)})
    yield folder("a folder", **{f"{WEIGHTS}.safetensors/x": b""})
    yield folder("two variants", **{f"{WEIGHTS}.fp16.safetensors": b"x", f"{WEIGHTS}.bf16.safetensors": b"x"})


@family("files of plans")
def plan_files(noise):
    for name, raw in BROKEN.items():
        yield Case(name, {"c.pt": checkpoint(), "p.json": raw}, export("c.pt", "--plans", "p.json"), REFUSED)
    for name, value in {
        "a path out": {"../x": {"rows": [ROW]}},
        "no rows": {"p": {"rows": []}},
        "a time beyond T": {"p": {"rows": [[10**9, *ROW[1:]]]}},
        "10,001 rows": {"p": {"rows": [ROW] * 10_001}},
        "a number": {"p": 7},
    }.items():
        raw = json.dumps(value).encode()
        yield Case(name, {"c.pt": checkpoint(), "p.json": raw}, export("c.pt", "--plans", "p.json"), REFUSED)


@family("--config and --set")
def configs(noise):
    for name, raw in BROKEN.items():
        arguments = export("c.pt", "--config", "o.json")
        yield Case(name, {"c.pt": checkpoint(), "o.json": raw}, arguments, REFUSED)
    for setting in ("=", "a", "a..b=1", ".=1", "a=" + "[" * 50_000, "a=" + "9" * 5000, "\x1b[2J=1", "__class__=1"):
        yield Case(f"--set {setting[:20]}", {"c.pt": checkpoint()}, export("c.pt", "--set", setting), REFUSED)


@family("exported files as a source")
def exported(noise):
    for name, part in (*truncations(mix_model(), 5), *flips(mix_model(), 12, noise)):
        yield Case(name, {"c.onnx": part}, export("c.onnx", "--format", "sampler"), ANY)
    yield Case("itself", {"c.onnx": mix_model()}, ("export", "c.onnx", "--format", "sampler", "--out", "c.onnx"), USAGE)
    yield Case("onnx from onnx", {"c.onnx": mix_model()}, export("c.onnx"), USAGE)


@family("places that are no checkpoint")
def places(noise):
    yield Case("a pipe", {"c.pt": os.mkfifo}, export("c.pt"))
    yield Case("a device", {"c.pt": lambda path: path.symlink_to("/dev/zero")}, export("c.pt"))
    yield Case("a circle", {"c.pt": lambda path: path.symlink_to("c.pt")}, export("c.pt"))
    yield Case("an empty folder", {"d/x": b""}, export("d"))
    yield Case("nothing", {}, export("c.pt"))
    yield Case("a name too long", {}, export("c" * 300 + ".pt"))
    for name in ("c.ckpt", "c.pth", "c.bin", "c.safetensors"):
        yield one(f"{name} of text", b"hello" * 99, file=name)
        yield one(f"an empty {name}", b"", file=name)
    whole = checkpoint()
    for name in ("c.safetensors", "c.txt"):
        yield one(f"{name} with a checkpoint in it", whole, ANY, file=name)
