"""What is scored: images found again where they were made, features by content, and what every result says."""

import numpy as np
import pytest
from models import COLOUR, GREY, extractor_file, mix_model, node, onnx_file, scale_model, tiny_spec
from onnx import TensorProto

from ddpm_export import open_model
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.runtimes.onnx import open_extractor
from ddpm_export.sampling.generate import generate
from ddpm_export.sampling.request import request_for
from ddpm_export.scoring import scores as scoring
from ddpm_export.scoring.metrics.frechet import frechet_distance, statistics
from ddpm_export.scoring.scores import CHUNK, METRICS, Labels, features_of, sampled_images, scores


def nothing(*_):
    pass


@pytest.fixture
def extract(tmp_path):
    (tmp_path / "e.onnx").write_bytes(extractor_file())
    return open_extractor(tmp_path / "e.onnx", GREY, "cpu", None)


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mix_model())
    return open_model(tmp_path / "m.onnx")


def images_of(count, seed=0, shape=GREY):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape[1:], shape[0]), dtype=np.uint8)


def test_images_are_those_of_generate_and_found_again(opened, tmp_path):
    chosen = {"num_steps": 3, "seed": 4}
    n = CHUNK + 7
    calls = []

    def counted(x_t, t):
        calls.append(len(x_t))
        return opened[0](x_t, t)

    def sampled(n, **changes):
        settings = request_for(opened[1], n=n, batch=64, **{**chosen, **changes})
        return sampled_images(counted, opened[1], settings, "digest", tmp_path / "cache", nothing)

    np.testing.assert_array_equal(sampled(n), generate(opened, n=n, batch=16, **chosen))
    made = len(calls)
    np.testing.assert_array_equal(sampled(n), generate(opened, n=n, **chosen))
    assert len(calls) == made  # all of them were there
    # the first hundred serve any larger number
    assert len(sampled(2 * CHUNK)) == 2 * CHUNK
    assert sum(calls[made:]) == CHUNK * chosen["num_steps"]
    made = len(calls)
    assert (sampled(n, seed=5) != sampled(n)).any()
    assert len(calls) > made


def test_what_another_provider_or_version_made_is_not_found(opened, extract, tmp_path, monkeypatch):
    settings = request_for(opened[1], n=3, num_steps=2, seed=1)
    images = images_of(3)

    def folders():
        return {part.parent for part in tmp_path.rglob("*.npy")}

    def make(provider="cpu"):
        sampled_images(*opened, settings, "digest", tmp_path, nothing, provider)
        features_of(images, extract, "digest", tmp_path, nothing, provider)

    make()
    make()
    assert len(folders()) == 2  # of images, of features
    make("cuda")
    assert len(folders()) == 4
    monkeypatch.setattr(scoring, "__version__", "0.0.0")
    make()
    assert len(folders()) == 6


def test_a_run_that_was_cut_off_goes_on(opened, tmp_path):
    settings = request_for(opened[1], n=3 * CHUNK, num_steps=2, seed=1)

    def stop(done, *_):
        if done == 2 * CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampled_images(*opened, settings, "digest", tmp_path, stop)
    kept = sorted(path.name for path in tmp_path.rglob("*.npy"))
    assert len(kept) == 2
    assert not list(tmp_path.rglob("*.part*"))
    whole = sampled_images(*opened, settings, "digest", tmp_path, nothing)
    np.testing.assert_array_equal(whole, generate(opened, n=3 * CHUNK, num_steps=2, seed=1))


def test_features_follow_from_content_and_are_kept(extract, tmp_path):
    images = images_of(CHUNK + 3)
    calls = []

    def counted(x):
        calls.append(x)
        return extract(x)

    first = features_of(images, counted, "digest", tmp_path, nothing)
    x = images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0
    np.testing.assert_allclose(first[0], extract(x)[0], rtol=0, atol=1e-6)
    assert (calls[0].min(), calls[0].max()) == (-1.0, 1.0)
    made = len(calls)
    for again, expected in zip(features_of(images.copy(), counted, "digest", tmp_path, nothing), first, strict=True):
        np.testing.assert_array_equal(again, expected)
    assert len(calls) == made
    features_of(images, counted, "another extractor", tmp_path, nothing)
    features_of(images[::-1], counted, "digest", tmp_path, nothing)
    assert len(calls) == 3 * made
    features_of(images, counted, "digest", None, nothing)
    assert len(calls) == 4 * made
    images[-1] ^= 255  # no image is left out of the content
    features_of(images, counted, "digest", tmp_path, nothing)
    assert len(calls) == 5 * made


def test_a_damaged_cache_is_told(opened, tmp_path):
    settings = request_for(opened[1], n=3, num_steps=2, seed=1)
    sampled_images(*opened, settings, "digest", tmp_path, nothing)
    (path,) = tmp_path.rglob("*.npy")
    for content in (b"", b"hello", path.read_bytes()[:-3]):
        path.write_bytes(content)
        with pytest.raises(BadFileError, match="is damaged"):
            sampled_images(*opened, settings, "digest", tmp_path, nothing)
    np.save(path, np.zeros((3, 2, 2, 1), dtype=np.uint8))
    with pytest.raises(BadFileError, match="must hold uint8"):
        sampled_images(*opened, settings, "digest", tmp_path, nothing)


def test_scores_are_those_of_the_metrics(extract):
    real, fake = (features_of(images_of(300, seed), extract, "", None, nothing) for seed in (0, 1))
    result = scores(tuple(METRICS), fake, real)
    assert set(result) == {"is", "is_of_reference", "fid", "kid", "pr"}
    assert result["fid"] == frechet_distance(statistics(fake[0]), statistics(real[0]))
    assert result["pr"].keys() == {"precision", "recall", "density", "coverage"}
    assert scores(("fid",), real, real)["fid"] == pytest.approx(0.0, abs=1e-9)
    for metrics in ((), ("fid", "lpips")):
        with pytest.raises(UsageError, match="metrics must be some of"):
            scores(metrics, fake, real)


@pytest.mark.parametrize(
    ("content", "shape", "words"),
    [
        (extractor_file(), COLOUR, "takes images of"),
        (scale_model(tiny_spec()), GREY, "not an extractor"),
        (b"hello", GREY, "not an ONNX file"),
    ],
)
def test_what_is_no_extractor_of_these_images_is_refused(tmp_path, content, shape, words):
    (tmp_path / "e.onnx").write_bytes(content)
    with pytest.raises(BadFileError, match=words):
        open_extractor(tmp_path / "e.onnx", shape, "cpu", None)


def test_scores_by_class_name_classes(rng):
    features, logits = rng.normal(size=(60, 4)), np.eye(3)[np.arange(60) % 3]
    names = ("shoe", "bag", "coat")
    asked = np.arange(60) % 4  # 3 is none, which no score counts
    labels = Labels(asked, np.arange(60) % 3, names)
    found = scores(("accuracy", "class_fid", "fid"), (features, logits), (features[::-1], logits), labels)
    classed = asked < 3
    shares = {name: (np.arange(60) % 3 == k)[asked == k].mean() for k, name in enumerate(names)}
    assert found["accuracy"] == {"mean": pytest.approx((np.arange(60) % 3 == asked)[classed].mean()), **shares}
    assert found["accuracy_of_reference"] == {"mean": 1.0, "shoe": 1.0, "bag": 1.0, "coat": 1.0}
    each = [found["class_fid"][name] for name in names]
    assert found["class_fid"]["mean"] == pytest.approx(np.mean(each))
    assert {"fid", "class_fid", "accuracy", "accuracy_of_reference"} == set(found)
    assert "accuracy_of_reference" not in scores(
        ("accuracy",), (features, logits), (features, logits), labels._replace(real=None)
    )


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        ("accuracy", None, "accuracy needs images of known classes"),
        ("class_fid", Labels(None, None, ("a",)), "class_fid needs images of known classes"),
        ("accuracy", Labels(np.full(4, 2), None, ("a", "b")), "accuracy needs images of known classes"),
        ("accuracy", Labels(np.zeros(4, int), None, ("a", "b")), "a logit for each of the 2 classes, got 3"),
        ("class_fid", Labels(np.zeros(4, int), None, ("a", "b")), "class_fid needs a reference of known classes"),
        ("class_fid", Labels(np.arange(4), np.arange(4), tuple("abcd")), "class_fid needs at least two images of a"),
        ("speed", None, "metrics must be some of is, fid, kid, pr, accuracy, class_fid, got speed"),
    ],
)
def test_scores_by_class_that_cannot_be(metric, labels, message):
    both = np.eye(4), np.eye(4)[:, :3]
    with pytest.raises(UsageError, match=message):
        scores((metric,), both, both, labels)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.DOUBLE, TensorProto.STRING])
def test_an_extractor_whose_features_are_no_float32_is_refused(tmp_path, kind):
    nodes = [node("Flatten", ["images"], "flat"), node("Cast", ["flat"], "features", to=kind)]
    outputs = {"features": (kind, ["batch", 30]), "logits": (TensorProto.FLOAT, ["batch", 30])}
    inputs = {"images": (TensorProto.FLOAT, ["batch", *GREY])}
    nodes.append(node("Neg", ["flat"], "logits"))
    (tmp_path / "e.onnx").write_bytes(onnx_file(nodes, inputs=inputs, outputs=outputs, metadata=""))
    with pytest.raises(BadFileError, match="must be float32 and have 3 rows"):
        open_extractor(tmp_path / "e.onnx", GREY, "cpu", None)(np.zeros((3, *GREY), np.float32))
