"""EDM's networks: what its own code recorded for a state and its sampler, from the same noise."""

import json
import pickle

import numpy as np
import pytest
from representative import representative

torch = pytest.importorskip("torch")

from ddpm_export import export, open_model  # noqa: E402
from ddpm_export.errors import BadFileError, UsageError  # noqa: E402
from ddpm_export.importers.load import load_checkpoint  # noqa: E402
from ddpm_export.model.denoiser import denoiser  # noqa: E402
from ddpm_export.model.steps import plan  # noqa: E402
from ddpm_export.process.pixels import to_uint8  # noqa: E402
from ddpm_export.process.walk import walk  # noqa: E402
from tests.oracles.weights import ORACLES, weights_of  # noqa: E402

pytestmark = pytest.mark.torch
CASES = sorted(path.parent.name for path in (ORACLES / "edm").glob("*/expected.npz"))
STEPS = 5


def contents_of(case, **changes):
    """Return what docs/importing-paths.md has the user save of a recorded network, and the recording."""
    folder = ORACLES / "edm" / case
    expected, config = dict(np.load(folder / "expected.npz")), json.loads((folder / "config.json").read_text())
    state = {name: torch.from_numpy(value) for name, value in weights_of(f"edm/{case}").items()}
    for name in state:
        if name.endswith("resample_filter"):
            state[name] = torch.from_numpy(expected["filter"])
    if config["options"]["class_name"] == "iDDPMPrecond":
        state["u"] = torch.zeros(1001)  # its table of sigmas, which is no weight
    return {"options": {**config["options"], **changes}, "state_dict": state}, config["sampler"], expected


def saved(case, path, **changes):
    contents, asked, expected = contents_of(case, **changes)
    torch.save(contents, path)
    return load_checkpoint(path, options=asked, steps=(STEPS,)), expected


def eager(checkpoint):
    def model(x_t, t, **inputs):
        with torch.no_grad():
            given = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
            out = checkpoint.network(torch.from_numpy(np.float32(x_t)), torch.from_numpy(np.float32(t)), **given)
        return {checkpoint.spec.prediction: out.numpy()}

    return model


def denoised_by(model, spec, path, expected, y):
    """Return the clean picture that a network finds at the recorded states."""
    ts = [path.t_of(float(sigma), 1000) for sigma in expected["sigma"]]
    alpha = (1 / np.sqrt(1 + expected["sigma"].astype(np.float64) ** 2)).reshape(-1, 1, 1, 1)
    x_t = (alpha * expected["x"]).astype(np.float32)
    given = {"y": np.asarray(y)} if spec.inputs else {}
    (said,) = model(x_t, np.float32(ts), **given).values()
    noise = np.sqrt(1 - alpha**2)
    return alpha * x_t - noise * said if spec.prediction == "v" else (x_t - noise * said) / alpha


@pytest.mark.parametrize("case", CASES)
def test_a_network_finds_the_picture_that_its_own_code_finds(case, tmp_path):
    checkpoint, expected = saved(case, tmp_path / "edm.pt")
    path = checkpoint.network.path
    got = denoised_by(eager(checkpoint), checkpoint.spec, path, expected, expected["y"])
    np.testing.assert_allclose(got, expected["denoised"], rtol=0, atol=3e-5 * np.abs(expected["denoised"]).max())


@pytest.mark.parametrize("case", CASES)
def test_its_steps_end_in_the_picture_that_edms_sampler_gives(case, tmp_path):
    checkpoint, expected = saved(case, tmp_path / "edm.pt")
    spec, rows = checkpoint.spec, plan(checkpoint.spec)
    assert (spec.defaults.plan, len(rows.rows)) == (f"edm-{STEPS}", 2 * STEPS - 1)
    draws = {draw: k for k, draw in enumerate(rows.draws)}
    label = {"y": expected["y"][1:3]} if spec.inputs else {}
    *_, last = walk(denoiser(eager(checkpoint), spec, **label), lambda draw: expected["noise"][draws[draw]], rows)
    assert np.ptp(expected["final"]) > 0.5
    np.testing.assert_allclose(last.x, expected["final"], rtol=0, atol=1e-5 * np.ptp(expected["final"]))
    assert np.abs(to_uint8(last.x).astype(int) - to_uint8(expected["final"])).max() <= 1


@representative("case", ["ncsnpp", "edm2-classes", "ddpmpp-vp-classes", "adm-classes", "adm-iddpm"])
def test_its_file_says_the_same(case, tmp_path):
    checkpoint, expected = saved(case, tmp_path / "edm.pt")
    model, spec = open_model(export(checkpoint, tmp_path / "edm.onnx").path)
    got = denoised_by(model, spec, checkpoint.network.path, expected, expected["y"])
    np.testing.assert_allclose(got, expected["denoised"], rtol=0, atol=3e-5 * np.abs(expected["denoised"]).max())


def test_no_class_is_there_where_training_dropped_classes(tmp_path):
    checkpoint, _ = saved("ddpmpp-vp-classes", tmp_path / "edm.pt")
    assert checkpoint.spec.label.none == 3
    table = checkpoint.network.network.map_label.weight
    bias = torch.from_numpy(weights_of("edm/ddpmpp-vp-classes")["model.map_label.bias"])
    torch.testing.assert_close(table[3], bias)
    assert saved("adm-classes", tmp_path / "edm.pt")[0].spec.label.none is None


def test_a_bare_state_dict_is_asked_for_its_preconditioner(tmp_path):
    contents, _, expected = contents_of("ddpmpp")
    torch.save(contents["state_dict"], tmp_path / "edm.pt")
    with pytest.raises(UsageError, match="does not say its preconditioner"):
        load_checkpoint(tmp_path / "edm.pt")
    options = {"preconditioner": "edm", "sigma_data": 0.4}
    checkpoint = load_checkpoint(tmp_path / "edm.pt", options=options, steps=())
    got = denoised_by(eager(checkpoint), checkpoint.spec, checkpoint.network.path, expected, None)
    np.testing.assert_allclose(got, expected["denoised"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"beta_d": 15.0, "class_name": "VPPrecond"}, UsageError, "'beta_d' must be 19.9"),
        ({"sigma_min": 90.0}, UsageError, "'sigma_min' must be below sigma_max, 80"),
        ({"label_dropout": 7}, UsageError, "'label_dropout' must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        saved("ddpmpp", tmp_path / "edm.pt", **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.enc.8x8_block0.conv0.weight", torch.zeros(8, 9, 3, 3)),
        ("model.enc.8x8_block0.conv0.weight", torch.zeros(1).expand(8, 8, 3, 3)),
        ("model.map_layer0.bias", None),
        ("model.dec.8x8_block1.conv0.weight", None),
        ("model.more.weight", torch.zeros(1)),
    ],
)
def test_weights_that_do_not_fit_are_told_in_one_line(tmp_path, name, value):
    contents, *_ = contents_of("ddpmpp")
    contents["state_dict"].pop(name, None)
    if value is not None:
        contents["state_dict"][name] = value
    torch.save(contents, tmp_path / "edm.pt")
    with pytest.raises(BadFileError, match=r"weights.*does not fit") as caught:
        load_checkpoint(tmp_path / "edm.pt")
    assert "\n" not in str(caught.value)


def test_a_pickle_of_edm_is_refused_with_the_line_that_takes_its_weights_out(tmp_path):
    path = tmp_path / "network-snapshot-000001.pkl"
    path.write_bytes(pickle.dumps({"ema": "torch_utils.persistence _reconstruct_persistent_obj"}))
    with pytest.raises(BadFileError, match=r"pickle of EDM.*python -c .*'state_dict': n.state_dict\(\)}, 'edm.pt'"):
        load_checkpoint(path)


def test_edm2s_default_is_its_scripts_32_steps(tmp_path):
    contents, *_ = contents_of("edm2")
    torch.save(contents, tmp_path / "edm2.pt")
    assert load_checkpoint(tmp_path / "edm2.pt").spec.defaults.plan == "edm-32"
    torch.save({**contents, "options": {**contents["options"], "resample_filter": [1, 3, 3, 1]}}, tmp_path / "edm2.pt")
    with pytest.raises(UsageError, match="'resample_filter' must be"):
        load_checkpoint(tmp_path / "edm2.pt")
