"""A node that said hello, and the order of nodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol import Hello, NodeId


@dataclass(slots=True)
class Node:
    """A node that said hello.

    Attributes:
        address: flwr's node id, which is drawn anew in every run.
        hello: what it said.
        id: stable id, the one that it said.
        examples: training examples that it said.
    """

    address: int
    hello: Hello
    id: NodeId = field(init=False)
    examples: int = field(init=False)

    def __post_init__(self) -> None:
        self.id, self.examples = self.hello.node, self.hello.examples


def in_order(node: NodeId) -> tuple[bool, int, str]:
    """Sort key of ids: numbers by value, then names."""
    return (True, 0, node) if isinstance(node, str) else (False, node, "")
