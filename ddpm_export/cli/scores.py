"""Score images against a reference by an extractor, and print the scores: what eval and dataset share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ddpm_export.cli.console import print_json
from ddpm_export.cli.help import what, where
from ddpm_export.cli.options import Batch, Choices, FixedSeed, Json, Runtime
from ddpm_export.errors import BadFileError, UsageError, first_line, printable, several

if TYPE_CHECKING:
    from ddpm_export.model.spec import ModelSpec
    from ddpm_export.sampling.request import Request
    from ddpm_export.scoring.datasets.dataset import Dataset

SPLITS = ("train", "test")
CHUNK = 1000  # images whose labels are read together

Report = Callable[[int, int, str], None]
Data = Annotated[
    str,
    what(
        "The reference: fashion-mnist, fashion-mnist:test, a folder of images, or NAME:PLACE, such as cifar10:DIR:test."
    ),
]
Extractor = Annotated[
    Path | None,
    what("An ONNX file with outputs features and logits (docs/scoring.md). [default: the package's, for 1x28x28]"),
]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """The options of every command that scores images."""

    data: Data = "fashion-mnist"
    extractor: Extractor = None
    choices: Choices
    seed: FixedSeed = 0
    batch: Batch = 64
    cache: Annotated[Path | None, where("Where to keep images and features. [default: the user's cache]")] = None
    runtime: Runtime
    as_json: Json = False

    def asked(self, spec: "ModelSpec") -> dict[str, Any]:
        """Return them as keywords of a request."""
        return {**self.choices.asked(spec), "seed": self.seed, "batch": self.batch}

    @property
    def source(self) -> "Source":
        """Return the reference."""
        return source_from_text("--data", self.data)


class Source(NamedTuple):
    """A data set by its name, its folder or file, and its split."""

    name: str
    place: str | None
    split: str | None

    def opened(self, picture_shape: tuple[int, int, int]) -> "Dataset":
        """Open the data set for images of this shape."""
        from ddpm_export.scoring.datasets.readers import open_dataset

        return open_dataset(self.name, self.place, image_shape=picture_shape, train=self.split != "test")

    def describe(self, dataset: "Dataset") -> str:
        """Return the data set, its split and size in words; how many are broken is known once it has been read."""
        found = f"{dataset.name}{f' {self.split}' if self.split else ''}, {len(dataset.images)} images"
        return f"{found}, {len(dataset.broken)} broken" if dataset.broken else found


class Judge(NamedTuple):
    """An extractor of features that is open, and how its scores are kept and reported."""

    extract: Any
    path: Path
    sha256: str
    cache: Path
    report: Report
    provider: str

    def describe(self) -> dict[str, str]:
        """Return what reports of scores must name."""
        return {"extractor": self.path.name, "extractor_sha256": self.sha256}

    def scores(
        self, metrics: tuple[str, ...], images: "Dataset", count: int, reference: "Dataset", fake: Any = None
    ) -> dict[str, Any]:
        """Return the scores of the first `count` images; fake: their features, where they are known."""
        from ddpm_export.scoring import scores as scoring

        if fake is None:
            found = images.images[:count]
            fake = scoring.features_of(found, self.extract, self.sha256, None, self.report, self.provider)
        real = scoring.features_of(reference.images, self.extract, self.sha256, self.cache, self.report, self.provider)
        labels = None
        if set(metrics) & set(scoring.CLASS_METRICS):
            names = images.classes or ()
            asked, its_own = (_labels_of(dataset, names) for dataset in (images, reference))
            labels = scoring.Labels(None if asked is None else asked[:count], its_own, names)
        return scoring.scores(metrics, fake, real, labels)


def open_judge(options: ScoreOptions, picture_shape: tuple[int, int, int], report: Report) -> Judge:
    """Open an extractor, the package's own by default."""
    from ddpm_export.runtimes.named import shipped
    from ddpm_export.runtimes.onnx import open_extractor
    from ddpm_export.system.files import cache_folder, sha256_of

    path, provider = options.extractor or shipped("exported/extractor.onnx"), options.runtime.provider
    extract = open_extractor(path, picture_shape, provider, options.runtime.threads)
    return Judge(extract, path, sha256_of(path), options.cache or cache_folder(), report, provider)


def metrics_from_text(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics of a text, each once; raises UsageError for one that is unknown."""
    wanted = tuple(dict.fromkeys(text.split(",")))
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise UsageError(f"--metrics must be some of {', '.join(known)}, got {', '.join(unknown)}.")
    return wanted


def source_from_text(option: str, text: str) -> Source:
    """Return the data set that NAME[:PLACE][:SPLIT], such as cifar10:DIR:test, or the path of a folder names."""
    from ddpm_export.scoring.datasets.readers import READERS

    name, _, place = text.partition(":")
    split = None
    if name not in READERS:
        has_idx = any((Path(text) / f"train-images-idx3-ubyte{ending}").exists() for ending in ("", ".gz"))
        name, place = "fashion-mnist" if has_idx else "folder", text
    elif place.rpartition(":")[2] in SPLITS:
        place, _, split = place.rpartition(":")
    reader = READERS[name]
    if split is not None and not reader.has_splits:
        raise UsageError(f"{option} {text} names a split, but {name} has none.")
    if reader.needs_place and not place:
        raise UsageError(f"{option} {name} needs its folder or file. Write {name}:PLACE.")
    return Source(name, place or None, split or "train" if reader.has_splits else None)


def open_samples(samples: str, picture_shape: tuple[int, int, int]) -> "Dataset":
    """Return images to score: a set in shards, a data set, a folder, or an array in an .npy file."""
    import numpy as np

    from ddpm_export.model.inputs import NO_CLASS
    from ddpm_export.scoring.datasets.dataset import Dataset
    from ddpm_export.scoring.datasets.readers import READERS
    from ddpm_export.scoring.datasets.sharded import is_sharded

    path = Path(samples)
    if is_sharded(path):
        made = Source("shards", samples, None).opened(picture_shape)
        if made.classes and made.classes[-1] == NO_CLASS:  # a value of the label, but no class that images are of
            return replace(made, classes=made.classes[:-1])
        return made
    if samples.partition(":")[0] in READERS or path.is_dir():
        return source_from_text("--samples", samples).opened(picture_shape)
    channels, height, width = picture_shape
    try:  # mapped: a header may claim more than any memory holds
        if not path.is_file():
            raise ValueError("no such file")
        images = np.lib.format.open_memmap(path, mode="r")
    except Exception as exc:  # a hostile header raises nearly anything
        raise BadFileError(f"{path} is neither an .npy file nor a folder of images: {first_line(exc)}.") from exc
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels) or not len(images):
        raise BadFileError(
            f"{path} must hold uint8 (N, {height}, {width}, {channels}), got {images.dtype} {images.shape}. Make it "
            "with ddpm-run --out x.npy."
        )
    return Dataset(path.name, images, None, None)


def dataset_of(images: Any, request: "Request") -> "Dataset":
    """Return sampled images with the classes that were requested."""
    from ddpm_export.scoring.datasets.dataset import Dataset

    label = request.label
    if label is None:
        return Dataset("samples", images, None, None)
    return Dataset("samples", images, request.inputs_of(request.numbers)[label.name], None, classes=label.classes)


def _labels_of(dataset: "Dataset", names: tuple[str, ...]) -> Any:
    """Return the labels of a data set, (N,), or None; raises UsageError for other classes than the images'."""
    import numpy as np

    if dataset.labels is None or not names:
        return None
    if dataset.classes != names:
        raise UsageError(
            f"The classes of {dataset.name} must be the images' {several(names)}, got "
            f"{several(dataset.classes or ['none'])}."
        )
    parts = np.array_split(np.arange(len(dataset.images)), 1 + len(dataset.images) // CHUNK)
    return np.concatenate([dataset.batch(part)[1] for part in parts])  # of what is seen where one is broken


def print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print scores and what they are of, as JSON or a line each."""
    if as_json:
        print_json(facts)
        return
    for name, value in _rows(facts):
        typer.echo(f"{name:22} {printable(value)}")


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{part}", text) for part, text in _rows(value)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            rows += [(name, "  ".join(f"{part} {text}" for part, text in _rows(entry))) for entry in value]
        else:
            rows.append((name, f"{value:.5g}" if isinstance(value, float) else str(value)))
    return rows
