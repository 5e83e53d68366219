"""From a checkpoint of any known layout to a network and its spec. Imports torch only once it is called."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_export.errors import UsageError, several
from ddpm_export.importers.apart import reading
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.packages import installed
from ddpm_export.importers.paths import path_from_options
from ddpm_export.model.defaults import with_defaults
from ddpm_export.model.spec import ModelSpec

WEIGHTS = ("ema", "raw")


def load_checkpoint(
    path: str | Path,
    *,
    weights: str = "ema",
    options: Mapping[str, Any] | None = None,
    steps: Sequence[int] | None = None,
) -> Checkpoint:
    """Read a checkpoint of any known layout: a file, a folder, or the name of a model on the hub.

    weights: the averaged ones ("ema") or those of the last step ("raw"). options: what the checkpoint does not say, by
    the names of its own project (docs/importing.md). steps: how many the file takes by default; several, the first of
    them the default, of a scheduler whose own steps the file carries; () for a file without those. The spec's source
    names importer, digest of the file and weights. No code in the file can run.
    Raises BadFileError for a file that is broken, foreign or hostile, UsageError for options that do not fit,
    EnvironmentProblem without torch or the package that the layout needs.
    """
    _check_weights(weights)
    with reading(path) as begun:  # the child imports torch while this process does
        with installed("export"):
            from ddpm_export.importers.layouts import import_network
            from ddpm_export.importers.sources import read_source
        found, source = read_source(path, begun)
    imported = import_network(path, found, weights, options or {}, None if steps is None else tuple(steps))
    source = {**imported.spec.source, **imported.source, **source}
    spec = dataclasses.replace(imported.spec, source=source)
    if steps and imported.stepping is None:
        if len(steps) > 1:
            raise UsageError(
                f"num_steps must be one number for a project without steps of its own, got {several(steps)}. Use plans "
                "for more.",
                *("num_steps", "plans"),
            )
        spec = with_defaults(spec, num_steps=steps[0])
    stages = {name: stage.eval().requires_grad_(False) for name, stage in imported.stages.items()}
    return Checkpoint(imported.network.eval().requires_grad_(False), spec, imported.notes, stages)


def load_network(
    path: str | Path,
    reference: str,
    spec: ModelSpec,
    *,
    arguments: Mapping[str, Any] | None = None,
    weights: str = "ema",
    steps: Sequence[int] | None = None,
) -> Checkpoint:
    """Read the weights of a network of your own class, `package.module:Class`, which is called with the arguments.

    This runs the module's code. The network maps (x_t, t, inputs by name) to the spec's outputs; its source then
    names the class and the digest of the file. arguments: `path` or `preconditioner` among them, and what goes with it
    (importers/paths.py), are not the class's: they say how it is called, and decide the spec's prediction and levels.
    Nor are `loop` and what goes with it (importers/named_loops.py), whose steps become the file's; steps: as of
    `load_checkpoint`.
    Raises UsageError for a class that cannot be made, BadFileError for weights that do not fit.
    """
    _check_weights(weights)
    with reading(path) as begun:
        with installed("export"):
            from ddpm_export.importers.loops import widened
            from ddpm_export.importers.named_loops import loop_from_options
            from ddpm_export.importers.own_network import network_from_class
            from ddpm_export.importers.path_network import on_path
            from ddpm_export.importers.sources import read_source
        found, source = read_source(path, begun)
    gaussian_path, arguments = path_from_options(arguments or {})
    loop, arguments = loop_from_options(arguments, gaussian_path)
    network = network_from_class(reference, arguments, found.contents, weights)
    network = (network if loop is None else loop.project.called(network)).eval().requires_grad_(False)
    source = {**spec.source, "importer": "own", "network": reference, "weights": weights, **source}
    checkpoint = Checkpoint(network, dataclasses.replace(spec, source=source))
    if gaussian_path is None:
        return checkpoint
    if loop is None:
        return on_path(checkpoint, gaussian_path)
    gaussian_path = widened(gaussian_path, loop.by_steps(steps).values())
    checkpoint = on_path(checkpoint, gaussian_path)
    return checkpoint if steps == () else loop.stepped(checkpoint, gaussian_path, steps)


def _check_weights(weights: str) -> None:
    if weights not in WEIGHTS:
        raise UsageError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}.")
