"""What an opened file is: a denoiser, whose network is evaluated step by step, or a one-call sampler."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ddpm_export.errors import ModelRefusedError, NonFiniteError
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.stages import AFTER, BEFORE, ENCODE
from ddpm_export.process.equations import Array, Model

# (seed, image numbers, num_steps, eta, times=None, plan=None, guidance=None, **inputs of the spec) -> where it stops to
# show it: the number of the row, from 1, the state x after it (B, *shape) and what it is worth, pictures uint8
# (B, H, W, C) or values float32; the last is the end
OneCall = Callable[..., Iterator[tuple[int, Array, Array]]]


Graph = Callable[[Mapping[str, Array]], dict[str, Array]]  # a stage: its inputs by name -> its outputs


@dataclass(frozen=True)
class Network:
    """A Model with its stages: evaluate it as (x_t, t, **inputs) -> outputs by name; see `ModelSpec.stages`."""

    evaluate: Model
    spec: ModelSpec
    stages: Mapping[str, Graph] = field(default_factory=dict)

    def __call__(self, x_t: Array, t: Array, **inputs: Array) -> dict[str, Array]:
        """Evaluate the network; arguments as of `open_model`."""
        return self.evaluate(x_t, t, **inputs)

    def prepare(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the network's inputs, of those that a user gives for a batch: `spec.asked_inputs`, (B, *shape)."""
        if BEFORE not in self.stages:
            return dict(inputs)
        stage = self.spec.stages[BEFORE]
        taken = {entry.name: inputs[entry.name] for entry in stage.inputs}
        own = {entry.name for entry in self.spec.inputs}
        return {name: values for name, values in inputs.items() if name in own} | self._run(BEFORE, taken)

    def decode(self, x: Array) -> Array:
        """Return what states (B, *shape) are: pictures (B, C, H, W) in [-1, 1], or numbers; x itself without stages."""
        values = x if self.spec.units is None else self.spec.units.of(x)
        if AFTER not in self.stages:
            return values
        return self._run(AFTER, {"x": np.ascontiguousarray(values, np.float32)})[self.spec.stages[AFTER].result]

    def encode(self, images: Array) -> Array:
        """Return the states of pictures (B, C, H, W) in [-1, 1]. Raises ModelRefusedError without such a stage."""
        if AFTER in self.stages and ENCODE not in self.stages:
            raise ModelRefusedError(
                "The model has no encoder, which starting from a picture needs. Export it with one."
            )
        x = self._run(ENCODE, {"images": images.astype(np.float32)})["x"] if ENCODE in self.stages else images
        return x if self.spec.units is None else self.spec.units.state_of(x)

    def _run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a stage image by image: memory stays that of one, and an image is the same in any batch."""
        count = len(next(iter(inputs.values())))
        parts = [self.stages[name]({key: values[k : k + 1] for key, values in inputs.items()}) for k in range(count)]
        outputs = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for key, values in outputs.items():
            if not np.isfinite(values).all():
                raise NonFiniteError(
                    f"The stage {name!r} gives NaN or infinity in {key!r}. Run ddpm-check on the model."
                )
        return outputs


@dataclass(frozen=True)
class DenoiserFile:
    """Hold the network of a file: model(x_t (B, *shape) float32, t (B,) int64, **inputs) gives outputs by name."""

    model: Model
    spec: ModelSpec


@dataclass(frozen=True)
class OneCallFile:
    """Hold the sampler of a one-call file, whose spec names a graph: the whole trajectory, or slices of one."""

    run: OneCall
    spec: ModelSpec

    def end(self, *settings: Any, **inputs: Any) -> tuple[Array, Array]:
        """Return where a run ends, x (B, *shape) and its pictures or values; arguments as of `run`."""
        _, x, images = deque(self.run(*settings, **inputs), maxlen=1).pop()
        return x, images
