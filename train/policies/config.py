"""The configuration of a policy's training: a JSON file of train/configs that has `demonstrations`."""

from dataclasses import dataclass, field
from typing import Any

from ddpm_export.errors import ConfigError, shown

from ..config import check_at_least_1, dataclass_from_dict


@dataclass(frozen=True)
class PolicyConfig:
    """Hold everything that a policy follows from, besides its demonstrations; names are lerobot's where it has them.

    inputs: the sizes of the observations by name. low, high: the ends of all of their units, and of the actions'.
    examples: how many a script makes. The learning rate rises over `warmup_steps` and falls to zero in a line over the
    last `cooldown_steps`. is_regression: predict a plan from the observations alone, by the mean squared error.
    """

    demonstrations: str
    name: str = "unnamed"
    inputs: dict[str, int] = field(default_factory=lambda: {"observation.state": 2})
    actions: int = 2
    low: float = 0.0
    high: float = 1.0
    examples: int = 20_000
    horizon: int = 16
    n_obs_steps: int = 2
    n_action_steps: int = 8
    down_dims: tuple[int, ...] = (64, 96, 128)
    kernel_size: int = 5
    n_groups: int = 8
    diffusion_step_embed_dim: int = 64
    use_film_scale_modulation: bool = True
    num_train_timesteps: int = 100
    num_inference_steps: int = 10
    prediction_type: str = "epsilon"
    is_regression: bool = False
    batch_size: int = 64
    steps: int = 10_000
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    cooldown_steps: int = 0
    weight_decay: float = 1e-6
    ema_halflife_steps: int = 500
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500

    # What may differ when a training goes on.
    RESUMABLE = ("steps", "learning_rate", "warmup_steps", "cooldown_steps", "log_every", "checkpoint_every")

    def __post_init__(self) -> None:
        counts = ("actions", "examples", "batch_size", "steps", "ema_halflife_steps", "log_every", "checkpoint_every")
        check_at_least_1(self, counts)
        if self.prediction_type not in ("epsilon", "sample"):
            raise ConfigError(f"prediction_type must be epsilon or sample, got {shown(self.prediction_type)}.")
        if not self.low < self.high:
            raise ConfigError(f"low must be below high, got {self.low:g} and {self.high:g}.")
        if not 0 < self.n_obs_steps - 1 + self.n_action_steps <= self.horizon:
            raise ConfigError(f"n_action_steps must fit in horizon - n_obs_steps + 1, got {self.n_action_steps}.")

    @property
    def units(self) -> tuple[float, float]:
        """Return the middle and the half width of the range that becomes -1 to 1."""
        return (self.low + self.high) / 2, (self.high - self.low) / 2


def policy_from_dict(values: dict[str, Any]) -> PolicyConfig | None:
    """Return the configuration of a policy, or None where the values are of something else."""
    if "demonstrations" not in values:
        return None
    made: PolicyConfig = dataclass_from_dict(PolicyConfig, values, "")
    return made
