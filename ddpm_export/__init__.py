"""Take a diffusion model out of PyTorch: export once, then sample with NumPy and ONNX Runtime only.

Names are loaded when they are first used: `import ddpm_export` brings in neither torch nor onnx nor onnxruntime.
"""

__version__ = "0.2.0"

_HOME = {
    "Checkpoint": "importers.checkpoint",
    "load_checkpoint": "importers.load",
    "load_network": "importers.load",
    "export": "exporting.export",
    "open_model": "runtimes.opening",
    "denoiser": "model.denoiser",
    "noise_stream": "process.noise",
    "Guidance": "model.guidance",
    "Input": "model.inputs",
    "Plan": "process.rows",
    "Row": "process.rows",
    "SAMPLERS": "process.solvers",
    "State": "process.walk",
    "plan": "model.steps",
    "walk": "process.walk",
    "ModelSpec": "model.spec",
    "generate": "sampling.generate",
    "edit": "sampling.edit",
    "invert": "sampling.edit",
    "open_policy": "sampling.policy",
    "save_images": "images.write",
    "to_uint8": "process.pixels",
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
    "denoiser",
    "edit",
    "export",
    "generate",
    "invert",
    "load_checkpoint",
    "load_network",
    "noise_stream",
    "open_model",
    "open_policy",
    "plan",
    "save_images",
    "to_uint8",
    "walk",
]

TYPE_CHECKING = False  # what typing has, which takes half as long to import as Python takes to start

if TYPE_CHECKING:
    from ddpm_export.errors import DdpmExportError
    from ddpm_export.exporting.export import export
    from ddpm_export.images.write import save_images
    from ddpm_export.importers.checkpoint import Checkpoint
    from ddpm_export.importers.load import load_checkpoint, load_network
    from ddpm_export.model.denoiser import denoiser
    from ddpm_export.model.guidance import Guidance
    from ddpm_export.model.inputs import Input
    from ddpm_export.model.spec import ModelSpec
    from ddpm_export.model.steps import plan
    from ddpm_export.process.noise import noise_stream
    from ddpm_export.process.pixels import to_uint8
    from ddpm_export.process.rows import Plan, Row
    from ddpm_export.process.solvers import SAMPLERS
    from ddpm_export.process.walk import State, walk
    from ddpm_export.runtimes.opening import open_model
    from ddpm_export.sampling.edit import edit, invert
    from ddpm_export.sampling.generate import generate
    from ddpm_export.sampling.policy import open_policy


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value
