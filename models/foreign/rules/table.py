"""How a rule looks: what one operation of the exported graph says about the dimensions of its operands and results.

A rule is a function of a `Call`. It unifies dimensions, freezes some, returns the dimensions of the results, and notes
which of the operation's arguments are numbers that count coordinates: these are what is rewritten for a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from models.foreign.atoms import Extent, extent, freeze, size_of, unify

Dims = list[Extent]
Value = Dims | list[Dims] | None  # of a tensor, of several, of a number
Number = Sequence[Extent]  # the sum of these sizes
Numbers = Sequence[Number]
Rule = Callable[["Call"], Value]

RULES: dict[str, Rule] = {}


class NotUnderstood(Exception):
    """An operation whose dimensions no rule knows."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """What an operation's arguments count.

    Attributes:
        numbers: name of an argument → the number that it is, or one for every entry of a list.
        pieces: dimension and sizes that the operation takes a tensor apart into.
        over: positions of dimensions that the result is computed over: norms, means, sums.
        dims: of the first operand.
    """

    numbers: dict[str, Number | Numbers] = field(default_factory=dict)
    pieces: tuple[int, list[Extent]] | None = None
    over: tuple[int, ...] = ()
    dims: Dims = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operation of a graph.

    Attributes:
        name: of the operation, without its overload.
        node: where it stands.
        known: dimensions of every node before it.
        counts: what its arguments count; filled by its rule.
    """

    name: str
    node: fx.Node
    known: Mapping[fx.Node, Value]
    counts: Counts

    def __getitem__(self, argument: str) -> Any:
        """An argument by the name that PyTorch's schema gives it; its default where it was not given."""
        target = self.node.target
        assert isinstance(target, torch._ops.OpOverload)
        for place, one in enumerate(target._schema.arguments):
            if one.name == argument:
                if place < len(self.node.args):
                    return self.node.args[place]
                return self.node.kwargs.get(argument, one.default_value)
        raise NotUnderstood(f"no argument {argument}")

    def has(self, argument: str) -> bool:
        """Whether this overload has such an argument."""
        target = self.node.target
        return isinstance(target, torch._ops.OpOverload) and any(
            one.name == argument for one in target._schema.arguments
        )

    def dims(self, argument: str | fx.Node) -> Dims:
        """Dimensions of a tensor among the arguments.

        Raises:
            NotUnderstood: it is none.
        """
        found = self.maybe(argument)
        if found is None:
            raise NotUnderstood(f"{argument} is no tensor")
        return found

    def maybe(self, argument: str | fx.Node) -> Dims | None:
        """Dimensions of a tensor among the arguments; None where it was not given."""
        node = self[argument] if isinstance(argument, str) else argument
        value = self.known[node] if isinstance(node, fx.Node) else None
        if value and isinstance(value[0], list):
            raise NotUnderstood("several tensors in one")
        return value  # type: ignore[return-value]

    def several(self, argument: str) -> list[Dims]:
        """Dimensions of a list of tensors."""
        return [self.dims(node) for node in self[argument]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result, with an example's batch size."""
        return shape_of(self.node.meta["val"])

    def count(self, argument: str, number: Number | Numbers) -> None:
        """Note that an argument is a number of coordinates, or a list of such."""
        self.counts.numbers[argument] = number

    def over(self, dims: Dims, places: Sequence[int]) -> None:
        """Note that the result is computed over dimensions of the first operand."""
        self.counts.dims, self.counts.over = dims, tuple(place % len(dims) for place in places)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def shape_of(value: object) -> tuple[int, ...]:
    """Shape of an example's tensor, its symbolic batch size as a number."""
    assert isinstance(value, Tensor)
    return tuple(n if isinstance(n, int) else int(n.node.hint) for n in value.shape)


def broadcast(several: Sequence[Dims]) -> Dims:
    """Learn that tensors meet coordinate by coordinate; dimensions of one coordinate are repeated."""
    rank = max(map(len, several), default=0)
    out: Dims = [()] * rank
    for dims in several:
        for place, dim in enumerate(dims, rank - len(dims)):
            if size_of(dim) == 1:
                continue
            if size_of(out[place]) == 1:
                out[place] = dim
            else:
                unify(out[place], dim)
    return out


def frozen(shape: Sequence[int], why: str) -> Dims:
    """Dimensions that nobody cuts."""
    return [extent(size, why) for size in shape]


def freeze_all(dims: Sequence[Extent], why: str) -> None:
    """Freeze several dimensions."""
    for dim in dims:
        freeze(dim, why)
