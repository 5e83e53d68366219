"""Open a model file for evaluation: one file a runtime, chosen by the file's ending."""

import math
import os
from pathlib import Path

from ddpm_export.errors import BadFileError, ModelRefusedError, UsageError
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Model
from ddpm_export.runtimes.accepted import check_device
from ddpm_export.runtimes.named import model_path
from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile
from ddpm_export.runtimes.providers import provider_from_name
from ddpm_export.runtimes.stages import with_stages

MAX_THREADS = 1024  # a million keep ONNX Runtime busy for minutes before it dies


def open_model(
    path: str | Path, provider: str = "cpu", *, threads: int | None = None, trust: bool = False
) -> tuple[Model, ModelSpec]:
    """Open an exported file: (model, spec), where model(x_t (B, *shape) float32, t (B,) int64) gives outputs by name.

    path: a file, or a name of `named.NAMED`. provider: a name of PROVIDERS; every node that computes runs there, or the
    file is refused. threads: of one evaluation, None for one a core. trust: allow TorchScript (.ts) and torch.export
    (.pt2) files, which can run code.
    An output may alias a buffer of the runtime. The model raises UsageError for inputs that are not those of the spec,
    BadFileError where the graph does not run.
    Raises BadFileError for a file that is no model of ours, ModelRefusedError for one this version cannot honour, for
    one that the provider does not run, or as a plugin computes otherwise, and for a one-call file, EnvironmentProblem
    where the runtime or the provider is missing.
    """
    opened = open_file(path, provider, threads=threads, trust=trust)
    if isinstance(opened, OneCallFile):
        raise ModelRefusedError(
            f"{path}: a one-call {opened.spec.graph} shows no network. Run it with ddpm-run or generate, or open the "
            ".onnx that it was made from."
        )
    return opened.model, opened.spec


def open_file(
    path: str | Path,
    provider: str = "cpu",
    *,
    threads: int | None = None,
    trust: bool = False,
    timeout_s: float | None = None,
) -> DenoiserFile | OneCallFile:
    """Open any exported file, as `open_model` does, and one-call files as well.

    timeout_s: how long one run of a one-call file's graph may take, None for as long as it likes; BadFileError then.
    """
    path, device = model_path(path), provider_from_name(provider)
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads must be between 1 and {MAX_THREADS}, got {threads}.")
    if timeout_s is not None and not 0 < timeout_s < math.inf:
        raise UsageError(f"timeout must be a number of seconds above 0, got {timeout_s!r}.")
    if not os.path.isfile(path):  # unlike Path, it takes a name that the system refuses for one that is not there
        raise BadFileError(f"{path}: no such file.")
    if path.suffix == ".onnx":
        from ddpm_export.runtimes.onnx import open_onnx, signed_graph

        opened = open_onnx(path, device, threads, timeout_s)
        if isinstance(opened, DenoiserFile):
            opened = with_stages(opened, path, lambda place: signed_graph(place, device, threads))
        if device.plugin is not None:
            check_device(opened, device, path)
        return opened
    if path.suffix in (".ts", ".pt2"):
        if not trust:
            raise BadFileError(
                f"{path}: a {path.suffix} file can run code when opened. Pass `trust=True` if you know its maker, "
                "or export it as onnx."
            )
        from ddpm_export.runtimes.torch_archive import open_torch

        opened = DenoiserFile(*open_torch(path, device, threads))
        if opened.spec.graph is not None:
            raise BadFileError(f"{path}: graph and spec disagree: the spec calls a network a {opened.spec.graph}.")
        return opened
    raise BadFileError(f"{path}: a model file must end in .onnx, .ts or .pt2. Export a checkpoint with ddpm-export.")
