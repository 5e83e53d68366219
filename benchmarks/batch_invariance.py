"""Whether an image depends on its company: float32 x_0 over a grid of batch sizes, first images and thread counts.

A report on this machine; that the bytes of the pictures agree is a test's business.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, Table, parser, run
from ddpm_export.measuring.timing import machine
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.pixels import to_uint8
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for
from ddpm_export.system.files import sha256_of

__all__ = ["measure"]

BATCHES = (1, 2, 3, 5, 8, 16)
FIRSTS = (0, 5)
THREADS = (1, 2)
N = 16
NUM_STEPS = 10
SEED = 0


def measure(arguments: argparse.Namespace) -> Report:
    """Sample the same images in every way and compare each with itself, made in one batch on one thread."""
    conditions = machine()
    rows, values = [], []
    expected: dict[int, Array] = {}  # by image number
    for threads in THREADS:
        model, spec = open_model(arguments.model, threads=threads)
        if not expected:
            expected = dict(enumerate(_images(model, spec, 0, N + max(FIRSTS), N + max(FIRSTS))))
        for batch, first in itertools.product(BATCHES, FIRSTS):
            print(f"threads {threads}, batch {batch}, first {first}", file=sys.stderr)
            x_0 = _images(model, spec, first, N, batch)
            reference = np.stack([expected[number] for number in range(first, first + N)])
            values.append(
                {
                    "threads": threads,
                    "batch": batch,
                    "first": first,
                    "bit_equal": bool((x_0.view(np.uint32) == reference.view(np.uint32)).all()),
                    "max_difference": float(np.abs(x_0 - reference).max()),
                    "pixels_differing": int((to_uint8(x_0) != to_uint8(reference)).sum()),
                }
            )
    rows = [[str(case[key]) for key in ("threads", "batch", "first")] + _verdict(case) for case in values]
    held = sum(case["bit_equal"] for case in values)
    notes = [
        f"{held} of {len(values)} ways give the same bits. {Path(arguments.model).name} (SHA-256 "
        f"{sha256_of(arguments.model)[:12]}), {N} images, {NUM_STEPS} steps of ddim with eta 1, against one batch of "
        f"{N + max(FIRSTS)} on one thread."
    ]
    columns = ["threads", "batch", "first", "float32 x_0", "largest difference", "pixels that differ"]
    if held == len(values):
        columns, rows = ["over", "values", "float32 x_0"], _summary()
    return Report(
        "python -m benchmarks.batch_invariance",
        conditions,
        [Table("Same image in any company", columns, rows)],
        notes,
        {"cases": values},
    )


def _summary() -> list[list[str]]:
    grid = {"batch": BATCHES, "first": FIRSTS, "threads": THREADS}
    return [[name, ", ".join(map(str, values)), "bit-equal"] for name, values in grid.items()]


def _verdict(case: dict[str, Any]) -> list[str]:
    return [
        "bit-equal" if case["bit_equal"] else "**differs**",
        f"{case['max_difference']:.1e}",
        str(case["pixels_differing"]),
    ]


def _images(model: Model, spec: ModelSpec, first: int, n: int, batch: int) -> Array:
    """Return the final float32 images (n, C, H, W)."""
    settings = request_for(spec, n=n, first=first, batch=batch, num_steps=NUM_STEPS, sampler="ddim", eta=1.0, seed=SEED)
    return np.concatenate([state.x for _, state in sample(model, spec, settings) if state.row.i == NUM_STEPS])


if __name__ == "__main__":
    run(measure, parser("Whether an image depends on its company."))
