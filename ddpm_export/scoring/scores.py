"""Scores of an exported model: its images and features, and those of a reference, cached."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export import __version__
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.images.write import save_array
from ddpm_export.model.denoiser import results_of
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.pixels import from_uint8
from ddpm_export.runtimes.onnx import Extractor
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import Request
from ddpm_export.scoring.datasets.dataset import LazyImages
from ddpm_export.scoring.metrics.bits import Bits
from ddpm_export.scoring.metrics.classes import accuracy_by_class, frechet_by_class
from ddpm_export.scoring.metrics.frechet import frechet_distance, statistics
from ddpm_export.scoring.metrics.inception_score import inception_score, probabilities_from_logits
from ddpm_export.scoring.metrics.kernel import kernel_distance
from ddpm_export.scoring.metrics.likelihood import FlowBits
from ddpm_export.scoring.metrics.neighbours import density_coverage, precision_recall
from ddpm_export.scoring.metrics.rate import coder_costs, rate_distortion

CHUNK = 100  # images in a file of the cache, and in a batch of the extractor
MAX_NEIGHBOURS_OF = 10_000  # precision and recall compare every image with every other

Pixels = NDArray[np.uint8]
Scored = tuple[Array, Array]  # features (N, D) and logits (N, K), float32
Report = Callable[[int, int, str], None]


class Labels(NamedTuple):
    """Hold the classes of the scored images (N,) and of the reference (M,), None where unknown, and their names.

    A label beyond the names is "no class".
    """

    fake: Array | None
    real: Array | None
    names: tuple[str, ...]


def sampled_images(
    model: Model,
    spec: ModelSpec,
    request: Request,
    model_sha256: str,
    cache: Path,
    report: Report,
    provider: str = "cpu",
) -> Pixels:
    """Return the images of the request, uint8 (n, H, W, C), from the cache where they are, else made and cached.

    The cache goes by model, request (whatever n), provider and this package's version. report: (done, total, what).
    """
    folder = cache / "samples" / key_of({**_made_by(provider), "model": model_sha256, **request.describe()})
    done = []
    for start in range(request.first, request.first + request.n, CHUNK):
        count = min(CHUNK, request.first + request.n - start)
        path = folder / f"{start:08d}-{count:03d}.npy"
        images = kept(path, (count, *spec.picture_shape[1:], spec.picture_shape[0]), np.uint8)
        if images is None:
            part = request.part(range(start, start + count))
            states = [state.x for _, state in sample(model, spec, part) if state.row.i == part.num_rows]
            images = results_of(model, spec, np.concatenate(states))
            save_array(path, images)
        done.append(images)
        report(start + count - request.first, request.n, "sampling")
    return np.concatenate(done)


def features_of(
    images: Pixels | LazyImages,
    extract: Extractor,
    extractor_sha256: str,
    cache: Path | None,
    report: Report,
    provider: str = "cpu",
) -> Scored:
    """Return (features (N, D), logits (N, K)) float32 of images uint8 (N, H, W, C), from the cache where they are.

    The cache goes by the content of images and extractor, the provider and this package's version; None is no cache.
    """
    folder = None
    if cache is not None:
        content = _digest_of_images(images)
        folder = cache / "features" / key_of({**_made_by(provider), "images": content, "extractor": extractor_sha256})
        found = [kept(folder / f"{name}.npy", None, np.float32) for name in ("features", "logits")]
        if found[0] is not None and found[1] is not None and len(found[0]) == len(found[1]) == len(images):
            return found[0], found[1]
    rows: list[Scored] = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        rows.append(extract(from_uint8(part).astype(np.float32)))
        report(start + len(part), len(images), "features")
    features, logits = (np.concatenate(parts).astype(np.float32) for parts in zip(*rows, strict=True))
    if folder is not None:
        save_array(folder / "features.npy", features)
        save_array(folder / "logits.npy", logits)
    return features, logits


def scores(metrics: tuple[str, ...], fake: Scored, real: Scored, labels: Labels | None = None) -> dict[str, Any]:
    """Return the metrics by name (`METRICS`, `CLASS_METRICS`) as JSON values; fake and real are (features, logits).

    Raises UsageError for no or an unknown metric, and for a metric by class without known labels.
    """
    unknown = sorted(set(metrics) - {*METRICS, *CLASS_METRICS})
    if unknown or not metrics:
        known = ", ".join((*METRICS, *CLASS_METRICS))
        raise UsageError(f"metrics must be some of {known}, got {', '.join(unknown) or 'none'}.")
    result: dict[str, Any] = {}
    for name, score in METRICS.items():
        if name in metrics:
            result |= score(fake, real)
    for name, score_by_class in CLASS_METRICS.items():
        if name in metrics:
            if labels is None or labels.fake is None or not (labels.fake < len(labels.names)).any():
                raise UsageError(f"{name} needs images of known classes. Score a model with classes.")
            result |= score_by_class(fake, real, labels)
    return result


def _inception(scored: Scored) -> dict[str, float]:
    return inception_score(probabilities_from_logits(scored[1]))._asdict()


def _neighbours(real: Array, fake: Array) -> dict[str, float]:
    return {**precision_recall(real, fake)._asdict(), **density_coverage(real, fake)._asdict()}


def _accuracy(fake: Scored, real: Scored, labels: Labels) -> dict[str, Any]:
    if fake[1].shape[1] != len(labels.names):
        raise UsageError(
            f"accuracy needs an extractor with a logit for each of the {len(labels.names)} classes, got "
            f"{fake[1].shape[1]}."
        )
    found = {}
    for name, (_, logits), of in (("accuracy", fake, labels.fake), ("accuracy_of_reference", real, labels.real)):
        if of is not None:
            classed = of < len(labels.names)
            by_class = accuracy_by_class(logits[classed], of[classed])
            each = [by_class[label] for label in of[classed].tolist()]
            found[name] = {"mean": float(np.mean(each)), **_by_name(by_class, labels.names)}
    return found


def _frechet_by_class(fake: Scored, real: Scored, labels: Labels) -> dict[str, Any]:
    if labels.fake is None or labels.real is None:
        raise UsageError("class_fid needs a reference of known classes.")
    classed = labels.fake < len(labels.names)
    found = frechet_by_class(fake[0][classed], labels.fake[classed], real[0], labels.real)
    if not found:
        raise UsageError("class_fid needs at least two images of a class that the reference has.")
    return {"class_fid": {"mean": float(np.mean(list(found.values()))), **_by_name(found, labels.names)}}


def _by_name(values: dict[int, float], names: tuple[str, ...]) -> dict[str, float]:
    return {names[label]: value for label, value in values.items()}


# (fake, real) -> JSON values by name; bits are apart, since they score the network and no images
METRICS: dict[str, Callable[[Scored, Scored], dict[str, Any]]] = {
    "is": lambda fake, real: {"is": _inception(fake), "is_of_reference": _inception(real)},
    "fid": lambda fake, real: {"fid": frechet_distance(statistics(fake[0]), statistics(real[0]))},
    "kid": lambda fake, real: {"kid": kernel_distance(fake[0], real[0])._asdict()},
    "pr": lambda fake, real: {"pr": _neighbours(real[0][:MAX_NEIGHBOURS_OF], fake[0][:MAX_NEIGHBOURS_OF])},
}
# (fake, real, labels) -> JSON values by name
CLASS_METRICS: dict[str, Callable[[Scored, Scored, Labels], dict[str, Any]]] = {
    "accuracy": _accuracy,
    "class_fid": _frechet_by_class,
}


def bits_as_json(bits: Bits) -> dict[str, Any]:
    """Return bits per dimension as JSON values; the standard error of one image is None."""
    return {
        "mean": bits.mean,
        "standard_error": _finite(bits.standard_error),
        "strata_error": bits.strata_error,
        "prior": bits.prior,
        "images": len(bits.per_image),
        "times": len(bits.times),
    }


def rate_as_json(bits: Bits, spec: ModelSpec) -> dict[str, Any]:
    """Return total rate and distortion as JSON values, with a coder's costs where all times were evaluated.

    The standard errors of one image are None.
    """
    rate = rate_distortion(bits, spec.num_train_timesteps)
    found: dict[str, Any] = {
        "L_1:T": float(rate.rate[0]),
        "L_1:T_error": _finite(float(rate.rate_error[0])),
        "L_0": rate.lossless,
        "L_0_error": _finite(rate.lossless_error),
        "rmse": float(rate.rmse[0]),
        "rmse_error": _finite(float(rate.rmse_error[0])),
        "images": len(bits.per_image),
        "times": len(bits.times),
    }
    if len(bits.times) == spec.num_train_timesteps:
        found["coder"] = [asdict(cost) for cost in coder_costs(rate, spec)]
    return found


def likelihood_as_json(found: FlowBits) -> dict[str, Any]:
    """Return the likelihood as JSON values; the standard error of one image is None."""
    error = _finite(found.standard_error)
    return {"mean": found.mean, "standard_error": error, "images": len(found.per_image), "steps": found.num_steps}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def curve_from_bits(bits: Bits, spec: ModelSpec) -> str:
    """Return the terms, rate and distortion over t as CSV with a header."""
    rate = rate_distortion(bits, spec.num_train_timesteps)
    columns = (bits.times, bits.terms_mean, rate.rate, rate.rate_error, rate.rmse, rate.rmse_error)
    head = "t,bits_per_dimension,rate,rate_error,rmse,rmse_error"
    lines = (",".join(map(repr, line)) for line in zip(*(column.tolist() for column in columns), strict=True))
    return "\n".join([head, *lines, ""])


def _made_by(provider: str) -> dict[str, str]:
    """Return what cached results depend on in addition to files and settings."""
    return {"version": __version__, "provider": provider}


def _digest_of_images(images: Pixels | LazyImages) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(images), CHUNK):  # in parts: all may not fit into memory
        digest.update(np.ascontiguousarray(images[start : start + CHUNK]).tobytes())
    return digest.hexdigest()


def key_of(values: dict[str, Any]) -> str:
    """Return the name in the cache of a result that follows from JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def kept(path: Path, shape: tuple[int, ...] | None, dtype: Any) -> Any:
    """Return an array that `save_array` wrote, None where there is none.

    Raises BadFileError for a damaged file, and for another shape or dtype unless that argument is None.
    """
    if not path.exists():
        return None
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise BadFileError(f"{path} is damaged: {exc}. Delete it.") from exc
    if (dtype is not None and values.dtype != dtype) or (shape is not None and values.shape != shape):
        raise BadFileError(f"{path} must hold {np.dtype(dtype)} {shape}, got {values.dtype} {values.shape}. Delete it.")
    return values
