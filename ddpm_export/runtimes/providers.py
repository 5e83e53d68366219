"""Where a network can be evaluated: one record for each provider, and nothing else to add one. Knows no runtime."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ddpm_export.errors import UsageError


@dataclass(frozen=True)
class Provider:
    """Say what a device is called by each runtime, what it needs, and how numbers reach it.

    onnx_name, options: ONNX Runtime's execution provider and its settings. extra: of pip install 'ddpm-export[extra]'.
    needs: what a machine must have besides. bound_to: the device on which inputs and outputs stay from one evaluation
    to the next, by ONNX Runtime's name, or None where they are copied. torch_device: None where torch has none.
    precision: what it computes in, which decides what golden vectors tolerate. lacks: an operator that one-call files
    need and the provider does not have. plugin: the Python package of a library that ONNX Runtime loads, None for what
    is built in. Its kernels are others' work: a file runs there only once its golden vectors came out right.
    """

    name: str
    onnx_name: str
    extra: str
    needs: str
    options: Mapping[str, str] = field(default_factory=dict)
    bound_to: str | None = None
    torch_device: str | None = None
    precision: str = "float32"
    lacks: str | None = None
    plugin: str | None = None


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", extra="cpu", needs="a processor", torch_device="cpu"),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            extra="cuda",
            needs="an NVIDIA GPU with its driver, CUDA 13 and cuDNN 9",
            # TF32 keeps 10 bits of mantissa: parity needs it off
            options={"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"},
            bound_to="cuda",
            torch_device="cuda",
            lacks="BitwiseXor",
        ),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            extra="openvino",
            needs="an Intel processor",
            options={"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'},
            plugin="onnxruntime_ep_openvino",
        ),
        Provider(
            "openvino-bf16",
            "OpenVINOExecutionProvider",
            extra="openvino",
            needs="an Intel processor with AMX",
            options={"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}'},
            precision="bfloat16",
            plugin="onnxruntime_ep_openvino",
        ),
        Provider(
            "webgpu",
            "WebGpuExecutionProvider",
            extra="webgpu",
            needs="a GPU and its driver, on Linux libvulkan",
            lacks="64-bit integer arithmetic",
            plugin="onnxruntime_ep_webgpu",
        ),
    )
}


def provider_from_name(name: str) -> Provider:
    """Return the record of a provider; raises UsageError for an unknown name."""
    if name not in PROVIDERS:
        raise UsageError(f"provider must be one of {', '.join(PROVIDERS)}, got {name!r}.")
    return PROVIDERS[name]
