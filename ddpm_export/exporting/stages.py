"""Stages as ONNX files: traced, proven against torch, and written beside the denoiser that names them by digest."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from ddpm_export.errors import ModelRefusedError, UsageError
from ddpm_export.exporting.onnx_file import fits_inline
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.stage_golden import golden_from_stage, stage_examples
from ddpm_export.model.stages import Stage, stage_inputs
from ddpm_export.process.equations import Array
from ddpm_export.runtimes.onnx import evaluate_from_bytes
from ddpm_export.runtimes.opened import Graph
from ddpm_export.runtimes.stages import STAGE_KEY
from ddpm_export.system.files import replacing

# of a stage's output, a 16th of a level of a picture: it runs once, and its error is not fed back as that of a step is.
# A quantised latent that lies between two entries of a codebook moves a decoder's output by 1e-4.
MAX_RELATIVE_ERROR = 5e-4
BATCHES = (1, 3)


def eager_stages(checkpoint: Checkpoint) -> dict[str, Graph]:
    """Return the stages themselves, in eager PyTorch: NumPy in and out."""
    return {name: _eager(checkpoint.spec.stages[name], network) for name, network in checkpoint.stages.items()}


def _eager(stage: Stage, network: Callable[..., object]) -> Graph:
    import torch

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            found = network(*(torch.from_numpy(np.array(values)) for values in feeds.values()))
        values = found if isinstance(found, (tuple, list)) else [found]
        return {name: value.numpy() for name, value in zip(stage.outputs, values, strict=True)}

    return run


def stages_from_checkpoint(
    checkpoint: Checkpoint, references: Mapping[str, Graph], traced: Callable[..., ModelProto]
) -> dict[str, ModelProto]:
    """Return the graphs of a checkpoint's stages, each proven, with its golden vectors in its metadata.

    traced: as `onnx.model_from_network`, and then rewritten for speed. Raises ModelRefusedError where torch cannot
    express one in ONNX, and where the graph gives something else.
    """
    import torch

    models = {}
    for name, network in checkpoint.stages.items():
        stage, examples = checkpoint.spec.stages[name], _examples(checkpoint.spec, name)
        tensors = tuple(torch.from_numpy(values) for values in examples(2).values())
        metadata = {STAGE_KEY: json.dumps({"stage": name, "golden": golden_from_stage(references[name](examples(2)))})}
        models[name] = traced(network, tensors, list(examples(1)), list(stage.outputs), name, metadata)
        _prove(models[name], references[name], stage, name, examples)
    return models


def stages_from_files(path: Path, spec: ModelSpec) -> dict[str, ModelProto]:
    """Return the graphs of the stages beside a denoiser's file, which has been opened with them."""
    return {name: onnx.load(path.with_name(str(stage.file))) for name, stage in spec.stages.items()}


@contextmanager
def writing_stages(models: Mapping[str, ModelProto], spec: ModelSpec, path: Path) -> Iterator[ModelSpec]:
    """Write stages beside a denoiser's path, and yield its spec, which names them; they take their names at the end."""
    records = {}
    with ExitStack() as stack:
        for name, model in models.items():
            place = path.with_name(f"{path.stem}.{name}.onnx")
            if not fits_inline(model):
                raise UsageError(f"{place}: a stage must be below 2 GB.")
            content = model.SerializeToString(deterministic=True)
            stack.enter_context(replacing(place)).write_bytes(content)
            records[name] = dataclasses.replace(
                spec.stages[name], file=place.name, sha256=hashlib.sha256(content).hexdigest()
            )
        yield dataclasses.replace(spec, stages=records)


def _examples(spec: ModelSpec, name: str) -> Callable[[int], dict[str, Array]]:
    stage = spec.stages[name]
    inputs = stage_inputs(name, stage, spec.state_shape, spec.result_shape)
    return lambda count: stage_examples(inputs, stage.inputs, range(count))


def _prove(
    model: ModelProto, reference: Graph, stage: Stage, name: str, examples: Callable[[int], dict[str, Array]]
) -> None:
    evaluate = evaluate_from_bytes(model.SerializeToString(), list(stage.outputs))
    for batch in BATCHES:
        expected, found = reference(examples(batch)), evaluate(examples(batch))
        for (key, values), got in zip(expected.items(), found, strict=True):
            off = float(np.abs(got - values).max() / (np.abs(values).max() or 1.0))
            if got.shape != values.shape or got.shape[1:] != stage.outputs[key] or not off <= MAX_RELATIVE_ERROR:
                raise ModelRefusedError(
                    f"stage {name!r}: does not reproduce its network: {key!r} of shape {got.shape} instead of "
                    f"{values.shape}, relative error {off:.3g}, at most {MAX_RELATIVE_ERROR}. Export it again."
                )
