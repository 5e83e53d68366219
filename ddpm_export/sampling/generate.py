"""The second half of the straight line, in batches: from an opened model to states, or to pictures in one call."""

import hashlib
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.model.choice import Choice, choose
from ddpm_export.model.denoiser import decode, denoiser, guidance_for
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.inputs import Input, bound_inputs
from ddpm_export.model.spec import PLAN, TIMES, ModelSpec
from ddpm_export.process.equations import Array, Denoiser, Model, numbered
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.rows import Row
from ddpm_export.process.solvers import FORMULAS
from ddpm_export.process.walk import State, walk
from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile
from ddpm_export.runtimes.opening import open_file

MAX_FRESH_SEED = 2**32
MAX_BATCH_NUMBERS = 2**26  # in one state, 256 MB of float32: a small file may claim large images

# how images of these numbers are made, and what a one-call edit is given of them: see `editing`
Walks = Callable[[Denoiser, range], Iterator[State]]
Given = Callable[[range], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Settings:
    """Hold everything, besides the model, that decides the images; `batch` decides only how many at a time.

    choice: the rows, and what they are of. guidance: None of a network that takes none. inputs: by name the values,
    (K, *shape), that images take in turn: image k number k mod K. label: the input that says which class is wanted.
    """

    choice: Choice
    seed: int
    first: int
    n: int
    batch: int
    guidance: Guidance | None = None
    inputs: Mapping[str, Array] = field(default_factory=dict)
    label: Input | None = None

    @property
    def numbers(self) -> range:
        """Return the numbers of the images."""
        return range(self.first, self.first + self.n)

    @property
    def batches(self) -> Iterator[range]:
        """Yield the numbers of the images of each batch; of billions of images there are too many for a list."""
        return (self.numbers[start : start + self.batch] for start in range(0, self.n, self.batch))

    @property
    def num_batches(self) -> int:
        """Return how many batches there are."""
        return -(-self.n // self.batch)

    @property
    def num_rows(self) -> int:
        """Return how many states lead to an image."""
        return len(self.choice.plan.rows)

    @property
    def evaluations(self) -> int:
        """Return how many states `sample` yields: rows times batches."""
        return self.num_rows * self.num_batches

    def told(self, numbers: Iterable[int]) -> dict[str, Array]:
        """Return what the network is told of images by their numbers: by name (B, *shape)."""
        return {name: values[[number % len(values) for number in numbers]] for name, values in self.inputs.items()}

    @property
    def label_names(self) -> list[str]:
        """Return the names of classes that images have in turn; none where the network is told no class."""
        label = self.label
        return [] if label is None else [label.name_of(int(y)) for y in self.inputs[label.name]]

    def describe(self) -> dict[str, Any]:
        """Return what an image follows from, for PNG text and reports: arrays of more than numbers by their SHA-256."""
        choice, guidance, told = self.choice, self.guidance, dict(self.inputs)
        if self.label is not None:
            told.pop(self.label.name)
        values = {
            "plan": choice.name,
            "sampler": choice.sampler,
            "num_steps": choice.num_steps,
            "times": None if choice.grid is not None else choice.times,  # which follow from the grid
            "grid": choice.grid,
            **choice.knobs,
            "seed": self.seed,
            "label": self.label_names or None,
            "guidance": None if guidance is None else guidance.scale,
            "guidance_interval": None if guidance is None else guidance.interval,
            "inputs": {name: _described(values) for name, values in told.items()} or None,
        }
        return {name: value for name, value in values.items() if value is not None}


def _described(values: Array) -> Any:
    return values.tolist() if values.ndim == 2 else hashlib.sha256(values.tobytes()).hexdigest()


def settings_for(
    spec: ModelSpec,
    *,
    n: int = 16,
    seed: int | None = None,
    first: int = 0,
    batch: int = 16,
    plan: str | None = None,
    label: Any = None,
    guidance: Guidance | float | None = None,
    inputs: Mapping[str, Any] | None = None,
    **how: Any,
) -> Settings:
    """Fill in from the spec what is None, and a fresh seed; raises UsageError for what no image can be made from.

    plan: the name of a plan that the file carries, in place of all of `how`: sampler, num_steps, times, grid and the
    sampler's knobs, as of `samplers.plan`. label: a class by name or index, none, or several, image k the (k mod K)-th;
    without one it is every class in turn. guidance: a scale, or with an interval; None is the file's own. inputs: the
    others, by name, one value each or several, which images take in turn as well. A one-call file makes its noise
    itself, of fixed_small only, at times that it is given.
    """
    choice = choose(spec, name=plan, **how)
    if spec.graph is not None:
        _refuse_what_a_graph_cannot(spec, choice)
    for name, count in (("n", n), ("batch", batch)):
        if count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}.")
    guided = guidance_for(spec, guidance)
    batch, most = min(batch, n), max(1, MAX_BATCH_NUMBERS // math.prod(spec.state_shape))
    if batch > most:
        raise UsageError(f"batch must be at most {most} for images of {spec.state_shape}, got {batch}.")
    settings = Settings(
        choice=choice,
        seed=secrets.randbelow(MAX_FRESH_SEED) if seed is None else seed,
        first=first,
        n=n,
        batch=batch,
        guidance=guided if spec.takes_guidance else None,
        inputs=_cycles(spec, label, inputs or {}),
        label=spec.label,
    )
    noise_stream(settings.seed, (first, first + n - 1), spec.state_shape)  # refuses a seed and numbers out of range
    return settings


def _cycles(spec: ModelSpec, label: Any, given: Mapping[str, Any]) -> dict[str, Array]:
    """Return the values that images take in turn of each input that is told."""
    if label is not None:
        if spec.label is None:
            raise UsageError("label does not apply to a network that is told no class.")
        if spec.label.name in given:
            raise UsageError(f"label must be left out beside the input {spec.label.name!r}, which is the same.")
        given = {**given, spec.label.name: label}
    elif spec.label is not None:
        given = {spec.label.name: range(len(spec.label.classes)), **given}
    told = {one.name: one for one in spec.inputs if one.is_told}
    cycles = {name: told[name].cycle_of(values) for name, values in given.items() if name in told}
    bound_inputs(spec.inputs, {**given, **{name: values[0] for name, values in cycles.items()}}, 1)  # unknown, missing
    return cycles


def _refuse_what_a_graph_cannot(spec: ModelSpec, chosen: Choice) -> None:
    if chosen.sampler not in (None, *FORMULAS):
        raise UsageError(
            f"{chosen.sampler} cannot be chosen in a one-call {spec.graph}. Run the .onnx it was made from."
        )
    variance = chosen.knobs.get("variance", "fixed_small")
    if variance != "fixed_small":
        raise UsageError(f"variance must be fixed_small in a one-call {spec.graph}, got {variance!r}.")
    for needed, value in ((TIMES, chosen.times), (PLAN, chosen.name)):
        if value is not None and needed not in spec.requires:
            what = "grid" if needed == TIMES and chosen.grid is not None else needed
            raise UsageError(
                f"{what} cannot be chosen in a one-call {spec.graph} without the input {needed}. Run the .onnx that it "
                "was made from."
            )


def sample(
    model: Model, spec: ModelSpec, settings: Settings, walks: Walks | None = None
) -> Iterator[tuple[range, State]]:
    """Yield (image numbers, state) after every row of every batch; an evaluation each, of two rows an image if guided.

    walks: what takes the place of a walk from noise by the settings' plan. Raises NonFiniteError at the row where a
    number is no longer finite.
    """
    for numbers in settings.batches:
        denoise = denoiser(model, spec, guidance=settings.guidance, **settings.told(numbers))
        if walks is None:
            rows = settings.choice.plan
            states = walk(denoise, noise_stream(settings.seed, numbers, spec.state_shape, draws=rows.draws), rows)
        else:
            states = walks(denoise, numbers)
        while True:
            with numbered(numbers):
                state = next(states, None)
            if state is None:
                break
            yield numbers, state


def pictures(
    opened: DenoiserFile | OneCallFile,
    settings: Settings,
    wants: Callable[[int], bool],
    walks: Walks | None = None,
    given: Given | None = None,
) -> Iterator[tuple[range, Row, NDArray[np.uint8] | None]]:
    """Yield (image numbers, row, pictures after it) of whatever file was opened; None where `wants` says no of i.

    walks: of a denoiser, see `sample`. given: of a one-call edit, what a run takes of its images besides. A denoiser
    and a slice yield after every row of every batch, other one-call files after every batch.
    """
    if isinstance(opened, DenoiserFile):
        for numbers, state in sample(opened.model, opened.spec, settings, walks):
            yield numbers, state.row, to_uint8(decode(state.x)) if wants(state.row.i) else None
        return
    choice = settings.choice
    eta = choice.knobs.get("eta", 1.0)  # ddpm, whose variance is fixed_small here
    how = (settings.num_rows, eta, choice.times, choice.name, settings.guidance)
    for numbers in settings.batches:
        told = settings.told(numbers) | ({} if given is None else given(numbers))
        for i, x, images in opened.run(settings.seed, numbers, *how, **told):
            # on the way the state, as of a denoiser; the pictures at its end are the graph's own
            shown = images if i == settings.num_rows else to_uint8(decode(x))
            yield numbers, choice.plan.rows[i - 1], shown if wants(i) else None


def generate(
    model: str | Path | DenoiserFile | OneCallFile | tuple[Model, ModelSpec],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    **settings: Any,
) -> NDArray[np.uint8]:
    """Return n images as uint8 (n, H, W, C) from a file, be it a denoiser or a one-call one, or from what was opened.

    model: a path, or what `open_model` or `open_file` gave.

    settings: n, seed, first, batch, label, guidance, inputs, and plan or sampler, num_steps, times, grid, eta,
    variance, order, as in `settings_for`. Costs one network evaluation a row of the plan and batch, with guidance of
    twice the batch. Raises what `open_file`, `settings_for` and `sample` raise.
    """
    opened = opened_file(model, provider, threads)
    chosen = settings_for(opened.spec, **settings)
    done = pictures(opened, chosen, lambda i: i == chosen.num_rows)
    return np.concatenate([images for _, _, images in done if images is not None])


def denoiser_file(model: Any, provider: str = "cpu", threads: int | None = None) -> DenoiserFile:
    """Return a denoiser from a path or from what was opened; raises UsageError for a one-call file."""
    opened = opened_file(model, provider, threads)
    if isinstance(opened, OneCallFile):
        raise cannot_be_given(opened.spec)
    return opened


def cannot_be_given(spec: ModelSpec) -> UsageError:
    """Return the error for a one-call file that is to be given what it does not take."""
    is_edit = spec.graph == "edit"
    takes = (
        "takes a picture with a mask or a strength, and nothing else" if is_edit else "makes pictures from noise only"
    )
    return UsageError(f"A one-call {spec.graph} {takes}. Run the .onnx it was made from.")


def opened_file(model: Any, provider: str = "cpu", threads: int | None = None) -> DenoiserFile | OneCallFile:
    """Return what a path leads to, or what was opened before."""
    if isinstance(model, (str, Path)):
        return open_file(model, provider, threads=threads)
    return DenoiserFile(*model) if isinstance(model, tuple) else model
