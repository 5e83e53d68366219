"""Scores of an exported model: its images, their features and a reference set, kept so that nothing is done twice.

Every result names what it compares, with what and how many: without that no score means anything.
"""

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
from ddpm_export.errors import BadFileError, EnvironmentProblem, UsageError
from ddpm_export.images.write import save_array
from ddpm_export.model.denoiser import decode
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.pixels import from_uint8, to_uint8
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

CHUNK = 100  # images a file of the spool; also how many an extractor gets at a time
MAX_NEIGHBOURS_OF = 10_000  # precision and recall compare every image with every other

Pixels = NDArray[np.uint8]
Scored = tuple[Array, Array]  # features (N, D) and logits (N, K), float32
Report = Callable[[int, int, str], None]


class Labels(NamedTuple):
    """Hold what class each image is of, (N,) of those that are scored and (M,) of the reference, None where unknown.

    names: of the classes; a label beyond them is "no class".
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
    """Return the images of the request, uint8 (n, H, W, C), each hundred of which is kept in the cache once made.

    The same model, seed and sampler find them there again, whatever n, on the same provider and by the same version of
    this package. report: images done, of how many, what.
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
            images = to_uint8(decode(np.concatenate(states)))
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

    The cache goes by the content of images and extractor, the provider and this package's version; None keeps nothing.
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


def shipped_extractor() -> Path:
    """Return where the extractor lies that comes with this package: in it once installed, in `exported/` of a clone.

    Raises EnvironmentProblem where it is in neither.
    """
    package = Path(__file__).parent.parent
    for path in (package / "extractor.onnx", package.parent / "exported" / "extractor.onnx"):
        if path.is_file():
            return path
    raise EnvironmentProblem(
        "The extractor of this package is missing. Install ddpm-export again, or pass --extractor."
    )


def scores(metrics: tuple[str, ...], fake: Scored, real: Scored, labels: Labels | None = None) -> dict[str, Any]:
    """Return the metrics by name (`METRICS`, `CLASS_METRICS`) as JSON values; fake and real are (features, logits).

    Raises UsageError for an unknown metric, for none, and for one by class of images whose labels are not known.
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
                raise UsageError(f"{name} needs images of known classes. Score a model that is told a class.")
            result |= score_by_class(fake, real, labels)
    return result


def _inception_scores(fake: Scored, real: Scored) -> dict[str, Any]:
    pairs = {"is": fake, "is_of_reference": real}
    return {name: inception_score(probabilities_from_logits(logits))._asdict() for name, (_, logits) in pairs.items()}


def _frechet(fake: Scored, real: Scored) -> dict[str, Any]:
    return {"fid": frechet_distance(statistics(fake[0]), statistics(real[0]))}


def _kernel(fake: Scored, real: Scored) -> dict[str, Any]:
    return {"kid": kernel_distance(fake[0], real[0])._asdict()}


def _neighbours(fake: Scored, real: Scored) -> dict[str, Any]:
    a, b = real[0][:MAX_NEIGHBOURS_OF], fake[0][:MAX_NEIGHBOURS_OF]
    return {"pr": {**precision_recall(a, b)._asdict(), **density_coverage(a, b)._asdict()}}


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
        raise UsageError("class_fid needs a reference of known classes, which this one does not tell.")
    classed = labels.fake < len(labels.names)
    found = frechet_by_class(fake[0][classed], labels.fake[classed], real[0], labels.real)
    if not found:
        raise UsageError("class_fid needs two images or more of a class that the reference has.")
    return {"class_fid": {"mean": float(np.mean(list(found.values()))), **_by_name(found, labels.names)}}


def _by_name(values: dict[int, float], names: tuple[str, ...]) -> dict[str, float]:
    return {names[label]: value for label, value in values.items()}


# what `ddpm-eval --metrics` takes, but for bits, which are of the network: (fake, real) -> JSON values by name
METRICS: dict[str, Callable[[Scored, Scored], dict[str, Any]]] = {
    "is": _inception_scores,
    "fid": _frechet,
    "kid": _kernel,
    "pr": _neighbours,
}
# the same of images whose classes are known: (fake, real, labels) -> JSON values by name
CLASS_METRICS: dict[str, Callable[[Scored, Scored, Labels], dict[str, Any]]] = {
    "accuracy": _accuracy,
    "class_fid": _frechet_by_class,
}


def bits_as_json(bits: Bits) -> dict[str, Any]:
    """Return what a result says of bits per dimension: the mean, how sure it is, and of how many images and times.

    A standard error of one image, which has none, is None.
    """
    return {
        "mean": bits.mean,
        "standard_error": bits.standard_error if math.isfinite(bits.standard_error) else None,
        "strata_error": bits.strata_error,
        "prior": bits.prior,
        "images": bits.num_images,
        "times": bits.num_times,
    }


def rate_as_json(bits: Bits, spec: ModelSpec) -> dict[str, Any]:
    """Return rate and distortion in total, and what a coder would cost where all times were measured.

    A standard error of one image, which has none, is None.
    """
    rate = rate_distortion(bits, spec.num_train_timesteps)
    numbers = {
        "L_1:T": rate.lossy,
        "L_1:T_error": rate.lossy_error,
        "L_0": rate.lossless,
        "L_0_error": rate.lossless_error,
        "rmse": float(rate.rmse[0]),
        "rmse_error": float(rate.rmse_error[0]),
        "images": bits.num_images,
        "times": bits.num_times,
    }
    found: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    if bits.num_times == spec.num_train_timesteps:
        found["coder"] = [asdict(cost) for cost in coder_costs(rate, spec)]
    return found


def likelihood_as_json(found: FlowBits) -> dict[str, Any]:
    """Return what a result says of the likelihood; a standard error of one image, which has none, is None."""
    return {
        "mean": found.mean,
        "standard_error": found.standard_error if math.isfinite(found.standard_error) else None,
        "images": found.num_images,
        "steps": found.num_steps,
    }


def curve_from_bits(bits: Bits, spec: ModelSpec) -> str:
    """Return the terms, and rate against distortion, over t as CSV with a head."""
    rate = rate_distortion(bits, spec.num_train_timesteps)
    columns = (bits.times, bits.terms_mean, rate.rate, rate.rate_error, rate.rmse, rate.rmse_error)
    head = "t,bits_per_dimension,rate,rate_error,rmse,rmse_error"
    lines = (",".join(map(repr, line)) for line in zip(*(column.tolist() for column in columns), strict=True))
    return "\n".join([head, *lines, ""])


def _made_by(provider: str) -> dict[str, str]:
    """Return what numbers depend on besides files and settings, for the keys of the cache."""
    return {"version": __version__, "provider": provider}


def _digest_of_images(images: Pixels | LazyImages) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(images), CHUNK):  # a part at a time: there may be too many for the memory
        digest.update(np.ascontiguousarray(images[start : start + CHUNK]).tobytes())
    return digest.hexdigest()


def key_of(values: dict[str, Any]) -> str:
    """Return a name in the cache for what follows from JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def kept(path: Path, shape: tuple[int, ...] | None, dtype: Any) -> Any:
    """Return an array that `save_array` wrote, None where there is none; files are whole or not there.

    Raises BadFileError for one that is damaged, or of another shape or dtype, where these are not None.
    """
    if not path.exists():
        return None
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise BadFileError(f"{path} of the cache is damaged: {exc}. Delete it.") from exc
    if (dtype is not None and values.dtype != dtype) or (shape is not None and values.shape != shape):
        raise BadFileError(
            f"{path} of the cache must hold {np.dtype(dtype)} {shape}, got {values.dtype} {values.shape}. Delete it."
        )
    return values
