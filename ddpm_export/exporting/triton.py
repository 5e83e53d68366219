"""A model for inference servers: a folder as Triton's model repository has it, around a graph of rows. No torch."""

import re
from pathlib import Path

from ddpm_export.errors import ModelRefusedError
from ddpm_export.exporting.original import Original
from ddpm_export.exporting.proof import PictureProof, prove_rows
from ddpm_export.exporting.sampler import rows_from_denoiser, rows_inputs
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.steps import Steps, choose
from ddpm_export.runtimes.onnx import graph_from_path
from ddpm_export.system.files import replacing

MAX_BATCH = 16
DELAY_US = 2000  # that a request waits for others: less than a step of one picture
KINDS = {"int64": "TYPE_INT64", "float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


def model_path(spec: ModelSpec, repository: Path) -> Path:
    """Return where the graph of a model lies in a repository: the model is called by its plan."""
    return repository / _name(spec) / "1" / "model.onnx"


def _name(spec: ModelSpec) -> str:
    steps = choose(spec)
    knobs = [f"{knob}{value:g}" for knob, value in steps.knobs.items() if isinstance(value, float) and value]
    what = steps.name or "-".join([str(steps.sampler), *([steps.grid] if steps.grid else []), *knobs])
    count = [] if steps.name else [str(len(steps.plan.rows))]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join([spec.name, what, *count])).strip("-")


def write_triton(original: Original, path: Path) -> PictureProof:
    """Write model.onnx, with config.pbtxt and README.md in the folder above; it takes its name once it is proven.

    Row by row its pictures must be those of the Python sampler for that seed, image, label and guidance by themselves,
    by the plan that is the spec's default. Raises ModelRefusedError where they are not, and for a plan that weighs a
    learned variance.
    """
    spec, steps = original.spec, choose(original.spec)
    if steps.plan.needs_learned_variance:
        raise ModelRefusedError("The plan needs a learned variance, which a graph of rows has no place for.")
    original.prove_graph(path)
    with (
        original.one_thread(),
        original.writing(rows_from_denoiser(original.graph.copy(), spec, steps.plan, original.stages), path) as beside,
    ):
        proof = prove_rows(graph_from_path(beside), original.reference, spec, steps.plan, where=str(path))
    folder = path.parent.parent
    for name, text in {"config.pbtxt": _config(spec), "README.md": _readme(spec, steps)}.items():
        with replacing(folder / name) as beside:
            beside.write_text(text, encoding="utf-8")
    return proof


def _config(spec: ModelSpec) -> str:
    """Return a model's config.pbtxt: one number a row is dims [1] to Triton, and reshaped to none for the graph."""
    dims = list(_result_shape(spec))
    kind = KINDS["uint8" if spec.is_picture else "float32"]
    blocks = ",\n".join(
        f'  {{ name: "{name}" data_type: {KINDS[entry["dtype"]]} {_dims(entry["shape"])} }}'
        for name, entry in rows_inputs(spec).items()
    )
    return f"""\
name: "{_name(spec)}"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH}
input [
{blocks}
]
output [
  {{ name: "{_result_name(spec)}" data_type: {kind} {_dims(dims)} }}
]
dynamic_batching {{ max_queue_delay_microseconds: {DELAY_US} }}
"""


def _result_name(spec: ModelSpec) -> str:
    return "images" if spec.is_picture else "values"


def _result_shape(spec: ModelSpec) -> tuple[int, ...]:
    return (*spec.picture_shape[1:], spec.picture_shape[0]) if spec.is_picture else spec.result_shape


def _dims(shape: list[int]) -> str:
    return f"dims: [ {', '.join(map(str, shape))} ]" if shape else "dims: [ 1 ] reshape: { shape: [ ] }"


def _readme(spec: ModelSpec, steps: Steps) -> str:
    """Return what whoever runs a server, or asks one, has to know of a model."""
    rows = []
    for name, entry in rows_inputs(spec).items():
        values = f"{entry['min']} to {entry['max']}" if "min" in entry else "any"
        rows.append(f"| `{name}` | {entry['dtype']} | {entry['shape'] or [1]} | {values} |")
    kind = "uint8" if spec.is_picture else "float32"
    label = spec.label
    named = enumerate(label.name_of(value) for value in range(label.num_labels)) if label is not None else ()
    classes = ", ".join(f"{value} {name}" for value, name in named)
    return "\n".join(
        [
            f"# {_name(spec)}",
            "",
            f"Pictures of `{spec.name}`, by {len(steps.plan.rows)} steps of {steps.name or steps.sampler}. A "
            "request is a batch of rows, each of them asked for by itself:",
            "",
            "| input | dtype | a row | values |",
            "|---|---|---|---|",
            *rows,
            "",
            f"`{_result_name(spec)}` is {kind}, {list(_result_shape(spec))} a row: what `ddpm-run --seed SEED --first "
            "IMAGE --n 1` makes, within one level, whatever else is in the batch."
            + (f" The values of `{label.name}` are {classes}." if label is not None else ""),
            "",
            "The graph refuses a batch that has a value out of range, and servers batch requests of different users:"
            " check values before (docs/serving.md of ddpm-export).",
            "",
        ]
    )
