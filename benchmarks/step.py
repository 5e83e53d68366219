"""One network evaluation: the exported file in ONNX Runtime beside what PyTorch offers, same threads, float32."""

import argparse
import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, Table, parser, run
from benchmarks.timing import interleaved, machine, spread, warm_up
from ddpm_export.cores import cores
from ddpm_export.diffusion import Array, noised
from ddpm_export.errors import ModelRefusedError
from ddpm_export.files import sha256_of
from ddpm_export.inputs import bound_inputs
from ddpm_export.noise import noise_stream
from ddpm_export.runtimes import open_model
from ddpm_export.spec import ModelSpec

__all__ = ["inputs_at_the_middle", "measure"]

OURS = "ONNX Runtime CPU"
LAST, COMPILED = "eager channels_last", "torch.compile channels_last"
# not the proof of export, only that nobody times another network: compiled kernels reassociate sums
MAX_RELATIVE_ERROR = 1e-4


def measure(arguments: argparse.Namespace) -> Report:
    """Time one step at each batch size, after the outputs agreed; rows that cannot run say why."""
    from ddpm_export.exporting import load_checkpoint

    conditions = machine()
    batches = [int(batch) for batch in arguments.batches.split(",")]
    threads = arguments.threads or cores()
    model, spec = open_model(arguments.model, threads=threads)
    network = load_checkpoint(arguments.checkpoint).network
    parameters = sum(p.numel() for p in network.parameters())
    tables: list[Table] = []
    values: dict[str, Any] = {}
    for batch in batches:
        x_t, t = inputs_at_the_middle(spec, batch)
        told = bound_inputs(spec.inputs, {}, batch)  # no class, as PyTorch's network takes no y for one

        def ours(x_t: Array = x_t, t: Array = t, told: dict[str, Array] = told) -> Array:
            out: Array = model(x_t, t, **told)[spec.prediction]
            return out

        contenders, failures = _warm_contenders({OURS: ours, **_torch_contenders(network, x_t, t, threads)})
        errors = _errors(contenders)
        timings = interleaved(contenders, arguments.rounds)
        rows = []
        for name in contenders:
            against = [
                spread(timings.speed_against(name, other)) if other in contenders else "-" for other in (LAST, COMPILED)
            ]
            rows.append([name, f"{timings.median_ms(name):.2f}", *against, f"{errors[name]:.1e}"])
        rows.extend([name, reason, "-", "-", "-"] for name, reason in failures.items())
        columns = ["one step", "ms", f"speed against {LAST}", f"against {COMPILED}", "relative error"]
        tables.append(Table(f"One step, batch {batch}", columns, rows))
        values[str(batch)] = {"seconds": dict(timings.seconds), "errors": errors, "failures": failures}
    notes = [
        f"{Path(arguments.model).name}: {parameters:,} parameters, images {spec.image_shape}, SHA-256 "
        f"{sha256_of(arguments.model)[:12]}; {threads} threads on both sides, float32, {arguments.rounds} rounds.",
        "Speeds are medians of the ratio within a round, quartiles in parentheses; above 1 is faster. The error is "
        "against eager.",
    ]
    return Report(f"python -m benchmarks.step --batches {arguments.batches}", conditions, tables, notes, values)


def inputs_at_the_middle(spec: ModelSpec, batch: int) -> tuple[Array, Array]:
    """Return x_t (B, C, H, W) at the middle of the schedule, and t (B,)."""
    middle = spec.num_train_timesteps // 2
    noise = noise_stream(0, range(batch), spec.image_shape)
    return noised(np.clip(noise(1), -1, 1), noise(0), spec.alphas_cumprod[middle]), np.full(batch, middle)


def _torch_contenders(network: Any, x_t: Array, t: Array, threads: int) -> dict[str, Callable[[], Array]]:
    import torch

    torch.set_num_threads(threads)
    x, times = torch.from_numpy(x_t), torch.from_numpy(t)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)
    compiled = torch.compile(copy.deepcopy(last), dynamic=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, which is no news in a comparison with it
        frozen = torch.jit.freeze(torch.jit.trace(copy.deepcopy(network), (x, times)))

    def evaluated(call: Any, image: Any) -> Callable[[], Array]:
        def evaluate() -> Array:
            with torch.inference_mode():
                out: Array = call(image, times).numpy()
            return out

        return evaluate

    return {
        "eager": evaluated(network, x),
        LAST: evaluated(last, x_last),
        COMPILED: evaluated(compiled, x_last),
        "TorchScript, frozen": evaluated(frozen, x),
    }


def _warm_contenders(
    contenders: dict[str, Callable[[], Array]],
) -> tuple[dict[str, Callable[[], Array]], dict[str, str]]:
    """Return the contenders that run here, warm, and the reasons of the others."""
    runs, failures = {}, {}
    for name, call in contenders.items():
        print(f"warming up: {name}", file=sys.stderr)
        try:
            warm_up(call)
        except Exception as exc:  # torch.compile without a C compiler, for one, raises what its backend met
            failures[name] = f"does not run here: {(str(exc).splitlines() or [type(exc).__name__])[0][:80]}"
        else:
            runs[name] = call
    return runs, failures


def _errors(contenders: dict[str, Callable[[], Array]]) -> dict[str, float]:
    """Return max |a - b| / max |b| against eager; raises ModelRefusedError where it is another network's output."""
    expected = contenders["eager"]()
    scale = float(np.abs(expected).max()) or 1.0
    errors = {name: float(np.abs(call() - expected).max()) / scale for name, call in contenders.items()}
    for name, error in errors.items():
        if not error <= MAX_RELATIVE_ERROR:
            raise ModelRefusedError(
                f"{name} must give what the checkpoint's network gives within {MAX_RELATIVE_ERROR}, got a "
                "relative error "
                f"of {error:.2g}. Pass the --checkpoint that the --model was exported from."
            )
    return errors


def _options() -> argparse.ArgumentParser:
    options = parser("One network evaluation beside PyTorch's.", rounds=15, checkpoint=True)
    options.add_argument("--batches", default="1,16", help="batch sizes [%(default)s]")
    options.add_argument("--threads", type=int, help="of both sides [one a core]")
    return options


if __name__ == "__main__":
    run(measure, _options())
