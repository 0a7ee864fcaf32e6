"""Secure aggregation in a round: who is summed with whom, the stages around training, what becomes of a sum.

Nodes that train the same part are a group. One that is too small for a sum, or loses too many members on the way, does
not count in this round, and the report says why; the others do. Nothing of it outlives the round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from flwr.serverapp import Grid

from models.algebra.plans import Plan
from protocol import NodeId
from protocol.secure.bounds import MOST_MEMBERS
from protocol.secure.keys import public_key
from protocol.secure.messages import (
    KEYS,
    SHARES,
    UNMASK,
    KeysReply,
    KeysRequest,
    SharesReply,
    UnmaskReply,
    UnmaskRequest,
)
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.report import RoundReport
from strategies.exchange.update import ClientUpdate, Rejected, Rejection, why_unusable
from strategies.method import Method
from strategies.nodes.patience import Patience
from strategies.round.aggregator import RoundAggregator
from strategies.round.requests import new_nonce
from strategies.round.secure_stage import Question, StageExchange
from strategies.secure.group import Group, Weights

Members = Sequence[TrainAssignment]


class SecureSums:
    """The groups of one round.

    Args:
        grid: where the nodes are.
        context: of the round.
        method: says what a difference weighs.
        patience: asks.
        report: of the round; filled in.
    """

    def __init__(
        self, grid: Grid, context: RoundContext, *, method: Method, patience: Patience, report: RoundReport
    ) -> None:
        self._context, self._method, self._report, self._patience = context, method, report, patience
        self._options = context.settings.secure
        self._stages = StageExchange(grid=grid, patience=patience, report=report, seconds=context.settings.wait)
        self._groups: list[Group] = []
        self._where: dict[str, tuple[Group, int]] = {}  # by the nonce of the request to train
        self._summed: list[tuple[Group, dict[str, Any]]] = []  # and their rows in the report

    # ---- before training ---------------------------------------------------------------------------------------------

    def prepare(self, assignments: Members) -> list[TrainAssignment]:
        """Find the groups, let their members agree on masks, and say who is asked to train, in the same order."""
        began = perf_counter()
        by_plan: dict[Plan, list[TrainAssignment]] = {}
        for one in assignments:
            by_plan.setdefault(one.plan, []).append(one)
        groups = [group for members in by_plan.values() for group in evenly(members, MOST_MEMBERS)]
        self._groups = self._introduce([group for group in groups if self._enough(group, group)])
        self._share()
        for group in self._groups:
            self._where |= {group.members[one].nonce: (group, one) for one in group.senders}
        told = [self._told(one) for one in assignments if one.nonce in self._where]
        self._report.seconds["keys"] = perf_counter() - began
        return told

    def _introduce(self, groups: Sequence[Members]) -> list[Group]:
        """Groups of those that say their keys; a key that another member has already is none."""
        sessions = [new_nonce() for _ in groups]
        said: list[dict[str, KeysReply]] = [{} for _ in groups]

        def keep(place: int, nonce: str, reply: KeysReply) -> None:
            known = {key for one in said[place].values() for key in (one.mask_key, one.seal_key)}
            own = {reply.mask_key, reply.seal_key}
            if known & own or len(own) < 2:
                raise Rejected("a key that is not its own")
            for key in own:
                public_key(key)
            said[place][nonce] = reply

        self._stages.ask(
            KEYS,
            KeysReply,
            [
                Question(
                    member=one,
                    request=KeysRequest(nonce=new_nonce(), session=sessions[place]),
                    keep=partial(keep, place, one.nonce),
                )
                for place, members in enumerate(groups)
                for one in members
            ],
        )
        found = []
        for session, members, replies in zip(sessions, groups, said, strict=True):
            present = [one for one in members if one.nonce in replies]
            if self._enough(members, present):
                found.append(
                    Group(
                        session,
                        present,
                        [replies[one.nonce] for one in present],
                        least=self._options.secure_threshold,
                        weights=list(map(self._weights, present)),
                    )
                )
        return found

    def _share(self) -> None:
        """Let the members of every group share their secrets; groups that lose too many are left out."""
        self._stages.ask(
            SHARES,
            SharesReply,
            [
                Question(member=one, request=group.shares_request(i, new_nonce()), keep=partial(group.take_shares, i))
                for group in self._groups
                for i, one in enumerate(group.members)
            ],
        )
        self._groups = [group for group in self._groups if self._enough_of(group, group.senders)]

    def _told(self, assignment: TrainAssignment) -> TrainAssignment:
        group, position = self._where[assignment.nonce]
        told = group.told(position, self._options.secure_clip)
        self._report.survey_bytes["down"] += sum(map(len, told.envelopes))
        return replace(assignment, secure=told)

    def _weights(self, member: TrainAssignment) -> Weights:
        """What a member's difference weighs, by what is known before it trains."""
        least, most = self._context.settings.guard.examples
        examples = min(max(float(member.node.examples), least), most)
        known = ClientUpdate(metrics={"num-examples": examples})
        numerator, denominator = self._method.weigh(self._context, member, known)
        return numerator * member.weight, denominator * member.weight

    # ---- replies -----------------------------------------------------------------------------------------------------

    def take(self, assignment: TrainAssignment, update: ClientUpdate) -> None:
        """Add a masked reply to the sum of its group."""
        group, position = self._where[assignment.nonce]
        group.take(position, update)

    def open(self, aggregator: RoundAggregator) -> None:
        """Open the sums, and let each be added that can be read."""
        began, opened = perf_counter(), dict[str, dict[int, UnmaskReply]]()
        self._distrust_sealers()
        groups = [group for group in self._groups if self._enough_of(group, group.survivors)]

        def keep(group: Group, position: int, reply: UnmaskReply) -> None:
            group.check_opened(position, reply)
            opened.setdefault(group.session, {})[position] = reply

        self._stages.ask(
            UNMASK,
            UnmaskReply,
            [
                Question(
                    member=group.members[i],
                    request=UnmaskRequest(nonce=new_nonce(), session=group.session, survivors=tuple(group.survivors)),
                    keep=partial(keep, group, i),
                )
                for group in groups
                for i in group.survivors
            ],
        )
        for group in groups:
            self._add(group, opened.get(group.session, {}), aggregator)
        self._keep_apart()
        self._groups, self._where = [], {}
        self._report.seconds["unmask"] = perf_counter() - began

    def _add(self, group: Group, replies: dict[int, UnmaskReply], aggregator: RoundAggregator) -> None:
        if len(replies) < group.threshold:
            self._leave(group, group.survivors, f"{len(replies)} nodes open it, {group.threshold} are needed")
            return
        try:
            summed, numbers, wrong = group.open(replies, self._options.secure_clip)
            aggregator.add_sum(
                [(group.members[i], group.arrived[i].with_metrics(numbers)) for i in group.survivors],
                torch.from_numpy(summed.astype(np.float32)),
                sum(group.weights[i][1] for i in group.survivors),
            )
        except Exception as error:
            self._leave(group, group.survivors, why_unusable(error))
            return
        self._report.secure.append(_row(group, opened_by=len(replies)))
        self._summed.append((group, self._report.secure[-1]))
        if wrong is not None:
            self._distrust(group.members[wrong], "its shares open nothing")

    def _keep_apart(self) -> None:
        """Take those that a sum was opened without from the rejected: their own replies are in it."""
        for group, row in self._summed:
            summed = {group.members[i].node.id for i in group.survivors}
            without = [one for one in self._report.rejected if one.node in summed]
            if without:
                row["opened_without"] = [{"node": one.node, "reason": one.reason} for one in without]
                self._report.rejected[:] = [one for one in self._report.rejected if one.node not in summed]
        self._summed = []

    def _distrust(self, member: TrainAssignment, reason: str) -> None:
        """Name a member that spoils sums; it is asked less and less often, as one that does not answer."""
        node = member.node.id
        self._report.rejected.append(Rejection(node, f"secure aggregation: {reason}"))
        self._patience.missed(node, self._report.number)

    def _distrust_sealers(self) -> None:
        """Distrust those of whose envelopes most of the others say that they cannot be read; name whom each means."""
        rejected = self._report.rejected
        blamers: dict[NodeId, int] = {
            one.node: place for place, one in enumerate(rejected) if one.node is not None and one.blames
        }
        for group in self._groups:
            blamed = Counter[int]()
            for position, member in enumerate(group.members):
                if (place := blamers.get(member.node.id)) is not None:
                    named = [one for one in rejected[place].blames if one in group.senders and one != position]
                    blamed.update(named)
                    nodes = ", ".join(str(group.members[one].node.id) for one in named) or "nobody in its group"
                    said = f"secure aggregation: it cannot read what was encrypted by {nodes}"
                    rejected[place] = replace(rejected[place], reason=said)
            for position, count in blamed.items():
                if 2 * count > len(group.senders) - 1:
                    self._distrust(group.members[position], "what it encrypts cannot be read")

    # ---- who does not count ------------------------------------------------------------------------------------------

    def _enough(self, members: Members, present: Members) -> bool:
        """Whether the present ones of some members are enough for a sum; else none of them counts."""
        least, gone = self._options.secure_threshold, len(members) - len(present)
        if len(present) >= least:
            return True
        lost = f", {gone} are gone" if gone else ""
        self._refuse(members, present, f"{len(present)} nodes train its part{lost}, and a sum takes {least}")
        return False

    def _enough_of(self, group: Group, left: Sequence[int]) -> bool:
        if len(left) >= group.threshold:
            return True
        self._leave(group, left, f"{len(left)} of {len(group.members)} nodes are left, {group.threshold} are needed")
        return False

    def _leave(self, group: Group, left: Sequence[int], reason: str) -> None:
        self._refuse(group.members, [group.members[i] for i in left], reason)

    def _refuse(self, members: Members, named: Members, reason: str) -> None:
        """Leave a group out; those of its members that are not named for something else are named for this."""
        tier = tiers_of(members)
        said = f"secure aggregation: there is no sum of tier {tier}: {reason}"
        before = {one.node for one in self._report.rejected}
        self._report.rejected += [Rejection(one.node.id, said) for one in named if one.node.id not in before]
        self._report.secure.append({"tier": tier, "left_out": reason})


def evenly(members: Members, most: int) -> list[Members]:
    """Divide members into groups of at most `most`, as equal as can be, in their order."""
    count = -(-len(members) // most)
    return [members[i * len(members) // count : (i + 1) * len(members) // count] for i in range(count)]


def tiers_of(members: Members) -> str:
    """The names of their tiers."""
    return ", ".join(dict.fromkeys(one.tier for one in members))


def _row(group: Group, *, opened_by: int) -> dict[str, Any]:
    return {
        "tier": tiers_of(group.members),
        "members": len(group.members),
        "threshold": group.threshold,
        "senders": len(group.senders),
        "summed": len(group.survivors),
        "opened_by": opened_by,
    }
