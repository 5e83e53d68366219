"""Networks of other Gaussian paths, trained for a few hundred steps, in their projects' own loops and as files.

`loops.py` prints the table. Each family's network is trained
on Fashion-MNIST at 14x14 pixels by its own loss, written here without the scales that the importers apply, so that a
wrong scale shows.
"""

import logging
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
from ddpm_export.process.pixels import Pixels, to_uint8
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.opening import open_model
from ddpm_export.scoring.datasets.readers import open_dataset

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
    guidance: float | None = None


class Compared(NamedTuple):
    """Tell how well a loop is reproduced: evaluations, the share of equal pixels, the largest difference in levels."""

    rows: int
    equal: float
    levels: int


def compare(case: Case) -> Compared:
    """Run the loop and the file on the same noise."""
    theirs, ours = drawn(case, range(IMAGES))
    difference = np.abs(ours.astype(int) - theirs)
    return Compared(len(plan(case.opened[1]).rows), float((difference == 0).mean()), int(difference.max()))


def drawn(case: Case, images: range) -> tuple[Pixels, Pixels]:
    """Return what the loop and what the file draw from the noise of these images, uint8."""
    model, spec = case.opened
    rows = plan(spec)
    draws = {draw: k for k, draw in enumerate(rows.draws)}
    noise = noise_stream(0, images, spec.state_shape)
    noises = [noise(k) for k in range(len(draws) + 2 * len(rows.rows))]
    with torch.no_grad(), Fed(iter(noises[1:])):
        theirs = _levels(case.loop(torch.from_numpy(noises[0])).float().numpy())
    label = {} if spec.label is None else {"y": 3}
    *_, last = walk(denoiser(model, spec, guidance=case.guidance, **label), lambda draw: noises[draws[draw]], rows)
    return theirs, _levels(last.x)


def _levels(x: Array) -> Pixels:
    """Return pictures, or sequences, in levels."""
    return to_uint8(x.reshape(len(x), -1, *x.shape[-2:]) if x.ndim > 3 else x[:, None])


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

    trained: dict[str, Any] = {}
    models: dict[Any, Model] = {}  # the levels over t are a path's, and so is the file
    for kind, name, way in ways:
        scheduler = getattr(diffusers, f"{name}Scheduler")
        if kind not in trained:
            torch.manual_seed(1)
            network = diffusers.UNet2DModel(
                sample_size=14,
                in_channels=1,
                out_channels=1,
                layers_per_block=1,
                block_out_channels=(8, 16),
                norm_num_groups=4,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=8,
                time_embedding_type="fourier" if kind == "flow" else "positional",
            )
            train(network, lambda x, t, network=network: network(x, t).sample, LOSSES[kind], steps)
            diffusers.DDPMPipeline(network, scheduler()).save_pretrained(folder / kind)
            trained[kind] = network
        network = trained[kind]
        checkpoint = load_checkpoint(folder / kind, options={"_class_name": scheduler.__name__, **way}, steps=(STEPS,))
        path, spec = checkpoint.network.path, checkpoint.spec
        if path not in models:
            models[path] = open_model(export(checkpoint, folder / f"{len(models)}.onnx").path)[0]
        model = models[path]
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


# --- denoising-diffusion-pytorch: ElucidatedDiffusion ---

ELUCIDATED: list[Options] = [{}, {"S_churn": 0.0}, {"sigma_data": 0.3, "rho": 5.0}, {"S_noise": 1.0, "S_tmin": 0.5}]


def elucidated_cases(folder: Path, ways: Sequence[Options], steps: int) -> Iterator[Case]:
    """Yield a case for each diffusion, trained by its own loss."""
    from denoising_diffusion_pytorch import Unet
    from denoising_diffusion_pytorch.elucidated_diffusion import ElucidatedDiffusion

    for number, way in enumerate(ways):
        torch.manual_seed(2)
        unet = Unet(8, dim_mults=(1, 2), channels=1, learned_sinusoidal_cond=True, attn_dim_head=8, attn_heads=2)
        made = ElucidatedDiffusion(unet, image_size=14, channels=1, num_sample_steps=STEPS, **way)
        train(made, unet, lambda _, x_0, __, made=made: made((x_0 + 1) / 2), steps if number == 0 else 60)
        torch.save(made.state_dict(), folder / "elucidated.pt")
        checkpoint = load_checkpoint(folder / "elucidated.pt", options={**way, "image_size": 14}, steps=(STEPS,))
        opened = open_model(export(checkpoint, folder / "elucidated.onnx").path)

        def loop(x: Tensor, made: Any = made) -> Tensor:
            noises = ours_of(x, made)
            with Fed(noises):
                return made.sample(batch_size=IMAGES, num_sample_steps=STEPS) * 2 - 1

        yield Case("denoising-diffusion-pytorch", f"ElucidatedDiffusion {way}", opened, loop)


def ours_of(x: Tensor, made: Any) -> Iterator[Array]:
    """Yield the first state's noise and then one for every step: a fresh one where the step churns, else none."""
    yield x.numpy()
    for sigma in made.sample_schedule(STEPS)[:-1].tolist():
        churns = made.S_churn > 0 and made.S_tmin <= sigma <= made.S_tmax
        yield torch.randn(x.shape).numpy() if churns else np.zeros(x.shape, np.float32)


# --- torchcfm, where it is installed: the network of its examples under torchdyn's fixed steps ---

CFM: list[tuple[str, Options]] = [
    *((solver, {}) for solver in ("euler", "midpoint", "rk4")),
    ("euler", {"class_cond": True, "num_classes": 10}),
]


def torchcfm_cases(folder: Path, ways: Sequence[tuple[str, Options]], steps: int) -> Iterator[Case]:
    """Yield a case for each network and solver, trained by conditional flow matching."""
    from torchcfm.models.unet import UNetModel
    from torchdyn.numerics.odeint import odeint

    for solver, way in ways:
        torch.manual_seed(3)
        network = UNetModel((1, 14, 14), 32, 1, channel_mult=(1, 1), **{"attention_resolutions": "7", **way})
        y = {"y": torch.tensor([3] * IMAGES)} if "class_cond" in way else {}
        labels = {"y": torch.tensor([3] * 32)} if y else {}
        train(
            network,
            lambda x, t, network=network, labels=labels: network(t, x, **labels),
            lambda called, x_0, eps: flow(called, x_0, eps, 1.0, -1.0),
            steps if not way else 60,
        )
        torch.save({"ema_model": network.state_dict(), "net_model": network.state_dict()}, folder / "cfm.pt")
        options = {"path": "flow", "reverse": True, "image_size": 14, "solver": solver, "num_heads": 1}
        options |= {key: value for key, value in way.items() if key == "num_heads"}
        checkpoint = load_checkpoint(folder / "cfm.pt", options=options, steps=(STEPS,))
        opened = open_model(export(checkpoint, folder / "cfm.onnx").path)

        def loop(x: Tensor, network: Any = network, solver: str = solver, y: Any = y) -> Tensor:
            field = Field(network, y)
            times = torch.linspace(0, 1, STEPS + 1)
            return odeint(field, x, times, solver=solver)[1][-1]

        yield Case("torchcfm", f"UNetModelWrapper {solver} {way}", opened, loop)


class Field(nn.Module):
    """A network as what torchdyn calls."""

    def __init__(self, network: nn.Module, y: dict[str, Tensor]) -> None:
        super().__init__()
        self.network, self.y = network, y

    def forward(self, t: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Say the velocity."""
        return self.network(t, x, **self.y)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the packages say of their own code."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
