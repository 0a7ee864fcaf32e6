"""What every path from a graph's input to its output passes, and the residual branches in between.

The *stream* is everything that is computed of both the input and the module's tensors; masks and tables of positions
are not, so they may be read anywhere. A *link* is a node of the stream without which no path reaches the output:
features can be taken there, and everything behind it left out. Where a link is the sum of the link before it and
something else, that is a *residual branch*, x + F(x).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A residual branch: `added` is the sum of `entry` and `branch`.

    Attributes:
        link: which link the sum is.
    """

    link: int
    entry: fx.Node
    branch: fx.Node
    added: fx.Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A graph as links, one after the other.

    Attributes:
        links: in order; the last one is the output.
        stream: nodes of the stream that lead to the output → the link that they lead to.
        readers: tensor → the links that depend on it and not on each other's account.
        branches: in order.
    """

    links: tuple[fx.Node, ...] = ()
    stream: dict[fx.Node, int] = field(default_factory=dict)
    readers: dict[str, set[int]] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()

    def alone(self, link: int) -> bool:
        """Whether nothing but the link itself stands between it and the one before."""
        return sum(leads_to == link for leads_to in self.stream.values()) == 1


def chain_of(graph: fx.Graph, tensors: Collection[str]) -> Chain:
    """Find the links of a graph that has one output.

    Args:
        graph: as `torch.export` gives it, with the examples' values.
        tensors: names of the module's tensors.

    Returns:
        No links where features are written into tensors that are made before (`x[:, 0] = y`).
    """
    weights = _weights(graph, tensors)
    stream = _stream(graph, weights)
    places = {node: place for place, node in enumerate(stream)}
    if any(_writes(node) and not node.users for node in graph.nodes):
        return Chain()
    links, furthest, leads_to = list[fx.Node](), _last_source(stream, places), dict[fx.Node, int]()
    for node, place in places.items():
        leads_to[node] = len(links)
        if furthest <= place:
            links.append(node)
        furthest = max([furthest, *(places[user] for user in node.users if user in places)])
    readers: dict[str, set[int]] = {}
    for node in stream:
        for operand in node.all_input_nodes:
            own = operand not in places and (operand.op == "get_attr" or _is_tensor(operand))
            for name in weights[operand] if own else ():
                readers.setdefault(name, set()).add(leads_to[node])
    return Chain(links=tuple(links), stream=leads_to, readers=readers, branches=_branches(links, places, readers))


def _weights(graph: fx.Graph, tensors: Collection[str]) -> dict[fx.Node, frozenset[str]]:
    """What is computed of the module's tensors → which ones; of the stream this is everything before."""
    found: dict[fx.Node, frozenset[str]] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            found[node] = frozenset({str(node.target)} & set(tensors))
        else:
            found[node] = frozenset[str]().union(*(found[operand] for operand in node.all_input_nodes))
    return found


def _stream(graph: fx.Graph, weights: dict[fx.Node, frozenset[str]]) -> list[fx.Node]:
    """Nodes that depend on the input and on tensors, and lead to the output; in order."""
    fed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (_is_tensor(node) and any(operand in fed for operand in node.all_input_nodes)):
            fed.add(node)  # not through numbers: every size comes from the input
    wanted: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or any(user in wanted for user in node.users):
            wanted.add(node)
    return [
        node
        for node in graph.nodes
        if node.op == "call_function" and node in fed and node in wanted and weights[node] and _is_tensor(node)
    ]


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor | list | tuple)


def _writes(node: fx.Node) -> bool:
    """Whether a node writes into a tensor that is none of the module's."""
    target = node.target
    changes = isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
    return changes and isinstance(node.args[0], fx.Node) and node.args[0].op != "get_attr"


def _last_source(stream: list[fx.Node], places: dict[fx.Node, int]) -> int:
    """Where the last node stands that no other one of the stream feeds."""
    sources = [node for node in stream if not any(operand in places for operand in node.all_input_nodes)]
    return places[sources[-1]] if sources else 0


def _branches(links: list[fx.Node], places: dict[fx.Node, int], readers: dict[str, set[int]]) -> tuple[Branch, ...]:
    found = list[Branch]()
    read = set[int]().union(*readers.values())
    for link, added in enumerate(links[1:], 1):
        entry = links[link - 1]
        name = getattr(added.target, "__name__", "").partition(".")[0]
        if name not in ("add", "add_") or added.kwargs or entry not in added.args or link not in read:
            continue
        others = [one for one in added.args if one is not entry]
        if (
            len(others) == 1
            and isinstance(others[0], fx.Node)
            and others[0] in places
            and _shape(entry) == _shape(added)
        ):
            found.append(Branch(link=link, entry=entry, branch=others[0], added=added))
    return tuple(found)


def _shape(node: fx.Node) -> tuple[object, ...]:
    return tuple(map(str, node.meta["val"].shape))
