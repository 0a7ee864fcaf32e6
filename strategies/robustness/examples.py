"""How many examples a node may say that it has.

Examples weigh replies and decide who is chosen, and nobody but the node can count them. Unless a range is set, nobody
counts for more than three times what nine in ten nodes stay below, nor for more than one and a half times what the
next largest says: alone, a node could else weigh as much as it likes up to the first bound. In most fleets nobody comes
near that; where one node has far more than all others, it counts for less than it says, unless `guard-examples` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from strategies.exchange.fleet import Fleet
from strategies.exchange.node import Node
from strategies.robustness.last_said import LEAST
from strategies.robustness.options import GuardOptions

_QUANTILE, _MULTIPLE = 0.9, 3
_OF_NEXT = 1.5


def most_examples(said: Sequence[int] | NDArray[np.int64], options: GuardOptions) -> float:
    """What a node may say at most, where all nodes say these."""
    if not options.guards_examples or len(said) < LEAST:
        return options.examples[1]
    said = np.sort(said) if isinstance(said, np.ndarray) else sorted(said)
    return min(_MULTIPLE * int(said[int(_QUANTILE * (len(said) - 1))]), _OF_NEXT * int(said[-2]))


def believed(nodes: Sequence[Node], options: GuardOptions) -> Sequence[Node]:
    """The nodes, each with at most so many examples as it may say; the same list if nobody says more."""
    if isinstance(nodes, Fleet):
        most = most_examples(nodes.examples, options)
        return nodes if (nodes.examples <= most).all() else nodes.of_at_most(int(most))
    most = most_examples([node.examples for node in nodes], options)
    if all(node.examples <= most for node in nodes):
        return nodes
    return [
        node if node.examples <= most else Node(node.address, replace(node.hello, examples=int(most))) for node in nodes
    ]
