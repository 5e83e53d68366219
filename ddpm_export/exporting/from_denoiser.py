"""Files that are made of a denoiser's ONNX graph: itself, samplers, slices, edits, weights in fewer bits. No torch.

Whatever is written is opened again and compared with the network before it gets its name.
"""

import dataclasses
from pathlib import Path

from onnx import helper

from ddpm_export.errors import ModelRefusedError, UsageError
from ddpm_export.exporting.int8 import LOW_HIGH, calibrated, observed, quantised, quantised_tensors
from ddpm_export.exporting.onnx_file import fits_inline, writing_model
from ddpm_export.exporting.original import Original
from ddpm_export.exporting.proof import PictureProof, Proof, pictures_of, prove_int8, prove_pictures
from ddpm_export.exporting.sampler import edit_from_denoiser, sampler_from_denoiser, slice_from_denoiser, spec_of_graph
from ddpm_export.exporting.stages import writing_stages
from ddpm_export.model.codec import METADATA_KEY
from ddpm_export.model.golden import golden_of_int8
from ddpm_export.model.golden_pictures import golden_from_pictures
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.runtimes.onnx import evaluate_from_bytes, model_from_path
from ddpm_export.runtimes.opened import OneCallFile
from ddpm_export.runtimes.opening import open_file

BUILDERS = {"sampler": sampler_from_denoiser, "slice": slice_from_denoiser, "edit": edit_from_denoiser}


def write_denoiser(original: Original, path: Path) -> Proof:
    """Write the graph itself with its golden vectors; it takes its name once it reproduces the network."""
    if original.calibrate is not None:
        return _write_int8(original, original.calibrate, path)
    model = original.graph.copy()
    with writing_stages(original.stages, _stored(original.spec_with_golden, original), path) as spec:
        helper.set_model_props(model, {METADATA_KEY: json_from_spec(spec)})
        with original.writing(model, path) as beside:
            proof = original.prove_file(beside, path)
    original.is_proven = True
    return proof


def _write_int8(original: Original, calibrate: int, path: Path) -> Proof:
    """Write the graph in 8-bit integers; it takes its name once its pictures are near those of the network."""
    spec, model = original.spec, original.graph.with_weights()
    if not fits_inline(model):
        raise UsageError(f"{path}: precision int8 takes networks of less than 2 GB. Leave it out.", "precision")
    original.prove_graph(path)
    if not quantised_tensors(model.graph):
        raise ModelRefusedError(
            f"{path}: has no convolution between the first and the last; only those are computed in 8-bit integers. "
            "Leave precision out.",
            "precision",
        )
    evaluate = evaluate_from_bytes(observed(model).SerializeToString(), [*spec.outputs, *LOW_HIGH])
    model = quantised(model, calibrated(model, evaluate, spec, calibrate))
    own = original.spec_with_golden
    assert own.golden is not None  # every file has them
    source = {**own.source, "precision": "int8", "calibrated_on": calibrate}
    own = dataclasses.replace(own, golden=golden_of_int8(own.golden), source=source)
    with writing_stages(original.stages, own, path) as own:
        helper.set_model_props(model, {METADATA_KEY: json_from_spec(own)})
        with writing_model(model, path) as beside:
            return prove_int8(model_from_path(beside), original.reference, spec, where=str(path))


def write_one_call(original: Original, path: Path, graph: str) -> PictureProof:
    """Write a sampler, a slice or an edit; it takes its name once its pictures are those of the Python sampler.

    The denoiser's own graph is proven first, unless that has been done for another file.
    """
    spec, reference = original.spec, original.reference
    original.prove_graph(path)
    with original.one_thread():
        own = spec_of_graph(_stored(spec, original), graph, original.opens)
        golden = golden_from_pictures(lambda draw: pictures_of(reference, spec, draw)[1], own)
        own = dataclasses.replace(own, golden=golden)
        with original.writing(BUILDERS[graph](original.graph.copy(), own, original.stages), path) as beside:
            opened = open_file(beside)
            assert isinstance(opened, OneCallFile)  # we have just named its graph
            return prove_pictures(opened, reference, spec, where=str(path))


def _stored(spec: ModelSpec, original: Original) -> ModelSpec:
    if original.storage == "float32":
        return spec
    return dataclasses.replace(spec, source={**spec.source, "storage": original.storage})
