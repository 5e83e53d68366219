"""Files that are made of a denoiser's ONNX graph: samplers, slices, and weights stored as float16. No torch.

Whatever is written is opened again and compared with the network before it gets its name.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

import onnx
from onnx import helper

from ddpm_export.diffusion import Array, Model, OneCall
from ddpm_export.exporting.onnx_file import read_weights, round_weights, store_as_float16, writing_model
from ddpm_export.exporting.proof import PictureProof, Proof, pictures_of, prove, prove_pictures
from ddpm_export.exporting.sampler import sampler_from_denoiser, slice_from_denoiser, spec_of_graph
from ddpm_export.golden import golden_from_model
from ddpm_export.golden_pictures import Draw, golden_from_pictures
from ddpm_export.runtimes import open_file, open_model
from ddpm_export.spec import METADATA_KEY, ModelSpec, json_from_spec

__all__ = ["write_from_denoiser", "write_rounded"]

BUILDERS = {"sampler": sampler_from_denoiser, "slice": slice_from_denoiser}


def write_rounded(source: Path, path: Path) -> None:
    """Write a denoiser's file anew, its large weights rounded to what float16 can hold, in float32 still."""
    denoiser = onnx.load(source)
    round_weights(denoiser)
    with writing_model(denoiser, path):
        pass


def write_from_denoiser(
    source: Path,
    spec: ModelSpec,
    reference: Model,
    path: Path,
    format: str,  # noqa: A002
    storage: str,
) -> Proof | PictureProof:
    """Write a denoiser's file in another format, with its weights as they are to be stored, and prove it.

    reference: the network whose weights these are. format: onnx, sampler or slice. Raises ModelRefusedError where the
    file does not reproduce the reference.
    """
    # weights that lie beside the file are read last: protobuf copies no message of 2 GB
    model = onnx.load(source, load_external_data=False)
    if storage == "float16":
        spec = dataclasses.replace(spec, source={**spec.source, "storage": "float16"})
    if format == "onnx":
        own = dataclasses.replace(spec, golden=golden_from_model(reference, spec))
        helper.set_model_props(model, {METADATA_KEY: json_from_spec(own)})
    else:
        own = spec_of_graph(spec, format)
        own = dataclasses.replace(own, golden=golden_from_pictures(_pictures(reference, spec), spec))
        model = BUILDERS[format](model, own)
    read_weights(model, source.parent)
    if storage == "float16":
        store_as_float16(model.graph)
    with writing_model(model, path) as beside:
        if format == "onnx":
            return prove(open_model(beside)[0], reference, spec, where=str(path))
        return prove_pictures(cast(OneCall, open_file(beside)[0]), reference, spec, where=str(path))


def _pictures(reference: Model, spec: ModelSpec) -> Callable[[Draw], Array]:
    return lambda draw: pictures_of(reference, spec, draw)[1]
