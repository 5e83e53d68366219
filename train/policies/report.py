"""`python -m train.policies.report two-ways.onnx`: whether both ways survive, and how often a plan meets the disc.

With `--regression CHECKPOINT`, the same of a network of the same size that predicts one plan by the mean squared error
(`python -m train --config two-ways --set is_regression=true`).
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.options import Debug
from ddpm_export.importers.checkpoint import load_own_checkpoint
from ddpm_export.process.equations import Array
from ddpm_export.sampling.generate import generate

from .config import policy_from_dict
from .training import network_of
from .two_ways import DISC, GOAL, RADIUS, clearance, demonstrations, is_left

SHOWN, PLANS = 3, 32  # scenes of the picture, and plans of each


def scenes(count: int, seed: int) -> tuple[Array, Array]:
    """Return goals and discs, each (count, 2), of which the disc blocks the straight line."""
    given, _ = demonstrations(np.random.default_rng([seed, 1]), 4 * count, 2)
    goals, discs = np.pad(given[GOAL][:, 0], ((0, 0), (0, 1))), given[DISC][:, 0]
    blocked = clearance(goals[:, None], discs) < RADIUS
    return goals[blocked][:count], discs[blocked][:count]


def measured(goals: Array, discs: Array, plans: Array) -> dict[str, float]:
    """Return what plans (N, horizon, 2) of as many scenes do, in per cent, and how far from the goal they end."""
    near = clearance(plans, discs) / RADIUS
    return {
        "against the clock, %": round(100 * float(is_left(plans, discs).mean()), 1),
        "through the disc, %": round(100 * float((near < 1).mean()), 1),
        "through its inner half, %": round(100 * float((near < 0.5).mean()), 1),
        "from the goal at the end": round(float(np.linalg.norm(plans[:, -1] - goals, axis=1).mean()), 4),
    }


def predicted(checkpoint: Path, goals: Array, discs: Array) -> Array:
    """Return the plans (N, horizon, 2) that a regression predicts."""
    contents = load_own_checkpoint(checkpoint)
    config = policy_from_dict(contents["config"])
    assert config is not None
    network = network_of(config)
    network.load_state_dict(contents["ema"])
    given, (middle, half) = torch.from_numpy(np.concatenate([goals[:, :1], discs], axis=1)), config.units
    with torch.inference_mode():
        x = torch.zeros(len(given), config.horizon, config.actions)
        t = torch.zeros(len(given), dtype=torch.long)
        plans: Array = network.eval()(x, t, global_cond=(given - middle) / half).numpy() * half + middle
    return plans


def command(
    path: Annotated[Path, typer.Argument(help="The exported policy.")],
    regression: Annotated[Path | None, typer.Option(help="The checkpoint of a regression.")] = None,
    count: Annotated[
        int, typer.Option(min=1, help="Scenes, one plan each; and a quarter of them, 32 plans each.")
    ] = 1000,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="A picture to write.")] = None,
    debug: Debug = False,
) -> None:
    """Measure the policy of `two-ways` in scenes whose disc blocks the straight line."""
    goals, discs = scenes(count, seed)

    def plan(goals: Array, discs: Array) -> Array:
        given = {GOAL: goals[:, None, :1], DISC: discs[:, None]}
        plans: Array = generate(path, n=len(goals), seed=seed, inputs=given)
        return plans

    result: dict[str, Any] = {"policy": measured(goals, discs, plan(goals, discs))}
    many = [np.repeat(values[: max(SHOWN, count // 4)], PLANS, axis=0) for values in (goals, discs)]
    several = plan(*many)
    left = is_left(several, many[1]).reshape(-1, PLANS).mean(axis=1)
    both = round(100 * float(((left > 0) & (left < 1)).mean()), 1)
    result["policy"][f"scenes with both ways in {PLANS} plans, %"] = both
    means = None if regression is None else predicted(regression, goals, discs)
    if means is not None:
        result["regression"] = measured(goals, discs, means)
    print_json(result)
    if out is not None:
        _draw(out, goals, discs, several.reshape(-1, PLANS, *several.shape[1:]), means)


def _draw(out: Path, goals: Array, discs: Array, plans: Array, means: Array | None) -> None:
    """Draw the plans of the first scenes, and over them what a regression predicts."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(3 * SHOWN, 3), dpi=100, layout="constrained")
    for k, axes in enumerate(figure.subplots(1, SHOWN, squeeze=False)[0]):
        axes.add_patch(Circle(discs[k], RADIUS, color="0.75"))
        regressions = [] if means is None else means[k : k + 1]
        for ways, colour, width in ((plans[k], "tab:blue", 0.8), (regressions, "tab:red", 2.5)):
            for way in ways:
                axes.plot(*np.vstack([[0, 0], way]).T, color=colour, linewidth=width)
        axes.plot(0, 0, "ko", *goals[k], "k*")
        middle = goals[k] / 2
        axes.set(aspect="equal", xlim=middle[0] + np.array([-0.6, 0.6]), ylim=middle[1] + np.array([-0.6, 0.6]))
        axes.set(xticks=[], yticks=[])
    figure.savefig(out)


main = entry_point(command)

if __name__ == "__main__":
    main()
