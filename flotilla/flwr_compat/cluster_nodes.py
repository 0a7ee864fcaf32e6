"""The nodes of a Ray cluster: how many clients each runs at once, and whose data are not those of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Node(NamedTuple):
    """A node that runs clients.

    Attributes:
        id: Ray's.
        name: for people.
        clients: how many at once.
        gpus: share of a GPU for each.
    """

    id: str
    name: str
    clients: int
    gpus: float


def nodes_of(rows: Iterable[Mapping[str, Any]], gpus: float) -> tuple[list[Node], dict[str, str]]:
    """Say how many clients each node runs at once, and which run none, by name with the reason.

    Args:
        rows: from `ray.nodes()`.
        gpus: share of a GPU for each client; below 0: a quarter where a node has a GPU, else none.
    """
    found, left_out = [], {}
    for row in rows:
        if not row["Alive"]:
            continue
        name = f"{row['NodeName']} ({row['NodeID'][:8]})"
        cpus, cards = (float(row["Resources"].get(kind, 0.0)) for kind in ("CPU", "GPU"))
        share = gpus if gpus >= 0 else (0.25 if cards else 0.0)
        clients = int(cpus) if not share else min(int(cpus), int(cards / share))
        if clients:
            found.append(Node(row["NodeID"], name, clients, share))
        else:
            left_out[name] = "it has no CPU for tasks" if cpus < 1 else f"it has no {share:g} of a GPU for a client"
    return sorted(found, key=lambda node: node.name), left_out


def shared_out(nodes: Sequence[Node], most: int) -> list[Node]:
    """One entry for each client at once, in turns, so that fewer than fit are spread over the nodes; 0: all."""
    turns = max((node.clients for node in nodes), default=0)
    places = [node for turn in range(turns) for node in nodes if turn < node.clients]
    return places[:most] if most else places


def unlike(prints: Mapping[Node, str]) -> list[Node]:
    """Nodes whose data are not those that most have; where as many say one thing as another, the first is right."""
    if not prints:
        return []
    counts = Counter(prints.values())
    usual = max(counts, key=lambda value: counts[value])
    return [node for node, value in prints.items() if value != usual]
