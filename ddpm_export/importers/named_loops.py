"""Loops that a name chooses, for a network of one's own class: those of other projects' packages, and one's own."""

import functools
import importlib
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddpm_export.errors import EnvironmentProblem, UsageError, first_line
from ddpm_export.importers import choices, loops
from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.importers.lucidrains_elucidated import Net, sample
from ddpm_export.importers.own_network import named_in
from ddpm_export.importers.paths import FLOWS, FORMS, MOST, Path

# a loop: (network: (what it is given (N, 1, 1, 1), what it is told) -> what it says; x: noise (N, 1, 1, 1); num_steps;
# path=; options by name) -> the picture (N, 1, 1, 1) in [-1, 1]; more noise by torch.randn or randn_like
Called = Callable[..., Tensor]


def flow(network: Called, x: Tensor, num_steps: int = 50, *, path: Path, solver: str = "euler") -> Tensor:
    """Return the picture of even steps from noise, by one of TABLEAUS."""
    choices.read_options({"solver": solver}, {"solver": choices.one_of(loops.TABLEAUS)})
    return loops.flow_loop(solver, num_steps, path)(network, len(x))


def karras(
    network: Called,
    x: Tensor,
    num_steps: int = 18,
    *,
    path: Path,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> Tensor:
    """Return the picture of Karras et al. 2022, algorithm 2."""
    churn = {"S_churn": S_churn, "S_min": S_min, "S_max": S_max, "S_noise": S_noise}
    return loops.karras_loop(num_steps, path, path.sigma_min, path.sigma_max, **churn)(network, len(x))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        command = f"pip install {name.replace('_', '-')}"
        raise EnvironmentProblem(f"{exc.name} is not installed, which the loop needs. Run: {command}.") from exc


def rectified_flow(
    network: Called,
    x: Tensor,
    num_steps: int = 16,
    *,
    path: Path,
    solver: str = "midpoint",
    clip_flow_during_sampling: bool | None = None,
) -> Tensor:
    """Return the picture of rectified-flow-pytorch's `sample`: num_steps times from 0 to 1, both among them."""
    fixed = ("euler", "midpoint", "heun2", "heun3", "rk4")
    choices.read_options({"solver": solver}, {"solver": choices.one_of(fixed)})
    made = _package("rectified_flow_pytorch").RectifiedFlow(
        Net(network),
        predict={"v": "flow", "x_0": "clean", "eps": "noise"}[path.form.prediction],
        odeint_kwargs={"method": solver},
        clip_flow_during_sampling=clip_flow_during_sampling,
        data_shape=x.shape[1:],
    )
    pictures: Tensor = made.sample(batch_size=len(x), steps=num_steps)
    return pictures * 2.0 - 1.0


def smalldiffusion(
    network: Called,
    x: Tensor,
    num_steps: int = 20,
    *,
    path: Path,
    schedule: str = "ScheduleLogLinear",
    gam: float = 1.0,
    mu: float = 0.0,
    N: int = 1000,
    beta_start: float | None = None,
    beta_end: float | None = None,
    max_beta: float | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Tensor:
    """Return the picture of smalldiffusion's `samples` over one of its schedules."""
    package = _package("smalldiffusion")
    names = (name for name in vars(package) if name.startswith("Schedule") and name != "Schedule")
    choices.read_options({"schedule": schedule}, {"schedule": choices.one_of(names)})
    made = getattr(package, schedule)
    stated = {"N": N, "sigma_min": path.sigma_min, "sigma_max": path.sigma_max, "beta_start": beta_start}
    stated |= {"beta_end": beta_end, "max_beta": max_beta, "t_min": t_min, "t_max": t_max}
    taken = {key: stated[key] for key in inspect.signature(made).parameters if stated[key] is not None}
    sigmas = made(**taken).sample_sigmas(num_steps)
    *_, last = package.samples(_Eps(network), sigmas, gam=gam, mu=mu, xt=x * sigmas[0])
    result: Tensor = last
    return result


class _Eps(nn.Module):
    """Stand for a model of smalldiffusion in its loop."""

    def __init__(self, network: Called) -> None:
        super().__init__()
        self.network = network

    def rand_input(self, count: int) -> Tensor:
        return torch.randn(count, 1, 1, 1)

    def predict_eps_cfg(self, x: Tensor, sigma: Tensor, *_: Any) -> Tensor:
        return self.network(x, sigma)


def k_diffusion(
    network: Called,
    x: Tensor,
    num_steps: int = 50,
    *,
    path: Path,
    solver: str = "lms",
    grid: str = "karras",
    eta: float | None = None,
    s_churn: float | None = None,
    s_tmin: float | None = None,
    s_tmax: float | None = None,
    s_noise: float | None = None,
    order: int | None = None,
    solver_type: str | None = None,
    r: float | None = None,
) -> Tensor:
    """Return the picture of one of k-diffusion's samplers, over any network of a sigma; noise of each step anew."""
    sampling = _package("k_diffusion").sampling
    known = tuple(name.removeprefix("sample_") for name in vars(sampling) if name.startswith("sample_"))
    fixed = choices.one_of(name for name in known if name != "dpm_adaptive")  # whose steps follow from the state
    grids = choices.one_of(("karras", "exponential", "polyexponential"))
    choices.read_options({"solver": solver, "grid": grid}, {"solver": fixed, "grid": grids})
    run = getattr(sampling, f"sample_{solver}")
    stated: dict[str, Any] = {
        "eta": eta,
        "s_churn": s_churn,
        "s_tmin": s_tmin,
        "s_tmax": s_tmax,
        "s_noise": s_noise,
        "order": order,
    }
    stated |= {"solver_type": solver_type, "r": r, "sigma_min": path.sigma_min, "sigma_max": path.sigma_max}
    stated |= {"n": num_steps, "noise_sampler": lambda *_: torch.randn(x.shape)}
    make = getattr(sampling, f"get_sigmas_{grid}")
    sigmas = make(num_steps, path.sigma_min, path.sigma_max, **({"rho": path.rho} if grid == "karras" else {}))
    stated["sigmas"] = sigmas
    taken = {key: stated[key] for key in inspect.signature(run).parameters if stated.get(key) is not None}

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        alpha = 1.0 / torch.sqrt(1.0 + sigma[0] ** 2)
        told, scale, skip, out = path.numbers(alpha, sigma[0] * alpha, torch)
        y = x * alpha
        predicted = skip * y + out * network(y * scale, told)
        weights: dict[str, tuple[Any, Any]] = {
            "x_0": (0.0, 1.0),
            "eps": (1.0 / alpha, -sigma[0]),
            "v": (alpha, -sigma[0] * alpha),
        }
        of_state, of_predicted = weights[path.form.prediction]
        result: Tensor = of_state * y + of_predicted * predicted
        return result

    result: Tensor = run(denoised, x * sigmas[0], disable=True, **taken)
    return result


class _Called(nn.Module):
    """Call a project's network as the path calls it."""

    def __init__(self, network: nn.Module, way: Called) -> None:
        super().__init__()
        self.network, self.way = network, way

    def forward(self, x: Tensor, told: Tensor, *, y: Tensor | None = None) -> Tensor:
        return self.way(self.network, x, told, y)


def _of_rectified_flow(network: nn.Module) -> nn.Module:
    """Have einx, which fixes the size of a batch, out of the embeddings of time."""

    def embedded(made: Any, x: Tensor) -> Tensor:
        half = made.dim // 2
        angles = x[:, None] * torch.exp(torch.arange(half) * (-math.log(made.theta) / (half - 1)))
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    for module in network.modules():
        if type(module).__name__ == "SinusoidalPosEmb":
            module.forward = functools.partial(embedded, module)
    return network


def _of_smalldiffusion(network: Any) -> nn.Module:
    """Call what predicts the noise, or the velocity; embed sigma as it was before its dimension of one is squeezed."""
    held, embedded = list[Tensor](), network.sig_embed.forward

    def called(network: Any, x: Tensor, told: Tensor, y: Tensor | None) -> Tensor:
        held[:] = [told]
        said: Tensor = network.predict_eps(x, told.reshape(-1, *(1,) * (x.dim() - 1)), cond=y)
        return said

    network.sig_embed.forward = lambda count, _: embedded(count, held[0])
    return _Called(network, called)


def _of_k_diffusion(network: nn.Module) -> nn.Module:
    """Tell it sigma."""

    def called(network: nn.Module, x: Tensor, told: Tensor, y: Tensor | None) -> Tensor:
        said: Tensor = network(x, torch.exp(4.0 * told), **({} if y is None else {"class_cond": y}))
        return said

    os.environ.setdefault("K_DIFFUSION_USE_COMPILE", "0")
    return _Called(network, called)


class Project(NamedTuple):
    """Hold a loop; the paths of its networks, and whether reversed; what makes one that is called (x, what it is told).

    clip: the loop's own bound on x_0.
    """

    loop: Called
    paths: tuple[str, ...] | None = None
    reverse: bool | None = None
    called: Callable[[nn.Module], nn.Module] = lambda network: network
    clip: float | None = None


PROJECTS = {
    "flow": Project(flow, ("flow",)),
    "karras": Project(karras, tuple(name for name in FORMS if FORMS[name].prediction != "x_0" and name not in MOST)),
    "elucidated": Project(sample, ("edm",), False, clip=1.0),
    "rectified_flow": Project(rectified_flow, FLOWS, True, _of_rectified_flow),
    "smalldiffusion": Project(smalldiffusion, ("noise", "flow"), False, _of_smalldiffusion),
    "k_diffusion": Project(k_diffusion, tuple(name for name in FORMS if name not in MOST)),
    "k_diffusion_edm": Project(k_diffusion, ("edm",), False, _of_k_diffusion),
}


class NamedLoop(NamedTuple):
    """A loop of a path with its options; name: of its plans."""

    name: str
    project: Project
    path: Path
    options: Mapping[str, Any]

    def by_steps(self, counts: Sequence[int] | None) -> dict[int, loops.Loop]:
        """Return the loop of each number of steps; of None, of the project's own."""
        usual = inspect.signature(self.project.loop).parameters["num_steps"].default
        return {n: self._of(n) for n in counts or (50 if usual is inspect.Parameter.empty else usual,)}

    def stepped(self, checkpoint: Checkpoint, path: Path, counts: Sequence[int] | None) -> Checkpoint:
        """Return a checkpoint of a path with a plan for each number of steps; raises BadFileError for no such rows."""
        spec = replace(checkpoint.spec, clip_x_0=self.project.clip or checkpoint.spec.clip_x_0)
        return replace(checkpoint, spec=loops.with_loops(spec, path, self.name, self.by_steps(counts)))

    def _of(self, num_steps: int) -> loops.Loop:
        def loop(network: Called, size: int) -> Tensor:
            x = torch.randn(size, 1, 1, 1)
            return self.project.loop(network, x, num_steps, path=self.path, **self.options)

        return loop


def loop_from_options(options: Mapping[str, Any], path: Path | None) -> tuple[NamedLoop | None, dict[str, Any]]:
    """Return the loop that `loop` names, one of PROJECTS or package.module:function, and the options that are not its.

    Its options are its keyword-only arguments. Raises UsageError for a loop that cannot be had, and options of it.
    """
    left = dict(options)
    name = left.pop("loop", None)
    if name is None:
        return None, left
    if path is None:
        raise UsageError("'loop' needs the network's path. Add, for example, path=flow", "path=flow")
    if name in PROJECTS:
        project = PROJECTS[name]
    elif isinstance(name, str) and ":" in name:
        try:
            project = Project(named_in(name, "loop"))
        except (ImportError, AttributeError) as exc:
            raise UsageError(f"loop {name} cannot be imported: {type(exc).__name__}: {first_line(exc)}.") from exc
    else:
        raise choices.misused("loop", f"{', '.join(PROJECTS)} or package.module:function", name)
    if path.name not in (project.paths or FORMS):
        raise choices.misused("loop", f"one for {path.name}, which is none of {', '.join(project.paths or ())}", name)
    if project.reverse not in (None, path.reverse):
        raise choices.misused("reverse", f"{project.reverse} for the loop {name}", path.reverse)
    own = [p for p in inspect.signature(project.loop).parameters.values() if p.kind == p.KEYWORD_ONLY]
    table = {p.name: choices.like(p.default) for p in own if p.name != "path"}
    chosen = choices.read_options({key: left.pop(key) for key in table if key in left}, table)
    return NamedLoop(str(chosen.get("solver", project.loop.__name__)), project, path, chosen), left
