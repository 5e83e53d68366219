"""A network that is told things, one input of each kind: as a function, and as the parts of a file of our format."""

from dataclasses import replace

import numpy as np
from gaussian import gaussian_spec
from models import constant, node

from ddpm_export.model.inputs import Input
from ddpm_export.process.rows import Plan, Row

INPUTS = (
    Input("y", "label", (), 3, ("cat", "dog", "owl")),
    Input("w", "vector", (2,), 0.5),
    Input("hint", "image", (1, 2, 3), None),
    Input("x_0_prev", "previous", (1, 2, 3), None),
)
TOLD = gaussian_spec(np.linspace(0.99, 0.01, 50), inputs=INPUTS, requires=("inputs",))


def mixed(x_t, t, y, w, hint, x_0_prev):
    """Return half of x_t, a quarter of the clean image found before, hint, label and the first of w, in this order."""
    said = np.float32(0.5) * x_t + np.float32(0.25) * x_0_prev + hint
    return {"eps": said + y.astype(np.float32).reshape(-1, 1, 1, 1) + w[:, 0].reshape(-1, 1, 1, 1)}


ALL_INPUTS = tuple(replace(one, none={"hint": -1.25, "y": 1}.get(one.name, one.none)) for one in INPUTS)
TWICE = Plan(
    (Row(1, 40.5, 0.25, (0.5,), (0.5,), (0.25,)), Row(2, 40.5, 0.25, (0.75, -0.25), (0.25,)), Row(3, 2, 0.9, (1.0,)))
)
FED = {
    "spec": gaussian_spec(
        np.linspace(0.99, 0.01, 50),
        **{"clip_x_0": 1.0, "inputs": ALL_INPUTS, "requires": ("inputs", "fractional_t"), "plans": {"twice": TWICE}},
    ),
    "nodes": [
        node("Mul", ["x_t", "half"], "a"),
        node("Mul", ["x_0_prev", "quarter"], "b"),
        node("Add", ["a", "b"], "ab"),
        node("Add", ["ab", "hint"], "abc"),
        node("Cast", ["y"], "label", to=1),
        node("Reshape", ["label", "column"], "d"),
        node("Add", ["abc", "d"], "abcd"),
        node("Gather", ["w", "zero"], "first", axis=1),
        node("Reshape", ["first", "column"], "e"),
        node("Add", ["abcd", "e"], "abcde"),
        node("Mul", ["t", "fiftieth"], "late"),
        node("Reshape", ["late", "column"], "f"),
        node("Sub", ["abcde", "f"], "eps"),
    ],
    "constants": [
        *(constant("half", 0.5), constant("quarter", 0.25), constant("fiftieth", 0.02)),
        *(constant("column", [-1, 1, 1, 1], np.int64), constant("zero", 0, np.int64)),
    ],
    "inputs": {
        **{"x_t": (1, ["batch", 1, 2, 3]), "t": (1, ["batch"]), "y": (7, ["batch"]), "w": (1, ["batch", 2])},
        **{"hint": (1, ["batch", 1, 2, 3]), "x_0_prev": (1, ["batch", 1, 2, 3])},
    },
}


def mixed_with_t(x_t, t, **inputs):
    assert t.dtype == np.float32
    return {"eps": mixed(x_t, t, **inputs)["eps"] - (np.float32(0.02) * t).reshape(-1, 1, 1, 1)}
