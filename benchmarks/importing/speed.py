"""A diffusers pipeline beside its exported file: ancestral sampling as each does it, network, stepping and noise."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.first_image.diffusers_pipeline import build
from benchmarks.report import Report, Table, run
from ddpm_export.exporting.export import export
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.measuring.timing import interleaved, machine, spread, warm_up
from ddpm_export.process.equations import Array
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.generate import generate
from ddpm_export.system.processor import cores

__all__ = ["measure"]

OURS, PIPELINE, COMPILED = "ddpm-export, ONNX Runtime", "DDPMPipeline", "DDPMPipeline, torch.compile"


def measure(arguments: argparse.Namespace) -> Report:
    """Time the same number of steps of the three at each batch size, in turns."""
    conditions = machine()
    steps, threads = arguments.steps, cores()
    tables: list[Table] = []
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        pipeline = arguments.pipeline or folder
        if arguments.pipeline is None:
            build(folder)
        checkpoint = load_checkpoint(pipeline)
        export(checkpoint, Path(folder) / "unet.onnx")
        opened = open_model(Path(folder) / "unet.onnx", threads=threads)
        parameters = sum(p.numel() for p in checkpoint.network.parameters())
        shape = checkpoint.spec.state_shape
        for batch in (int(size) for size in arguments.batches.split(",")):

            def ours(batch: int = batch) -> Array:
                return generate(opened, n=batch, batch=batch, num_steps=steps, sampler="ddpm", seed=0)

            contenders: dict[str, Callable[[], Any]] = {OURS: ours, **_pipelines(pipeline, batch, steps, threads)}
            for call in contenders.values():
                warm_up(call)
            timings = interleaved(contenders, arguments.rounds)
            rows = [
                [
                    name,
                    f"{timings.median_ms(name) / steps:.2f}",
                    *(spread(timings.speed_against(name, other)) for other in (PIPELINE, COMPILED)),
                ]
                for name in contenders
            ]
            columns = ["sampling", "ms a step", "speed against DDPMPipeline", "against it compiled"]
            tables.append(Table(f"Batch {batch}", columns, rows))
            values[str(batch)] = dict(timings.seconds)
    notes = [
        f"A UNet2DModel of {parameters:,} parameters, images {shape}; {steps} ancestral steps with clipping, noise "
        f"to uint8; {threads} threads, float32, {arguments.rounds} rounds. Speeds are medians of the ratio within a "
        "round, quartiles in parentheses; above 1 is faster."
    ]
    return Report(f"python -m benchmarks.importing.speed --steps {steps}", conditions, tables, notes, values)


def _pipelines(folder: str, batch: int, steps: int, threads: int) -> dict[str, Callable[[], Any]]:
    import torch
    from diffusers import DDPMPipeline

    torch.set_num_threads(threads)

    def runner(compiled: bool) -> Callable[[], Any]:
        pipeline = DDPMPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        if compiled:
            pipeline.unet = torch.compile(pipeline.unet.to(memory_format=torch.channels_last), dynamic=False)
        return lambda: pipeline(batch_size=batch, num_inference_steps=steps, output_type="np").images

    return {PIPELINE: runner(False), COMPILED: runner(True)}


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description="A diffusers pipeline beside its exported file.")
    options.add_argument("--pipeline", help="a folder of DDPMPipeline.save_pretrained [a random one]")
    options.add_argument("--batches", default="1,16", help="batch sizes [%(default)s]")
    options.add_argument("--steps", type=int, default=10, help="steps of a turn [%(default)s]")
    options.add_argument("--rounds", type=int, default=15, help="turns of each contender [%(default)s]")
    options.add_argument("--json", action="store_true", help="print the report as JSON")
    return options


if __name__ == "__main__":
    run(measure, _options())
