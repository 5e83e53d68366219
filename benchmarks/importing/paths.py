"""Networks of other Gaussian paths, trained for a few hundred steps, in their projects' own loops and as files.

`python -m benchmarks.importing.paths --write docs/importing.md`. Each family's network is trained on Fashion-MNIST of
14x14 pixels by its own loss, written here without the scales that the importers apply, so that a wrong one shows.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ddpm_export.exporting.export import export
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Array, Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.pixels import to_uint8
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opening import open_model
from ddpm_export.scoring.datasets.readers import open_dataset
from train.pages import markdown_from_table, write_between_marks

SHAPE, STEPS, IMAGES = (1, 14, 14), 20, 4
SIGMA_DATA = 0.5
Options = dict[str, Any]
Network = Callable[..., Tensor]  # (what it is given, what it is told, **classes) -> what it says
COLUMNS = ["project", "configurations", "evaluations", "equal", "largest difference in levels"]


@cache
def data() -> Tensor:
    """Return the training pictures in [-1, 1], (N, 1, 14, 14)."""
    images = open_dataset("fashion-mnist", None, image_shape=(1, 28, 28)).images
    return nn.functional.avg_pool2d(torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0, 2)


def flow(network: Network, x_0: Tensor, eps: Tensor, scale: float = 1000.0, sign: float = 1.0) -> Tensor:
    """Return the loss of conditional flow matching, s = 1 being noise; sign -1 where time runs to the data."""
    s = torch.sigmoid(torch.randn(len(x_0)))
    wide = s.reshape(-1, 1, 1, 1)
    said = network((1 - wide) * x_0 + wide * eps, (s if sign > 0 else 1 - s) * scale)
    return ((said - sign * (eps - x_0)) ** 2).mean()


def edm(network: Network, x_0: Tensor, eps: Tensor, sign: float = 1.0, scale: float = 1.0) -> Tensor:
    """Return the loss of a preconditioned denoiser (Karras et al. 2022, eq. 8)."""
    sigma = torch.exp(1.2 * torch.randn(len(x_0)) - 1.2)
    wide, total = sigma.reshape(-1, 1, 1, 1), (sigma**2 + SIGMA_DATA**2).reshape(-1, 1, 1, 1)
    x = x_0 + wide * eps
    said = network(x / total.sqrt(), sigma.log() / 4 * scale)
    return ((said - sign * (x_0 - SIGMA_DATA**2 / total * x) / (wide * SIGMA_DATA / total.sqrt())) ** 2).mean()


def consistency(network: Network, x_0: Tensor, eps: Tensor) -> Tensor:
    """Return EDM's loss for a network of a consistency model, which is told a thousand times as much."""
    return edm(network, x_0, eps, scale=1000.0)


def edm_v(network: Network, x_0: Tensor, eps: Tensor) -> Tensor:
    """Return EDM's loss for a network that says the negative."""
    return edm(network, x_0, eps, -1.0)


def train(network: nn.Module, called: Network, loss: Callable[..., Tensor], steps: int) -> None:
    """Train a network for so many steps of 32 pictures."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        x_0 = data()[torch.randint(len(data()), (32,))]
        value = loss(called, x_0, torch.randn_like(x_0))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    network.eval().requires_grad_(False)


class Fed(TorchFunctionMode):
    """Gives each call of torch.randn or randn_like within it the next of these noises."""

    def __init__(self, noises: Iterator[Array]) -> None:
        super().__init__()
        self.noises = noises

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.randn, torch.randn_like):
            return torch.from_numpy(next(self.noises))
        return func(*args, **(kwargs or {}))


class Case(NamedTuple):
    """A configuration: its project and name, a file and a spec with its own steps, and its own loop.

    loop: (the noise that it begins with) -> the picture, x; further noises are what torch.randn gives it.
    """

    project: str
    name: str
    opened: tuple[Model, Any]
    loop: Callable[[Tensor], Tensor]


class Compared(NamedTuple):
    """Tell how well a loop is reproduced: evaluations, the share of equal pixels, the largest difference in levels."""

    rows: int
    equal: float
    levels: int


def compare(case: Case) -> Compared:
    """Run the loop and the file on the same noise."""
    model, spec = case.opened
    rows = plan(spec)
    draws = {draw: k for k, draw in enumerate(rows.draws)}
    noise = noise_stream(0, range(IMAGES), spec.state_shape)
    noises = [noise(k) for k in range(len(draws) + 2 * len(rows.rows))]
    with torch.no_grad(), Fed(iter(noises[1:])):
        theirs = to_uint8(case.loop(torch.from_numpy(noises[0])).float().numpy())
    *_, last = walk(denoiser(model, spec), lambda draw: noises[draws[draw]], rows)
    difference = np.abs(to_uint8(last.x).astype(int) - theirs.astype(int))
    return Compared(len(rows.rows), float((difference == 0).mean()), int(difference.max()))


# --- diffusers: one network for each loss, and every scheduler over it ---

LOSSES = {"flow": flow, "edm": edm, "edm_v": edm_v, "consistency": consistency}
V = {"prediction_type": "v_prediction"}
DIFFUSERS: list[tuple[str, str, Options]] = [
    *(
        ("flow", "FlowMatchEulerDiscrete", way)
        for way in (
            {},
            {"shift": 3.0},
            {"use_dynamic_shifting": True, "mu": 0.8},
            {"use_dynamic_shifting": True, "mu": 0.8, "time_shift_type": "linear", "shift_terminal": 0.05},
            {"use_karras_sigmas": True},
            {"use_exponential_sigmas": True},
            {"use_beta_sigmas": True},
            {"stochastic_sampling": True},
        )
    ),
    *(("flow", "FlowMatchHeunDiscrete", way) for way in ({}, {"shift": 2.0})),
    *(("edm", "EDMEuler", way) for way in ({}, {"s_churn": 10.0}, {"sigma_schedule": "exponential"}, {"rho": 5.0})),
    ("edm_v", "EDMEuler", V),
    *(
        ("edm", "EDMDPMSolverMultistep", way)
        for way in (
            {},
            {"solver_order": 1},
            {"solver_order": 3},
            {"solver_type": "heun"},
            {"algorithm_type": "sde-dpmsolver++"},
            {"euler_at_final": True},
            {"final_sigmas_type": "sigma_min"},
        )
    ),
    ("edm_v", "EDMDPMSolverMultistep", V),
    *(
        ("consistency", "CMStochasticIterative", way)
        for way in ({}, {"clip_denoised": False}, {"num_train_timesteps": 151}, {"s_noise": 0.9})
    ),
]


def diffusers_cases(folder: Path, ways: Sequence[tuple[str, str, Options]], steps: int) -> Iterator[Case]:
    """Yield a case for each scheduler; steps: of training."""
    import diffusers

    made: dict[str, tuple[Any, Model]] = {}
    for kind, name, way in ways:
        scheduler = getattr(diffusers, f"{name}Scheduler")
        if kind not in made:
            torch.manual_seed(1)
            network = diffusers.UNet2DModel(
                sample_size=14,
                in_channels=1,
                out_channels=1,
                layers_per_block=1,
                block_out_channels=(16, 32),
                norm_num_groups=8,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=16,
                time_embedding_type="fourier" if kind == "flow" else "positional",
            )
            train(network, lambda x, t, network=network: network(x, t).sample, LOSSES[kind], steps)
            diffusers.DDPMPipeline(network, scheduler()).save_pretrained(folder / kind)
            checkpoint = load_checkpoint(folder / kind, options={"_class_name": scheduler.__name__})
            made[kind] = network, open_model(export(checkpoint, folder / f"{kind}.onnx").path)[0]
        network, model = made[kind]
        options = {"_class_name": scheduler.__name__, **way}
        spec = load_checkpoint(folder / kind, options=options, steps=(STEPS,)).spec
        asked = {key: value for key, value in way.items() if key in ("s_churn", "mu")}
        config = {key: value for key, value in way.items() if key not in asked}

        own = scheduler(**config)

        def loop(x: Tensor, network: Any = network, made: Any = own, asked: Options = asked) -> Tensor:
            made.set_timesteps(STEPS, **{key: value for key, value in asked.items() if key == "mu"})
            x = x * getattr(made, "init_noise_sigma", 1.0)
            for t in made.timesteps:
                given = made.scale_model_input(x, t) if hasattr(made, "scale_model_input") else x
                said = network(given, t).sample
                x = made.step(said, t, x, **{key: value for key, value in asked.items() if key != "mu"}).prev_sample
            return x

        yield Case("diffusers", f"{name} {way}", (model, spec), loop)


def main() -> None:
    """Compare every configuration, print, and with `--write` put the table on a page; 1 where one is off."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=300, help="of training")
    options.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    arguments = options.parse_args()
    rows: dict[str, list[Compared]] = {}
    with quiet(), tempfile.TemporaryDirectory() as folder:
        for case in diffusers_cases(Path(folder), DIFFUSERS, arguments.steps):
            compared = compare(case)
            print(case.project, case.name, compared, file=sys.stderr, flush=True)
            rows.setdefault(f"{case.project}, {case.name.partition(' ')[0]}", []).append(compared)
    text = markdown_from_table("Trained for a few hundred steps", COLUMNS, [_line(*row) for row in rows.items()])
    print(text)
    if arguments.write:
        write_between_marks(arguments.write, text, "<!-- paths: begin -->", "<!-- paths: end -->")
    sys.exit(any(entry.levels > 1 for compared in rows.values() for entry in compared))


def _line(name: str, compared: list[Compared]) -> list[str]:
    evaluations = sorted({entry.rows for entry in compared})
    return [
        name,
        str(len(compared)),
        "-".join(map(str, dict.fromkeys((evaluations[0], evaluations[-1])))),
        f"{min(entry.equal for entry in compared):.2%}",
        str(max(entry.levels for entry in compared)),
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the packages say of their own code."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
