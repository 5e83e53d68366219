"""Record what loops of other projects give over one small function: `python record.py`, with all three packages.

rectified-flow-pytorch 0.14.0, smalldiffusion 0.5.0 and k-diffusion 0.1.1.post1; writes recorded.json. See ../README.md.
"""

import json
from pathlib import Path

import k_diffusion
import numpy as np
import smalldiffusion
import torch
from rectified_flow_pytorch import RectifiedFlow

from benchmarks.importing.paths import Fed
from ddpm_export.importers.loops import plan_from_loop, widened
from ddpm_export.importers.named_loops import loop_from_options
from ddpm_export.importers.paths import path_from_options
from ddpm_export.model.plans import json_from_plan
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.noise import noise_stream

STEPS, SHAPE = 4, (1, 2, 2)
FLOW = {"path": "flow", "reverse": True, "loop": "rectified_flow"}
SIGMAS = {"loop": "smalldiffusion", "sigma_min": 0.01, "sigma_max": 20.0, "N": 200}
EDM = {"preconditioner": "edm", "loop": "k_diffusion_edm"}
K = "euler euler_ancestral heun dpm_2 dpm_2_ancestral lms dpm_fast dpmpp_2s_ancestral dpmpp_sde dpmpp_2m dpmpp_2m_sde"
CASES = [
    *({**FLOW, "solver": solver} for solver in ("euler", "midpoint", "heun2", "heun3", "rk4")),
    {**FLOW, "path": "flow_x_0", "solver": "midpoint"},
    {**FLOW, "path": "flow_eps", "solver": "midpoint", "clip_flow_during_sampling": False},
    *({"preconditioner": "noise", **SIGMAS, **how} for how in ({}, {"gam": 2.0}, {"mu": 0.5}, {"gam": 1.5, "mu": 0.2})),
    {"preconditioner": "noise", "loop": "smalldiffusion", "schedule": "ScheduleDDPM"},
    {"path": "flow", "loop": "smalldiffusion", "schedule": "ScheduleFlow"},
    *({**EDM, "solver": solver} for solver in (*K.split(), "dpmpp_3m_sde")),
    {**EDM, "solver": "dpmpp_2m", "grid": "exponential", "sigma_data": 0.3},
]


class Network(torch.nn.Module):
    """A function that is no denoiser's, but depends on the state and the time."""

    def forward(self, x, told, times=None):
        return torch.tanh(0.8 * x + 0.3) + 0.1 * torch.sin((told if times is None else times).reshape(-1, 1, 1, 1))


class Rectified(Network):
    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Linear(1, 1)

    def forward(self, x, times):
        return super().forward(x, times)


class Small(Network, smalldiffusion.ModelMixin):
    input_dims = SHAPE

    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Linear(1, 1)

    def forward(self, x, sigma, cond=None):  # noqa: ARG002
        return super().forward(x, sigma)


def rectified(options, x):
    predict = {"flow": "flow", "flow_x_0": "clean", "flow_eps": "noise"}[options["path"]]
    clip = options.get("clip_flow_during_sampling")
    solver = {"method": options["solver"]}
    made = RectifiedFlow(Rectified(), predict=predict, odeint_kwargs=solver, clip_flow_during_sampling=clip)
    return made.sample(noise=x, steps=STEPS, data_shape=SHAPE) * 2 - 1


def small(options, x):
    name = options.get("schedule", "ScheduleLogLinear")
    given = (options["N"], options["sigma_min"], options["sigma_max"]) if "N" in options else ()
    sigmas = getattr(smalldiffusion, name)(*given).sample_sigmas(STEPS)
    model = (smalldiffusion.PredFlow(Small) if "path" in options else Small)()
    how = {key: options[key] for key in ("gam", "mu") if key in options}
    *_, last = smalldiffusion.samples(model, sigmas, xt=x * sigmas[0], batchsize=len(x), **how)
    return last


def k(options, x):
    sampling, network = k_diffusion.sampling, Network()
    own = k_diffusion.layers.Denoiser(lambda x, sigma: network(x, sigma.log() / 4), options.get("sigma_data", 0.5))
    run = getattr(sampling, f"sample_{options['solver']}")
    if options["solver"] == "dpm_fast":
        return run(own, x * 80.0, 0.002, 80.0, STEPS, disable=True)
    how = {"noise_sampler": lambda *_: torch.randn_like(x)} if options["solver"].endswith("sde") else {}
    sigmas = getattr(sampling, f"get_sigmas_{options.get('grid', 'karras')}")(STEPS, 0.002, 80.0)
    return run(own, x * sigmas[0], sigmas, disable=True, **how)


LOOPS = {"rectified_flow": rectified, "smalldiffusion": small, "k_diffusion_edm": k}


def recorded(options):
    path, left = path_from_options(options)
    loop, _ = loop_from_options(left, path)
    path = widened(path, loop.by_steps((STEPS,)).values())
    spec = ModelSpec(
        "x", path.form.prediction, SHAPE, path.alphas_cumprod(1000), clip_x_0=None, requires=("fractional_t",)
    )
    plan = plan_from_loop(loop.by_steps((STEPS,))[STEPS], path, spec)
    noise = noise_stream(0, range(2), SHAPE)
    with torch.no_grad(), Fed(noise(draw).astype(np.float64) for draw in range(1, 99)):
        last = LOOPS[options["loop"]](options, torch.from_numpy(noise(0).astype(np.float64)))
    return {"options": options, "plan": json_from_plan(plan), "sigma_max": path.sigma_max, "last": last.tolist()}


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(recorded(options)) for options in CASES)
    Path(__file__).with_name("recorded.json").write_text(f"[\n{lines}\n]\n")
