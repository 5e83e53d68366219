"""Open a model file for evaluation: one file a runtime, chosen by the file's ending."""

from pathlib import Path
from typing import cast

from ddpm_export.diffusion import Model, OneCall
from ddpm_export.errors import BadFileError, ModelRefusedError, UsageError
from ddpm_export.spec import ModelSpec

__all__ = ["PROVIDERS", "open_file", "open_model"]

PROVIDERS = ("cpu", "cuda")
MAX_THREADS = 1024  # a million keep ONNX Runtime busy for minutes before it dies


def open_model(
    path: str | Path, provider: str = "cpu", *, threads: int | None = None, trust: bool = False
) -> tuple[Model, ModelSpec]:
    """Open an exported file: (model, spec), where model(x_t (B, C, H, W) float32, t (B,) int64) gives outputs by name.

    provider: cpu or cuda; never another in its place. threads: of one evaluation, None for one a core. trust: allow
    TorchScript (.ts) and torch.export (.pt2) files, which can run code. An output may alias a buffer of the runtime.
    Raises BadFileError for a file that is no model of ours, ModelRefusedError for one this version cannot honour and
    for a one-call file, EnvironmentProblem where the runtime or the provider is missing.
    """
    opened, spec = open_file(path, provider, threads=threads, trust=trust)
    if spec.graph is not None:
        raise ModelRefusedError(
            f"{path}: a one-call {spec.graph}, which shows no network. got graph {spec.graph!r}, expected a denoiser. "
            "Do run it with ddpm-run or generate, or open the .onnx that it was made from."
        )
    return cast(Model, opened), spec


def open_file(
    path: str | Path, provider: str = "cpu", *, threads: int | None = None, trust: bool = False
) -> tuple[Model | OneCall, ModelSpec]:
    """Open any exported file: as `open_model`, and one-call files as well; `spec.graph` tells which it is."""
    path = Path(path)
    if provider not in PROVIDERS:
        raise UsageError(f"provider: unknown. got {provider!r}, expected one of {', '.join(PROVIDERS)}. Do pick one.")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError(
            f"threads: out of range. got {threads}, expected 1 to {MAX_THREADS}. Do pick one in that range."
        )
    if not path.is_file():
        raise BadFileError(f"{path}: no such file. got nothing, expected a model. Do check the path.")
    if path.suffix == ".onnx":
        from ddpm_export.runtimes.onnx import open_onnx

        return open_onnx(path, provider, threads)
    if path.suffix in (".ts", ".pt2"):
        if not trust:
            raise BadFileError(
                f"{path}: can run code when it is opened. got a torch file, expected .onnx. Do pass --trust if you "
                "know who made it, or export it as onnx."
            )
        opened, spec = _open_torch_file(path, provider, threads)
        if spec.graph is not None:
            raise BadFileError(
                f"{path}: graph and spec disagree. got a network said to be a {spec.graph}, expected a denoiser. Do "
                "export the model again."
            )
        return opened, spec
    raise BadFileError(
        f"{path}: unknown ending. got {path.suffix!r}, expected .onnx, .ts or .pt2. Do export a checkpoint first: "
        "ddpm-export CHECKPOINT --format onnx."
    )


def _open_torch_file(path: Path, provider: str, threads: int | None) -> tuple[Model, ModelSpec]:
    if path.suffix == ".ts":
        from ddpm_export.runtimes.torchscript import open_torchscript

        return open_torchscript(path, provider, threads)
    from ddpm_export.runtimes.pt2 import open_pt2

    return open_pt2(path, provider, threads)
