"""A small builder to write ONNX graphs with, and values that carry a formula into them. Knows no sampler. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ddpm_export.exporting.onnx_file import graphs_within
from ddpm_export.process.equations import Array


def value(name: str, kind: int, shape: Sequence[int | str]) -> ValueInfoProto:
    """Return a graph's input or output; kind is one of TensorProto's, a text in the shape is a size not known."""
    return helper.make_tensor_value_info(name, kind, shape)


class Builder:
    """Collect the nodes of a graph and of the graphs within it; each value is called as the node it comes from.

    scope: what the names of nodes that are given none begin with. Constants are named by what they say and lie in the
    outermost graph, once each. Names are unique over all graphs.
    """

    def __init__(self, parent: "Builder | None" = None, scope: str = "graph") -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.root: Builder = parent.root if parent else self
        self.names: set[str] = set()
        self.scope = scope
        self._made: dict[tuple[str, ...], str] = {}

    def add(self, name: str, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Append a node and return its first output: its name, where no outputs are named."""
        made = list(outputs) or [name]
        self._take(*made)
        self.nodes.append(helper.make_node(operator, list(inputs), made, name=name, **attributes))
        return made[0]

    def once(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Return what an operator makes of its inputs: of a node that is there, else of a new one, called by number."""
        what = (operator, *inputs, repr(attributes))
        if what not in self._made:
            name, number = f"{self.scope}/{operator}", 0
            while (numbered := f"{name}_{number}" if number else name) in self.root.names:
                number += 1
            self._made[what] = self.add(numbered, operator, *inputs, **attributes)
        return self._made[what]

    def constant(self, numbers: ArrayLike, dtype: type = np.int64, name: str | None = None) -> str:
        """Return the name of a constant; short ones need none given."""
        array: Array = np.asarray(numbers, dtype=dtype)
        kind = np.dtype(dtype).name
        name = name or f"{kind} {array.tolist()}"
        if name not in self.root.names:
            self.root.names.add(name)
            self.root.initializers.append(numpy_helper.from_array(array.copy(order="C"), name))
        return name

    def input(self, name: str, dtype: type = np.int64, shape: Sequence[int | str] = ()) -> "Value":
        """Append an input to the graph."""
        self._take(name)
        self.inputs.append(value(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape))
        return Value(self, name, dtype)

    def value(self, numbers: ArrayLike, dtype: type = np.int64, name: str | None = None) -> "Value":
        """Return a constant as a value."""
        return Value(self, self.constant(numbers, dtype, name), dtype)

    def graph(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """Return what was collected as a graph, without what its outputs do not need."""
        read, nodes = {output.name for output in outputs}, []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                read.update(_read_by(node))
                nodes.append(node)
        kept = [tensor for tensor in self.initializers if tensor.name in read]
        return helper.make_graph(nodes[::-1], name, list(inputs), list(outputs), kept)

    def _take(self, *names: str) -> None:
        taken = self.root.names.intersection(names)
        assert not taken, f"two values are called {taken}"
        self.root.names.update(names)


def _read_by(node: NodeProto) -> Iterator[str]:
    """Yield the values that a node reads, those that its inner graphs take from outside among them."""
    yield from node.input
    for graph in graphs_within(node):
        for inner in graph.node:
            yield from _read_by(inner)
        yield from (result.name for result in graph.output)


@dataclass(frozen=True, eq=False)
class Value:
    """Stand for a value of a graph: operators, and the functions of `elementwise`, append nodes, equal ones once.

    A number that it meets becomes a constant of its type.
    """

    builder: Builder
    name: str
    dtype: type

    def do(self, operator: str, *others: "Value | float | list[int]", dtype: type | None = None, **how: Any) -> "Value":
        """Append an operator on this value and others, lists being indices; its type is this one's, or dtype."""
        return self._of(operator, self, *others, dtype=dtype, **how)

    def within(self, builder: Builder) -> "Value":
        """Return the same value as a graph within that of its own has it."""
        return Value(builder, self.name, self.dtype)

    def cast(self, dtype: type) -> "Value":
        """Return it in another type."""
        return self.do("Cast", dtype=dtype, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def at(self, index: "Value | int") -> "Value":
        """Return the entry at an index of the first dimension."""
        chosen = index if isinstance(index, Value) else self.builder.value(index)
        return self.do("Gather", chosen, axis=0)

    def part(self, begin: "Value | int", end: "Value | int") -> "Value":
        """Return the entries of the first dimension from `begin` to before `end`, which may be beyond the last."""
        return self.do(
            "Slice", *(entry.do("Unsqueeze", [0]) if isinstance(entry, Value) else [entry] for entry in (begin, end))
        )

    def followed_by(self, *others: "Value") -> "Value":
        """Return it and others, joined along the first dimension."""
        return self.do("Concat", *others, axis=0)

    def sizes(self, **how: int) -> "Value":
        """Return its shape, or some of it by start and end."""
        return self.do("Shape", dtype=np.int64, **how)

    def count(self) -> "Value":
        """Return how many entries its first dimension has, []."""
        return self.sizes(start=0, end=1).do("Squeeze")

    def zeros(self, *more: int) -> "Value":
        """Return zeros in its shape, float32; `more` dimensions come before its own."""
        sizes = self.sizes()
        return (self.builder.value(list(more)).followed_by(sizes) if more else sizes).do(
            "ConstantOfShape", dtype=np.float32
        )

    def sum(self) -> "Value":
        """Return the sum of all of it, []."""
        return self.do("ReduceSum", keepdims=0)

    def every(self) -> "Value":
        """Return whether all of it holds, []."""
        return self.cast(np.int32).do("ReduceMin", keepdims=0) >= 1  # of no entries it is a large number

    def sqrt(self) -> "Value":
        """Return the square root, element by element."""
        return self.do("Sqrt")

    def maximum(self, bound: float) -> "Value":
        """Return the larger of it and a number, element by element."""
        return self.do("Max", bound)

    def clip(self, bound: float) -> "Value":
        """Return the value nearest to each one within [-bound, bound]."""
        return self.do("Clip", -bound, bound)

    def some(self) -> "Value":
        """Return whether any of it holds, []."""
        return self.cast(np.int32).do("ReduceMax", keepdims=0).equals(1)

    def equals(self, other: "Value | float") -> "Value":
        """Return where it is the same as another."""
        return self.do("Equal", other, dtype=np.bool_)

    def where(self, yes: "Value", no: "Value | float") -> "Value":
        """Return `yes` where it holds, else `no`."""
        return yes._of("Where", self, yes, no)

    def __add__(self, other: "Value | float") -> "Value":
        return self._of("Add", self, other)

    def __sub__(self, other: "Value | float") -> "Value":
        return self._of("Sub", self, other)

    def __rsub__(self, other: float) -> "Value":
        return self._of("Sub", other, self)

    def __mul__(self, other: "Value | float") -> "Value":
        return self._of("Mul", self, other)

    def __truediv__(self, other: "Value | float") -> "Value":
        return self._of("Div", self, other)

    def __rtruediv__(self, other: float) -> "Value":
        return self._of("Div", other, self)

    def __floordiv__(self, other: "Value | float") -> "Value":
        return self._of("Div", self, other)  # of integers from 0 on, where it floors

    def __gt__(self, other: "Value | float") -> "Value":
        return self.do("Greater", other, dtype=np.bool_)

    def __ge__(self, other: "Value | float") -> "Value":
        return self.do("GreaterOrEqual", other, dtype=np.bool_)

    def __lt__(self, other: "Value | float") -> "Value":
        return self.do("Less", other, dtype=np.bool_)

    def __le__(self, other: "Value | float") -> "Value":
        return self.do("LessOrEqual", other, dtype=np.bool_)

    def __and__(self, other: "Value") -> "Value":
        return self.do("And", other)

    def __or__(self, other: "Value") -> "Value":
        return self.do("Or", other)

    def _of(
        self, operator: str, *inputs: "Value | float | list[int]", dtype: type | None = None, **how: Any
    ) -> "Value":
        names = [self._name(entry) for entry in inputs]
        return Value(self.builder, self.builder.once(operator, *names, **how), dtype or self.dtype)

    def _name(self, entry: "Value | float | list[int]") -> str:
        if isinstance(entry, Value):
            return entry.name
        return self.builder.constant(entry, np.int64 if isinstance(entry, list) else self.dtype)
