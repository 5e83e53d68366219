"""What graph passes give networks of other projects: which nodes change, the error, and one step's processor time."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from benchmarks.importing import diffusers, lucidrains, openai, tqch
from benchmarks.report import Report, Table, parser, run
from ddpm_export.exporting.export import load_onnx
from ddpm_export.exporting.foreign_graph import denoiser_from_foreign
from ddpm_export.exporting.onnx import model_from_checkpoint
from ddpm_export.exporting.passes import PASSES, rewritten
from ddpm_export.exporting.program import program_from_checkpoint
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.measuring.steps import inputs_at_the_middle
from ddpm_export.measuring.timing import machine, spread
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.runtimes.onnx import model_from_bytes

__all__ = ["measure"]

TURN_S = 0.1  # of a processor
TERRAIN = "adaptive-terrain-diffusion"
CASES = [
    diffusers.case("diffusers, 32-64", {"block_out_channels": (32, 64), "norm_num_groups": 8}, "DDPMScheduler", {}),
    lucidrains.case("lucidrains, dim 32", "trainer", {"dim": 32}, {"image_size": 16, "timesteps": 30}),
    next(entry for entry in openai.cases() if entry.name == "guided-a"),
    next(entry for entry in openai.cases() if entry.name == "improved-a"),
    next(entry for entry in tqch.cases() if entry.name == "tqch-c"),
]


def measure(arguments: argparse.Namespace) -> Report:
    """Rewrite each network's graph, compare the outputs, and time both on one thread, in turns."""
    conditions, rows, values = machine(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, source, spec in _graphs(Path(folder), arguments.only):
            graphs = (source, rewritten(source, PASSES))
            before, after = (Counter(node.op_type for node in graph.graph.node) for graph in graphs)
            models = [model_from_bytes(graph.SerializeToString(), spec, threads=1) for graph in graphs]
            x_t, t, asked = inputs_at_the_middle(spec, arguments.batch)
            outputs = [model(x_t, t, **asked)[spec.prediction] for model in models]
            error = float(np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).max())
            seconds: list[list[float]] = [[], []]
            for _ in range(arguments.rounds):
                for k in random.sample((0, 1), 2):
                    models[k](x_t, t, **asked)
                    start, calls = time.process_time(), 0
                    while (taken := time.process_time() - start) < TURN_S:
                        models[k](x_t, t, **asked)
                        calls += 1
                    seconds[k].append(taken / calls)
            changed = [f"{after[op] - before[op]:+d} {op}" for op in sorted(before | after) if after[op] != before[op]]
            speed = spread([a / b for a, b in zip(*seconds, strict=True)])
            rows.append([name, str(sum(before.values())), ", ".join(changed) or "none", speed, f"{error:.1e}"])
            print(rows[-1], file=sys.stderr)
            values[name] = {"seconds": seconds, "error": error}
    table = Table("Passes on imported networks", ["network", "nodes", "changed", "speed", "error"], rows)
    command = f"python -m benchmarks.imported_passes --batch {arguments.batch} --rounds {arguments.rounds}"
    return Report(command, conditions, [table], ["Ratios of processor time, one thread, in turns."], values)


def _graphs(folder: Path, only: str) -> Iterator[tuple[str, ModelProto, ModelSpec]]:
    """Yield the name, the graph as it is before any pass, and the spec of each network."""
    for number, case in enumerate(CASES):
        if only not in case.name:
            continue
        (place := folder / str(number)).mkdir()
        path, options = case.write(place)
        checkpoint = load_checkpoint(path, options=options)
        yield case.name, model_from_checkpoint(checkpoint, program_from_checkpoint(checkpoint), ()), checkpoint.spec
    found = util.find_spec("terrain_diffusion")
    if found is not None and found.origin is not None and only in TERRAIN:
        path = Path(found.origin).parent / "weights" / "terrain_consistency_unet_difficulty100.onnx"
        betas = betas_from_name("karras", 1000, sigma_min=0.002, sigma_max=80.0)
        spec = ModelSpec(
            name="terrain",
            prediction="x_0",
            state_shape=(1, 128, 128),
            alphas_cumprod=tuple(alphas_cumprod_from_betas(betas).tolist()),
            inputs=(Input("difficulty", "vector", (1,)),),
            requires=("inputs",),
        )
        network = load_onnx(path, spec, {"x_t": "noisy", "sigma": "sigma"})
        yield TERRAIN, denoiser_from_foreign(network), network.spec


def _options() -> argparse.ArgumentParser:
    options: Any = parser("Graph passes on imported networks.", rounds=11)
    options.add_argument("--batch", type=int, default=1, help="images of a step [%(default)s]")
    options.add_argument("--only", default="", help="networks whose name has this [all]")
    return options  # type: ignore[no-any-return]


if __name__ == "__main__":
    run(measure, _options())
