"""What docs/onnx-8161.md says of our noise and the RandomUniform of ONNX's proposal 8161, each computed by both."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm_export.process.noise import noise_stream, normals_from_words, philox4x32_10

PAGE = (Path(__file__).parent.parent / "docs" / "onnx-8161.md").read_text(encoding="utf-8")
LOW = 0xFFFFFFFF


def proposed_words(seed_int64, offset, count, first_block=0):
    """The output words of generator="philox4x32_10" from a block on, one counter at a time, in Python's integers."""
    key, words = seed_int64 % 2**64, []
    for block in range(first_block, first_block + -(-count // 4)):
        x = [block & LOW, block >> 32, offset % 2**64 & LOW, offset % 2**64 >> 32]
        k = [key & LOW, key >> 32]
        for number in range(10):
            if number:
                k = [(k[0] + 0x9E3779B9) & LOW, (k[1] + 0xBB67AE85) & LOW]
            p, q = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
            x = [q >> 32 ^ x[1] ^ k[0], q & LOW, p >> 32 ^ x[3] ^ k[1], p & LOW]
        words += x
    return words[:count]


def proposed_uniforms(words, bits=24):
    """One word an element: its highest bits, 24 for float32, 11 for float16, 8 for bfloat16, over 2^bits."""
    return [Fraction(word >> (32 - bits), 2**bits) for word in words]


def proposed_doubles(words):
    return [Fraction((a >> 5 << 26) + (b >> 6), 2**53) for a, b in zip(words[::2], words[1::2], strict=True)]


def our_words(seed, image, draw, domain, count):
    block = np.arange(-(-count // 4), dtype=np.uint32)
    counter = (block, *(np.uint32([number]) for number in (draw, image, domain)))
    return np.stack(philox4x32_10(counter, (seed & LOW, seed >> 32)), axis=-1).ravel()[:count].tolist()


SEED, WORD = st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1)


@given(SEED, WORD, WORD, st.integers(1, 40))
def test_draw_0_is_the_stream_at_offset_image_plus_2_32_domain(seed, image, domain, count):
    offset = image + 2**32 * domain
    words = proposed_words(seed, offset, count)
    assert our_words(seed, image, 0, domain, count) == words
    values = noise_stream(seed, [image], (count,), domain=domain)(0)
    assert values.ravel().tolist() == normals_from_words(np.array(words, np.uint32)).tolist()
    if offset >= 2**63:  # an int64 holds it as a negative number
        assert proposed_words(seed, offset - 2**64, count) == words


@given(SEED, WORD, st.integers(1, 2**32 - 1))
def test_a_later_draw_is_2_34_elements_further_on_in_that_stream(seed, image, draw):
    words = our_words(seed, image, draw, 0, 8)
    assert words == proposed_words(seed, image, 8, first_block=2**32 * draw)
    assert words != proposed_words(seed, image, 8)


@given(st.integers(-(2**63), -1))
def test_a_negative_seed_has_a_key_that_ours_has_not(seed):
    assert (seed % 2**64) >> 63 == 1
    with pytest.raises(Exception, match="seed must be from 0"):
        noise_stream(seed, [0], (1,))


def test_one_tensor_of_a_batch_is_the_first_image_and_then_other_words():
    batch = proposed_words(7, 0, 3 * 28 * 28)
    images = [our_words(7, k, 0, 0, 28 * 28) for k in range(3)]
    assert batch[: 28 * 28] == images[0]
    assert set(batch[28 * 28 :]).isdisjoint(images[1] + images[2])
    # nor where the blocks of an image are not full: theirs runs on, ours begins anew
    assert proposed_words(7, 0, 12)[5:10] != our_words(7, 1, 0, 0, 5)


COUNT = 1_000_000


@pytest.fixture(scope="module")
def words():
    return np.array(our_words(0, 0, 0, 0, COUNT), np.uint32)


def test_float32_uniforms_keep_24_of_32_bits_and_some_normals_need_the_rest(words):
    few = words[:64].tolist()
    assert proposed_uniforms(few) == [Fraction(word // 256, 2**24) for word in few]
    assert all(Fraction(float(np.float32(float(u)))) == u for u in proposed_uniforms(few))  # exact
    normals = normals_from_words(words)
    equal, largest = [], []
    for low in (0, 128, 255):  # whatever is put in place of the lost bits
        guessed = normals_from_words(words & np.uint32(0xFFFFFF00) | np.uint32(low))
        equal.append(float(np.mean(guessed == normals)))
        largest.append(float(np.abs(guessed - normals).max()))
    assert max(equal) == equal[1]
    said = re.search(r"(\d+\.\d) % of the first million words .* off by up to (\d\.\d+)", " ".join(PAGE.split()))
    assert said is not None
    assert [f"{100 * equal[1]:.1f}", f"{largest[1]:.4f}"] == list(said.groups())


def test_doubles_keep_53_of_64_bits_of_two_words():
    few = our_words(5, 3, 0, 0, 64)
    for u, a, b in zip(proposed_doubles(few), few[::2], few[1::2], strict=True):
        number = int(u * 2**53)
        assert (number >> 26 << 5, (number & (2**26 - 1)) << 6) == (a & ~31, b & ~63)


@given(WORD)
def test_both_read_a_word_from_its_highest_bit_but_ours_as_the_sign(word):
    (u,), (z,) = proposed_uniforms([word]), normals_from_words(np.uint32([word]))
    assert (u >= Fraction(1, 2)) == (z < 0)
