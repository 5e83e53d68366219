"""Our noise as ONNX operators, the same nodes for every model. No torch.

Philox and the table of normals of docs/format.md section 3 in int64, whose products are kept below 2^63 by halving a
factor: ONNX Runtime multiplies no unsigned integers. The words agree with ddpm_export/process/noise.py to the bit.
"""

import math
from typing import Any

import numpy as np
from onnx import GraphProto, TensorProto

from ddpm_export.exporting.builder import Builder, value
from ddpm_export.process.noise import KEY_INCREMENTS, MULTIPLIERS, SAMPLING, normal_table

ROUNDS = 10
LOW_16, LOW_32 = 0xFFFF, 0xFFFFFFFF


def add_key(g: Builder, seed: str) -> str:
    """Append Philox's ten round keys of a seed, int64 [], at least 0: int64 [10, 2, 1, 1]; of [n, 1]: [10, 2, n, 1]."""
    halves = g.add("key/halves", "Div", seed, g.constant([[[1]], [[2**32]]]))  # (2, 1, 1)
    key = g.add("key/words", "BitwiseAnd", halves, g.constant(LOW_32))
    increments = np.arange(ROUNDS).reshape(-1, 1, 1, 1) * np.array(KEY_INCREMENTS).reshape(1, 2, 1, 1)
    sums = g.add("key/sums", "Add", key, g.constant(increments, name="key/increments"))
    return g.add("key/rounds", "BitwiseAnd", sums, g.constant(LOW_32))


def add_noise(
    g: Builder,
    scope: str,
    keys: str,
    images: str,
    draw: str,
    shape: tuple[int, ...],
    domain: int = SAMPLING,
    *,
    seeds: int | str = 1,
) -> str:
    """Append a draw of the noise of some images: float32 [n, *shape].

    keys: of `add_key`, of one seed, or of one for each image where seeds is "n". images: their numbers, int64 [n, 1].
    draw: int64 []. Both are taken to be in [0, 2^32).
    """
    size = math.prod(shape)
    blocks = (size + 3) // 4
    # the counter's words (block, draw, image, domain) in two halves, so that a round is one product: words 0 and 2 ...
    block = g.constant(np.stack([np.arange(blocks), np.zeros(blocks, np.int64)])[:, None], name="noise/blocks")
    image = g.add(f"{scope}/image", "Mul", images, g.constant([[[0]], [[1]]]))  # (2, n, 1)
    even = g.add(f"{scope}/words 0 and 2", "Add", image, block)  # (2, n, blocks)
    # ... and words 1 and 3
    one_draw = g.add(f"{scope}/draw", "Mul", draw, g.constant([[[1]], [[0]]]))  # (2, 1, 1)
    odd = g.add(f"{scope}/draw and domain", "Add", one_draw, g.constant([[[0]], [[domain]]]))
    odd = g.add(f"{scope}/words 1 and 3", "Expand", odd, g.add(f"{scope}/shape of words", "Shape", even))

    even, odd = f"{scope}/even words", f"{scope}/odd words"
    g.add(
        f"{scope}/philox4x32-10",
        "Scan",
        f"{scope}/words 0 and 2",
        f"{scope}/words 1 and 3",
        keys,
        outputs=[even, odd],
        body=_round(g, f"{scope}/round", seeds),
        num_scan_inputs=1,
    )
    last = g.constant([-1])
    pairs = g.add(
        f"{scope}/pairs",
        "Concat",
        g.add(f"{scope}/even column", "Unsqueeze", even, last),
        g.add(f"{scope}/odd column", "Unsqueeze", odd, last),
        axis=-1,
    )  # (2, n, blocks, 2): word 2 p + q at [p, ..., q]
    words = g.add(f"{scope}/words in order", "Transpose", pairs, perm=[1, 2, 0, 3])
    words = g.add(f"{scope}/words by image", "Reshape", words, g.constant([-1, 4 * blocks]))
    words = g.add(f"{scope}/words", "Slice", words, g.constant([0]), g.constant([size]), g.constant([1]))
    normals = add_normals(g, scope, words)
    return g.add(scope, "Reshape", normals, g.constant([-1, *shape]))


def _round(g: Builder, scope: str, seeds: int | str) -> GraphProto:
    """Return one round of Philox4x32 (Salmon et al. 2011, section 3.3) on (2, n, blocks) words: even, odd, key."""
    body = Builder(g)
    even, odd, key = (f"{scope}/{name}" for name in ("even", "odd", "key"))
    words: list[int | str] = [2, "n", "blocks"]
    multipliers = g.constant([[[multiplier]] for multiplier in MULTIPLIERS])
    low_16, half = g.constant(LOW_16), g.constant(2**16)

    def add(name: str, operator: str, *values: str, **attributes: Any) -> str:
        return body.add(f"{scope}/{name}", operator, *values, **attributes)

    # product = upper * 2^16 + the low 16 bits of low: no factor above 2^32 meets one above 2^16
    low = add("low product", "Mul", add("low half", "BitwiseAnd", even, low_16), multipliers)
    high = add("high product", "Mul", add("high half", "Div", even, half), multipliers)
    upper = add("upper", "Add", high, add("carry", "Div", low, half))
    product_high = add("product high", "Div", upper, half)
    middle = add("shifted middle", "Mul", add("middle", "BitwiseAnd", upper, low_16), half)
    product_low = add("product low", "Add", middle, add("lowest", "BitwiseAnd", low, low_16))
    # words 0 and 1 come from the product of word 2, words 2 and 3 from that of word 0
    swap = g.constant([1, 0])
    mixed = add("mixed", "BitwiseXor", add("swapped high", "Gather", product_high, swap, axis=0), odd)
    next_even = add("next even", "BitwiseXor", mixed, key)
    next_odd = add("next odd", "Gather", product_low, swap, axis=0)
    return body.graph(
        "philox round",
        [
            value(even, TensorProto.INT64, words),
            value(odd, TensorProto.INT64, words),
            value(key, TensorProto.INT64, [2, seeds, 1]),
        ],
        [value(name, TensorProto.INT64, words) for name in (next_even, next_odd)],
    )


def add_normals(g: Builder, scope: str, words: str) -> str:
    """Append the standard normal of each word (int64 in [0, 2^32), any shape): float32, by table and interpolation."""

    def add(name: str, operator: str, *values: str, **attributes: Any) -> str:
        return g.add(f"{scope}/{name}", operator, *values, **attributes)

    number = g.constant
    # the leading one goes to bit 30 by halves: shifts of 16, 8, 4, 2 and 1, counted; 0 counts 31
    f = add("magnitude", "BitwiseAnd", words, number(0x7FFFFFFF))
    leading_zeros = number(0)
    for shift in (16, 8, 4, 2, 1):
        is_low = add(f"below bit {31 - shift}", "Less", f, number(2 ** (31 - shift)))
        f = add(f"shifted {shift}", "Mul", f, add(f"factor {shift}", "Where", is_low, number(2**shift), number(1)))
        count = add(f"zeros {shift}", "Where", is_low, number(shift), number(0))
        leading_zeros = add(f"leading zeros {shift}", "Add", leading_zeros, count)
    row = add("row", "Mul", leading_zeros, number(257))
    column = add("column", "BitwiseAnd", add("top bits", "Div", f, number(2**22)), number(0xFF))
    cell = add("cell", "Add", row, column)
    table = number(normal_table().reshape(-1), np.int32, "noise/normal table")
    upper = add("upper normal", "Cast", add("upper entry", "Gather", table, cell), to=TensorProto.INT64)
    next_cell = add("next cell", "Add", cell, number(1))
    lower = add("lower normal", "Cast", add("lower entry", "Gather", table, next_cell), to=TensorProto.INT64)
    fall = add("fall", "Mul", add("step", "Sub", upper, lower), add("fraction", "BitwiseAnd", f, number(2**22 - 1)))
    z = add("absolute z", "Sub", upper, add("floored fall", "Div", fall, number(2**22)))  # both are >= 0: Div floors
    is_negative = add("is negative", "GreaterOrEqual", words, number(2**31))
    z = add("z", "Mul", z, add("sign", "Where", is_negative, number(-1), number(1)))  # in integers: there is no -0
    return add("normals", "Mul", add("z float", "Cast", z, to=TensorProto.FLOAT), number(2.0**-20, np.float32))
