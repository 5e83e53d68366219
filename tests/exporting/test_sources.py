import hashlib
import importlib
import json
import os
import shutil
import sys
import zipfile

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from ddpm_export.errors import BadFileError, EnvironmentProblem  # noqa: E402
from ddpm_export.importers.folders import pick_weights  # noqa: E402
from ddpm_export.importers.hub import is_hub_name  # noqa: E402
from ddpm_export.importers.sources import read_source  # noqa: E402

from .fake_hub import COMMIT, FakeHub  # noqa: E402

pytestmark = pytest.mark.torch
NAME = "diffusion_pytorch_model"
STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}
MODEL = {"_class_name": "UNet2DModel", "in_channels": 3}
SCHEDULER = {"_class_name": "DDPMScheduler"}
INDEX = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def write_model(folder, weights=f"{NAME}.safetensors", state=STATE, config=MODEL):
    write_json(folder / "config.json", config)
    (save_file if weights.endswith("safetensors") else torch.save)(state, folder / weights)
    return folder


def write_pipeline(folder, **model):
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_model(folder / "unet", **model)
    return folder


def write_shards(folder, ending=".safetensors", **changes):
    """One tensor a shard; changes are of the index's weight_map."""
    write_json(folder / "config.json", MODEL)  # and makes the folder
    places = {}
    for k, (key, value) in enumerate(STATE.items()):
        places[key] = f"{NAME}-0000{k + 1}-of-00002{ending}"
        (save_file if ending == ".safetensors" else torch.save)({key: value}, folder / places[key])
    write_json(folder / f"{NAME}{ending}.index.json", {"metadata": {}, "weight_map": {**places, **changes}})
    return [folder / place for place in places.values()]


def digest(*paths):
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return digests[0] if len(paths) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def assert_state(found, state=STATE):
    assert found.contents.keys() == state.keys()
    assert all(torch.equal(found.contents[key], value) for key, value in state.items())


def told_in_one_line(path, error=BadFileError):
    with pytest.raises(error) as caught:
        read_source(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# files


def test_a_safetensors_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    found, source = read_source(path)
    assert_state(found)
    assert (found.name, found.config, source) == ("weights", {}, {"checkpoint_sha256": digest(path)})


@pytest.mark.parametrize("fault", ["missing", "empty", "text", "truncated", "a folder's name"])
def test_a_broken_safetensors_file(tmp_path, fault):
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    content = path.read_bytes()
    if fault == "missing":
        path.unlink()
    elif fault == "a folder's name":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "text": b"hello, hello, hello", "truncated": content[:-4]}[fault])
    told_in_one_line(path)


@pytest.mark.parametrize("name", ["runs/x.pt", "runs/x.safetensors", "x.pt", "runs/a/b", "models--x"])
def test_a_path_at_which_nothing_lies_is_no_hub_name(name):
    assert "does not exist" in told_in_one_line(name)


def test_a_missing_safetensors_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'ddpm-export\[export\]'"):
        read_source(write_model(tmp_path))


# folders


def test_a_pipeline(tmp_path):
    found, source = read_source(write_pipeline(tmp_path / "mine"))
    assert_state(found)
    assert found.name == "mine"
    assert found.config == {"model_index.json": INDEX, "config.json": MODEL, "scheduler_config.json": SCHEDULER}
    assert source == {"checkpoint_sha256": digest(tmp_path / "mine" / "unet" / f"{NAME}.safetensors")}


def test_a_pipeline_whose_parts_lie_side_by_side(tmp_path):
    """As in google/ddpm-cifar10-32."""
    write_json(tmp_path / "model_index.json", INDEX)
    write_json(tmp_path / "scheduler_config.json", SCHEDULER)
    found, _ = read_source(write_model(tmp_path, f"{NAME}.bin"))
    assert_state(found)
    assert found.config == {"model_index.json": INDEX, "config.json": MODEL, "scheduler_config.json": SCHEDULER}


def test_the_unet_of_a_pipeline_has_its_scheduler(tmp_path):
    folder = write_pipeline(tmp_path / "mine") / "unet"
    found, _ = read_source(folder)
    assert (found.name, found.config["scheduler_config.json"]) == ("mine", SCHEDULER)


def test_another_model_in_a_pipeline_has_not(tmp_path):
    write_pipeline(tmp_path)
    found, _ = read_source(write_model(tmp_path / "unet_ema"))
    assert found.config == {"config.json": MODEL}


def test_the_unet_is_named_for_its_folder_where_one_stands_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(write_pipeline(tmp_path / "mine") / "unet")
    assert read_source(".")[0].name == "mine"


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_shards(tmp_path, ending):
    files = write_shards(tmp_path, ending)
    found, source = read_source(tmp_path)
    assert_state(found)
    assert source == {"checkpoint_sha256": digest(*files)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], None),
        (["model.safetensors", f"{NAME}.ckpt", f"my_{NAME}.bin"], None),
        ([f"{NAME}.safetensors", f"{NAME}.bin"], f"{NAME}.safetensors"),
        ([f"{NAME}.fp16.safetensors", f"{NAME}.bin"], f"{NAME}.bin"),
        ([f"{NAME}.fp16.safetensors"], f"{NAME}.fp16.safetensors"),
        ([f"{NAME}.fp16.safetensors", f"{NAME}.fp16.bin"], f"{NAME}.fp16.safetensors"),
        ([f"{NAME}.non_ema.bin", f"{NAME}.fp16.bin", f"{NAME}.bin"], f"{NAME}.bin"),
        ([f"{NAME}.safetensors.index.json", f"{NAME}.bin"], f"{NAME}.safetensors.index.json"),
        ([f"{NAME}.safetensors.index.json", f"{NAME}.safetensors"], f"{NAME}.safetensors"),
        ([f"{NAME}.safetensors.index.fp16.json", f"{NAME}.bin"], f"{NAME}.bin"),
        ([f"{NAME}.safetensors.index.fp16.json"], f"{NAME}.safetensors.index.fp16.json"),
        ([f"{NAME}.fp16-00001-of-00002.safetensors", f"{NAME}-00001-of-00002.safetensors"], None),
    ],
)
def test_which_weights_are_read(names, expected):
    assert pick_weights(names) == expected
    assert pick_weights(names[::-1]) == expected


def test_several_variants_and_no_plain_weights(tmp_path):
    write_model(write_model(tmp_path, f"{NAME}.fp16.safetensors"), f"{NAME}.non_ema.safetensors")
    assert "fp16, non_ema" in told_in_one_line(tmp_path)


def test_the_only_variant_is_read(tmp_path):
    half = {key: value.half() for key, value in STATE.items()}
    assert_state(read_source(write_model(tmp_path, f"{NAME}.fp16.safetensors", state=half))[0], half)


BROKEN = {
    "nothing": lambda folder: shutil.rmtree(folder / "unet") or (folder / "model_index.json").unlink(),
    "no unet": lambda folder: shutil.rmtree(folder / "unet"),
    "no weights": lambda folder: (folder / "unet" / f"{NAME}.safetensors").unlink(),
    "no config": lambda folder: (folder / "unet" / "config.json").unlink(),
    "text for JSON": lambda folder: (folder / "unet" / "config.json").write_text("hello"),
    "not UTF-8": lambda folder: (folder / "unet" / "config.json").write_bytes(b'{"a": "\xff"}'),
    "a list": lambda folder: (folder / "unet" / "config.json").write_text("[1]"),
    "deep": lambda folder: (folder / "unet" / "config.json").write_text("[" * 100_000),
    "a broken scheduler": lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"),
    "a broken index": lambda folder: (folder / "model_index.json").write_text("{"),
    "broken weights": lambda folder: (folder / "unet" / f"{NAME}.safetensors").write_bytes(b"hello"),
    "weights that are a list": lambda folder: (
        (folder / "unet" / f"{NAME}.safetensors").unlink() or torch.save([1], folder / "unet" / f"{NAME}.bin")
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_folder_that_is_broken_or_of_something_else(tmp_path, fault):
    BROKEN[fault](write_pipeline(tmp_path))
    told_in_one_line(tmp_path)


def test_json_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_export.importers.folders.MAX_JSON_BYTES", 20)
    assert "more than 20 bytes" in told_in_one_line(write_model(tmp_path))


@pytest.mark.parametrize(
    "place",
    ["../outside.safetensors", "/outside.safetensors", "a/b.safetensors", "..", "a\\b.safetensors", 7, "x.pkl", ""],
)
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, place):
    folder = tmp_path / "inside"
    save_file({"conv.weight": STATE["conv.weight"]}, tmp_path / "outside.safetensors")
    folder.mkdir()
    write_shards(folder, **{"conv.weight": place})
    assert "must have a weight_map from tensors to files beside it" in told_in_one_line(folder)


@pytest.mark.parametrize("fault", ["missing", "more", "less", "swapped"])
def test_shards_that_are_not_those_of_their_index(tmp_path, fault):
    first, second = write_shards(tmp_path)
    if fault == "missing":
        second.unlink()
    elif fault == "swapped":
        os.replace(first, tmp_path / "third")
        os.replace(second, first)
        os.replace(tmp_path / "third", second)
    else:
        save_file({"more": torch.ones(1), **(STATE if fault == "more" else {})}, second)
    told_in_one_line(tmp_path)


# the hub


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google/ddpm-cifar10-32", True),
        ("google/ddpm-cifar10-32@main", True),
        ("me/my_model.v2@refs/pr/1", True),
        ("runs/x.pt", False),
        ("runs/x.ckpt", False),
        ("a/b/c", False),
        ("../x", False),
        ("./google/ddpm", False),
        ("/google/ddpm", False),
        ("google", False),
        ("google/ddpm@", False),
        ("google/@v1", False),
        ("here/model", False),
        ("", False),
    ],
)
def test_what_reads_like_a_hub_name(name, expected, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_hub_name(name) == expected


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with models of several kinds, and an empty cache; it runs until it is stopped by hub.stop()."""
    models = tmp_path / "models"
    write_pipeline(models / "me" / "pipeline")
    torch.save(STATE, models / "me" / "pipeline" / "unet" / f"{NAME}.bin")
    save_file(STATE, models / "me" / "pipeline" / "unet" / f"{NAME}.fp16.safetensors")
    (models / "me" / "pipeline" / "README.md").write_text("about it")
    write_model(models / "me" / "flat", f"{NAME}.bin")
    write_json(models / "me" / "flat" / "scheduler_config.json", SCHEDULER)
    write_shards(models / "me" / "sharded")
    write_pipeline(models / "me" / "other", config={"_class_name": "UNet3DConditionModel"})
    write_pipeline(models / "me" / "text", config={"_class_name": "UNet2DConditionModel"})
    write_json(models / "me" / "text" / "text_encoder" / "config.json", {})
    write_pipeline(models / "me" / "latents")
    write_model(models / "me" / "latents" / "vqvae", state={"a": torch.ones(3)}, config={"_class_name": "VQModel"})
    write_json(models / "me" / "empty" / "config.json", MODEL)
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    hub = FakeHub(models)
    with hub.running():
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def fetched(hub):
    return sorted(line.partition(f"/resolve/{COMMIT}/")[2] for line in hub.requests if line.startswith("GET /me"))


def test_a_model_of_the_hub(hub, capfd):
    found, source = read_source("me/pipeline")
    assert_state(found)
    assert found.name == "pipeline"
    assert found.config == {"model_index.json": INDEX, "config.json": MODEL, "scheduler_config.json": SCHEDULER}
    weights = hub.models / "me" / "pipeline" / "unet" / f"{NAME}.safetensors"
    assert source == {"checkpoint_sha256": digest(weights), "hub": "me/pipeline", "revision": COMMIT}
    assert fetched(hub) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        f"unet/{NAME}.safetensors",
    ]
    assert capfd.readouterr() == ("", "")


def test_the_autoencoder_of_a_pipeline_comes_along(hub):
    found, _ = read_source("me/latents")
    assert found.autoencoder[0] == {"_class_name": "VQModel"}
    assert {"vqvae/config.json", f"vqvae/{NAME}.safetensors"} < set(fetched(hub))


@pytest.mark.parametrize(("name", "num_weights"), [("flat", 1), ("sharded", 3)])
def test_other_layouts_on_the_hub(hub, name, num_weights):
    found, _ = read_source(f"me/{name}@v1")
    assert_state(found)
    assert len([file for file in fetched(hub) if file.startswith(NAME)]) == num_weights


def test_a_model_comes_from_the_cache_once_the_hub_is_gone(hub):
    first = read_source("me/pipeline")
    hub.requests.clear()
    second = read_source("me/pipeline")
    assert fetched(hub) == []
    hub.stop()
    third = read_source("me/pipeline")
    assert first[1] == second[1] == third[1]
    assert_state(third[0])


@pytest.mark.parametrize("absence", ["gone", "broken", "offline"])
def test_a_model_that_is_neither_on_the_hub_nor_in_the_cache(hub, monkeypatch, absence):
    if absence == "gone":
        hub.stop()
    hub.broken = absence == "broken"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", absence == "offline")
    assert "does not exist here" in told_in_one_line("me/pipeline", EnvironmentProblem)


def test_half_a_model_in_the_cache_is_none(hub):
    read_source("me/pipeline")
    for path in (hub.models.parent / "cache").rglob(f"{NAME}*"):
        path.unlink()
    hub.stop()
    told_in_one_line("me/pipeline", EnvironmentProblem)


@pytest.mark.parametrize("name", ["me/nothing", "me/pipeline@v9", "nobody/pipeline", "me/a--b"])
def test_a_name_that_the_hub_does_not_know(hub, name):
    assert "the hub has no such model" in told_in_one_line(name)


def test_another_model_is_told_before_its_weights_come(hub):
    assert "UNet3DConditionModel" in told_in_one_line("me/other")
    assert "told no text" in told_in_one_line("me/text")
    assert not any(NAME in file for file in fetched(hub))


def test_a_model_without_weights_on_the_hub(hub):
    assert "no weights on the hub" in told_in_one_line("me/empty")


def test_a_missing_hub_package_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    assert r"pip install 'ddpm-export[diffusers]'" in told_in_one_line("google/ddpm", EnvironmentProblem)


def write_bomb(path):
    """Write zeros, deflated: a small file that torch would unpack whole."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9", bytes(2**27))


def write_one_entry_often(path):
    """Write an archive whose directory names the bytes of one entry forty times."""
    torch.save({"a": torch.zeros(2**20)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        large = max(archive.infolist(), key=lambda entry: entry.file_size)
        archive.filelist += [large] * 40
        archive._didModify = True


@pytest.mark.parametrize("write", [write_bomb, write_one_entry_often])
def test_an_archive_that_unpacks_to_more_than_it_has_is_not_unpacked(tmp_path, write):
    write(tmp_path / "a.pt")
    with pytest.raises(BadFileError, match=r"a\.pt would unpack to \d+ bytes, far more than its own size"):
        read_source(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_pipe_is_no_checkpoint_and_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadFileError, match=r"is not a file|does not exist"):
        read_source(tmp_path / name)
    with pytest.raises(BadFileError, match="does not exist"):
        read_source(tmp_path / f"{'x' * 300}{name}")


SHARED = b")" + b"".join(b"q%c0h%ch%c\x86" % (k, k, k) for k in range(60))  # each holds the one before twice


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}" + SHARED + b"K\x01s.",
        b"\x80\x02}(" + SHARED + b"K\x01u.",
        b"\x80\x02})" + b"\x85" * 30_000 + b"K\x01s.",
    ],
)
@pytest.mark.parametrize("is_packed", [True, False])
def test_a_key_that_would_be_hashed_for_ever_or_nests_without_end_is_refused(tmp_path, pickled, is_packed):
    path = tmp_path / "c.pt"
    path.write_bytes(pickled)
    if is_packed:
        torch.save(STATE, path)
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    with pytest.raises(BadFileError, match="tuples that hold one another"):
        read_source(path)


def test_what_is_shared_without_being_nested_is_read(tmp_path):
    shared = tuple(range(100))
    torch.save({"a": torch.ones(2), "shared": [shared] * 1000, "optimizer": {(1, "x"): shared}}, tmp_path / "c.pt")
    assert set(read_source(tmp_path / "c.pt")[0].contents) == {"a", "shared", "optimizer"}


def test_a_tensor_without_values_is_refused_before_anything_is_built(tmp_path):
    torch.save({"ema": {"w": torch.empty(3, device="meta")}}, tmp_path / "m.pt")
    with pytest.raises(BadFileError, match="a tensor on the meta device, which has no values"):
        read_source(tmp_path / "m.pt")
