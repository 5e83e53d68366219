"""Where the time of a step goes: ONNX Runtime's own profile by operator, beside a product of matrices in the same run.

What convolutions and products do in a second, in GFLOP, against what a large product of matrices reaches: how near the
graph is to what the processor can do.
"""

import argparse
import json
import math
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from benchmarks.report import Report, Table, parser, run
from ddpm_export.measuring.steps import inputs_at_the_middle
from ddpm_export.measuring.timing import interleaved, machine, warm_up
from ddpm_export.runtimes.opening import open_model
from ddpm_export.system.files import sha256_of
from ddpm_export.system.processor import cores

__all__ = ["flops_of", "measure"]

SIDE = 2048  # of the matrices
LEAST = 0.01  # share of a step for a row of its own


def measure(arguments: argparse.Namespace) -> Report:
    """Profile steps of a file at each batch size, in turns with a product of matrices."""
    conditions = machine()
    threads = arguments.threads or cores()
    _, spec = open_model(arguments.model)
    matrices = _session(_product(), threads)
    factors = {name: np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32) for name in ("a", "b")}
    tables, values = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for batch in map(int, arguments.batches.split(",")):
            x_t, t, asked = inputs_at_the_middle(spec, batch)
            feeds = {"x_t": x_t, "t": t, **asked}
            plain = _session(arguments.model, threads)
            profiled = _session(arguments.model, threads, Path(folder, f"batch-{batch}"))
            calls = {
                "step": partial(plain.run, None, feeds),
                "product": partial(matrices.run, None, factors),
                "profiled": partial(profiled.run, None, feeds),
            }
            warm_up(calls["step"])
            warm_up(calls["product"])
            timings = interleaved(calls, arguments.rounds)
            found = _by_operator(json.loads(Path(profiled.end_profiling()).read_text()))
            product = 2e-6 * SIDE**3 / timings.median_ms("product")
            tables.append(_table(batch, found, timings.median_ms("step"), product))
            values[str(batch)] = {"operators": found, "seconds": timings.seconds["step"], "product_gflops": product}
    command = f"python -m benchmarks.operators --batches {arguments.batches} --threads {threads}"
    notes = [
        f"{Path(arguments.model).name} (SHA-256 {sha256_of(arguments.model)[:12]}); {arguments.rounds} "
        "rounds. Milliseconds of operators are means of a run with a profile, which costs a little itself.",
        f"GFLOP/s count a multiplication and an addition as two. The product of two matrices of {SIDE} x {SIDE}, "
        "float32, is of the same rounds.",
    ]
    return Report(f"{command} --rounds {arguments.rounds}", conditions, tables, notes, values)


def flops_of(operator: str, inputs: list[list[int]], output: list[int]) -> int:
    """Return the multiplications and additions of a node by the shapes of its inputs and output; 0 for most."""
    if operator == "Conv":  # weights (C_out, C_in / groups, height, width)
        return 2 * math.prod(output) * math.prod(inputs[1][1:])
    return 2 * math.prod(output) * inputs[0][-1] if operator in ("MatMul", "Gemm") else 0


def _session(source: str | bytes, threads: int, log: Path | None = None) -> Any:
    import onnxruntime  # here: opening the model has turned its telemetry off

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    if log is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(log)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _product() -> bytes:
    """Return a graph of one product of two square matrices."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", infos[:2], infos[2:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(made.SerializeToString())


def _by_operator(events: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return nodes, milliseconds and GFLOP of a step by operator, "between" for what no operator took."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"nodes": 0.0, "ms": 0.0, "gflop": 0.0})
    steps = [event["dur"] for event in events if event["cat"] == "Session" and event["name"] == "model_run"]
    runs = len(steps)
    found["between"]["ms"] = sum(steps) / 1e3 / runs
    for event in events:
        if event["cat"] != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        asked = event["args"]
        operator = asked["op_name"].removeprefix("Fused")
        shapes = [
            [next(iter(tensor.values())) for tensor in asked[side]]
            for side in ("input_type_shape", "output_type_shape")
        ]
        row = found[operator]
        row["nodes"] += 1 / runs
        row["ms"] += event["dur"] / 1e3 / runs
        row["gflop"] += 1e-9 * flops_of(operator, shapes[0], shapes[1][0]) / runs
        found["between"]["ms"] -= event["dur"] / 1e3 / runs
    return dict(found)


def _table(batch: int, found: dict[str, dict[str, float]], step_ms: float, product: float) -> Table:
    whole = sum(row["ms"] for row in found.values())
    rows: list[list[str]] = []
    asked = {name: row for name, row in found.items() if row["ms"] >= LEAST * whole}
    small = [row for name, row in found.items() if name not in asked]
    asked["others"] = {key: sum(row[key] for row in small) for key in ("nodes", "ms", "gflop")}
    for name, row in sorted(asked.items(), key=lambda item: -item[1]["ms"]):
        rate = 1e3 * row["gflop"] / row["ms"] if row["gflop"] else 0.0
        nodes = "-" if name == "between" else f"{row['nodes']:.0f}"
        cells = [f"{row['ms']:.2f}", f"{100 * row['ms'] / whole:.0f} %", f"{rate:.0f}" if rate else "-"]
        rows.append([name, nodes, *cells])
    rows.append(["a step, without a profile", "-", f"{step_ms:.2f}", "-", "-"])
    rows.append([f"a product of {SIDE} x {SIDE}", "1", f"{2e-6 * SIDE**3 / product:.1f}", "-", f"{product:.0f}"])
    return Table(f"Operators of a step, batch {batch}", ["operator", "nodes", "ms", "share", "GFLOP/s"], rows)


def _options() -> argparse.ArgumentParser:
    options: Any = parser("The time of a step by operator.", rounds=9)
    options.add_argument("--batches", default="1,16", help="batch sizes [%(default)s]")
    options.add_argument("--threads", type=int, help="of each [one a core]")
    return options  # type: ignore[no-any-return]


if __name__ == "__main__":
    run(measure, _options())
