"""Whether a device computes what a file promises: golden vectors decide, since a wrong kernel says nothing."""

from collections.abc import Sequence
from pathlib import Path

from ddpm_export.errors import ModelRefusedError, NonFiniteError
from ddpm_export.model.codec import OBJECT, bad_file, parse_json, record
from ddpm_export.model.golden import GoldenResult, replay_golden
from ddpm_export.model.golden_pictures import PictureResult, given_in, inputs_in, replay_golden_pictures
from ddpm_export.model.stage_golden import StageResult, replay_stage, stage_examples
from ddpm_export.model.stages import stage_inputs
from ddpm_export.runtimes.external_data import metadata_of
from ddpm_export.runtimes.opened import DenoiserFile, Network, OneCallFile
from ddpm_export.runtimes.providers import Provider
from ddpm_export.runtimes.stages import STAGE_KEY

Results = Sequence[GoldenResult | PictureResult | StageResult]


def replayed(opened: DenoiserFile | OneCallFile, precision: str, path: Path) -> Results:
    """Return a result for each golden case of a file and its stages, as `replay_golden` and its like do.

    Raises what they raise, and ModelRefusedError for a one-call file that gives NaN or infinity.
    """
    if isinstance(opened, DenoiserFile):
        stages = replay_stages(opened.model, path) if isinstance(opened.model, Network) else []
        return [*replay_golden(opened.model, opened.spec, precision=precision), *stages]
    end, spec = opened.end, opened.spec
    try:
        return replay_golden_pictures(
            lambda draw: end(*draw.settings, **inputs_in(spec, draw), **given_in(spec, draw))[1], spec
        )
    except NonFiniteError as exc:
        raise ModelRefusedError(f"{path} gives NaN or infinity for plain noise. Export the model again.") from exc


def replay_stages(model: Network, path: Path) -> list[StageResult]:
    """Return one result for each golden case of the stages beside a path. Raises BadFileError for bad ones."""
    results, spec = list[StageResult](), model.spec
    for name, graph in model.stages.items():
        stage = spec.stages[name]
        place = path.with_name(str(stage.file))
        what = f"{place}: the record of a stage"
        values = parse_json(metadata_of(place).get(STAGE_KEY, "{}"), what)
        with bad_file(what):
            golden = record({"golden": OBJECT})(values, "")["golden"]
        inputs = stage_inputs(name, stage, spec.state_shape, spec.result_shape)
        results += replay_stage(golden, graph(stage_examples(inputs, stage.inputs, range(2))), f"stage {name}")
    return results


def check_device(opened: DenoiserFile | OneCallFile, provider: Provider, where: Path) -> None:
    """Raise ModelRefusedError unless the file has golden vectors and they come out right on the provider."""
    results = replayed(opened, provider.precision, where)
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
