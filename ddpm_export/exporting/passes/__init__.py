"""Graph passes: an exported network rewritten in standard operators, so that ONNX Runtime has less to do on a CPU.

Each file has one pass and says what it gives; docs/benchmarks-graph.md has the figures. A pass changes how a number is
computed, never which: to some 1e-7 of the largest output, and the proof of an export holds what was rewritten. To add
one, name it here.
"""

import onnx_ir as ir
from onnx import ModelProto
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from ddpm_export.exporting.passes.norm_affine import NormAffine
from ddpm_export.exporting.passes.upsampled_rows import UpsampledRows

PASSES = (NormAffine(), UpsampledRows())
# those that leave every weight its value, so that rounding weights after them is rounding the network's own
WEIGHTS_KEPT = PASSES[:1]


def rewritten(model: ModelProto | ir.Model, passes: tuple[ir.passes.InPlacePass, ...] = PASSES) -> ModelProto:
    """Return a denoiser's graph, in the form of docs/format.md section 1, after the passes; a message itself stays."""
    own = model if isinstance(model, ir.Model) else ir.from_proto(model)
    graph = ir.passes.Sequential(ShapeInferencePass(), *passes, RemoveUnusedNodesPass())(own).model
    result: ModelProto = ir.to_proto(graph)
    del result.graph.value_info[:]  # whoever needs shapes infers them
    return result
