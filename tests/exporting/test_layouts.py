"""Files that are of no layout, of two, or nearly of one, through the command line: one line, exit code 3."""

import importlib
import itertools
import json
import random

import pytest
from commands import assert_refused, run_here

torch = pytest.importorskip("torch")

from ddpm_export.cli.export import main  # noqa: E402
from ddpm_export.importers.layout import Found  # noqa: E402
from ddpm_export.importers.layouts import IMPORTERS  # noqa: E402
from ddpm_export.importers.load import load_checkpoint  # noqa: E402
from tests.oracles.weights import ORACLES, contents_of  # noqa: E402

from . import test_edm  # noqa: E402
from .conftest import CONFIGS, save  # noqa: E402

pytestmark = pytest.mark.torch

# of every layout: what it is known by and nothing else, for a file that cannot be loaded but is recognised
BY_WORD = {"native": {"format": "ddpm-export-checkpoint/1", "network": {}, "ema": {}, "config": {}, "spec": ""}}
IN_A_FOLDER = {"diffusers", "diffusion_policy", "lerobot"}
FILES = sorted(IMPORTERS.keys() - IN_A_FOLDER)


def signs_of(name, contents=None):
    return IMPORTERS[name].signs(Found("x", contents or {}))


def bare(name):
    """Return contents that have all signs of a layout."""
    return dict(BY_WORD.get(name) or {sign: torch.zeros(1) for sign in signs_of(name)})


def native(folder):
    return torch.load(save(folder / "native.pt", CONFIGS["grey"]), weights_only=True), {}


def openai(folder):
    return contents_of("improved-a"), json.loads((ORACLES / "improved-a" / "config.json").read_text())


def tqch(folder):
    return contents_of("tqch-b")["ema"]["shadow"], json.loads((ORACLES / "tqch-b" / "config.json").read_text())


def edm(folder):
    state = test_edm.contents_of("ddpmpp")[0]["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items()}, {"preconditioner": "edm"}


def lucidrains(folder):
    package = importlib.import_module("denoising_diffusion_pytorch")
    unet = package.Unet(dim=4, dim_mults=(1, 2), channels=1, attn_heads=1, attn_dim_head=2)
    options = {"image_size": 8, "objective": "pred_noise", "beta_schedule": "linear", "timesteps": 100}
    return unet.state_dict(), options


def lucidrains_classes(folder):
    package = importlib.import_module("denoising_diffusion_pytorch.classifier_free_guidance")
    unet = package.Unet(dim=4, dim_mults=(1, 2), channels=1, num_classes=3, attn_heads=1, attn_dim_head=2)
    options = {"image_size": 8, "objective": "pred_noise", "beta_schedule": "linear", "timesteps": 100}
    return unet.state_dict(), {**options, "attn_heads": 1}


REAL = {
    "edm": edm,
    "native": native,
    "openai": openai,
    "tqch": tqch,
    "lucidrains": lucidrains,
    "lucidrains_classes": lucidrains_classes,
}


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """A layout's name -> (contents of a sound checkpoint of it, options for it), fresh ones."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = REAL[name](tmp_path_factory.mktemp(name))
        contents, options = made[name]
        return dict(contents), options

    return get


def export(folder, contents, options=None):
    """Return the ending of ddpm-export for a file with these contents."""
    torch.save(contents, folder / "c.pt")
    (folder / "options.json").write_text(json.dumps(options or {}))
    return run_here(main, folder / "c.pt", "--config", folder / "options.json", "--out", folder / "c.onnx")


def test_every_layout_is_tested_here():
    assert REAL.keys() | IN_A_FOLDER == IMPORTERS.keys()
    for name in FILES:
        assert all(signs_of(name, bare(name)).values())
        assert not all(signs_of(name).values())


@pytest.mark.parametrize(
    "contents",
    [
        {},
        [],
        7,
        "state_dict",
        None,
        {"state_dict": {}},
        {"model": {}, "ema": {}, "epoch": 3},
        [torch.zeros(3)],
        torch.zeros(3),
        {"weight": torch.zeros(3)},
        {0: torch.zeros(3), None: {1: 2}},
        {"model": {"model": {"model": {"fc.bias": torch.zeros(3)}}}},
        {"a\nb\x1b[31m": torch.zeros(3)},
    ],
    ids=lambda contents: ascii(contents)[:40],
)
def test_a_file_of_no_layout(tmp_path, contents):
    assert_refused(export(tmp_path, contents), 3, "an unknown checkpoint layout", *IMPORTERS)


def test_latent_diffusions_own_layout_names_the_script_that_converts_it(tmp_path):
    contents = {"state_dict": {"model.diffusion_model.out.0.weight": torch.zeros(3), "betas": torch.zeros(3)}}
    assert_refused(export(tmp_path, contents), 3, "layout of latent-diffusion", "conversion_ldm_uncond.py")


def test_a_folder_of_no_layout(tmp_path):
    for content in ({}, [], {"_class_name": "VQModel"}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert_refused(run_here(main, tmp_path), 3, str(tmp_path))
    (tmp_path / "config.json").unlink()
    assert_refused(run_here(main, tmp_path), 3, str(tmp_path))


@pytest.mark.parametrize("pair", list(itertools.combinations(FILES, 2)), ids="+".join)
def test_a_mixture_of_two_layouts_is_ambiguous(tmp_path, pair):
    entry, other = map(bare, pair)
    assert_refused(
        export(tmp_path, {**entry, **other}), 3, "an ambiguous checkpoint layout", " and ".join(sorted(pair))
    )


@pytest.mark.parametrize("name", FILES)
def test_a_folder_of_diffusers_with_the_weights_of_another_layout(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    contents = {
        sign: torch.zeros(1) for sign in ("conv_in.weight", "time_embedding.linear_1.weight", "conv_out.weight")
    }
    torch.save(contents | bare(name), tmp_path / "diffusion_pytorch_model.bin")
    both = " and ".join(sorted(["diffusers", name]))
    assert_refused(run_here(main, tmp_path), 3, "an ambiguous checkpoint layout", both)


def test_two_whole_networks_in_one_file_are_ambiguous(tmp_path, real):
    names = sorted(REAL)
    contents = {key: value for name in names for key, value in real(name)[0].items()}
    assert_refused(
        export(tmp_path, contents), 3, "an ambiguous checkpoint layout", "all signs of " + " and ".join(names)
    )


@pytest.mark.parametrize("pair", list(itertools.permutations(FILES, 2)), ids="+".join)
def test_a_few_keys_of_another_layout_are_left_over(tmp_path, real, pair):
    contents, options = real(pair[0])
    strays = dict(random.sample(sorted(bare(pair[1]).items(), key=lambda item: item[0]), 2))
    if pair[0] == "native":  # whose weights lie one level down
        contents["ema"] = {**contents["ema"], **strays}
    else:
        contents.update(strays)
    assert_refused(export(tmp_path, contents, options), 3)


@pytest.mark.parametrize(("name", "sign"), [(name, sign) for name in FILES for sign in signs_of(name)])
def test_of_a_near_miss_the_nearest_is_named(tmp_path, name, sign):
    contents = bare(name)
    del contents["format" if sign.startswith("format ") else sign]
    nearest = f"the nearest is {name}, which lacks {sign}"
    assert_refused(export(tmp_path, contents), 3, "an unknown checkpoint layout", nearest)
    contents[sign[:-1]] = torch.zeros(1)
    assert_refused(export(tmp_path, contents), 3, nearest)


@pytest.mark.parametrize("name", FILES)
def test_signs_alone_are_no_network(tmp_path, real, name):
    assert_refused(export(tmp_path, bare(name), real(name)[1]), 3, "the checkpoint's ")


@pytest.mark.parametrize("name", FILES)
def test_missing_and_extra_and_misshapen_weights_are_named(tmp_path, real, name):
    def weights(contents):
        return contents["ema"] if name == "native" else contents

    contents, options = real(name)
    torch.save(contents, tmp_path / "sound.pt")
    load_checkpoint(tmp_path / "sound.pt", options=options)
    for _ in range(3):
        state = dict(weights(contents))
        # of emb_layers OpenAI's importer reads an option, which then contradicts the one that was given
        keys = [key for key in state if key not in signs_of(name) and state[key].dim() > 1 and "emb_layers" not in key]
        key = random.choice(keys)
        for change in ({}, {key: state[key][:0]}, {key: state[key][None]}, {key: state[key], key + "x": state[key]}):
            changed = {**{k: v for k, v in state.items() if k != key}, **change}
            ending = export(tmp_path, {**contents, "ema": changed} if name == "native" else changed, options)
            assert_refused(ending, 3, "the checkpoint's ")
