"""What a policy is taught: observations and the plans that followed them, of a script or of a file of episodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddpm_export.errors import BadFileError, ConfigError, first_line
from ddpm_export.process.equations import Array

from .config import PolicyConfig
from .two_ways import demonstrations


@dataclass(frozen=True)
class Demonstrations:
    """Hold N examples in their own units: observations (N, n_obs_steps, D) by name, plans (N, horizon, actions)."""

    inputs: Mapping[str, Array]
    plans: Array


def open_demonstrations(config: PolicyConfig, data: Path | None) -> Demonstrations:
    """Return the examples of a configuration, from its script or from a file of episodes.

    Raises ConfigError where a file is needed and not given, BadFileError for a file that does not fit.
    """
    if config.demonstrations == "two-ways":
        count = config.examples
        inputs, plans = demonstrations(np.random.default_rng([config.seed, count]), count, config.horizon)
        return Demonstrations(inputs, plans)
    if data is None:
        raise ConfigError(f"The demonstrations of {config.demonstrations} are a file: give it with --data.")
    try:
        with np.load(data, allow_pickle=False) as file:
            states, actions, ends = (file[name] for name in ("states", "actions", "ends"))
        sizes = list(config.inputs.values())
        if (
            states.shape != (len(actions), sum(sizes))
            or actions.shape[1:] != (config.actions,)
            or ends[-1] != len(states)
        ):
            raise ValueError(f"states {states.shape}, actions {actions.shape}, ends up to {ends[-1]}")
    except Exception as exc:  # numpy and zipfile raise whatever they met
        raise BadFileError(f"{data} does not hold this policy's demonstrations: {first_line(exc)}.") from exc
    return _windows(config, states, actions, ends)


def _windows(config: PolicyConfig, states: Array, actions: Array, ends: Array) -> Demonstrations:
    """Cut episodes into windows; beyond an episode's ends its first and last steps are repeated, as lerobot does."""
    before, after, now = [], [], config.n_obs_steps - 1
    dropped = config.horizon - config.n_action_steps - now
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        t = np.arange(first, max(first + 1, end - dropped))[:, None]
        before.append(np.clip(t + np.arange(-now, 1), first, end - 1))
        after.append(np.clip(t + np.arange(-now, config.horizon - now), first, end - 1))
    seen = states[np.concatenate(before)].astype(np.float32)
    cuts = np.cumsum(list(config.inputs.values()))[:-1]
    parts = np.split(seen, cuts, axis=-1)
    return Demonstrations(
        dict(zip(config.inputs, parts, strict=True)), actions[np.concatenate(after)].astype(np.float32)
    )
