"""From pictures to pictures, and from pictures back to noise. The mathematics is in `process.given`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError
from ddpm_export.model.denoiser import results_of
from ddpm_export.model.steps import times_of
from ddpm_export.process.equations import Array
from ddpm_export.process.given import inversion
from ddpm_export.process.pixels import LEVELS_PER_UNIT
from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile
from ddpm_export.sampling.generate import encoder_of, images_of, opened_file, sample
from ddpm_export.sampling.given import Given, beyond_graph, label_of_pictures, states_from_images
from ddpm_export.sampling.request import Request, request_for


class Inverted(NamedTuple):
    """Noise x_T (m, C, H, W) float32 that leads to pictures, and the RMSE (m,) of each on the way back, in levels."""

    x_T: Array  # noqa: N815
    rmse: NDArray[np.float64]


def edit(
    model: Any, images: Array | None = None, *, provider: str = "cpu", threads: int | None = None, **asked: Any
) -> Array:
    """Return images made from pictures, seeds or noise, as `generate` does.

    model: as in `generate`, a denoiser or a one-call edit. images: uint8 (m, H, W, C), or numbers (m, *shape).
    asked: mask, strength, seeds and other arguments of `request_for`. Costs one network evaluation a row of the
    plan and batch. Raises what `request_for` and `sample` raise, and UsageError where there is nothing to edit.
    """
    opened = opened_file(model, provider, threads)
    request = request_for(opened.spec, images=images, encode=encoder_of(opened), **asked)
    if request.given is None:
        raise UsageError("Give images, seeds or x_T.", "images", "seeds", "x_T")
    return images_of(opened, request)


def invert(
    model: Any,
    images: Array,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    report: Callable[[int, int], None] | None = None,
    **asked: Any,
) -> Inverted:
    """Return the noise from which a plan that adds none leads back, nearly, to pictures uint8 (m, H, W, C).

    model, asked: as in `generate`. The way to noise is DDIM's, by the plan's times; the way back, which gives the
    error, is the plan itself. report: called after each evaluation with (done, total), twice what `generate` costs.
    Raises UsageError for pictures that do not fit the model and for a plan that adds noise.
    """
    opened = opened_file(model, provider, threads)
    spec = opened.spec
    if isinstance(opened, OneCallFile):
        raise beyond_graph(spec)
    known = states_from_images(images, spec, encode=encoder_of(opened))
    label = label_of_pictures(spec, asked.get("label"), asked.get("inputs"))
    forwards = request_for(spec, **{**asked, "n": len(images), "label": label})
    if any(row.noise for row in forwards.steps.plan.rows):
        raise UsageError("Inverting needs a sampler that adds no noise. Choose ddim with eta 0.", "sampler")
    plan = inversion(spec.alphas_cumprod, times_of(forwards.steps.plan))
    backwards = replace(forwards, steps=forwards.steps._replace(plan=plan))
    free = DenoiserFile(opened.model, replace(spec, clip_x_0=None))  # what is clipped cannot be found again
    done, total = 0, backwards.evaluations + forwards.evaluations

    def count() -> None:
        nonlocal done
        done += 1
        if report is not None:
            report(done, total)

    x_T = _last_states(free, replace(backwards, given=Given(states=known)), count)
    back = results_of(opened.model, spec, _last_states(opened, replace(forwards, given=Given(states=x_T)), count))
    errors = (back.astype(np.float64) - images).reshape(len(images), -1) * (1.0 if spec.is_picture else LEVELS_PER_UNIT)
    return Inverted(x_T, np.sqrt(np.square(errors).mean(axis=1)))


def _last_states(opened: DenoiserFile, request: Request, count: Callable[[], None]) -> Array:
    last = []
    for _, state in sample(opened.model, opened.spec, request):
        count()
        if state.row.i == request.num_rows:
            last.append(state.x)
    return np.concatenate(last)
