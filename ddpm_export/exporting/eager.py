"""A checkpoint's own network as PyTorch runs it, to be timed beside an exported file."""

import copy
import warnings
from typing import Any

import torch

from ddpm_export.importers.checkpoint import Checkpoint
from ddpm_export.measuring.steps import Call, inputs_at_the_middle
from ddpm_export.process.equations import Array

EAGER, CHANNELS_LAST, COMPILED = "eager", "eager channels_last", "torch.compile channels_last"
FROZEN = "TorchScript, frozen"


def eager_calls(checkpoint: Checkpoint, batch: int, threads: int, *, frozen: bool = False) -> dict[str, Call]:
    """Return one evaluation of a batch by each way that PyTorch has, float32 on the CPU; eager is the first.

    What is called is the network, not a Model: no check of ours is in its time. frozen: frozen TorchScript as well,
    deprecated, and of networks without other inputs only. Sets torch's number of threads.
    """
    torch.set_num_threads(threads)
    network = checkpoint.network
    x_t, t, inputs = inputs_at_the_middle(checkpoint.spec, batch)
    x, times = torch.from_numpy(x_t), torch.from_numpy(t)
    named = {name: torch.from_numpy(value) for name, value in inputs.items()}
    x_last = x.to(memory_format=torch.channels_last)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def evaluated(module: Any, image: torch.Tensor) -> Call:
        def evaluate() -> Array:
            with torch.inference_mode():
                out = module(image, times, **named)
            prediction: Array = (out[0] if isinstance(out, (tuple, list)) else out).numpy()
            return prediction

        return evaluate

    calls = {
        EAGER: evaluated(network, x),
        CHANNELS_LAST: evaluated(last, x_last),
        COMPILED: evaluated(torch.compile(copy.deepcopy(last), dynamic=False), x_last),
    }
    if frozen and not named:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, which is no news in a comparison with it
            traced = torch.jit.trace(copy.deepcopy(network), (x, times))  # type: ignore[no-untyped-call]
            calls[FROZEN] = evaluated(torch.jit.freeze(traced), x)
    return calls
