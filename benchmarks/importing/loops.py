"""Networks of other projects, trained by their own losses and adopted with `--set loop=`, beside their own loops.

`python -m benchmarks.importing.loops --write docs/benchmarks-importing-samplers.md` compares these and all of
`paths.py`; each project where it is installed.
"""

import argparse
import importlib.util
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.importing import paths, paths_edm
from benchmarks.importing.paths import Case, Compared, Fed, Options, train
from ddpm_export.exporting.export import export
from ddpm_export.importers.load import load_network
from ddpm_export.importers.paths import Path as GaussianPath
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import SHAPE, Defaults, ModelSpec
from ddpm_export.process.equations import Model
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.runtimes.opening import open_model
from train.pages import markdown_from_table, write_between_marks

FILES: dict[Any, Model] = {}  # by weights and path: a network's steps differ, its file does not


def adopted(folder: Path, state: Any, reference: str, options: Options, label: Input | None = None) -> Any:
    """Return (model, spec) of a file with these weights, whose network the function or class makes."""
    torch.save(state, folder / "adopted.pt")
    inputs, requires = ((), ()) if label is None else ((label,), ("inputs",))
    spec = ModelSpec(
        "adopted", "eps", paths.SHAPE, GaussianPath("edm").alphas_cumprod(1000), None, inputs=inputs, requires=requires
    )
    checkpoint = load_network(folder / "adopted.pt", reference, spec, arguments=options, steps=(paths.STEPS,))
    key = checkpoint.spec.source["checkpoint_sha256"], checkpoint.network.path
    if key not in FILES:
        FILES[key] = open_model(export(checkpoint, folder / "adopted.onnx").path)[0]
    return FILES[key], checkpoint.spec


# --- denoising-diffusion-pytorch: KarrasUnet under ElucidatedDiffusion, which asks for an attribute that it lacks ---

KARRAS: list[Options] = [{}, {"S_churn": 0.0}, {"sigma_data": 0.3, "rho": 5.0}, {"S_noise": 1.0, "S_tmin": 0.5}]


def karras_unet() -> nn.Module:
    """Return a small KarrasUnet for pictures of 14x14."""
    from denoising_diffusion_pytorch import KarrasUnet

    sizes = {"dim": 8, "dim_max": 16, "num_downsamples": 1, "num_blocks_per_stage": 1, "fourier_dim": 8}
    return KarrasUnet(image_size=14, channels=1, attn_res=(7,), attn_dim_head=8, **sizes)


def karras_cases(folder: Path, ways: Sequence[Options], steps: int) -> Iterator[Case]:
    """Yield a case for each diffusion, trained by its own loss."""
    from denoising_diffusion_pytorch.elucidated_diffusion import ElucidatedDiffusion

    for way in ways:
        torch.manual_seed(4)
        unet = karras_unet()
        unet.random_or_learned_sinusoidal_cond = True
        made = ElucidatedDiffusion(unet, image_size=14, channels=1, num_sample_steps=paths.STEPS, **way)
        train(made, unet, lambda _, x_0, __, made=made: made((x_0 + 1) / 2), steps if not way else steps // 3)
        options = {"preconditioner": "edm", "loop": "elucidated", **way}
        opened = adopted(folder, made.state_dict(), f"{__name__}:karras_unet", options)

        def loop(x: Tensor, made: Any = made) -> Tensor:
            with Fed(paths.ours_of(x, made)):
                return made.sample(batch_size=paths.IMAGES, num_sample_steps=paths.STEPS) * 2 - 1

        yield Case("denoising-diffusion-pytorch", f"KarrasUnet {way}", opened, loop)


# --- denoising-diffusion-pytorch: KarrasUnet and Unet1D under its diffusions of betas, whose steps are our own ---

GAUSSIAN: list[tuple[str, str, str]] = [
    ("KarrasUnet", "pred_v", "cosine"),
    *(("Unet1D", objective, "cosine") for objective in ("pred_v", "pred_noise", "pred_x0")),
    ("Unet1D", "pred_v", "linear"),
]


def gaussian_cases(folder: Path, ways: Sequence[tuple[str, str, str]], steps: int) -> Iterator[Case]:
    """Yield a case for each network, objective and schedule, trained by its diffusion's loss; all 1000 of its steps."""
    import denoising_diffusion_pytorch as package

    for name, objective, schedule in ways:
        torch.manual_seed(8)
        sizes: Options = {"dim": 8, "dim_mults": [1, 2], "channels": 14, "attn_dim_head": 8, "attn_heads": 2}
        how = {"objective": objective, "beta_schedule": schedule}
        if name == "Unet1D":  # a picture's lines are channels
            made = package.GaussianDiffusion1D(package.Unet1D(**sizes), seq_length=14, **how)
            reference, shape, sizes = "denoising_diffusion_pytorch:Unet1D", (14, 14), sizes
        else:
            made = package.GaussianDiffusion(karras_unet(), image_size=14, **how)
            reference, shape, sizes = f"{__name__}:karras_unet", paths.SHAPE, {}
        train(
            made, made, lambda _, x_0, __, made=made, shape=shape: made((x_0.reshape(-1, *shape) + 1) / 2), steps // 3
        )
        torch.save({"ema": {f"ema_model.{key}": value for key, value in made.state_dict().items()}}, folder / "g.pt")
        spec = ModelSpec(
            "gaussian",
            {"pred_v": "v", "pred_noise": "eps", "pred_x0": "x_0"}[objective],
            shape,
            tuple(alphas_cumprod_from_betas(betas_from_name(schedule, 1000)).tolist()),
            defaults=Defaults("ddpm", 1000, 0.0),
            requires=(SHAPE,) if len(shape) == 2 else (),
        )
        opened = open_model(
            export(load_network(folder / "g.pt", reference, spec, arguments=sizes), folder / "g.onnx").path
        )

        def loop(x: Tensor, made: Any = made) -> Tensor:
            noises = itertools.chain([x.numpy()], (torch.randn(x.shape).numpy() for _ in itertools.count()))
            with Fed(noises):
                return made.p_sample_loop(tuple(x.shape)) * 2 - 1

        yield Case("denoising-diffusion-pytorch", f"{name} {objective} {schedule}", opened, loop)


# --- rectified-flow-pytorch: its Unet under RectifiedFlow, by what the network predicts ---

RECTIFIED: list[tuple[str, Options]] = [
    *(("flow", {"solver": solver}) for solver in ("midpoint", "euler", "heun3", "rk4")),
    ("clean", {"solver": "midpoint"}),
    ("noise", {"solver": "midpoint", "clip_flow_during_sampling": False}),
]
OBJECTIVES = {"flow": "flow", "clean": "flow_x_0", "noise": "flow_eps"}
RECTIFIED_UNET = {"dim": 8, "dim_mults": [1, 2], "channels": 1, "attn_dim_head": 8, "attn_heads": 2}


def rectified_cases(folder: Path, ways: Sequence[tuple[str, Options]], steps: int) -> Iterator[Case]:
    """Yield a case for each objective and solver, trained by its own loss."""
    from rectified_flow_pytorch import RectifiedFlow, Unet

    trained: dict[str, Any] = {}
    for predict, way in ways:
        if predict not in trained:
            torch.manual_seed(5)
            unet = Unet(**RECTIFIED_UNET)
            clip = way.get("clip_flow_during_sampling")
            made = RectifiedFlow(unet, predict=predict, clip_flow_during_sampling=clip)
            train(made, unet, lambda _, x_0, __, made=made: made((x_0 + 1) / 2), steps)
            trained[predict] = made
        made = trained[predict]
        options = {**RECTIFIED_UNET, "path": OBJECTIVES[predict], "reverse": True, "loop": "rectified_flow", **way}
        opened = adopted(folder, {"model": made.state_dict()}, "rectified_flow_pytorch:Unet", options)

        def loop(x: Tensor, made: Any = made, way: Options = way) -> Tensor:
            made.odeint_kwargs = {"method": way["solver"]}
            return made.sample(noise=x, steps=paths.STEPS) * 2 - 1

        yield Case("rectified-flow-pytorch", f"RectifiedFlow {predict} {way}", opened, loop)


# --- smalldiffusion: its networks, what its modifiers make of them, and its one loop ---

LINEAR = {"preconditioner": "noise", "sigma_min": 0.01, "sigma_max": 20.0, "N": 200}
FLOW = {"path": "flow", "schedule": "ScheduleFlow"}
SMALL: list[tuple[str, Options, float | None]] = [
    ("Scaled Unet", {**LINEAR, "gam": 2.0}, None),
    ("Scaled Unet", LINEAR, None),
    ("Scaled Unet", {**LINEAR, "mu": 0.5}, None),
    ("Unet", {"preconditioner": "noise", "schedule": "ScheduleDDPM"}, None),
    ("PredX0 Scaled Unet", LINEAR, None),
    ("PredV Scaled DiT", {**LINEAR, "gam": 1.6, "mu": 0.2}, None),
    ("PredFlow DiT", FLOW, None),
    ("Scaled DiT classes", {**LINEAR, "gam": 1.6}, 3.0),
]


def small_network(kind: str) -> nn.Module:
    """Return a network of smalldiffusion, such as "PredX0 Scaled Unet", for pictures of 14x14."""
    import smalldiffusion as small

    words = kind.removesuffix(" classes").split()
    made = getattr(small, words[-1])
    for modifier in reversed(words[:-1]):
        made = getattr(small, modifier)(made)
    if words[-1] == "Unet":
        return made(14, 1, 1, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(7,), dropout=0.0)
    time = small.TimestepEmbedder(32) if words[0] == "PredFlow" else None
    label = small.CondEmbedderLabel(32, 10) if kind.endswith("classes") else None
    return made(14, 1, depth=2, head_dim=16, num_heads=2, sig_embed=time, cond_embed=label)


def small_cases(folder: Path, ways: Sequence[tuple[str, Options, float | None]], steps: int) -> Iterator[Case]:
    """Yield a case for each network, schedule and step, trained by smalldiffusion's own loss."""
    import smalldiffusion as small

    trained: dict[Any, nn.Module] = {}
    for kind, way, guidance in ways:
        name = way.get("schedule", "ScheduleLogLinear")
        schedule = getattr(small, name)(*(() if "N" not in way else (way["N"], way["sigma_min"], way["sigma_max"])))
        classes = kind.endswith("classes")
        if (kind, name) not in trained:
            torch.manual_seed(6)
            network = small_network(kind)

            def loss(_: Any, x_0: Tensor, __: Any, network: Any = network, schedule: Any = schedule) -> Tensor:
                y = torch.zeros(len(x_0), dtype=torch.int64)
                x_0, sigma, eps, y = small.generate_train_sample((x_0, y), schedule, conditional=True)
                return network.get_loss(x_0, sigma, eps, cond=y if network.cond_embed is not None else None)

            train(network, network, loss, steps)
            trained[kind, name] = network
        network = trained[kind, name]
        label = Input("y", "label", none=10, classes=tuple(map(str, range(10)))) if classes else None
        options = {"kind": kind, "loop": "smalldiffusion", **way}
        opened = adopted(folder, network.state_dict(), f"{__name__}:small_network", options, label)

        def loop(
            x: Tensor, network: Any = network, schedule: Any = schedule, way: Any = way, w: Any = guidance
        ) -> Tensor:
            sigmas = schedule.sample_sigmas(paths.STEPS)
            how = {key: way[key] for key in ("gam", "mu") if key in way}
            given = {} if w is None else {"cond": torch.tensor([3] * len(x)), "cfg_scale": w - 1}
            *_, last = small.samples(network, sigmas, xt=x * sigmas[0], batchsize=len(x), **how, **given)
            return last

        yield Case(
            "smalldiffusion", f"{kind.removesuffix(' classes').split()[-1]} {kind} {way}", opened, loop, guidance
        )


# --- k-diffusion: its two kinds of network under its samplers ---

K: list[tuple[str, Options]] = [
    *(
        ("image_v1", {"solver": solver})
        for solver in ("lms", "euler", "heun", "dpm_2", "dpm_fast", "dpmpp_2m", "euler_ancestral", "dpm_2_ancestral")
    ),
    *(("image_v1", {"solver": f"dpmpp_{kind}"}) for kind in ("2s_ancestral", "sde", "2m_sde", "3m_sde")),
    ("image_v1", {"solver": "dpmpp_2m", "grid": "exponential"}),
    ("image_v1", {"solver": "dpmpp_2m_sde", "solver_type": "heun", "eta": 0.5}),
    *(("image_transformer_v1", {"solver": solver}) for solver in ("lms", "dpmpp_2m_sde", "heun")),
]


def k_network(kind: str) -> nn.Module:
    """Return a network of k-diffusion's configuration file, for pictures of 14x14."""
    import k_diffusion

    sizes: Options = {"patch_size": [2, 2], "depth": 2, "width": 64}
    if kind == "image_v1":
        sizes = {"mapping_out": 32, "depths": [1, 1], "channels": [16, 32], "self_attn_depths": [False, True]}
    model = {"type": kind, "input_channels": 1, "input_size": [14, 14], "sigma_data": paths.SIGMA_DATA, **sizes}
    return k_diffusion.config.make_model(k_diffusion.config.load_config({"model": model}))


def k_cases(folder: Path, ways: Sequence[tuple[str, Options]], steps: int) -> Iterator[Case]:
    """Yield a case for each network and sampler, trained by k-diffusion's own loss."""
    os.environ["K_DIFFUSION_USE_COMPILE"] = "0"
    import k_diffusion

    trained: dict[str, Any] = {}
    for kind, way in ways:
        if kind not in trained:
            torch.manual_seed(7)
            inner = k_network(kind)
            own = k_diffusion.layers.Denoiser(inner, paths.SIGMA_DATA)

            def loss(_: Any, x_0: Tensor, eps: Tensor, own: Any = own) -> Tensor:
                return own.loss(x_0, eps, torch.exp(1.2 * torch.randn(len(x_0)) - 1.2)).mean()

            train(own, own, loss, steps)
            trained[kind] = own
        own = trained[kind]
        options = {"kind": kind, "preconditioner": "edm", "loop": "k_diffusion_edm", **way}
        opened = adopted(folder, {"model_ema": own.inner_model.state_dict()}, f"{__name__}:k_network", options)

        def loop(x: Tensor, own: Any = own, way: Options = way) -> Tensor:
            sampling = k_diffusion.sampling
            how = {key: value for key, value in way.items() if key not in ("solver", "grid")}
            run = getattr(sampling, f"sample_{way['solver']}")
            if way["solver"] == "dpm_fast":
                return run(own, x * 80.0, 0.002, 80.0, paths.STEPS, disable=True)
            if way["solver"].endswith("sde"):  # whose own noise is a path that torchsde draws
                how["noise_sampler"] = lambda *_: torch.randn_like(x)
            sigmas = getattr(sampling, f"get_sigmas_{way.get('grid', 'karras')}")(paths.STEPS, 0.002, 80.0)
            return run(own, x * sigmas[0], sigmas, disable=True, **how)

        yield Case("k-diffusion", f"{kind} {way}", opened, loop)


FAMILIES: dict[str, list[Callable[[Path, int], Iterator[Case]]]] = {
    "diffusers": [lambda place, steps: paths.diffusers_cases(place, paths.DIFFUSERS, steps)],
    "denoising_diffusion_pytorch": [
        lambda place, steps: paths.elucidated_cases(place, paths.ELUCIDATED, steps),
        lambda place, steps: karras_cases(place, KARRAS, steps),
        lambda place, steps: gaussian_cases(place, GAUSSIAN, steps),
    ],
    "rectified_flow_pytorch": [lambda place, steps: rectified_cases(place, RECTIFIED, steps)],
    "smalldiffusion": [lambda place, steps: small_cases(place, SMALL, steps)],
    "k_diffusion": [lambda place, steps: k_cases(place, K, steps)],
    "torchcfm": [lambda place, steps: paths.torchcfm_cases(place, paths.CFM, steps)],
    "torch_utils": [paths_edm.edm_cases],
}


def main() -> None:
    """Compare every configuration, print, and with `--write` put the table on a page; 1 where one is off."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=300, help="of training")
    options.add_argument("--only", metavar="PACKAGE", choices=FAMILIES, help="torch_utils is EDM")
    options.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    arguments = options.parse_args()
    rows: dict[str, list[Compared]] = {}
    with paths.quiet(), tempfile.TemporaryDirectory() as folder:
        installed = [name for name in FAMILIES if importlib.util.find_spec(name) and arguments.only in (None, name)]
        cases = (family(Path(folder), arguments.steps) for name in installed for family in FAMILIES[name])
        for case in itertools.chain.from_iterable(cases):
            compared = paths.compare(case)
            print(case.project, case.name, compared, file=sys.stderr, flush=True)
            rows.setdefault(f"{case.project}, {case.name.partition(' ')[0]}", []).append(compared)
    text = markdown_from_table("Trained for a few hundred steps", paths.COLUMNS, [_line(*row) for row in rows.items()])
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


if __name__ == "__main__":
    main()
