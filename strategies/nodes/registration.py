"""What the SuperLink vouches for of the nodes that are online: the name of a node's key, and since when it is there.

A deployment with node authentication lets in only keys that were registered, before or while it runs, and flwr's node
id is the key's for good. `flotilla register` names the keys after the ids that they are for (`node-3`), so the names
are the closed list of who may say which id. Where anybody may join, and in a simulation, there are no names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from flwr.serverapp import Grid

from protocol import NodeId, escaped

_NUMBERED = re.compile(r"(?:node-)?(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What is known of one node.

    Attributes:
        name: of its key; "" if it was not registered by name.
        key: digest of the key, which no other node has; "" without a name.
        since: when it came last, as the SuperLink writes it; another one after every restart.
    """

    name: str = ""
    key: str = ""
    since: str = ""

    @property
    def id(self) -> NodeId | None:
        """The stable id that the name stands for: that of "node-3" is 3; None if it stands for none."""
        numbered = _NUMBERED.fullmatch(self.name)
        return int(numbered[1]) if numbered else None


UNKNOWN = Registration()


class Registrations:
    """The registrations of all nodes that are online, asked for again only where they can have changed."""

    def __init__(self) -> None:
        self._found: Mapping[int, Registration] = {}
        self._named = False

    def online(self, grid: Grid) -> Mapping[int, Registration]:
        """Address → registration; the same object while nothing has changed."""
        if not self._named:
            ids = set(grid.get_node_ids())
            if self._found.keys() == ids:
                return self._found
        if hasattr(grid, "get_nodes"):
            nodes = grid.get_nodes()
            found = {node.node_id: _read(node.name, node.public_key, node.last_activated_at) for node in nodes}
        else:  # a grid that only has what a strategy needs
            found = dict.fromkeys(ids, UNKNOWN)
        self._named = any(one.name for one in found.values())
        self._found = self._found if found == self._found else found
        return self._found


def _read(name: str, public_key: bytes, since: str) -> Registration:
    if not name:
        return UNKNOWN
    return Registration(name=escaped(name), key=sha256(public_key).hexdigest(), since=since)
