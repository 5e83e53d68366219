"""What is fuzzed in Python, each a function of bytes.

`python -m tests.campaign.targets NAME CORPUS [OPTION ...]`, with the options of libFuzzer.
"""

import io
import json
import os
import pickle
import random
import sys
import time
import warnings
import zipfile
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

PLACE = Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp", f"campaign-{os.getpid()}")


def written(name, data):
    path = PLACE / name
    path.write_bytes(data)
    return path


def spec(data):
    from ddpm_export.model.spec_json import json_from_spec, spec_from_json

    text = data.decode("utf-8", "surrogateescape")
    made = spec_from_json(text)
    assert spec_from_json(json_from_spec(made)) == made  # what is accepted can be written and read again


def external_data(data):
    from ddpm_export.runtimes.external_data import check_external_data, check_weights, metadata_of

    path = written("m.onnx", data)
    check_external_data(path)
    metadata_of(path)
    check_weights(path)


def archive(data):
    from ddpm_export.runtimes.torch_archive import spec_from_archive

    spec_from_archive(written("m.ts", data))


def cifar(data):
    from ddpm_export.scoring.datasets.cifar import cifar10

    written("test_batch", data)
    cifar10(PLACE, train=False)


def idx(data):
    from ddpm_export.scoring.datasets.idx import read_idx

    read_idx(written("x-idx3-ubyte", data))


def npy(data):
    from ddpm_export.images.read import read_array

    read_array(written("a.npy", data))


def checkpoint(data):
    """The bytes are the archive's pickle: mutants of a whole archive end at its checksums."""
    from ddpm_export.importers.checkpoint import load_torch_file

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", data)
        for name in ("a/data/0", "a/data/1"):
            made.writestr(name, bytes(64))
        made.writestr("a/version", "3\n")
        made.writestr("a/byteorder", "little")
    load_torch_file(written("c.pt", file.getvalue()))


def safetensors(data):
    from ddpm_export.importers.folders import load_safetensors

    load_safetensors(written("c.safetensors", data))


TARGETS = {one.__name__: one for one in (spec, external_data, archive, cifar, idx, npy, checkpoint, safetensors)}


def seeds(name):
    """Return sound and damaged inputs to begin with."""
    from . import cases
    from .cases import TESTS_GOLDEN

    if name == "spec":
        from models import tiny_spec

        from ddpm_export.model.spec_json import json_from_spec

        texts = json.loads((TESTS_GOLDEN / "spec_attacks" / "texts.json").read_text("ascii"))["cases"]
        changes = json.loads((TESTS_GOLDEN / "spec_attacks" / "changes.json").read_text("ascii"))
        made = [case["text"] for case in texts] + [json_from_spec(tiny_spec())]
        made += [json.dumps({**changes["sound"], **case["change"]}) for case in changes["cases"]]
        return [text.encode("utf-8", "surrogatepass") for text in made]
    if name == "external_data":
        from models import external, learned_model, mix_model, scale_model

        short = scale_model(metadata='{"weights_sha256": "0"}', weight=external("data"))
        return [
            short,
            scale_model(weight=external("../secret")),
            mix_model(),
            learned_model(),
            scale_model(metadata="{}"),
        ]
    if name == "archive":
        files = []
        for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", kind) as made:
                made.writestr("m/extra/ddpm_export.json", "{}")
                made.writestr("m/data.pkl", b"x" * 50)
            files.append(file.getvalue())
        return files
    if name == "cifar":
        from .hostile_data import batch

        return [batch(), pickle.dumps({b"data": b"x", b"labels": [0]}, 2), pickle.dumps({b"labels": [1]}, 4)]
    if name == "idx":
        import gzip

        from .hostile_data import idx as made

        return [made((2, 3, 4), bytes(24)), gzip.compress(made((2, 3, 4), bytes(24)), mtime=0), made((5,), bytes(5))]
    if name == "npy":
        from .hostile_data import HEADERS

        return [cases.npy([[1, 2]]), *(content for content in HEADERS.values() if len(content) < 9999)]
    if name == "checkpoint":
        import torch

        values = (
            {"a": torch.ones(4)},
            {"ema": {"a": torch.ones(2, 2), "b": [1, (2, "x"), None, 1.5, True]}, "step": 3},
            [1, {2}],
        )
        files = []
        for value in values:
            with zipfile.ZipFile(io.BytesIO(cases.contents_of(value))) as made:
                files.append(made.read(next(entry for entry in made.namelist() if entry.endswith("data.pkl"))))
        return files
    from .hostile_checkpoints import safetensors as made
    from .hostile_checkpoints import tensor

    return [made({"a": tensor()}, bytes(8)), made({"__metadata__": {"x": "y"}, "a": tensor()}, bytes(8)), made({}, b"")]


def tried(target):
    """Return a target that only lets through what must not be raised."""
    from ddpm_export.errors import DdpmExportError

    def one(data):
        try:
            target(data)
        except DdpmExportError as exc:
            told = str(exc)
            assert len(told) < 3000, f"an error of {len(told)} letters"

    return one


def blindly(target, corpus, runs, seed, limit_s):
    """Stand in for Atheris: mutants of the corpus, a few changes each."""
    noise, since, count = random.Random(seed), time.monotonic(), 0
    contents = [path.read_bytes() for path in sorted(Path(corpus).iterdir())]
    while count < runs and time.monotonic() - since < limit_s:
        data = bytearray(noise.choice(contents))
        for _ in range(noise.randint(1, 4)):
            at = noise.randrange(len(data) + 1)
            change = noise.randrange(4)
            if change == 0 and at < len(data):
                data[at] ^= 1 << noise.randrange(8)
            elif change == 1:
                data[at : at + noise.randrange(9)] = noise.randbytes(noise.randrange(9))
            elif change == 2:
                other = noise.choice(contents)
                begin = noise.randrange(len(other) + 1)
                data[at:at] = other[begin : begin + noise.randrange(64)]
            else:
                del data[at:]
        target(bytes(data))
        count += 1
    print(f"stat::number_of_executed_units: {count}")


def main():
    name, corpus, *options = sys.argv[1:]
    told = dict(option.lstrip("-").split("=", 1) for option in options)
    PLACE.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    try:
        if atheris is None:
            blindly(
                tried(TARGETS[name]),
                corpus,
                int(told["runs"]),
                int(told["seed"]),
                float(told.get("max_total_time", "inf")),
            )
            return
        with atheris.instrument_imports(
            include=["ddpm_export", "zipfile", "pickletools", "torch._weights_only_unpickler"]
        ):
            import ddpm_export.images.write
            import ddpm_export.model.spec
            import ddpm_export.runtimes.external_data
            import ddpm_export.runtimes.torch_archive
            import ddpm_export.scoring.datasets.readers

            if name in ("checkpoint", "safetensors"):
                import ddpm_export.importers.checkpoint
                import ddpm_export.importers.folders  # noqa: F401
        atheris.Setup([sys.argv[0], corpus, *options], tried(TARGETS[name]))
        atheris.Fuzz()
    finally:
        import shutil

        shutil.rmtree(PLACE, ignore_errors=True)


if __name__ == "__main__":
    main()
