"""The shipped models: whole, light, sound in every format, over 1000 steps the same pictures as eager torch."""

import hashlib
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ddpm_export import denoiser, generate, noise_stream, open_model, open_policy, plan, to_uint8, walk
from ddpm_export.exporting.plans import with_plans
from ddpm_export.model.golden import replay_golden
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.sampling.request import request_for
from ddpm_export.scoring.datasets.dataset import Dataset
from ddpm_export.scoring.datasets.idx import DEBIAN_FOLDER, fashion_mnist
from ddpm_export.scoring.scores import features_of

ROOT = Path(__file__).parent.parent
EXPORTED = ROOT / "exported"
GOLDEN = Path(__file__).parent / "golden"
SHIPPED = ("exported/unet.onnx", "exported/unet.fast.onnx", "emoji/unet.onnx")
MAX_TRACKED_MB = 58  # of a clone's files, without what git keeps of them itself


@pytest.mark.parametrize(("folder", "least"), [("exported", 6), ("emoji", 6), ("policies", 3)])
def test_digests(folder: str, least: int) -> None:
    lines = (ROOT / folder / "SHA256SUMS").read_text().splitlines()
    assert len(lines) >= least
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((ROOT / folder / name).read_bytes()).hexdigest() == digest, name


def test_a_clone_is_light() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0")[:-1] if (ROOT / name).is_file()}
    assert len(sizes) > 100
    assert sum(sizes.values()) < MAX_TRACKED_MB * 1e6, sorted(sizes, key=sizes.__getitem__)[-10:]


def test_the_policy_is_light_and_plans_within_the_room() -> None:
    path = ROOT / "policies" / "push-t.onnx"
    assert path.stat().st_size <= 4_000_000
    policy = open_policy(path)
    policy.reset(seed=7)
    block = np.array([256, 330, 196, 330, 196, 300, 316, 300, 316, 330, 271, 330, 271, 420, 241, 420], np.float32)
    given = {"observation.state": np.float32([256, 200]), "observation.environment_state": block}
    actions = np.array([policy(given) for _ in range(8)])
    assert ((actions > 16) & (actions < 496)).all()
    assert np.abs(np.diff(actions, axis=0)).max() < 60.0  # the places follow each other


def test_the_few_step_file_is_light_and_draws_in_one_two_and_four_evaluations() -> None:
    path = EXPORTED / "unet.fast.onnx"
    assert path.stat().st_size <= 3_500_000
    model, spec = open_model(path)
    assert {name: len(plan.rows) for name, plan in spec.plans.items()} == {"fast-1": 1, "fast-2": 2, "fast-4": 4}
    many = generate(EXPORTED / "unet.onnx", n=10, seed=7, num_steps=50).astype(float)
    errors = [np.abs(generate((model, spec), n=10, seed=7, num_steps=k) - many).mean() for k in (4, 2, 1)]
    assert errors[0] < errors[1] < errors[2] < 25.0  # of 255 levels: the same pictures, coarser and coarser


@pytest.mark.torch
@pytest.mark.parametrize("folder", ["exported", "emoji"])
def test_a_shipped_checkpoint_has_no_optimiser(folder: str) -> None:
    from ddpm_export.importers.checkpoint import load_torch_file

    contents = load_torch_file(ROOT / folder / "checkpoint.pt")
    assert "ema" in contents
    assert contents.keys().isdisjoint({"network", "optimizer"})


@pytest.mark.parametrize("path", SHIPPED)
def test_the_operators_for_a_small_runtime_are_all_listed(path: str) -> None:
    lines = (ROOT / "docs/embedding/required_operators.config").read_text().splitlines()
    listed = {name for line in lines if not line.startswith("#") for name in line.split(";")[2].split(",")}
    used = {node.op_type for node in onnx.load(ROOT / path).graph.node}
    assert len(used) >= 15
    assert used <= listed


def accuracy_of_the_extractor(test: Dataset) -> float:
    extract = open_extractor(EXPORTED / "extractor.onnx", (1, 28, 28), "cpu", None)
    _, logits = features_of(np.asarray(test.images), extract, "", None, lambda *_: None)
    return float((logits.argmax(axis=1) == test.labels).mean())


def test_the_extractor_knows_the_pictures_of_the_subset() -> None:
    assert accuracy_of_the_extractor(fashion_mnist(train=False)) >= 0.85


@pytest.mark.long
@pytest.mark.skipif(
    not (DEBIAN_FOLDER / "t10k-images-idx3-ubyte.gz").exists(), reason="needs Debian's dataset-fashion-mnist"
)
def test_the_extractor_is_as_right_as_its_card_says() -> None:
    test = fashion_mnist(DEBIAN_FOLDER, train=False)
    assert len(test.images) == 10_000
    accuracy = accuracy_of_the_extractor(test)
    card = (EXPORTED / "extractor.md").read_text(encoding="utf-8")
    assert accuracy >= 0.93
    assert f"and names {accuracy:.2%} of" in card


def assert_golden_vectors_hold(path: Path) -> None:
    results = replay_golden(*open_model(path, trust=True))
    assert len(results) >= 3
    assert all(result.passed for result in results), results


@pytest.mark.parametrize("path", SHIPPED)
def test_golden_vectors_hold_in_every_file(path: str) -> None:
    assert_golden_vectors_hold(ROOT / path)


@pytest.mark.long
@pytest.mark.torch
def test_the_shipped_checkpoint_becomes_every_other_format(tmp_path: Path) -> None:
    from ddpm_export import load_checkpoint
    from ddpm_export.exporting.export import export_all
    from ddpm_export.exporting.formats import FORMATS

    paths = {name: tmp_path / f"unet{FORMATS[name].ending}" for name in FORMATS if name != "onnx"}
    assert len(paths) >= 2
    for report in export_all(load_checkpoint(EXPORTED / "checkpoint.pt"), paths):
        assert_golden_vectors_hold(report.path)


@pytest.mark.torch
def test_the_shipped_file_is_stored_as_float16_in_at_most_4_mb(shipped_exports: Path) -> None:
    path = shipped_exports / "unet.float16.onnx"
    assert path.stat().st_size <= 4_000_000
    assert_golden_vectors_hold(path)


@pytest.mark.long
def test_tuned_plans_come_nearer_to_many_steps_than_a_solver_of_as_many_evaluations() -> None:
    model, spec = open_model(EXPORTED / "unet.onnx")
    spec = with_plans(spec, [str(EXPORTED / "plans.json")])
    assert sorted(spec.plans) == [f"tuned-{count}" for count in (3, 4, 5, 6, 8)]
    numbers = range(20)
    noise = noise_stream(3, numbers, spec.state_shape)
    inputs = request_for(spec, seed=3).inputs_of(numbers)

    def pixels(**how: Any) -> Any:
        *_, state = walk(denoiser(model, spec, **inputs), noise, plan(spec, **how))
        return to_uint8(state.x).astype(float)

    # of each class in turn, with the guidance of the file: what the plans were learned for; the median, as the few
    # that become another picture under any change of the solver would decide a mean of twenty
    many = pixels(sampler="dpmpp_2m", num_steps=40, grid="quadratic")
    for name in spec.plans:
        count = int(name.removeprefix("tuned-"))
        assert len(spec.plans[name].rows) == count
        tuned, untuned = (
            np.median(np.sqrt(np.square(images - many).mean(axis=(1, 2, 3))))
            for images in (pixels(name=name), pixels(sampler="unipc", num_steps=count))
        )
        assert tuned < 0.85 * untuned, name


def test_the_full_image_of_the_golden_folder() -> None:
    case = json.loads((GOLDEN / "full_image.json").read_text())
    assert hashlib.sha256((EXPORTED / "unet.onnx").read_bytes()).hexdigest() == case["model_sha256"]
    settings = {name: case[name] for name in ("seed", "first", "num_steps", "sampler", "eta")}
    images = generate(EXPORTED / "unet.onnx", n=1, **settings)
    assert list(images.shape[1:]) == case["shape"]
    assert np.abs(images.ravel().astype(int) - case["pixels"]).max() <= 1


@pytest.mark.long
def test_the_background_is_clean() -> None:
    images = generate(EXPORTED / "unet.onnx", n=16, num_steps=50, seed=0)
    # 53 % of the training images' pixels are at most 3; grey noise behind the clothes would leave far fewer
    assert 0.4 < (images <= 3).mean() < 0.65
    assert images.max() > 200


@pytest.mark.long
@pytest.mark.torch
def test_1000_ancestral_steps_equal_eager_torch() -> None:
    """Ho et al. 2020, algorithm 2, written out in torch with eq. 7's posterior mean, on the same noise."""
    import torch

    from ddpm_export import load_checkpoint

    checkpoint = load_checkpoint(EXPORTED / "checkpoint.pt")
    network, spec = checkpoint.network, checkpoint.spec
    alphas = torch.tensor(spec.alphas_cumprod, dtype=torch.float64)
    noise = noise_stream(3, range(2), spec.state_shape)
    x = torch.from_numpy(noise(0))
    y = () if spec.label is None else (torch.tensor([0, 1]),)  # image k is of class k
    T = spec.num_train_timesteps
    with torch.inference_mode():
        for t in reversed(range(T)):
            a, a_prev = float(alphas[t]), float(alphas[t - 1]) if t else 1.0
            beta = 1.0 - a / a_prev
            v = network(x, torch.full((len(x),), t), *y)
            x_0 = (math.sqrt(a) * x - math.sqrt(1 - a) * v).clamp(-1, 1)
            mean = math.sqrt(a_prev) * beta / (1 - a) * x_0 + math.sqrt(1 - beta) * (1 - a_prev) / (1 - a) * x
            std = math.sqrt((1 - a_prev) / (1 - a) * beta)
            x = mean + std * torch.from_numpy(noise(T - t)) if t else mean
    assert spec.prediction == "v"
    expected = to_uint8(x.numpy())
    images = generate(
        EXPORTED / "unet.onnx", n=2, num_steps=T, sampler="ddpm", variance="fixed_small", guidance=1.0, seed=3
    )
    difference = np.abs(images.astype(int) - expected.astype(int))
    assert (difference == 0).mean() >= 0.995
    assert difference.max() <= 1
