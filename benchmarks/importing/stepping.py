"""diffusers' schedulers beside the plans that they become, on a trained network: every step, and the picture.

`python -m benchmarks.importing.stepping --write docs/benchmarks-importing-samplers.md`; the network is the shipped one,
with its v converted to the scheduler's prediction type.
"""

import argparse
import importlib
import itertools
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from ddpm_export.exporting.export import eager_model, export
from ddpm_export.importers.diffusers_scheduler import read_schedule, with_stepping
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.spec import FRACTIONAL_T, ModelSpec
from ddpm_export.model.spec_json import json_from_spec, spec_from_json
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import VARIANCE_FRACTION, Array, Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opening import open_model
from train.pages import markdown_from_table, write_between_marks

__all__ = ["OPTIONS", "Compared", "compare", "spec_of"]

Options = dict[str, Any]

SHIPPED = Path(__file__).parent.parent.parent / "exported" / "checkpoint.pt"
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 1e-4, "beta_end": 0.02}  # that of the shipped network
STEPS, IMAGES = 20, 2
COLUMNS = ["scheduler", "options", "evaluations", "largest error of a step", "equal", "largest"]

EPS, X_0, V = ({"prediction_type": name} for name in ("epsilon", "sample", "v_prediction"))
LEADING, TRAILING, LINSPACE = ({"timestep_spacing": name} for name in ("leading", "trailing", "linspace"))
KARRAS, EXPONENTIAL, BETA = ({f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta"))
LU = {"use_lu_lambdas": True}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
ZERO_SNR = {"rescale_betas_zero_snr": True, **TRAILING, **V}


def _all(*choices: tuple[Options, ...]) -> list[Options]:
    """Return every combination of one of each choice."""
    return [dict(itertools.chain(*(entry.items() for entry in chosen))) for chosen in itertools.product(*choices)]


_SIGMA_SPACE = [
    *_all(({}, *_all((LEADING, TRAILING, LINSPACE))), (EPS, V)),
    {**LEADING, "steps_offset": 1},
    *(KARRAS, EXPONENTIAL, BETA),
]
_ORDERS = tuple({"solver_order": order} for order in (1, 2, 3))
_SPACINGS = (KARRAS, EXPONENTIAL, BETA, LU, LEADING, TRAILING, {**LEADING, "steps_offset": 1})
OPTIONS: dict[str, list[Options]] = {
    "DDIM": [
        *_all(({"clip_sample": True}, {"clip_sample": False}), (LEADING, TRAILING, LINSPACE), (EPS, X_0, V)),
        *(
            {"set_alpha_to_one": False},
            {"steps_offset": 1},
            {"clip_sample_range": 0.5},
            {"use_clipped_model_output": True},
        ),
        *({"eta": 0.5}, {"eta": 1.0, "use_clipped_model_output": True}, ZERO_SNR),
    ],
    "DDPM": [
        *_all(
            (LEADING, TRAILING, LINSPACE),
            ({}, {"variance_type": "fixed_large"}, {"variance_type": "learned_range"}, {"clip_sample": False}, V),
        ),
        *({"steps_offset": 1}, {"variance_type": "fixed_small_log"}, X_0, ZERO_SNR),
    ],
    "PNDM": [
        *_all(({}, {"skip_prk_steps": True}), (LEADING, TRAILING, LINSPACE), (EPS, V)),
        *({"set_alpha_to_one": True}, {"skip_prk_steps": True, "steps_offset": 1}),
    ],
    "DPMSolverMultistep": [
        *_all(
            _ORDERS,
            ({"algorithm_type": "dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++"}),
            ({"solver_type": "midpoint"}, {"solver_type": "heun"}),
            ({}, SIGMA_MIN),
        ),
        *_all(_SPACINGS, _ORDERS[1:]),
        *({"euler_at_final": True}, {**SIGMA_MIN, "lower_order_final": False}, X_0, V, ZERO_SNR),
        *({"algorithm_type": name, **SIGMA_MIN} for name in ("dpmsolver", "sde-dpmsolver")),
    ],
    "DPMSolverSinglestep": [
        *_all(_ORDERS, ({"solver_type": "midpoint"}, {"solver_type": "heun"}), ({}, SIGMA_MIN)),
        *_all((KARRAS, EXPONENTIAL, BETA), _ORDERS[1:]),
        *({"algorithm_type": "sde-dpmsolver++"}, {**SIGMA_MIN, "lower_order_final": False}, X_0, V),
    ],
    "UniPCMultistep": [
        *_all(
            _ORDERS, ({"solver_type": "bh1", **SIGMA_MIN}, {"solver_type": "bh2"}, {"predict_x0": False, **SIGMA_MIN})
        ),
        *_all(_SPACINGS[:3] + _SPACINGS[4:], _ORDERS[1:]),
        *({"disable_corrector": [0, 1]}, {**SIGMA_MIN, "lower_order_final": False}, X_0, V, ZERO_SNR),
    ],
    "DEISMultistep": [
        *_all(_ORDERS, ({}, KARRAS, EXPONENTIAL, BETA, LEADING, TRAILING)),
        *({"lower_order_final": False}, X_0, V),
    ],
    "EulerDiscrete": [
        *_SIGMA_SPACE,
        *(SIGMA_MIN, {**KARRAS, **SIGMA_MIN}, {"interpolation_type": "log_linear"}, ZERO_SNR),
    ],
    "EulerAncestralDiscrete": [
        *_all((LEADING, TRAILING, LINSPACE), (EPS, V)),
        {**LEADING, "steps_offset": 1},
        ZERO_SNR,
    ],
    "HeunDiscrete": [*_SIGMA_SPACE, {"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 0.5, **KARRAS}],
    "LMSDiscrete": _SIGMA_SPACE,
    "KDPM2Discrete": _SIGMA_SPACE,
    "KDPM2AncestralDiscrete": _SIGMA_SPACE,
    "LCM": [*_all(({}, {"clip_sample": True}), (EPS, V)), {"timestep_scaling": 1.0}],
    "TCD": [*_all(({}, {"eta": 0.0}, {"eta": 1.0}), (EPS, V))],
}


class Network(NamedTuple):
    """Hold a network of v in eager PyTorch, as a scheduler runs it, and as it was exported."""

    theirs: Model
    ours: Model


@dataclass(frozen=True)
class Compared:
    """Tell how well a scheduler is reproduced: rows; the largest error of a step, as a share; the final pixels."""

    rows: int
    error: float
    equal: float
    levels: int


def main() -> None:
    """Compare every scheduler in every way of OPTIONS, print, and with `--write` put the table on a page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scheduler", action="append", choices=OPTIONS, help="only this one; repeatable")
    options.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    arguments = options.parse_args()
    warnings.simplefilter("ignore")  # the package's, of its own code
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        networks = {FRACTIONAL_T in requires: _shipped(Path(folder), requires) for requires in ((), (FRACTIONAL_T,))}
        for name in arguments.scheduler or OPTIONS:
            compared = []
            for way in OPTIONS[name]:
                compared.append(compare(networks, name, way, STEPS))
                print(name, way, compared[-1], file=sys.stderr, flush=True)
            rows.append(_line(name, compared))
    title = f"{STEPS} steps from the same noise, {IMAGES} images each"
    text = markdown_from_table(title, COLUMNS, rows)
    print(text)
    if arguments.write:
        write_between_marks(arguments.write, text, "<!-- stepping: begin -->", "<!-- stepping: end -->")


def _line(name: str, compared: list[Compared]) -> list[str]:
    evaluations = sorted({entry.rows for entry in compared})
    return [
        name,
        str(len(compared)),
        "-".join(map(str, dict.fromkeys((evaluations[0], evaluations[-1])))),
        f"{max(entry.error for entry in compared):.1e}",
        f"{min(entry.equal for entry in compared):.2%}",
        str(max(entry.levels for entry in compared)),
    ]


def _shipped(folder: Path, requires: tuple[str, ...]) -> Network:
    checkpoint = load_checkpoint(SHIPPED)
    checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, requires=requires))
    return Network(eager_model(checkpoint), open_model(export(checkpoint, folder / f"{len(requires)}.onnx").path)[0])


def _as_predicted(model: Model, spec: ModelSpec) -> Model:
    """Return a model of v as one of what the spec says, with a smooth variance_fraction where it has one."""

    def inputs(x_t: Array, t: Array) -> dict[str, Array]:
        v = model(x_t, t)["v"]
        a = np.interp(t, np.arange(spec.num_train_timesteps), spec.alphas_cumprod).reshape(-1, 1, 1, 1)
        signal, noise = np.sqrt(a).astype(np.float32), np.sqrt(1.0 - a).astype(np.float32)
        stated = {"v": v, "eps": noise * x_t + signal * v, "x_0": signal * x_t - noise * v}[spec.prediction]
        return {spec.prediction: stated, VARIANCE_FRACTION: (0.5 + 0.5 * np.tanh(x_t)).astype(np.float32)}

    return inputs


def spec_of(name: str, options: Options, num_steps: int, image_shape: tuple[int, int, int]) -> tuple[Any, ModelSpec]:
    """Return a scheduler's object and the spec that a file with its steps has, as a reader reads it."""
    package = importlib.import_module("diffusers")
    config = {"_class_name": f"{name}Scheduler", **SCHEDULE}
    schedule = read_schedule(package, config, options)
    spec = ModelSpec(
        name="stepping",
        prediction=schedule.prediction,
        state_shape=image_shape,
        alphas_cumprod=schedule.alphas_cumprod,
        clip_x_0=schedule.clip_x_0,
        variance=schedule.variance,
        requires=(VARIANCE_FRACTION,) if schedule.variance == "learned" else (),
    )
    spec = with_stepping(spec, schedule, (num_steps,), counts_t=False)
    return schedule, spec_from_json(json_from_spec(spec))


def compare(networks: dict[bool, Network], name: str, options: Options, num_steps: int) -> Compared:
    """Run a scheduler and its plan on the same noise. networks: of whole times, False, and of fractions, True."""
    schedule, spec = spec_of(name, options, num_steps, (1, 28, 28))
    noise = noise_stream(0, range(IMAGES), spec.state_shape)
    their_model, our_model = (_as_predicted(entry, spec) for entry in networks[FRACTIONAL_T in spec.requires])
    theirs = list(_walked(schedule.scheduler, schedule.inputs, their_model, noise, spec, num_steps))
    rows = plan(spec)
    *_, last = walk(denoiser(our_model, spec), noise, rows)
    difference = np.abs(to_uint8(last.x).astype(int) - to_uint8(theirs[-1].after).astype(int))
    error = max(_errors(theirs, noise, spec))
    return Compared(len(theirs), error, float((difference == 0).mean()), int(difference.max()))


class Step(NamedTuple):
    """One evaluation of a scheduler: what the network was given and said, and the next network's input."""

    given: Array
    stated: dict[str, Array]
    after: Array


def _walked(
    scheduler: Any, inputs: Options, model: Model, noise: Callable[[int], Array], spec: ModelSpec, num_steps: int
) -> Iterator[Step]:
    """Yield what a pipeline's loop does."""
    scheduler.set_timesteps(num_steps)
    module = importlib.import_module(type(scheduler).__module__)
    x = torch.from_numpy(noise(0)) * scheduler.init_noise_sigma
    before: tuple[Array, dict[str, Array]] | None = None
    for i, t in enumerate(scheduler.timesteps, start=1):
        given = scheduler.scale_model_input(x, t)
        if before is not None:
            yield Step(*before, given.numpy())
        stated = model(given.numpy(), np.full(IMAGES, float(t), dtype=np.float32).astype(spec.t_dtype))
        before = (given.numpy(), stated)
        out = torch.from_numpy(stated[spec.prediction])
        if VARIANCE_FRACTION in spec.outputs:
            out = torch.cat([out, torch.from_numpy(2.0 * stated[VARIANCE_FRACTION] - 1.0)], dim=1)
        draw = torch.from_numpy(noise(i))
        with mock.patch.object(module, "randn_tensor", lambda *_, draw=draw, **__: draw, create=True):
            x = scheduler.step(out, t, x, **inputs).prev_sample
    assert before is not None
    yield Step(*before, x.numpy())


def _errors(theirs: list[Step], noise: Callable[[int], Array], spec: ModelSpec) -> Iterator[float]:
    """Yield the error of every step from their state, with what their network said, as a share of what is largest."""
    step = theirs[0]

    def model(x_t: Array, t: Array) -> dict[str, Array]:
        return step.stated

    denoise, rows, state = denoiser(model, spec), plan(spec), None
    for step in theirs:
        state = next(walk(denoise, noise, rows, state=state))
        size = max(1.0, float(np.abs(step.given).max()), float(np.abs(state.x_0).max()))
        yield float(np.abs(state.x - step.after).max()) / size
        state = state._replace(x=step.after)


if __name__ == "__main__":
    main()
