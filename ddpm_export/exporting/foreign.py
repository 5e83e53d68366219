"""A network that is an .onnx already, whoever made it: how it is called, and what it says when it is. NumPy only.

`foreign_graph.py` builds the denoiser of our format around its nodes; the two meet in the proof.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_export.errors import ModelRefusedError, UsageError, several, shown
from ddpm_export.importers.choices import read_options
from ddpm_export.importers.paths import OPTIONS, path_from_options
from ddpm_export.importers.paths import Path as GaussianPath
from ddpm_export.model.inputs import checked_inputs
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model
from ddpm_export.runtimes.onnx import open_graph

TIMES = ("t", "sigma", "c_noise")  # what a network may be told of the time: see `Levels`
LAYOUTS = ("NCHW", "NHWC")
OTHER_KEYS = ("output", "layout", "batch")
OWN_PATHS = {"sigma": "denoiser", "c_noise": "c_noise"}  # the path of a network by the name of its time


@dataclass(frozen=True)
class Place:
    """An input or output of a foreign graph: its name there, its dtype, and its sizes, None where one is open."""

    name: str
    dtype: str
    sizes: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.sizes)
        return f"{self.name} {self.dtype} [{sizes}]"

    def shape_for(self, shape: tuple[int, ...], batch: int) -> list[int]:
        """Return the shape in which it takes `batch` values (-1: any number) of a shape; ValueError where it cannot.

        A number, or some in a row, may have other dimensions there, such as (1, 1, 1).
        """
        own = self.sizes[1:]
        if len(own) == len(shape) and all(size in (None, ours) for size, ours in zip(own, shape, strict=True)):
            own = shape
        known = [size or 1 for size in own]
        if math.prod(known) != math.prod(shape) or (len(shape) > 1 and own != shape):
            raise ValueError(f"{self} does not hold {list(shape)}")
        return [batch, *known] if self.sizes else []


class Levels(NamedTuple):
    """How a network is told the time, as tables over t, each (T,) float64, None where there is nothing to do.

    told: what it is told in place of t. scale: what x_t is multiplied by. skip, out: the weights of x_t and of what it
    says in the prediction.
    """

    asked: Array | None = None
    scale: Array | None = None
    skip: Array | None = None
    out: Array | None = None

    @classmethod
    def of(cls, path: GaussianPath | None, alphas_cumprod: tuple[float, ...]) -> "Levels":
        """Return the tables of a network of a path; raises UsageError where it has no finite level at some t."""
        if path is None:
            return cls()
        with np.errstate(all="ignore"):  # what is not finite is refused below
            tables = path.tables(alphas_cumprod)
        if not all(np.isfinite(table).all() for table in tables):
            raise UsageError(
                f"A network that takes {path.name} cannot end at an infinite sigma. Choose another `schedule`."
            )
        asked, scale, skip, out = tables
        is_plain = not skip.any() and (out == 1.0).all()
        return cls(asked, scale, *((None, None) if is_plain else (skip, out)))


@dataclass(frozen=True)
class ForeignNetwork:
    """Hold a foreign .onnx with what is known of it, ready to be exported.

    places: by our names (x_t, t, and the spec's inputs) the inputs that stand for them. time: one of TIMES, what t
    becomes there. gaussian_path: how it is called, None for a network of this file's form. one_by_one: whether it
    takes a single image. notes: what to tell whoever exports it.
    """

    path: Path
    spec: ModelSpec
    places: Mapping[str, Place]
    output: Place
    time: str = "t"
    gaussian_path: GaussianPath | None = None
    is_nhwc: bool = False
    one_by_one: bool = False
    notes: tuple[str, ...] = ()

    @property
    def levels(self) -> Levels:
        """Return how it is told the time."""
        return Levels.of(self.gaussian_path, self.spec.alphas_cumprod)

    @property
    def remedy(self) -> str:
        """Return what to try where the graph does not say in a batch what it says of each image."""
        return (
            "Export it with a dynamic batch."
            if self.one_by_one
            else "Evaluate it image by image, with 'batch' set to 1."
        )

    def beginning_with_noise(self) -> "ForeignNetwork":
        """Return it with plans that begin, where it is one of another path, at noise without any image in it.

        That is how such networks are sampled (Karras et al. 2022, algorithm 1): x_T = sqrt(1 - a) noise.
        """
        if self.gaussian_path is None:
            return self
        plans = {name: replace(plan, start=math.sqrt(1.0 - plan.rows[0].a)) for name, plan in self.spec.plans.items()}
        return replace(self, spec=replace(self.spec, plans=plans))

    def shape_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape, without the batch, that a value of ours has in its layout."""
        return (*shape[1:], shape[0]) if self.is_nhwc and len(shape) == 3 else shape


def shape_and_time(
    path: Path, inputs: Mapping[str, Place], options: Mapping[str, object]
) -> tuple[tuple[int, ...] | None, str]:
    """Return the shape of the state, None where the graph leaves a size open, and which of TIMES the network takes.

    options: as of `foreign_network`. Raises UsageError where they do not say which inputs those are.
    """
    known = _named(path, inputs, "x_t", options, "an input").sizes[1:]
    sizes = [size for size in known if size is not None]
    time = _time_of(path, inputs, options)
    if len(sizes) != len(known) or not sizes:
        return None, time
    if len(sizes) != 3:
        return tuple(sizes), time
    height, width, channels = sizes if options.get("layout") == "NHWC" else (*sizes[1:], sizes[0])
    return (channels, height, width), time


def foreign_network(
    path: Path,
    inputs: Mapping[str, Place],
    outputs: Mapping[str, Place],
    spec: ModelSpec,
    options: Mapping[str, object],
) -> ForeignNetwork:
    """Return a foreign network once it is known which of its inputs stands for which of ours.

    options: x_t, one of TIMES, and the spec's inputs, each the name of an input of the graph, its own unless said;
    output, where there are several; layout, NCHW or NHWC; batch, 1 to go image by image; `path` or `preconditioner`,
    and with c_noise sigma_data, as of `importers/paths.py`.
    Raises UsageError for options that do not fit, ModelRefusedError for a graph that cannot become (x_t, t).
    """
    time = _time_of(path, inputs, options)
    gaussian_path, options = _path_of(time, options)
    known = ("x_t", time, *(entry.name for entry in spec.inputs), *OTHER_KEYS)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"{unknown[0]!r} names nothing in {path}. Declare inputs with `inputs`; known are {', '.join(known)}."
        )
    layout = options.get("layout", "NCHW")
    if layout not in LAYOUTS:
        raise UsageError(f"'layout' must be one of {', '.join(LAYOUTS)}, got {shown(layout)}.")
    places = {
        ours: _named(path, inputs, key, options, "an input")
        for ours, key in {"x_t": "x_t", "t": time, **{entry.name: entry.name for entry in spec.inputs}}.items()
    }
    left = sorted(set(inputs) - {place.name for place in places.values()})
    if left:
        raise UsageError(f"{path} also takes {inputs[left[0]]}, which nothing gives. Declare it by `inputs`.")
    if "output" not in options and len(outputs) != 1:
        raise UsageError(f"'output' must say which output of {path} is the {spec.prediction}: {several(outputs)}.")
    output = _named(path, outputs, "output", {"output": next(iter(outputs)), **options}, "an output")
    batches = {*(place.sizes[0] if place.sizes else 1 for place in places.values()), *output.sizes[:1]}
    for size in sorted(batches - {None, 1}, key=str):
        raise ModelRefusedError(f"{path} takes only batches of {size}. Export it with a dynamic batch, or one of 1.")
    _check_prediction(gaussian_path, time, spec)
    network = ForeignNetwork(
        path,
        spec,
        places,
        output,
        time,
        gaussian_path,
        is_nhwc=layout == "NHWC",
        one_by_one=1 in batches or options.get("batch") == 1,
    )
    if options.get("batch", 1) != 1:
        raise UsageError(f"'batch' must be 1, or left out, got {shown(options['batch'])}.")
    Levels.of(gaussian_path, spec.alphas_cumprod)
    _refuse_other_shapes(network)
    return network


def _time_of(path: Path, inputs: Mapping[str, Place], options: Mapping[str, object]) -> str:
    stated = [key for key in TIMES if key in options] or [key for key in TIMES if key in inputs]
    if len(stated) != 1:
        raise UsageError(
            f"One of {several(TIMES)} must name the input of {path} that takes the time; it "
            f"has {several(inputs.values())}."
        )
    return stated[0]


def _named(path: Path, places: Mapping[str, Place], key: str, options: Mapping[str, object], what: str) -> Place:
    name = str(options.get(key, key))
    if name not in places:
        raise UsageError(f"{key!r} must name {what} of {path}, got {shown(name)}; it has {several(places.values())}.")
    return places[name]


def _path_of(time: str, options: Mapping[str, object]) -> tuple[GaussianPath | None, Mapping[str, object]]:
    """Return the path that the options name, or the time's own, and the options that are not of a path."""
    named, left = path_from_options(options)
    if time == "t":
        return named, left
    if named is not None:
        raise UsageError(f"{time!r} is a path of its own. Name the time's input by t, or drop {named.name}.")
    sigma_data = left.pop("sigma_data", None)
    if (sigma_data is None) == (time == "c_noise"):
        raise UsageError("'c_noise' needs `sigma_data=0.5`, or another, and nothing but c_noise takes it.")
    chosen = read_options({} if sigma_data is None else {"sigma_data": sigma_data}, OPTIONS)
    return GaussianPath(OWN_PATHS[time], **chosen), left


def _check_prediction(path: GaussianPath | None, time: str, spec: ModelSpec) -> None:
    if path is not None and path.name != "denoiser" and spec.prediction != path.form.prediction:
        name = path.name if time == "t" else time
        raise UsageError(
            f"A network that takes {name} predicts {path.form.prediction}, got `prediction={spec.prediction}`."
        )


def _refuse_other_shapes(network: ForeignNetwork) -> None:
    shapes = {name: tuple(shape) for name, (_, shape) in network.spec.input_types.items()}
    try:
        for name, place in network.places.items():
            place.shape_for(network.shape_in(shapes[name]), 1)
        if network.output.sizes:
            network.output.shape_for(network.shape_in(network.spec.state_shape), 1)
    except ValueError as exc:
        raise ModelRefusedError(
            f"{network.path}: {exc}, which an image has. Only networks whose prediction has the shape of the "
            "state can be exported."
        ) from exc


def model_from_foreign(network: ForeignNetwork, run: Callable[[str, dict[str, Array]], Array] | None = None) -> Model:
    """Return what a foreign file itself says, run in ONNX Runtime image by image, as the Model of its spec.

    What lies between its inputs and ours is worked out here, and again in the graph: the proof compares both. One
    thread, so that golden values do not depend on the number of cores. run: the file itself, where it is not to be
    opened: from the name of an output and inputs by name to that output.
    """
    spec, levels = network.spec, network.levels
    run = run or open_graph(network.path, threads=1)

    def at(table: Array | None, t: int, otherwise: float) -> np.float32:
        return np.float32(otherwise if table is None else table[t])

    def entry(feeds: dict[str, Array], k: int) -> Array:
        x_t, t = feeds["x_t"][k], int(feeds["t"][k])
        own = {name: values[k] for name, values in feeds.items()}
        own["x_t"] = x_t * at(levels.scale, t, 1.0)
        own["t"] = np.asarray(t if levels.asked is None else at(levels.asked, t, 0.0))
        given = {}
        for name, values in own.items():
            place, shape = network.places[name], network.shape_in(values.shape)
            moved = np.moveaxis(values, 0, -1) if network.is_nhwc and values.ndim == 3 else values
            given[place.name] = np.ascontiguousarray(moved, place.dtype).reshape(place.shape_for(shape, 1))
        stated = run(network.output.name, given).astype(np.float32)
        if stated.size != x_t.size:
            raise ModelRefusedError(
                f"{network.path}: its output {network.output.name} has shape {list(stated.shape)}, not that of a "
                f"state, {list(network.shape_in(x_t.shape))}."
            )
        image = stated.reshape(network.shape_in(x_t.shape))
        image = np.moveaxis(image, -1, 0) if network.is_nhwc else image
        if levels.skip is not None:
            image = at(levels.skip, t, 0.0) * x_t + at(levels.out, t, 1.0) * image
        return image

    def model(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        feeds = checked_inputs(spec.input_types, x_t, t, inputs)
        return {spec.prediction: np.stack([entry(feeds, k) for k in range(len(x_t))])}

    return model
