"""ONNX Runtime: the only file that names onnxruntime."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.diffusion import Array, Model, OneCall
from ddpm_export.errors import BadFileError, EnvironmentProblem, ModelRefusedError
from ddpm_export.runtimes.external_data import check_external_data, metadata_of
from ddpm_export.runtimes.one_call import one_call_from_session
from ddpm_export.spec import METADATA_KEY, ModelSpec, spec_from_json

__all__ = ["Extractor", "open_extractor", "open_onnx"]

# images (B, C, H, W) float32 in [-1, 1] -> features (B, D) and logits (B, K), float32
Extractor = Callable[[Array], tuple[Array, Array]]


def open_onnx(path: Path, provider: str, threads: int | None) -> tuple[Model | OneCall, ModelSpec]:
    """Open `*.onnx` on the CPU or CUDA provider of ONNX Runtime, exactly the one named; one-call files on the CPU."""
    if provider == "cuda":
        _refuse_one_call(path)
    ort = _onnxruntime()
    session = _opened(ort, path, provider, threads)
    metadata = _metadata(path, session)
    if METADATA_KEY not in metadata:
        raise BadFileError(
            f"{path}: not a file of ddpm-export. got an ONNX model without metadata {METADATA_KEY!r}, expected one. Do "
            "export the checkpoint with ddpm-export."
        )
    spec = spec_from_json(metadata[METADATA_KEY])
    if spec.graph is not None:
        return one_call_from_session(path, session, spec), spec
    _check_signature(path, session, spec)
    names = [output.name for output in session.get_outputs()]
    if provider == "cuda":
        return _bound_model(ort, session, spec), spec

    def model(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        try:
            values = session.run(names, {"x_t": x_t, "t": t, **inputs})
        except Exception as exc:  # a graph may load and yet not run
            raise BadFileError(
                f"{path}: the graph does not run. got {_first_line(exc)}, expected values of shape {x_t.shape!r}. Do "
                "export the model again."
            ) from exc
        outputs = dict(zip(names, values, strict=True))
        for name in spec.outputs:
            if outputs[name].shape != x_t.shape:
                raise BadFileError(
                    f"{path}: {name} has another shape than x_t. got {outputs[name].shape!r}, expected {x_t.shape!r}. "
                    "Do export the model again."
                )
        return outputs

    return model, spec


def open_extractor(path: Path, image_shape: tuple[int, int, int], provider: str, threads: int | None) -> Extractor:
    """Open an ONNX file that scores images: one input of pictures, outputs `features` and `logits` among its outputs.

    Raises BadFileError for a file that cannot be run so on images (C, H, W), EnvironmentProblem as `open_onnx`.
    """
    if not path.is_file():
        raise BadFileError(f"{path}: no such file. got nothing, expected an extractor. Do see docs/scoring.md.")
    session = _opened(_onnxruntime(), path, provider, threads)
    inputs, outputs = session.get_inputs(), {output.name for output in session.get_outputs()}
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not {"features", "logits"} <= outputs:
        raise BadFileError(
            f"{path}: not an extractor. got inputs {[value.name for value in inputs]!r} and outputs "
            f"{sorted(outputs)!r}, expected one float input and outputs features and logits. Do see docs/scoring.md."
        )
    sizes = list(inputs[0].shape[1:])
    if len(sizes) != 3 or any(type(size) is int and size != own for size, own in zip(sizes, image_shape, strict=True)):
        raise BadFileError(
            f"{path}: is for other images. got an input of {sizes!r}, expected {list(image_shape)!r}. Do pass an "
            "extractor that takes or resizes them."
        )

    def extract(images: Array) -> tuple[Array, Array]:
        try:
            features, logits = session.run(["features", "logits"], {inputs[0].name: images})
        except Exception as exc:  # a graph may load and yet not run
            raise BadFileError(
                f"{path}: the graph does not run. got {_first_line(exc)}, expected images of shape {images.shape!r}. "
                "Do export the extractor again."
            ) from exc
        if features.ndim != 2 or logits.ndim != 2 or not len(features) == len(logits) == len(images):
            raise BadFileError(
                f"{path}: gives no rows. got features {features.shape!r} and logits {logits.shape!r}, expected "
                f"({len(images)}, D) and ({len(images)}, K). Do export the extractor again."
            )
        return features, logits

    return extract


def _opened(ort: Any, path: Path, provider: str, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters is raised and translated below
    # the cores this process may use, not those of the machine; 0 leaves it to ONNX Runtime
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    options.intra_op_num_threads = threads or cores
    options.use_deterministic_compute = True
    check_external_data(path)
    return _session(ort, path, options, provider)


def _refuse_one_call(path: Path) -> None:
    """Raise ModelRefusedError for a one-call file, before CUDA is asked for: it would do a part of it, unseen."""
    text = metadata_of(path).get(METADATA_KEY)
    if text is not None and (graph := spec_from_json(text).graph) is not None:
        raise ModelRefusedError(
            f"{path}: a one-call {graph} runs on the CPU. got provider cuda, which has no BitwiseXor for its noise, "
            "expected cpu. Do export --format onnx for a GPU."
        )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as exc:
        raise EnvironmentProblem(
            "onnxruntime: not installed. got no module of that name, expected one. Do pip install 'ddpm-export[cpu]', "
            "or 'ddpm-export[cuda]' on a machine with an NVIDIA GPU."
        ) from exc
    return onnxruntime


def _session(ort: Any, path: Path, options: Any, provider: str) -> Any:
    wanted: Any = "CPUExecutionProvider"
    if provider == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise EnvironmentProblem(
                f"provider cuda: this onnxruntime has none. got {', '.join(ort.get_available_providers())}, expected "
                "CUDAExecutionProvider. Do pip uninstall onnxruntime, then pip install 'ddpm-export[cuda]'."
            )
        if hasattr(ort, "preload_dlls"):
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
                ort.preload_dlls()
        # TF32 keeps 10 bits of mantissa: parity needs it off
        wanted = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"})
    try:
        # without fallback: it would print on stdout and go on with the CPU
        session = ort.InferenceSession(str(path), options, providers=[wanted], enable_fallback=0)
    except Exception as exc:  # ONNX Runtime's own exceptions share no base class of their own
        if provider == "cuda" and "cuda" in str(exc).lower():
            raise EnvironmentProblem(_cuda_does_not_start(exc)) from exc
        raise BadFileError(
            f"{path}: ONNX Runtime cannot load it. got {_first_line(exc)}, expected a sound ONNX file. Do export "
            "or copy it again."
        ) from exc
    if provider == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise EnvironmentProblem(_cuda_does_not_start("no working device, CUDA 13 or cuDNN 9"))
    return session


def _cuda_does_not_start(reason: object) -> str:
    return (
        f"provider cuda: does not start. got {_first_line(reason)}, expected an NVIDIA GPU with its driver, CUDA 13 "
        "and cuDNN 9. Do pip install 'ddpm-export[cuda]', or run with --provider cpu."
    )


def _first_line(reason: object) -> str:
    lines = str(reason).splitlines() or [type(reason).__name__]
    return repr(lines[0][:200])


def _metadata(path: Path, session: Any) -> dict[str, str]:
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as exc:
        raise _not_text(path, exc) from exc


def _not_text(path: Path, exc: UnicodeDecodeError) -> BadFileError:
    return BadFileError(
        f"{path}: damaged. got names or metadata that are not UTF-8 ({exc.reason}), expected text. Do copy the file "
        "again."
    )


def _check_signature(path: Path, session: Any, spec: ModelSpec) -> None:
    try:
        inputs = {value.name: (value.type, value.shape[1:]) for value in session.get_inputs()}
        outputs = [(value.name, value.type) for value in session.get_outputs()]
    except UnicodeDecodeError as exc:
        raise _not_text(path, exc) from exc
    expected = {"x_t": ("tensor(float)", list(spec.image_shape)), "t": ("tensor(int64)", [])}
    wanted = [(name, "tensor(float)") for name in spec.outputs]
    if inputs != expected or outputs[: len(wanted)] != wanted:
        raise BadFileError(
            f"{path}: graph and spec disagree. got inputs {inputs!r} and outputs {outputs!r}, expected {expected!r} "
            f"and {', '.join(spec.outputs)}. Do export the model again."
        )


def _bound_model(ort: Any, session: Any, spec: ModelSpec) -> Model:
    """Keep inputs and outputs on the device, allocated once for a batch size."""
    buffers: dict[int, tuple[Any, Any, Any, dict[str, Any]]] = {}

    def model(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        batch = len(x_t)
        if batch not in buffers:
            buffers.clear()
            x = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x_t), "cuda", 0)
            times = ort.OrtValue.ortvalue_from_numpy(t, "cuda", 0)
            shape = [batch, *spec.image_shape]
            out = {
                name: ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0) for name in spec.outputs
            }
            binding = session.io_binding()
            binding.bind_ortvalue_input("x_t", x)
            binding.bind_ortvalue_input("t", times)
            for name, value in out.items():
                binding.bind_ortvalue_output(name, value)
            buffers[batch] = (binding, x, times, out)
        binding, x, times, out = buffers[batch]
        x.update_inplace(np.ascontiguousarray(x_t))
        times.update_inplace(t)
        session.run_with_iobinding(binding)
        return {name: value.numpy() for name, value in out.items()}

    return model
