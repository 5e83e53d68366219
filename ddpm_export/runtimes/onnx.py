"""ONNX Runtime: the only file that names onnxruntime."""

import contextlib
import importlib
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_export.errors import BadFileError, EnvironmentProblem, ModelRefusedError, first_line, not_installed
from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.inputs import checked_inputs
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.spec_json import spec_from_json
from ddpm_export.process.equations import Array, Model
from ddpm_export.runtimes.apart import done_apart
from ddpm_export.runtimes.external_data import check_external_data, metadata_of
from ddpm_export.runtimes.one_call import Run, one_call_from_session
from ddpm_export.runtimes.opened import DenoiserFile, Network, OneCallFile
from ddpm_export.runtimes.providers import PROVIDERS, Provider, provider_from_name

# images (B, C, H, W) float32 in [-1, 1] -> features (B, D) and logits (B, K), float32
Extractor = Callable[[Array], tuple[Array, Array]]
# (the name of an output, the inputs by name) -> that output: of anybody's graph
Graph = Callable[[str, dict[str, Array]], Array]
# the inputs by name -> the spec's outputs in order
Evaluate = Callable[[dict[str, Array]], list[Array]]
Signature = dict[str, tuple[Any, list[Any]]]
CPU = PROVIDERS["cpu"]
TYPES = {"tensor(float)": np.dtype(np.float32), "tensor(int64)": np.dtype(np.int64)}
# operators that ONNX Runtime itself keeps on the CPU to work out shapes with: they count and move, and compute nothing
MOVING = frozenset({"Cast", "Concat", "Gather", "Identity", "Shape", "Size", "Slice", "Squeeze", "Unsqueeze"})
MAX_NAMED = 5
_registered: set[str | None] = set()  # plugins, which ONNX Runtime takes once a process


def open_onnx(
    path: Path, provider: Provider, threads: int | None, timeout_s: float | None = None
) -> DenoiserFile | OneCallFile:
    """Open `*.onnx` so that every node that computes runs on the provider; a denoiser without its stages.

    Raises ModelRefusedError, with the names of nodes, where one would not, and as `open_model`.
    """
    metadata = metadata_of(path)
    if METADATA_KEY not in metadata:
        raise BadFileError(
            f"{path}: not a file of ddpm-export: its metadata has no {METADATA_KEY!r}. Make one of it, or of "
            "its checkpoint, with ddpm-export."
        )
    spec = spec_from_json(metadata[METADATA_KEY])
    if spec.graph is not None and provider.lacks is not None:
        raise ModelRefusedError(
            f"{path}: a one-call {spec.graph} does not run on {provider.name}, which lacks {provider.lacks} for its "
            "noise. Run it with `provider=cpu`, or export `format=onnx`."
        )
    ort, session = _session_of_file(path, provider, threads)
    if spec.graph is not None:
        run = _stoppable(ort, str(path), session, timeout_s)
        return OneCallFile(one_call_from_session(path, session, spec, run), spec)
    return DenoiserFile(Network(_model(ort, str(path), session, spec, provider), spec), spec)


def signed_graph(path: Path, provider: Provider, threads: int | None) -> tuple[Signature, Signature, Evaluate]:
    """Return what any graph of ours takes and gives, by name: dtype and shape without the batch; and what runs it.

    Runs raise BadFileError where the graph does not run; as `open_onnx` else.
    """
    _, session = _session_of_file(path, provider, threads)
    taken, given = (
        {value.name: (TYPES.get(value.type, value.type), value.shape[1:]) for value in values}
        for values in (session.get_inputs(), session.get_outputs())
    )

    def run(feeds: dict[str, Array]) -> list[Array]:
        try:
            return list(session.run(None, feeds))
        except Exception as exc:  # a graph may load and yet not run
            raise _does_not_run(str(path), exc) from exc

    return taken, given, run


def model_from_bytes(content: bytes, spec: ModelSpec, *, threads: int | None = None) -> Model:
    """Return the network of a denoiser's graph that lies in memory, weights included, on the CPU."""
    ort = _onnxruntime()
    return _model(ort, "network", _session(ort, content, "network", CPU, threads), spec, CPU)


def evaluate_from_bytes(content: bytes, outputs: list[str], *, threads: int | None = None) -> Evaluate:
    """Return what runs any graph that lies in memory, on the CPU: inputs by name -> these outputs."""
    return _evaluate(_session(_onnxruntime(), content, "network", CPU, threads), outputs)


def graph_from_path(path: Path, *, threads: int | None = None) -> Evaluate:
    """Return what runs any graph of ours on the CPU: inputs by name -> its outputs in order."""
    return _evaluate(_session(_onnxruntime(), str(path), str(path), CPU, threads), None)


def _evaluate(session: Any, outputs: list[str] | None) -> Evaluate:
    return lambda feeds: list(session.run(outputs, feeds))


def model_from_path(path: Path, *, threads: int | None = None) -> Model:
    """Return the network of a denoiser's file on the CPU, without its stages."""
    opened = open_onnx(path, CPU, threads)
    assert isinstance(opened, DenoiserFile)  # the caller made it one
    return opened.model


def open_extractor(path: Path, image_shape: tuple[int, int, int], provider: str, threads: int | None) -> Extractor:
    """Open an ONNX file that scores images: one input of pictures, outputs `features` and `logits` among its outputs.

    Raises BadFileError for a file that cannot be run so on images (C, H, W), EnvironmentProblem as `open_onnx`.
    """
    if not os.path.isfile(path):
        raise BadFileError(f"{path}: no such file. docs/scoring.md says what an extractor is.")
    device = provider_from_name(provider)
    if device.plugin is not None:
        raise ModelRefusedError(
            f"{path}: an extractor has no golden vectors that could tell whether {provider} computes it. Score "
            "images of ddpm-run with `samples` and `provider=cpu`."
        )
    _, session = _session_of_file(path, device, threads)
    inputs, outputs = session.get_inputs(), {output.name for output in session.get_outputs()}
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not {"features", "logits"} <= outputs:
        raise BadFileError(
            f"{path}: not an extractor: it has inputs {[value.name for value in inputs]!r} and outputs "
            f"{sorted(outputs)!r}, not one float input and outputs features and logits. See docs/scoring.md."
        )
    sizes = list(inputs[0].shape[1:])
    if len(sizes) != 3 or any(type(size) is int and size != own for size, own in zip(sizes, image_shape, strict=True)):
        raise BadFileError(
            f"{path}: takes images of {sizes!r}, not of {list(image_shape)!r}. Pass an extractor that takes or resizes "
            "them."
        )

    def extract(images: Array) -> tuple[Array, Array]:
        try:
            features, logits = session.run(["features", "logits"], {inputs[0].name: images})
        except Exception as exc:  # a graph may load and yet not run
            raise _does_not_run(str(path), exc) from exc
        for name, values in (("features", features), ("logits", logits)):
            kind, shape = getattr(values, "dtype", type(values)), getattr(values, "shape", ())
            if kind != np.float32 or len(shape) != 2 or len(values) != len(images):
                raise BadFileError(
                    f"{path}: {name} must be float32 and have {len(images)} rows, got {kind} {shape!r}. Export "
                    "the extractor again."
                )
        return features, logits

    return extract


def open_graph(path: Path, threads: int | None = None) -> Graph:
    """Open anybody's ONNX file on the CPU; the caller knows its inputs and outputs.

    Its calls raise BadFileError where the graph does not run. Raises BadFileError as `open_onnx`.
    """
    _, session = _session_of_file(path, CPU, threads)

    def graph(output: str, feeds: dict[str, Array]) -> Array:
        try:
            return np.asarray(session.run([output], feeds)[0])
        except Exception as exc:  # a graph may load and yet not run
            raise _does_not_run(str(path), exc) from exc

    return graph


def _onnxruntime() -> Any:
    # ONNX Runtime 1.32 keeps an identifier and a queue of events under the user's cache, and looks up the host that it
    # sends them to, unless it reads this when it is imported; whoever set it otherwise keeps that
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as exc:
        bringing = (provider.extra for provider in PROVIDERS.values() if provider.plugin is None)
        raise not_installed("onnxruntime", *bringing) from exc
    return onnxruntime


def _session_of_file(path: Path, provider: Provider, threads: int | None) -> tuple[Any, Any]:
    """Return onnxruntime and a session of a file, once its weights are known to lie where they may."""
    ort = _onnxruntime()
    check_external_data(path)
    return ort, _session(ort, str(path), str(path), provider, threads)


def _session(ort: Any, source: str | bytes, where: str, provider: Provider, threads: int | None) -> Any:
    """Return a session of a path or of a file's bytes, on just one provider. where: what errors are about."""
    if isinstance(source, str) and any("\udc80" <= letter <= "\udcff" for letter in source):
        raise BadFileError(f"{where}: its name must be UTF-8 for ONNX Runtime. Rename it.")
    options = _session_options(ort, provider, threads)
    # without fallback: it would print on stdout and go on with the CPU
    where_to: dict[str, Any] = {"enable_fallback": 0}
    if provider.plugin is not None:
        options.add_provider_for_devices(_plugin_devices(ort, provider), dict(provider.options))
    else:
        _check_available(ort, provider)
        where_to["providers"] = [(provider.onnx_name, dict(provider.options))]

    def begun() -> Any:
        return ort.InferenceSession(source, options, **where_to)

    try:
        session = begun()
    except Exception as exc:  # ONNX Runtime's own exceptions share no base class of their own
        if provider is not CPU and provider.name in str(exc).lower():
            raise _does_not_start(provider, exc) from exc
        raise BadFileError(
            f"{where}: ONNX Runtime cannot load it: {first_line(exc)}. Export or copy it again."
        ) from exc
    if session.get_providers()[0] != provider.onnx_name:
        raise _does_not_start(provider, "no working device or library")
    if provider is CPU:
        return session
    if hasattr(session, "get_provider_graph_assignment_info"):
        _refuse_other_places(where, provider, session)
        return session
    # ONNX Runtime below 1.24 does not tell which node runs where: not one may run on the CPU
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return begun()
    except Exception as exc:  # what was begun a moment ago, and now may not have the CPU
        raise ModelRefusedError(
            f"{where}: {provider.name} cannot run all of it, and ONNX Runtime {ort.__version__} does not tell which "
            f"nodes would run on the CPU: {first_line(exc)}. Run it with `provider=cpu`."
        ) from exc


def _check_available(ort: Any, provider: Provider) -> None:
    """Raise EnvironmentProblem for a provider that this onnxruntime was built without; load what it needs."""
    available = ort.get_available_providers()
    if provider.onnx_name not in available:
        raise EnvironmentProblem(
            f"provider {provider.name}: this onnxruntime has only {', '.join(available)}. Run: pip uninstall "
            f"onnxruntime, then pip install 'ddpm-export[{provider.extra}]'."
        )
    if provider is not CPU and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()


def _plugin_devices(ort: Any, provider: Provider) -> list[Any]:
    """Return the device that a provider from a package of its own offers first, once its library is registered."""
    try:
        library = importlib.import_module(provider.plugin or "").get_library_path()
    except ImportError as exc:
        raise not_installed((provider.plugin or "").replace("_", "-"), provider.extra) from exc
    if not hasattr(ort, "register_execution_provider_library"):
        raise _does_not_start(provider, f"onnxruntime {ort.__version__} takes no plugins, 1.24 does")
    if provider.plugin not in _registered:
        ort.set_default_logger_severity(4)  # what it would print is no error of ours
        try:
            ort.register_execution_provider_library(provider.plugin, library)
        except Exception as exc:  # a library that it needs is missing, for one
            raise _does_not_start(provider, exc) from exc
        _registered.add(provider.plugin)
    offered = [device for device in ort.get_ep_devices() if device.ep_name == provider.onnx_name]
    if not offered:
        raise _does_not_start(provider, f"{provider.onnx_name} offers no device on this machine")
    return offered[:1]


def _session_options(ort: Any, provider: Provider, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters is raised and translated
    # the cores this process may use, not those of the machine; 0 leaves it to ONNX Runtime
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    options.intra_op_num_threads = threads or cores
    if threads and threads > cores > 0:  # those that wait would keep the others from their core: 1024 ran for minutes
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.use_deterministic_compute = True
    if provider is not CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _refuse_other_places(where: str, provider: Provider, session: Any) -> None:
    """Raise ModelRefusedError where a node that computes runs elsewhere than asked for."""
    elsewhere = [
        f"{node.name} ({node.op_type})"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider.onnx_name
        for node in part.get_nodes()
        if node.op_type not in MOVING
    ]
    if elsewhere:
        more = f" and {len(elsewhere) - MAX_NAMED} more" if len(elsewhere) > MAX_NAMED else ""
        raise ModelRefusedError(
            f"{where}: {provider.name} cannot run all of it: {', '.join(elsewhere[:MAX_NAMED])}{more} would run on "
            "another device. Run it with `provider=cpu`."
        )


def _does_not_start(provider: Provider, reason: object) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"provider {provider.name} does not start: {first_line(reason)}. It needs {provider.needs} and 'ddpm-export"
        f"[{provider.extra}]'; `provider=cpu` needs nothing."
    )


def _does_not_run(where: str, reason: object) -> BadFileError:
    # which the name of a function of ONNX Runtime's, before it in the same line, would push out
    asked = str(reason)[max(str(reason).find("Failed to allocate memory"), 0) :]
    return BadFileError(f"{where}: the graph does not run: {first_line(asked)}. Export the model again.")


def _model(ort: Any, where: str, session: Any, spec: ModelSpec, provider: Provider) -> Model:
    """Return a session as a Model, with the same checks whether its arrays are copied or stay on a device."""
    _check_signature(where, session, spec)
    device = provider.bound_to
    evaluate = _evaluate(session, list(spec.outputs)) if device is None else _binding(ort, session, spec, device)

    def model(x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        feeds = checked_inputs(spec.input_types, x_t, t, inputs)
        try:
            outputs = dict(zip(spec.outputs, evaluate(feeds), strict=True))
        except Exception as exc:  # a graph may load and yet not run
            raise _does_not_run(where, exc) from exc
        for name, values in outputs.items():
            if values.shape != x_t.shape:
                raise BadFileError(
                    f"{where}: {name} must have the shape of x_t, {x_t.shape!r}, got {values.shape!r}. Export the "
                    "model again."
                )
        return outputs

    return model


def _binding(ort: Any, session: Any, spec: ModelSpec, device: str) -> Evaluate:
    """Keep inputs and outputs on the device, allocated once for a batch size: for one thread at a time."""
    bound: dict[int, tuple[Any, dict[str, Any], list[Any]]] = {}

    def evaluate(feeds: dict[str, Array]) -> list[Array]:
        batch = len(feeds["x_t"])
        if batch not in bound:
            bound.clear()
            binding, shape = session.io_binding(), list(feeds["x_t"].shape)
            given = {name: ort.OrtValue.ortvalue_from_numpy(values, device, 0) for name, values in feeds.items()}
            out = [ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0) for _ in spec.outputs]
            for name, value in given.items():
                binding.bind_ortvalue_input(name, value)
            for name, value in zip(spec.outputs, out, strict=True):
                binding.bind_ortvalue_output(name, value)
            bound[batch] = binding, given, out
        binding, given, out = bound[batch]
        for name, values in feeds.items():
            given[name].update_inplace(values)
        session.run_with_iobinding(binding)
        return [value.numpy() for value in out]

    return evaluate


def _stoppable(ort: Any, where: str, session: Any, timeout_s: float | None) -> Run:
    """Return the session's run, which ends at the node in progress when a signal comes or the limit is reached."""

    def run(names: list[str], feeds: dict[str, Array]) -> list[Array]:
        options = ort.RunOptions()

        def stop() -> None:
            options.terminate = True

        try:
            values: list[Array] = done_apart(lambda: session.run(names, feeds, options), stop, timeout_s)
        except TimeoutError as exc:
            raise BadFileError(
                f"{where}: one run of the graph takes longer than {timeout_s:g} s. Give it more time if you trust it."
            ) from exc
        return values

    return run


def _check_signature(where: str, session: Any, spec: ModelSpec) -> None:
    try:
        inputs = {value.name: (TYPES.get(value.type, value.type), value.shape[1:]) for value in session.get_inputs()}
        outputs = [(value.name, TYPES.get(value.type, value.type)) for value in session.get_outputs()]
    except UnicodeDecodeError as exc:
        raise BadFileError(f"{where}: damaged: its names are not UTF-8 ({exc.reason}). Copy the file again.") from exc
    expected = spec.input_types
    wanted = [(name, np.dtype(np.float32)) for name in spec.outputs]
    if inputs != expected or outputs[: len(wanted)] != wanted:
        raise BadFileError(
            f"{where}: graph and spec disagree: the graph has {_signature(inputs.items(), outputs)}, the spec says "
            f"{_signature(expected.items(), wanted)}. Export the model again."
        )


def _signature(inputs: Iterable[tuple[str, tuple[Any, list[Any]]]], outputs: Iterable[tuple[str, Any]]) -> str:
    takes = ", ".join(f"{name} {kind} {shape!r}" for name, (kind, shape) in inputs)
    return f"inputs {takes} and outputs {', '.join(f'{name} {kind}' for name, kind in outputs)}"
