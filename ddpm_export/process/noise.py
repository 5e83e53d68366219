"""Noise as a pure function of (seed, image, draw), bit-equal in every language. NumPy and the standard library only.

The tag `philox4x32-10/icdf-q20/1` names this construction; docs/format.md section 3 fixes it to the last bit.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ddpm_export.errors import UsageError, shown

Words = NDArray[np.uint32]
Noise = Callable[[int], NDArray[np.float32]]

NOISE_TAG = "philox4x32-10/icdf-q20/1"
# the counter's domain word: sampling; known pixels; the inputs of a network in golden vectors and proofs
SAMPLING, GIVEN, INPUTS = 0, 1, 2
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
# draws made together, and their numbers at most: a call of NumPy costs some thousand numbers; more overflow the caches
MAX_AHEAD, MAX_NUMBERS_AHEAD = 16, 2**14


def philox4x32_10(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Return the four output words of Philox4x32-10 (Salmon et al. 2011, section 3.3) for arrays of counters.

    The four counter words broadcast against each other; every result has their common shape, uint32.
    """
    c0, c1, c2, c3 = (word.astype(np.uint64) for word in np.broadcast_arrays(*counter))
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = key
    for _ in range(10):
        product_0 = c0 * np.uint64(MULTIPLIERS[0])
        product_1 = c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (product_1 >> shift) ^ c1 ^ np.uint64(k0),
            product_1 & low,
            (product_0 >> shift) ^ c3 ^ np.uint64(k1),
            product_0 & low,
        )
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & 0xFFFFFFFF, (k1 + KEY_INCREMENTS[1]) & 0xFFFFFFFF
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


@functools.cache
def normal_table() -> NDArray[np.int32]:
    """Return the inverse normal distribution at the cells of a half-word, scaled by 2^20: (32, 257) int32.

    Row e covers the probabilities of words with e leading zeros below the sign bit, in 256 equal cells; the last row
    is the value of only the zero word.
    """
    inverse = NormalDist().inv_cdf
    rows = [
        [round(-inverse(2.0**30 * (1.0 + j / 256.0) / 2.0**e / 2.0**32) * 2.0**20) for j in range(257)]
        for e in range(31)
    ]
    rows.append([round(-inverse(2.0**-33) * 2.0**20)] * 257)
    table = np.array(rows, dtype=np.int32)
    table.setflags(write=False)
    return table


def normals_from_words(words: Words) -> NDArray[np.float32]:
    """Return a standard normal for each uint32 word, float32, by table and linear interpolation in integers."""
    table = normal_table().reshape(-1)
    m = (words & np.uint32(0x7FFFFFFF)).astype(np.int64)
    leading_zeros = 31 - np.frexp(m.astype(np.float64))[1].astype(np.int64)  # exact below 2^53; 31 for m = 0
    f = m << np.minimum(leading_zeros, 30)  # the leading one now stands at bit 30, save for m = 0
    cell = leading_zeros * 257 + ((f >> 22) & 0xFF)
    upper = table[cell].astype(np.int64)
    z = upper - (((upper - table[cell + 1]) * (f & 0x3FFFFF)) >> 22)  # both factors are >= 0: the shift floors
    z = np.where(words >> np.uint32(31), -z, z)
    return np.asarray(z * 2.0**-20, dtype=np.float32)  # exact: |z| < 2^23


def noise_stream(
    seed: int,
    images: Iterable[int],
    shape: Sequence[int],
    *,
    domain: int = SAMPLING,
    draws: Sequence[int] = (),
) -> Noise:
    """Return the noise of some images: draw index -> (len(images), *shape) float32; draw 0 is x_T.

    Image 7 has the same noise alone or among others, whichever draws came before. seed is in [0, 2^63), images and
    draws in [0, 2^32). draws: those to come, in this order; up to 16 of them, 16,384 numbers at most, are made at once
    and kept until then. Raises UsageError outside these ranges.
    """
    seed = int(seed)
    numbers = [int(i) for i in images]
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed must be from 0 to 2^63 - 1, got {shown(seed)}.")
    if any(not 0 <= i < 2**32 for i in numbers):
        raise UsageError(f"Numbers of images must be from 0 to 2^32 - 1, got {min(numbers)} to {max(numbers)}.")
    size = math.prod(shape)
    if min(shape) < 1:
        raise UsageError(f"shape must be positive, got {shown(tuple(shape))}.")
    if not 0 <= domain < 2**32:
        raise UsageError(f"domain must be from 0 to 2^32 - 1, got {domain}.")
    key = (seed & 0xFFFFFFFF, seed >> 32)
    block = np.arange((size + 3) // 4, dtype=np.uint32)[None, :]
    image = np.array(numbers, dtype=np.uint32)[:, None]
    ahead = max(1, min(MAX_AHEAD, MAX_NUMBERS_AHEAD // max(1, len(numbers) * size)))
    places = {draw: place for place, draw in enumerate(draws)}
    kept: dict[int, NDArray[np.float32]] = {}

    def made(some: Sequence[int]) -> NDArray[np.float32]:
        counter = (block, np.array(some, dtype=np.uint32)[:, None, None], image, np.array(domain, dtype=np.uint32))
        words = np.stack(philox4x32_10(counter, key), axis=-1)  # (draws, images, blocks, 4)
        words = words.reshape(len(some), len(numbers), 4 * block.size)[:, :, :size]
        return normals_from_words(words).reshape(len(some), len(numbers), *shape)

    def noise(draw: int) -> NDArray[np.float32]:
        if not 0 <= draw < 2**32:
            raise UsageError(f"draw must be from 0 to 2^32 - 1, got {draw}.")
        if draw not in kept:
            place = places.get(draw)
            some = [draw] if place is None else list(draws[place : place + ahead])
            kept.clear()
            kept.update(zip(some, made(some), strict=True))
        return kept.pop(draw)

    return noise
