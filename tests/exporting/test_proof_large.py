"""The proof of networks of large images: an eighth of the evaluations, that still finds what goes wrong."""

import dataclasses

import numpy as np
import pytest

from ddpm_export.errors import ModelRefusedError
from ddpm_export.exporting.proof import prove
from ddpm_export.model.spec import ModelSpec

SMALL = ModelSpec(
    name="large",
    prediction="eps",
    state_shape=(3, 64, 64),
    alphas_cumprod=tuple(np.linspace(0.999, 0.01, 1000).tolist()),
)
LARGE = dataclasses.replace(SMALL, state_shape=(3, 64, 65))


class Counted:
    """A network in NumPy that counts the images it has seen, by time."""

    def __init__(self, way=""):
        self.way, self.times, self.batches = way, [], []

    def __call__(self, x_t, t):
        self.times += t.tolist()
        self.batches.append(len(t))
        used = np.full_like(t, t[0]) if self.way == "first time for all" else t
        out = x_t * (0.5 + used[:, None, None, None] / 4000).astype(np.float32)
        if self.way == "first image for all":
            out = np.broadcast_to(out[:1], out.shape)
        if self.way == "last time":
            out = np.where((t == 999)[:, None, None, None], out * np.float32(1.001), out)
        return {"eps": out}


def test_large_images_take_an_eighth_of_the_evaluations():
    counts = {}
    for spec in (SMALL, LARGE):
        candidate, reference = Counted(), Counted()
        proof = prove(candidate, reference, spec)
        assert proof.error == 0.0
        assert proof.batches == (1, 2, 3, 5)
        assert set(candidate.batches) == {1, 2, 3, 4, 5} - ({4} if spec is LARGE else set())
        assert candidate.times == reference.times
        assert set(proof.times) <= set(candidate.times)
        assert {0, 999} <= set(proof.times)
        counts[spec.state_shape] = len(candidate.times), len(proof.times)
    assert counts == {SMALL.state_shape: (172, 12), LARGE.state_shape: (21, 8)}


@pytest.mark.parametrize("way", ["first time for all", "first image for all", "last time"])
def test_what_is_wrong_with_a_large_network_is_found(way):
    with pytest.raises(ModelRefusedError, match="does not reproduce its network"):
        prove(Counted(way), Counted(), LARGE)


def test_few_times_are_enough_for_a_schedule_of_few():
    spec = dataclasses.replace(
        LARGE, alphas_cumprod=(0.9, 0.5), defaults=dataclasses.replace(LARGE.defaults, num_steps=2)
    )
    assert prove(Counted(), Counted(), spec).times == (0, 1)
