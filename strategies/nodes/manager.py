"""The fleet: which nodes there are and what they said of themselves."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from logging import WARNING
from time import monotonic, sleep

from flwr.app import Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from protocol import HELLO, BaseQuestion, Hello, HelloRequest, WireError, quoted
from strategies.exchange.fleet import Directory, Fleet
from strategies.exchange.messaging import exchange
from strategies.exchange.node import Node, in_order
from strategies.exchange.update import Rejection, said_error, why_unusable
from strategies.exchange.wait_times import WaitTimes
from strategies.nodes.back_off import BackOff
from strategies.nodes.claims import Claims
from strategies.nodes.registration import Registration, Registrations

_SETTLE = 3.0  # seconds without a new node after which we start with fewer than expected
_STARTING = 900.0  # seconds for a process of a simulation to import PyTorch, prove itself and read its data
_SILENT = "no answer in time"
_DIGEST = 12  # characters of a base's digest that an error shows


class NotEnoughNodes(RuntimeError):
    """Fewer nodes came than the run needs."""


class NobodyAnswered(NotEnoughNodes):
    """Nodes are there, and every one of them refused to say hello.

    Args:
        reasons: what each of them said.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        told = "; ".join(f"{count} said: {reason}" for reason, count in Counter(reasons).most_common(3))
        unknown = any(
            "registered" in reason for reason in reasons
        )  # as flwr says of a type that an app does not answer
        hint = "; a ClientApp has to answer `hello` and `train.part`: docs/clients.md says how" if unknown else ""
        super().__init__(f"none of {len(reasons)} nodes answered hello; {told}{hint}")


@dataclass(slots=True, kw_only=True)
class NodeManager:
    """All nodes met so far.

    Attributes:
        most: ids that there may be.
        seconds: how long a hello may take after the last one that came.
        labels, tokens: whether nodes are asked which of them they have; a node that is not asked does not tell.
        profile: what nodes are asked to measure of themselves, a `protocol.profile.ProfileRequest` as text; "" is
            nothing.
        facts: of the task, as requests carry them.
        base: of which network nodes are asked which base they have; who has another is refused. None asks nobody.
        waited: where the seconds of the last `greet` went; None if it had nobody to ask.
        claims: who holds which id.
    """

    most: int = sys.maxsize
    seconds: float = 60.0
    labels: bool = False
    tokens: bool = False
    profile: str = ""
    facts: str = ""
    base: BaseQuestion | None = None
    waited: WaitTimes | None = None
    claims: Claims = field(init=False)
    _registrations: Registrations = field(default_factory=Registrations)
    _silence: BackOff[int] = field(default_factory=BackOff)  # by address
    _refused: BackOff[int] = field(default_factory=BackOff)
    _registered: set[int] = field(default_factory=set)  # addresses of keys that were registered by name
    _nodes: dict[int, Node] = field(default_factory=dict)  # by address: who said hello, and is there or owns an id
    _since: dict[int, str] = field(default_factory=dict)  # likewise: as it was registered when it said so
    _online: Mapping[int, Registration] = field(default_factory=dict)
    _present: Sequence[Node] = field(default_factory=list)
    _asks: bool = False  # whether everybody is to be asked, although an engine says that it knows them
    _settled: bool = False  # whether everybody that is there has said hello and counts

    def __post_init__(self) -> None:
        self.claims = Claims(self.most)

    def wait(self, grid: Grid, expected: int, least: int, seconds: float) -> int:
        """Wait until the expected number of nodes is online, or at least `least` and no more are coming.

        Raises:
            NotEnoughNodes: fewer than `least` after `seconds`.
        """
        began = changed = monotonic()
        count = _online(grid)
        while count < expected:
            now = monotonic()
            if count >= least and now - changed >= min(_SETTLE, seconds):
                break
            if now - began >= seconds:
                raise NotEnoughNodes(
                    f"{count} nodes are online, the run needs {least}; in a simulation start it with "
                    f"`flotilla run`, or `flwr run . --federation-config 'num-supernodes={expected}'`"
                )
            sleep(0.05)
            seen = _online(grid)
            changed = now if seen != count else changed
            count = seen
        return count

    def waits(self, grid: Grid, number: int, least: int) -> bool:
        """Whether `greet` would wait: for nodes to come back, or for somebody's answer."""
        if isinstance(self._present, Fleet):
            return False
        online = self._registrations.online(grid)
        resting = (self._silence, self._refused)
        return len(online) < least or any(
            self._since.get(address) != one.since and not any(who.rests(address, number) for who in resting)
            for address, one in (() if online is self._online and self._settled else online.items())
        )

    def greet(
        self, grid: Grid, number: int = 1, *, least: int = 0, seconds: float = 0.0
    ) -> tuple[Sequence[Node], list[Rejection]]:
        """Say hello to nodes that are new or have come back, and return all that are online, in order of their ids.

        Where the engine made its nodes itself and says what they would say (`directory`), one of them is asked whether
        that is so, and nobody else. Who did not answer well is asked less and less often (`strategies.nodes.back_off`).
        The list is the same object as long as nobody comes or goes or says something else.

        Args:
            grid: where the nodes are.
            number: of the round.
            least: where fewer nodes are online, they are given time to come back; without them it goes on all the same.
            seconds: how much.

        Raises:
            NobodyAnswered: no node has ever said hello, and those that are online refuse to.
        """
        self.waited = None
        directory: Directory | None = getattr(grid, "directory", None)
        if directory is not None and not self._asks:
            if not isinstance(self._present, Fleet):
                self._present = self._known(grid, directory) or []
            if self._present:
                return self._present, []
            self._asks = True
        online = self._registrations.online(grid)
        if len(online) < least:
            try:
                self.wait(grid, least, least, seconds)
            except NotEnoughNodes as error:
                log(WARNING, "%s; this round goes on without more", error)
            online = self._registrations.online(grid)
        if online is not self._online:
            self._leave(online)
        elif self._settled:
            return self._present, []
        unheard = [address for address in sorted(online) if self._since.get(address) != online[address].since]
        rejections: list[Rejection] = []
        refusals = self._say_hello(grid, self._due(unheard, number, rejections), number, rejections)
        if not self._nodes and refusals and all(reason is not None for reason in refusals.values()):
            raise NobodyAnswered([reason for reason in refusals.values() if reason])
        held, refused = self.claims.holders(online)
        rejections += [Rejection(one.id, f"node {one.address}: {one.reason}") for one in refused]
        heard = {address for address, since in self._since.items() if online[address].since == since}
        ids = sorted((node for node, address in held.items() if address in heard), key=in_order)
        present = [self._nodes[held[node]] for node in ids]
        if len(present) != len(self._present) or any(a is not b for a, b in zip(present, self._present, strict=True)):
            self._present = present
        self._settled = not unheard and not rejections
        return self._present, rejections

    def _known(self, grid: Grid, directory: Directory) -> Fleet | None:
        """The nodes as the engine knows them; None if what they measure or read counts, or one disagrees."""
        addresses, hellos = directory.addresses, list[Hello]()
        if self.profile or self.tokens or not 0 < len(addresses) <= self.most:
            return None

        def take(_: int, reply: Message | None) -> None:
            hellos.append(self._read(reply))

        message = Message(content=self._question(), message_type=HELLO, dst_node_id=addresses[0])
        try:
            seconds = self._patience(grid)
            self.waited = exchange(grid, [message], take, seconds=seconds, enough=lambda: False, patient=True)
            told = hellos[0]
        except Exception:  # it is asked again with the others, and then somebody is told
            return None
        labels = partial(directory.labels, facts=self.facts) if self.labels else None
        ids, examples = range(len(addresses)), directory.examples
        fleet = Fleet(told, ids, addresses=addresses, examples=examples, labels=labels)
        return fleet if fleet[0].hello == told else None

    def _patience(self, grid: Grid) -> float:
        """Seconds for a hello. A simulation's nodes are the run's own, so who is silent is still starting."""
        return max(self.seconds, _STARTING) if getattr(grid, "simulated", False) else self.seconds

    def _question(self) -> RecordDict:
        return HelloRequest(
            labels=self.labels, tokens=self.tokens, profile=self.profile, facts=self.facts, base=self.base
        ).to_record()

    def _leave(self, online: Mapping[int, Registration]) -> None:
        """Note who is online now: of those who have left only owners of ids are remembered, and greeted when back."""
        for address in self._online.keys() - online.keys():
            self._since.pop(address, None)
        self.claims.forget(online)
        owners = self.claims.addresses
        self._nodes = {address: node for address, node in self._nodes.items() if address in online or address in owners}
        self._registered.update(address for address, one in online.items() if one.name)
        self._silence.keep(self._registered | online.keys())  # a restart makes nobody more talkative
        self._refused.keep(online)  # but may put right what was wrong with an answer
        self._online = online

    def _due(self, unheard: Sequence[int], number: int, rejections: list[Rejection]) -> list[int]:
        """Who of those that are new or have come back is asked: no stranger where everybody is there already."""
        full = bool(unheard) and len(self.claims.holders(self._since.keys())[0]) >= self.most
        due = []
        for address in unheard:
            if full and address not in self._nodes and not self._online[address].name:
                reason = f"not asked, since num-clients = {self.most} nodes are there"
                rejections.append(Rejection(None, f"hello of node {address}: {reason}"))
            elif not (self._silence.rests(address, number) or self._refused.rests(address, number)):
                due.append(address)
        return due

    def _say_hello(
        self, grid: Grid, due: Sequence[int], number: int, rejections: list[Rejection]
    ) -> dict[int, str | None]:
        """Greet nodes and take what they say; by address, why one was left out (None: silent, perhaps only for now)."""
        if not due:
            return {}
        record = self._question()
        messages = [Message(content=record, message_type=HELLO, dst_node_id=address) for address in due]
        came: list[Message | None] = [None] * len(due)
        order: list[int] = []  # in which they came: of thousands of nodes, the first ones may be the last to answer

        def take(i: int, reply: Message | None) -> None:
            came[i] = reply
            order.append(i)

        seconds = self._patience(grid)
        self.waited = exchange(grid, messages, take, seconds=seconds, enough=lambda: False, patient=True)
        refusals: dict[int, str | None] = {}
        for i in order:
            address = due[i]
            registration = self._online[address]
            try:
                hello = self._read(came[i])
                self.claims.claim(hello.node, address, registration)
            except Exception as error:  # whatever it says, the others are there
                reason = why_unusable(error)
                rejections.append(Rejection(registration.id, f"hello of node {address}: {reason}"))
                refusals[address] = None if came[i] is None else reason
                (self._silence if came[i] is None else self._refused).missed(address, number)
            else:
                self._nodes[address], self._since[address] = Node(address, hello), registration.since
                self._silence.heard(address, number)
                self._refused.heard(address, number)
        return refusals

    def _read(self, reply: Message | None) -> Hello:
        if reply is None:
            raise WireError(_SILENT)
        if reply.has_error():
            raise WireError(said_error(reply))
        hello = Hello.from_record(reply.content)
        if self.base is not None and hello.base != self.base.network.base:
            has, wanted = quoted(hello.base[:_DIGEST]), self.base.network.base[:_DIGEST]
            raise WireError(f"its base is {has}, the run's is {wanted!r} (node config: base)")
        return hello


def _online(grid: Grid) -> int:
    ids = grid.get_node_ids()
    return len(ids) if isinstance(ids, Sized) else len(list(ids))
