"""From an opened model and a request to states, or to pictures, in batches."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.model.denoiser import denoiser, network_inputs, results_of
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Denoiser, Model, noised, numbered
from ddpm_export.process.given import known_pixels, measured
from ddpm_export.process.noise import GIVEN, noise_stream
from ddpm_export.process.rows import Row
from ddpm_export.process.walk import State, walk
from ddpm_export.runtimes.opened import DenoiserFile, Network, OneCallFile
from ddpm_export.runtimes.opening import open_file
from ddpm_export.sampling.given import Given
from ddpm_export.sampling.request import Request, request_for


def sample(model: Model, spec: ModelSpec, request: Request) -> Iterator[tuple[range, State]]:
    """Yield (image numbers, state) after every row of every batch; one evaluation each, of two rows an image if guided.

    Raises NonFiniteError at the row where a number is no longer finite.
    """
    for numbers in request.batches:
        inputs = network_inputs(model, request.inputs_of(numbers))
        denoise = denoiser(model, spec, guidance=request.guidance, **inputs)
        states = _walk(denoise, spec, request, numbers)
        while True:
            with numbered(numbers):
                state = next(states, None)
            if state is None:
                break
            yield numbers, state


def _walk(denoise: Denoiser, spec: ModelSpec, request: Request, numbers: Sequence[int]) -> Iterator[State]:
    """Return the walk of a batch: from noise, or from what is given."""
    rows, given, shape = request.steps.plan, request.given or Given(), spec.state_shape
    whose = [request.first] * len(numbers) if given.shares_noise else numbers
    noise = noise_stream(request.seed, whose, shape, draws=rows.draws)
    of = request.places_of(numbers)
    x, keep = None if given.states is None else given.states[of], None
    if given.known is not None:
        if given.strength is not None:
            x = noised(given.known[of], noise(0), rows.rows[0].a)
        if given.measurement is not None and given.y is not None:
            denoise = measured(denoise, given.measurement, given.y[of])
        elif (mask := given.mask_of(of)) is not None:
            keep = known_pixels(given.known[of], mask, noise_stream(request.seed, whose, shape, domain=GIVEN))
    return walk(denoise, noise, rows, keep=keep, x=x)


def _inputs_of_edit(request: Request, numbers: Sequence[int]) -> dict[str, Any]:
    """Return the inputs of a one-call edit that are given; none for images from noise."""
    given = request.given
    if given is None or given.known is None:
        return {}
    of = request.places_of(numbers)
    image = given.known[of]
    mask = given.mask_of(of)
    mask = np.ones_like(image) if mask is None else np.broadcast_to(mask, image.shape)
    return {"image": image, "mask": mask, "strength": given.strength or 0.0}


def pictures(
    opened: DenoiserFile | OneCallFile, request: Request, wants: Callable[[int], bool]
) -> Iterator[tuple[range, Row, Array | None]]:
    """Yield (image numbers, row, `results_of` the state after it), without them where `wants(row.i)` is false.

    A denoiser and a slice yield after every row of every batch, other one-call files after every batch.
    """
    if isinstance(opened, DenoiserFile):
        for numbers, state in sample(opened.model, opened.spec, request):
            yield numbers, state.row, results_of(opened.model, opened.spec, state.x) if wants(state.row.i) else None
        return
    steps = request.steps
    eta = steps.knobs.get("eta", 1.0)  # ddpm, whose variance is fixed_small here
    choices = (request.num_rows, eta, steps.times, steps.name, request.guidance)
    for numbers in request.batches:
        inputs = request.inputs_of(numbers) | _inputs_of_edit(request, numbers)
        for i, x, images in opened.run(request.seed, numbers, *choices, **inputs):
            # before the last row there is only the state; the last pictures, and those of latents, are the graph's own
            is_shown = i == request.num_rows or opened.spec.stages or opened.spec.units is not None
            shown = images if is_shown else results_of(opened, opened.spec, x)
            yield numbers, steps.plan.rows[i - 1], shown if wants(i) else None


def encoder_of(opened: DenoiserFile | OneCallFile) -> Callable[[Array], Array] | None:
    """Return what makes states of what a user has, where the file has it; None for a function or a one-call file."""
    model = opened.model if isinstance(opened, DenoiserFile) else None
    return model.encode if isinstance(model, Network) else None


def images_of(opened: DenoiserFile | OneCallFile, request: Request) -> Array:
    """Return the images of a request, uint8 (n, H, W, C), or the numbers of a model of other shapes, float32."""
    done = pictures(opened, request, lambda i: i == request.num_rows)
    return np.concatenate([images for _, _, images in done if images is not None])


def generate(
    model: str | Path | DenoiserFile | OneCallFile | tuple[Model, ModelSpec],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    **asked: Any,
) -> Array:
    """Return n images as uint8 (n, H, W, C) from any exported file; float32 (n, *shape) where they are no pictures.

    model: a path, or the result of `open_model` or `open_file`. asked: n, seed, num_steps and the other arguments of
    `request_for`. Costs one network evaluation a row of the plan and batch, with guidance of twice the batch. Raises
    what `open_file`, `request_for` and `sample` raise.
    """
    opened = opened_file(model, provider, threads)
    return images_of(opened, request_for(opened.spec, **asked))


def opened_file(model: Any, provider: str = "cpu", threads: int | None = None) -> DenoiserFile | OneCallFile:
    """Return the model at a path, or the one opened before."""
    if isinstance(model, (str, Path)):
        return open_file(model, provider, threads=threads)
    return DenoiserFile(*model) if isinstance(model, tuple) else model
