"""Who holds a stable id, where more than one node says it.

An id belongs to a key. A node whose registered name stands for the id, or whose flwr node id it is, holds it, also
while it is away; a node that was registered under another name comes next, and holds it for the rest of the run; then
whoever said it first. Such a first one that no key proves cannot be told from an impostor, nor from itself
after a restart, when it has another address: while it is away another one may stand in, and it gets the id back.

There are at most as many ids as the run expects nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from protocol import NodeId, id_of_address, quoted
from strategies.nodes.registration import Registration

ANYBODY, REGISTERED, NAMED = range(3)  # how well a claim is founded


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A node says that an id is its own.

    Attributes:
        address: of the node; None if it has not come since the run was resumed.
        key: digest of its key; "" if that was not registered.
        founded: one of `ANYBODY`, `REGISTERED`, `NAMED`.
    """

    address: int | None
    key: str
    founded: int

    @property
    def known_address(self) -> int:
        """The address of a node that is there."""
        assert self.address is not None
        return self.address


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A node that does not hold the id that it says, and why."""

    address: int
    id: NodeId
    reason: str


class Claims:
    """All claims of a run.

    Args:
        most: how many ids there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._claims: dict[NodeId, list[Claim]] = {}  # ids in the order in which they were first said; best claim first

    def claim(self, node: NodeId, address: int, registration: Registration) -> None:
        """Note that a node says an id; it has no other one then.

        Raises:
            ValueError: its key was registered for another id.
        """
        own = registration.id
        if own is not None and node not in (own, id_of_address(address)):
            raise ValueError(f"its key is registered as {registration.name!r}, and it says it is {quoted(node)}")
        named = own is not None or node == id_of_address(address)
        founded = NAMED if named else REGISTERED if registration.name else ANYBODY
        new = Claim(address=address, key=registration.key, founded=founded)
        for other, claims in self._claims.items():
            if other != node:
                claims[:] = [one for one in claims if one.address != address]
        claims = self._claims.setdefault(node, [])
        for i, one in enumerate(claims):
            if one.address == address or (one.key and one.key == new.key):
                claims[i] = new  # its place among equals is that of its first word
                break
        else:
            claims.append(new)
        claims.sort(key=lambda one: -one.founded)

    def holders(self, online: Collection[int]) -> tuple[dict[NodeId, int], list[Refusal]]:
        """Id → address of who holds it and is online, and who is online and does not.

        Args:
            online: addresses.
        """
        held: dict[NodeId, int] = {}
        refused: list[Refusal] = []
        for place, node in enumerate(self._ranked()):
            claims = self._claims[node]
            there = [one for one in claims if one.address in online]
            if place >= self._most:
                reason = f"num-clients = {self._most}: there are so many others"
            elif there and _may_hold(there[0], claims[0]):
                why = "is registered as that" if claims[0].founded == NAMED else "said so first"
                reason = f"two nodes say they are {quoted(node)}; the one counts that {why}"
                held[node] = there.pop(0).known_address
            else:
                reason = f"{quoted(node)} belongs to another key, whose node is away"
            refused += [Refusal(address=one.known_address, id=node, reason=reason) for one in there]
        return held, refused

    def _ranked(self) -> list[NodeId]:
        """Ids, those that a key was registered for first, else in the order in which they were first said."""
        return sorted(self._claims, key=lambda node: -max((one.founded for one in self._claims[node]), default=ANYBODY))

    def forget(self, online: Collection[int]) -> None:
        """Forget who is away and owns nothing, so that there are never many more claims than nodes."""
        for place, node in enumerate(self._ranked()):
            self._claims[node][1:] = [one for one in self._claims[node][1:] if one.address in online]
            if place >= self._most and not any(one.address in online for one in self._claims[node]):
                del self._claims[node]

    @property
    def addresses(self) -> set[int]:
        """Addresses of all that have a claim."""
        return {one.address for claims in self._claims.values() for one in claims if one.address is not None}

    def checkpoint(self) -> list[list[Any]]:
        """Ids in their order, as JSON, each with the key that it belongs to where no name says so."""
        registered = {
            node: [one.key for one in claims[:1] if one.founded == REGISTERED] for node, claims in self._claims.items()
        }
        return [[node, *key] for node, key in registered.items()]

    def restore(self, values: Sequence[Sequence[Any]]) -> None:
        """Take up a `checkpoint`."""
        self._claims = {
            node: [Claim(address=None, key=one, founded=REGISTERED) for one in key] for node, *key in values
        }


def _may_hold(claim: Claim, best: Claim) -> bool:
    """Whether the best claim of those who are there may hold an id whose best claim of all is this."""
    return claim is best or best.founded == ANYBODY or claim.founded == NAMED
