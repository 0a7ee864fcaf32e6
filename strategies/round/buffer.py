"""Buffered rounds: nobody waits for the slowest, and a round is so many replies, whatever the state each began with.

After FedBuff (Nguyen et al., AISTATS 2022, Algorithm 1). So many nodes train at a time; whoever has replied makes room
for another node. When K replies are there, they change the state, which is then a round older for those who train on.
A reply that began τ rounds ago counts s(τ) = (1 + τ)^-a times. With submodels every coordinate j has its own holders,

    w_j ← w_j + d_j · Σ s n Δ_j / Σ s n,    d_j = 1 - p_j · (1 - Σ s n / Σ n)

where the first two sums are over the holders of j, the last two over all replies of the round, and p_j is the share of
the replies (by s n) that held j in the recent rounds. What everybody holds (p = 1) moves as in FedBuff, Σ s n Δ / Σ n:
stale rounds move it less. What only slow, large devices hold is in few replies, all of them stale: under FedBuff's rule
it would take a step divided by K and discounted every time, which is how it starves (FedGMR, arXiv 2512.05372; FedCover
answers with gains by coverage). Here it takes the step of its holders, the less discounted the rarer they are. Without
staleness, d = 1 and this is the partial average, bit for bit.

Time is a virtual fleet's. A device trains when it is asked, at once, and its reply waits until virtual time has come
to it; so runs repeat themselves, and what waits is in the checkpoints. Who is next in line is asked together with those
who begin a round: the state is the same until it ends, so they train side by side, and begin when there is room.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import Message
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from protocol import Work
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.fleet import Fleet
from strategies.exchange.node import Node
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.exchange.update import ClientUpdate, Rejected, why_unusable
from strategies.method import Method
from strategies.round.flight import Flight, restored, saved, under
from strategies.round.stages import Stage, authenticate, decode, within_plan
from strategies.tiers.tier import Tier
from strategies.transport.uplink import UplinkDecoder
from strategies.virtual.clock import VirtualClock

_MEMORY = 0.1  # of the mean over recent rounds: what the last one counts, once there were ten

Take = Callable[[int, ClientUpdate | Rejected, bool], None]
Listener = Callable[[TrainAssignment, ClientUpdate], None]


class Buffer(Stateful):
    """Who trains, and what their replies count.

    Args:
        method: says what the nodes of a tier are asked, which a resumed run asks it again.
        context: of any round.
        uplink: decodes replies.
        clock: of the virtual fleet.
        work_of: how the nodes of a tier train.

    Attributes:
        flights: who trains, in the order in which they were asked.
        whole: Σ n of the round so far.
    """

    begins = True

    def __init__(
        self,
        method: Method,
        context: RoundContext,
        *,
        uplink: UplinkDecoder,
        clock: VirtualClock,
        work_of: Callable[[Tier], Work],
    ) -> None:
        settings = context.settings
        self._method, self._context, self._clock, self._work_of = method, context, clock, work_of
        self._uplink = uplink
        self._places, self._size = settings.trained_at_most, settings.buffer_size
        self._exponent = settings.staleness_exponent
        self.flights: list[Flight] = []
        self._parts: dict[Plan, Submodel] = {}  # one object for a plan, also in a resumed run: such replies are summed
        self._recent: dict[str, Tensor] = {}  # by unit of every tensor, p of the formula
        self._rounds = 0  # that are in it
        self._now = 0
        self.begin(0, None)

    def begin(self, round_number: int, state: Tensor | None) -> None:
        """Begin a round."""
        del state
        self._now = round_number
        self._counted = self.whole = 0.0  # Σ s n and Σ n

    # ---- who trains --------------------------------------------------------------------------------------------------

    def free(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """Those of some nodes that can be asked."""
        busy = {one.assignment.node.id for one in self.flights}
        return nodes.without(busy) if isinstance(nodes, Fleet) else [one for one in nodes if one.id not in busy]

    @property
    def room(self) -> int:
        """How many nodes can be asked in a round: for the free places, and for those that it will free."""
        return self._places - len(self.flights) + self._size - 1

    def hooks(self, round_number: int) -> tuple[list[Stage], list[Listener], list[TrainAssignment]]:
        """What an aggregator needs: the last stage, who listens, and what those who train were asked before."""
        return [self._stale(round_number)], [self._note], [one.assignment for one in self.flights]

    def board(
        self, asked: Sequence[TrainAssignment], came: Sequence[Message | None], bytes_down: Sequence[int]
    ) -> list[Flight]:
        """What the nodes of a round begin, or will begin when there is room.

        Args:
            asked: what they are asked.
            came: what they have replied.
            bytes_down: encoded bytes of the requests' arrays.
        """
        found = []
        for assignment, message, down in zip(asked, came, bytes_down, strict=True):
            update = self._read(assignment, message, down)
            read = None if isinstance(update, Rejected) else update
            seconds = self._clock.until_known(assignment, read, down) if message else self._clock.deadline
            missed = message is None or message.has_error()
            found.append(Flight(assignment=assignment, update=update, missed=missed, seconds=seconds))
        self._parts = {}
        for one in (*self.flights, *found):
            self._parts.setdefault(one.assignment.plan, one.assignment.part)
        return found

    def _read(self, assignment: TrainAssignment, message: Message | None, bytes_down: int) -> ClientUpdate | Rejected:
        """Read a reply when it is made, so that what waits is no larger than the part."""
        try:
            update = within_plan(assignment, authenticate(assignment, message, bytes_down))
            return decode(self._uplink, assignment, update)
        except Exception as error:  # whatever is wrong with it, the run goes on without it
            return Rejected(why_unusable(error))

    def fly(self, new: Sequence[Flight], take: Take, *, enough: Callable[[], bool]) -> None:
        """Let virtual time pass until there are enough replies, or nobody trains any more.

        Args:
            new: who was asked in this round, in the order in which they begin.
            take: takes what came of a request, by its position: the new ones stand before those of earlier rounds.
            enough: whether there are enough replies.
        """
        now, waiting = self._clock.elapsed, deque(enumerate(new))
        # Whose time is the same come in the order in which they were asked.
        order = {id(one): place for place, one in enumerate([*self.flights, *new])}
        heap = [(one.due, order[id(one)], len(new) + i, one) for i, one in enumerate(self.flights)]
        heapq.heapify(heap)

        def begin() -> None:
            i, one = waiting.popleft()
            one.due = now + one.seconds
            heapq.heappush(heap, (one.due, order[id(one)], i, one))

        while waiting and len(heap) < self._places:
            begin()
        while heap and not enough():
            now, _, i, one = heapq.heappop(heap)
            take(i, one.update, one.missed)
            if waiting and not enough():
                begin()
        self.flights = [one for _, _, _, one in sorted(heap, key=lambda entry: entry[1])]
        self._clock.seconds = now - self._clock.elapsed

    # ---- what a reply counts -----------------------------------------------------------------------------------------

    def _stale(self, round_number: int) -> Stage:
        """Let a reply count by the age of the state that it began with."""

        def stage(assignment: TrainAssignment, update: ClientUpdate) -> ClientUpdate:
            share, part = self._share(round_number - assignment.asked_in), self._parts[assignment.plan]
            numerator, denominator = update.numerator * share, update.denominator * share
            return replace(update, part=part, numerator=numerator, denominator=denominator)

        return stage

    def _share(self, rounds: int) -> float:
        return float((1 + rounds) ** -self._exponent)

    def _note(self, assignment: TrainAssignment, update: ClientUpdate) -> None:
        """Hear of a reply that is added."""
        self._counted += update.denominator
        self.whole += update.denominator / self._share(self._now - assignment.asked_in)

    def discount(self, average: PartialAverage) -> None:
        """Let stale replies move what everybody holds less; see the formula above."""
        counted = self._counted / self.whole
        self._rounds += 1
        pace = max(_MEMORY, 1 / self._rounds)
        for name, held in average.denominators().items():
            share = held.div_(self._counted).clamp_(max=1.0)
            self._recent[name] = share if name not in self._recent else self._recent[name].lerp_(share, pace)
        if counted < 1.0:
            average.shrink({name: 1 - recent * (1 - counted) for name, recent in self._recent.items()})

    # ---- files -------------------------------------------------------------------------------------------------------

    def learn(self, outcome: RoundOutcome) -> None:
        """Say how old the states were that the replies of the round began with."""
        ages = [outcome.report.number - one.assignment.asked_in for one in outcome.accepted]
        outcome.report.buffer = {"training": len(self.flights)}
        if ages:
            outcome.report.buffer |= {"staleness_mean": sum(ages) / len(ages), "staleness_max": max(ages)}
            outcome.report.buffer |= {"counted": self._counted / self.whole}

    def checkpoint(self) -> Saved:
        """Who trains, what they will reply and when, and who held what in the recent rounds."""
        tensors = {f"recent/{name}": tensor for name, tensor in self._recent.items()}
        flights = []
        for i, one in enumerate(self.flights):
            own, values = saved(one)
            flights.append(values)
            tensors |= {f"{i}/{name}": tensor for name, tensor in own.items()}
        return tensors, {"rounds": self._rounds, "flights": flights}

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        self._rounds = int(values["rounds"])
        self._recent = {name: tensor.clone() for name, tensor in under("recent/", tensors).items()}
        self.flights, then = [], self._context
        for i, one in enumerate(values["flights"]):
            own = under(f"{i}/", tensors)
            self.flights.append(restored(one, own, method=self._method, context=then, work_of=self._work_of))
