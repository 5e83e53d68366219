"""Take a diffusion model out of PyTorch: export once, then sample with NumPy and ONNX Runtime only.

Names are loaded when they are first used: `import ddpm_export` brings in neither torch nor onnx nor onnxruntime.
"""

__version__ = "0.1.0"

_HOME = {
    "Checkpoint": "exporting",
    "load_checkpoint": "exporting",
    "load_network": "exporting",
    "export": "exporting",
    "open_model": "runtimes",
    "denoiser": "diffusion",
    "decode": "diffusion",
    "noise_stream": "noise",
    "Guidance": "guidance",
    "Input": "inputs",
    "Plan": "plans",
    "Row": "plans",
    "SAMPLERS": "samplers",
    "State": "samplers",
    "plan": "samplers",
    "walk": "samplers",
    "ModelSpec": "spec",
    "generate": "generation",
    "edit": "editing",
    "invert": "editing",
    "save_images": "images",
    "to_uint8": "images",
    "DdpmExportError": "errors",
}

__all__ = [
    "Checkpoint",
    "DdpmExportError",
    "Guidance",
    "Input",
    "ModelSpec",
    "Plan",
    "Row",
    "SAMPLERS",
    "State",
    "__version__",
    "decode",
    "denoiser",
    "edit",
    "export",
    "generate",
    "invert",
    "load_checkpoint",
    "load_network",
    "noise_stream",
    "open_model",
    "plan",
    "save_images",
    "to_uint8",
    "walk",
]

TYPE_CHECKING = False  # what typing has, which takes half as long to import as Python takes to start

if TYPE_CHECKING:
    from ddpm_export.diffusion import decode, denoiser
    from ddpm_export.editing import edit, invert
    from ddpm_export.errors import DdpmExportError
    from ddpm_export.exporting import Checkpoint, export, load_checkpoint, load_network
    from ddpm_export.generation import generate
    from ddpm_export.guidance import Guidance
    from ddpm_export.images import save_images, to_uint8
    from ddpm_export.inputs import Input
    from ddpm_export.noise import noise_stream
    from ddpm_export.plans import Plan, Row
    from ddpm_export.runtimes import open_model
    from ddpm_export.samplers import SAMPLERS, State, plan, walk
    from ddpm_export.spec import ModelSpec


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value
