"""The weights of the recorded cases: those that their outputs were recorded with, and each of them of consequence."""

import json
import zlib

import numpy as np
import pytest

from tests.oracles.weights import ORACLES, weights_of

CRC_32 = {  # of all values, little-endian float32, in the order of weights.json
    "guided-a": 0x0C30658F,
    "guided-b": 0xB180517B,
    "guided-c": 0x66D9E29D,
    "guided-class-a": 0x8179357B,
    "guided-d": 0x7E4C0EB6,
    "guided-e": 0x4C699A56,
    "guided-sr-a": 0x8D88E00E,
    "improved-a": 0x3E18DA43,
    "improved-b": 0x7DAAE6BD,
    "improved-c": 0x5FA1454D,
    "improved-class-a": 0x4236AE5D,
    "tqch-a": 0x6B00C991,
    "tqch-b": 0xF0E58BF0,
    "tqch-c": 0xD7CBAB61,
    "tqch-d": 0x334D7DBB,
}


def tensors_of(case):
    return json.loads((ORACLES / case / "weights.json").read_text(encoding="utf-8"))["tensors"]


def test_every_recorded_case_is_known():
    assert sorted(path.parent.name for path in ORACLES.glob("*/expected.npz")) == sorted(CRC_32)


@pytest.mark.parametrize("case", CRC_32)
def test_weights_are_the_same_to_the_last_bit(case):
    weights = weights_of(case)
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    checksum = zlib.crc32(b"".join(value.astype("<f4").tobytes() for value in weights.values()))
    assert f"{checksum:08X}" == f"{CRC_32[case]:08X}"


@pytest.mark.parametrize("case", CRC_32)
def test_weights_have_the_shapes_means_and_deviations_they_should_and_none_is_zero(case):
    weights = weights_of(case)
    tensors = tensors_of(case)
    assert weights.keys() == tensors.keys()
    for name, (shape, scale, shift) in tensors.items():
        value = weights[name].astype(np.float64)
        assert value.shape == tuple(shape)
        assert scale > 0.0
        assert value.all()
        assert np.abs(value - shift).max() <= scale * np.sqrt(3.0) * (1.0 + 1e-6)
        if value.size >= 1000:  # six standard errors of a uniform distribution's mean and deviation
            assert abs(value.mean() - shift) <= 6.0 * scale / np.sqrt(value.size)
            assert abs(value.std() / scale - 1.0) <= 6.0 * np.sqrt(0.2 / value.size)


def test_no_two_tensors_and_no_two_seeds_share_their_values():
    values = [weights_of("tqch-d", seed) for seed in ("seed", "raw_seed")]
    first = [value.flat[0] for weights in values for value in weights.values() if value.ndim > 1]
    assert len(set(first)) == len(first)
