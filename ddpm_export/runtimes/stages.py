"""The stages beside a denoiser's file: each the very file that its spec names by digest, opened as it describes it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.stages import stage_inputs
from ddpm_export.process.equations import Array
from ddpm_export.runtimes.opened import DenoiserFile, Graph, Network
from ddpm_export.system.files import sha256_of

Signature = Mapping[str, tuple[Any, list[Any]]]
# a path -> what its graph takes and gives, dtype and shape without the batch by name, and what runs it
Open = Callable[[Path], tuple[Signature, Signature, Callable[[dict[str, Array]], list[Array]]]]
STAGE_KEY = "ddpm_export_stage"  # of the metadata of a stage's file


def with_stages(opened: DenoiserFile, path: Path, open_graph: Open) -> DenoiserFile:
    """Return a denoiser with the stages that its spec names; open_graph: as `onnx.signed_graph`.

    Raises BadFileError for a stage's file that is missing or another one.
    """
    spec = opened.spec
    if not spec.stages:
        return opened
    graphs = {}
    for name, stage in spec.stages.items():
        if stage.file is None or stage.sha256 is None:
            raise BadFileError(f"{path}: its stage {name!r} has no file. Export the model again.")
        place = path.with_name(stage.file)
        if not os.path.isfile(place):
            raise BadFileError(f"{place}: no such file, and {path.name} needs it as its stage {name!r}. Copy both.")
        if sha256_of(place) != stage.sha256:
            raise BadFileError(f"{place} is not the stage {name!r} that {path.name} was exported with. Copy both.")
        graphs[name] = stage_from_path(place, name, spec, open_graph)
    assert isinstance(opened.model, Network)  # as `open_onnx` gives it
    return replace(opened, model=replace(opened.model, stages=graphs))


def stage_from_path(path: Path, name: str, spec: ModelSpec, open_graph: Open) -> Graph:
    """Return what runs the graph of a stage. Raises BadFileError where it is not the one that the spec describes."""
    taken, given, evaluate = open_graph(path)
    stage = spec.stages[name]
    wanted = stage_inputs(name, stage, spec.state_shape, spec.result_shape)
    gives = {key: (np.dtype(np.float32), list(shape)) for key, shape in stage.outputs.items()}
    if taken != wanted or given != gives:
        raise BadFileError(
            f"{path}: graph and spec disagree: the stage {name!r} takes {taken!r} and gives {given!r}, not "
            f"{wanted!r} and {gives!r}. Export the model again."
        )

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = evaluate({key: np.ascontiguousarray(feeds[key]) for key in wanted})
        return dict(zip(given, values, strict=True))

    return run
