import hashlib
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import GREY, tiny_spec
from representative import representative

from ddpm_export.errors import UsageError
from ddpm_export.process import noise
from ddpm_export.process.noise import NOISE_TAG, noise_stream, normal_table, normals_from_words, philox4x32_10
from ddpm_export.sampling.generate import sample
from ddpm_export.sampling.request import request_for

KNOWN_ANSWERS = [  # Random123's own
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
WORD = st.integers(0, 2**32 - 1)


def philox_slowly(counter, key):
    """Salmon et al. 2011, section 3.3, one counter, in Python's integers."""
    x, k = list(counter), list(key)
    for _ in range(10):
        high_0, low_0 = divmod(x[0] * 0xD2511F53, 2**32)
        high_1, low_1 = divmod(x[2] * 0xCD9E8D57, 2**32)
        x = [high_1 ^ x[1] ^ k[0], low_1, high_0 ^ x[3] ^ k[1], low_0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return tuple(x)


def z_slowly(word):
    """FORMAT section 3, one word, in Python's integers: the normal scaled by 2^20."""

    def corner(octave, j):  # the table's entry, by p = (256 + j) 2^-(10 + octave)
        p = 2.0**-33 if octave == 31 else (256 + j) / 2 ** (10 + octave)
        return round(-NormalDist().inv_cdf(p) * 2**20)

    m = word % 2**31
    if m == 0:
        z = corner(31, 0)
    else:
        octave = 0
        while m * 2**octave < 2**30:
            octave += 1
        j, frac = divmod(m * 2**octave - 2**30, 2**22)
        z = corner(octave, j) - (corner(octave, j) - corner(octave, j + 1)) * frac // 2**22
    return -z if word >= 2**31 else z


def normals(*words):
    return normals_from_words(np.array(words, dtype=np.uint32))


def words_at(counter, key):
    return tuple(int(w) for w in philox4x32_10(tuple(np.array(c, dtype=np.uint32) for c in counter), key))


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, words):
    assert words_at(counter, key) == words
    assert philox_slowly(counter, key) == words


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_philox_is_the_paper(counter, key):
    assert words_at(counter, key) == philox_slowly(counter, key)


def test_table_digest():
    table = normal_table()
    assert table.shape == (32, 257)
    assert hashlib.sha256(table.astype("<i4").tobytes()).hexdigest() == (
        "e157d396404b6b6de5e3c65e6be07e1b4c74aa86ba523e2ed8e2fdd8e16ca9d5"
    )


def test_table_is_continuous_and_cannot_be_changed():
    table = normal_table()
    np.testing.assert_array_equal(table[1:31, 256], table[:30, 0])  # an octave ends where the one above it begins
    assert (np.diff(table[:31], axis=1) < 0).all()
    assert not table.flags.writeable


BORDERS = sorted(
    {0, 2**31 - 1}
    | {m for e in range(31) for d in (-1, 0, 1) if 0 < (m := 2**e + d) < 2**31}
    | {m for j in range(257) for d in (-1, 0, 1) if (m := 2**30 + j * 2**22 + d) < 2**31}
    | {m for e in (8, 9, 20) for j in range(257) for d in (-1, 0, 1) if (m := 2**e + j * 2**e // 256 + d) > 0}
)


@pytest.mark.parametrize("sign", [0, 2**31])
def test_normals_at_borders(sign):
    words = [m | sign for m in BORDERS]
    np.testing.assert_array_equal(normals(*words), np.float32([z_slowly(w) * 2.0**-20 for w in words]), strict=True)


@given(st.lists(WORD, min_size=1, max_size=50))
def test_normals_are_the_contract(words):
    expected = np.float32([z_slowly(w) * 2.0**-20 for w in words])
    assert normals(*words).tobytes() == expected.tobytes()  # bit-equal, the sign of zero too


def test_pinned_normals():
    # m = 0 is the far end, m = 2^31 - 1 next to the middle; the sign bit mirrors
    expected = [z * 2.0**-20 for z in (6645830, -6645830, 1, -1, 707254, -707254)]
    got = normals(0, 2**31, 2**31 - 1, 2**32 - 1, 2**30, 2**31 + 2**30)
    np.testing.assert_array_equal(got, np.float32(expected))


@given(WORD)
def test_the_sign_bit_mirrors_and_more_is_less(word):
    z, mirrored = normals(word, word ^ 2**31)
    assert z == -mirrored
    m = word % 2**31
    if m + 1 < 2**31:
        assert normals(m)[0] >= normals(m + 1)[0]


@given(st.integers(1, 2**31 - 1))
def test_normals_invert_the_distribution(m):
    exact = -NormalDist().inv_cdf(m / 2**32)
    assert abs(float(normals(m)[0]) - exact) < 3e-6  # the interpolation's error, largest at the cell's middle


@pytest.fixture(scope="module")
def million():
    return noise_stream(20, range(64), (4, 64, 64))(0).astype(np.float64).ravel()


def test_moments(million):
    n = million.size
    assert abs(million.mean()) < 4 / math.sqrt(n)
    assert abs(million.std() - 1) < 4 / math.sqrt(2 * n)
    assert abs((million**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((million**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert np.abs(million).max() <= 6.3409


def test_kolmogorov_smirnov(million):
    x = np.sort(million[:200_000])
    cdf = np.array([0.5 * math.erfc(-value) for value in (x * math.sqrt(0.5)).tolist()])
    rank = np.arange(len(x) + 1) / len(x)
    distance = max(np.abs(cdf - rank[:-1]).max(), np.abs(cdf - rank[1:]).max())
    assert distance < 1.95 / math.sqrt(len(x))  # the 0.1 % point


SHAPES = [(1, 1, 1), (1, 1, 2), (1, 3, 5), (3, 7, 7), (1, 28, 28), (3, 8, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_elements_are_where_the_contract_puts_them(shape):
    seed, image, draw = 0x123456789ABCDEF0, 2**32 - 1, 5
    size = math.prod(shape)
    words = [w for b in range(-(-size // 4)) for w in philox_slowly((b, draw, image, 0), (0x9ABCDEF0, 0x12345678))]
    expected = np.float32([z_slowly(w) * 2.0**-20 for w in words[:size]]).reshape(1, *shape)
    np.testing.assert_array_equal(noise_stream(seed, [image], shape)(draw), expected, strict=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_image_7_alone_is_image_7_among_others(shape):
    alone, batch = noise_stream(3, [7], shape), noise_stream(3, range(16), shape)
    for draw in (0, 1, 999):
        np.testing.assert_array_equal(alone(draw)[0], batch(draw)[7])
    np.testing.assert_array_equal(noise_stream(3, iter([9, 7]), shape)(0), batch(0)[[9, 7]])


def test_noise_is_pure():
    noise = noise_stream(3, range(4), (1, 5, 5))
    first = noise(1)
    kept = first.copy()
    noise(2)
    first *= 0
    np.testing.assert_array_equal(noise(1), kept)


@pytest.fixture
def made(monkeypatch):
    """The numbers of each call of Philox: how many draws and how many images."""
    seen = []

    def philox(counter, key):
        seen.append((counter[1].size, counter[2].size))
        return philox4x32_10(counter, key)

    monkeypatch.setattr(noise, "philox4x32_10", philox)
    return seen


@representative("shape", SHAPES)
@pytest.mark.parametrize("images", [[7], [2**32 - 1, 0, 5]])
def test_draws_made_ahead_are_the_same_in_whatever_order_they_are_asked_for(images, shape):
    draws = (0, *range(3, 40, 2), 2**32 - 1)
    plain, ahead = (noise_stream(2**40, images, shape, domain=1, draws=some) for some in ((), draws))
    asked = [*draws, 9, 11, 10, 0, 3, 3, 37, 2**32 - 1, 1]
    for draw in asked:
        drawn = ahead(draw)
        np.testing.assert_array_equal(drawn, plain(draw), strict=True)
        drawn *= 0  # whoever changes what was drawn changes no other draw


def test_up_to_16_draws_are_made_in_one_call_and_16_384_numbers_at_most(made):
    for images, expected in ((1, [16, 16, 9]), (2, [10] * 4 + [1]), (16, [1] * 41), (64, [1] * 41)):
        stream = noise_stream(0, range(images), (1, 28, 28), draws=range(41))
        for draw in range(41):
            stream(draw)
        assert made == [(draws, images) for draws in expected]
        made.clear()


def test_a_sampler_makes_only_the_draws_that_its_rows_read(made):
    spec = tiny_spec(GREY)
    for how, expected in (({"eta": 0.0}, [1]), ({"eta": 1.0}, [16, 4]), ({"sampler": "ddpm"}, [16, 4])):
        settings = request_for(spec, n=1, num_steps=20, **how)
        for _ in sample(lambda x_t, _: {"eps": x_t}, spec, settings):
            pass
        assert [draws for draws, _ in made] == expected
        made.clear()


def test_noise_is_float32_in_every_dtype_of_arguments():
    plain = noise_stream(3, [1, 2], (1, 2, 3))(4)
    odd = noise_stream(np.int64(3), np.array([1, 2], dtype=np.int32), (1, 2, 3))(np.int64(4))
    assert plain.dtype == odd.dtype == np.float32
    np.testing.assert_array_equal(plain, odd)
    assert noise_stream(0, [], (1, 2, 3))(0).shape == (0, 1, 2, 3)


def test_a_shape_may_have_any_number_of_dimensions():
    image = noise_stream(3, [7], (1, 4, 5))(0)
    for shape in ((20,), (4, 5), (2, 1, 2, 5)):
        np.testing.assert_array_equal(noise_stream(3, [7], shape)(0), image.reshape(1, *shape), strict=True)


def test_everything_in_the_counter_and_the_key_counts():
    shape, n = (1, 64, 64), 64 * 64
    streams = {
        "draw 0": noise_stream(5, [0], shape)(0),
        "draw 1": noise_stream(5, [0], shape)(1),
        "image 1": noise_stream(5, [1], shape)(0),
        "domain 1": noise_stream(5, [0], shape, domain=1)(0),
        "seed 6": noise_stream(6, [0], shape)(0),
        "seed 5 + 2^32": noise_stream(5 + 2**32, [0], shape)(0),
        "draw 2^32 - 1": noise_stream(5, [0], shape)(2**32 - 1),
    }
    correlation = np.corrcoef([s.ravel() for s in streams.values()]) - np.eye(len(streams))
    assert np.abs(correlation).max() < 5 / math.sqrt(n), list(streams)


def test_the_ends_of_each_range():
    for name, bad in (("seed", 2**63), ("image", 2**32), ("draw", 2**32), ("domain", 2**32)):
        for value in (-1, bad):
            at = {"seed": 0, "image": 0, "draw": 0, "domain": 0, name: value}
            with pytest.raises(UsageError, match=r"must be from 0 to 2\^(63|32) - 1"):
                noise_stream(at["seed"], [0, at["image"]], (1, 2, 2), domain=at["domain"])(at["draw"])
    for shape in ((0, 2, 2), (1, 0, 2), (1, 2, -3), (-1, -2, 3)):
        with pytest.raises(UsageError, match="shape must be positive"):
            noise_stream(0, [0], shape)
    assert np.isfinite(noise_stream(2**63 - 1, [2**32 - 1], (1, 2, 2))(2**32 - 1)).all()


def test_tag():
    assert NOISE_TAG == "philox4x32-10/icdf-q20/1"  # a change of any number above needs a new one
