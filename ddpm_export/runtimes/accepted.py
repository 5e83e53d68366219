"""Whether a device computes what a file promises: golden vectors decide, since a wrong kernel says nothing."""

from collections.abc import Sequence
from pathlib import Path

from ddpm_export.errors import ModelRefusedError
from ddpm_export.model.golden import GoldenResult, replay_golden
from ddpm_export.model.golden_pictures import PictureResult, given_in, inputs_in, replay_golden_pictures
from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile
from ddpm_export.runtimes.providers import Provider


def replayed(opened: DenoiserFile | OneCallFile, precision: str) -> "Sequence[GoldenResult | PictureResult]":
    """Return a result for each golden case of a file, as `replay_golden` or `replay_golden_pictures` does."""
    if isinstance(opened, DenoiserFile):
        return replay_golden(opened.model, opened.spec, precision=precision)
    end, spec = opened.end, opened.spec
    return replay_golden_pictures(
        lambda draw: end(*draw.settings, **inputs_in(spec, draw), **given_in(spec, draw))[1], spec
    )


def check_device(opened: DenoiserFile | OneCallFile, provider: Provider, where: Path) -> None:
    """Raise ModelRefusedError unless the file has golden vectors and they come out right on the provider."""
    results = replayed(opened, provider.precision)
    if not results:
        raise ModelRefusedError(
            f"{where}: has no golden vectors that could tell whether {provider.name} computes it. Run it with "
            "`provider=cpu`."
        )
    worst = max(results, key=lambda result: result.error)
    if not all(result.passed for result in results):
        raise ModelRefusedError(
            f"{where}: {provider.name} does not compute what the file promises: the error is {worst.error:.3g} at "
            f"{worst.place}, at most {worst.tolerance:g} promised. Run it with `provider=cpu`."
        )
