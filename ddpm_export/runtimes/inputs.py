"""What a network is fed: checked by name, shape and dtype against the spec, the same for every runtime. NumPy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_export.errors import UsageError
from ddpm_export.model.spec import ModelSpec
from ddpm_export.process.equations import Array


def input_types(spec: ModelSpec) -> dict[str, tuple[np.dtype[Any], list[int]]]:
    """Return the network's inputs by name, in the graph's order: dtype, and shape without the batch."""
    types = {"x_t": (np.dtype(np.float32), list(spec.state_shape)), "t": (np.dtype(spec.t_dtype), [])}
    return types | {one.name: (np.dtype(one.dtype), list(one.shape)) for one in spec.inputs}


def checked_inputs(spec: ModelSpec, x_t: Array, t: Array, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return all inputs by name, contiguous, in the graph's order.

    Raises UsageError for one that is missing, that the spec does not have, or that has another shape or dtype.
    """
    given = {"x_t": x_t, "t": t, **inputs}
    types = input_types(spec)
    for name in given:
        if name not in types:
            raise UsageError(f"{name}: not an input of {spec.name!r}. It takes {', '.join(types)}.")
    feeds = {}
    for name, (dtype, shape) in types.items():
        if name not in given:
            raise UsageError(f"{name}: missing. The network takes {', '.join(types)}.")
        values, expected = np.asarray(given[name]), (len(x_t), *shape)
        if values.shape != expected or values.dtype != dtype:
            raise UsageError(
                f"{name} must be {dtype.name} of shape {expected}, got {values.dtype.name} of shape {values.shape}."
            )
        feeds[name] = np.ascontiguousarray(values)
    return feeds
