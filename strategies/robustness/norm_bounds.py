"""Bounds on one reply: how long its difference may be, what loss it may say, and how much it may weigh.

Parts of small tiers have short differences, so one bound for everybody is none for them: every tier of every cluster
has its own. A difference is rejected ("zero") that is longer than four times what is usual, the median of what the
nodes of the tier sent last (`last_said`); the medians of a run's first round are those of its first replies, which wait
for each other (`strategies.round.held_replies`). Where differences of a whole tier grow, as an importance mask's may
from its first round to its second, the median of the present round counts as well: what is too long by the last one
waits for the round's end. A tier of fewer than three nodes is held against all of them, within a wider bound: parts of
other sizes have differences of other lengths. Steps count: who is asked for more of them than is usual may come so much
further; and where gradients are not clipped a larger part may, by the root of its size. TensorFlow Federated's robust
aggregator zeroes what is beyond twice the 0.98 quantile; a tenth of the nodes can move that wherever they like, by and
by, so here it is a median and a larger multiple.

Shortening ("clip") is for all differences, not for odd ones, and follows the 0.8 quantile. That estimate is geometric
(Andrew, Thakkar, McMahan, Ramaswamy, NeurIPS 2021, §2): with b the share of the norms at or below C,

    C ← C · exp(η · (γ - b))

A rejected reply is as if it had never come, so it does not move the bounds either, unless more than half of a tier's
replies were: then it is the bound that is wrong, and all of them count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, isfinite, sqrt
from statistics import median
from typing import Any

from torch import Tensor

from protocol import NodeId
from strategies.aggregation import Aggregation, ByMethod
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.exchange.update import ClientUpdate, Rejected
from strategies.robustness.last_said import LEAST, LastSaid, Numbers
from strategies.robustness.options import GuardOptions

CLIP_RATE = 0.2
_SMALLEST, _LARGEST = 1e-12, 1e12  # where estimates stay: nodes that do not learn send nothing, again and again
# So many times more where those of other tiers say what is usual: an importance mask of a sixteenth was seen to leave a
# difference of a thirty-seventh.
ELSEWHERE = 25.0
ENOUGH = 8  # replies that say what is usual, if every tier is among them
_LOSS = "loss-before"
Lengths = tuple[float, float, float]


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What the replies of a tier said in a round: node → numbers, and norms as they came."""

    kept: dict[NodeId, Lengths] = field(default_factory=dict)
    rejected: dict[NodeId, Lengths] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    losses: dict[NodeId, tuple[float]] = field(default_factory=dict)
    tier: str = ""

    @property
    def counting(self) -> dict[NodeId, Lengths]:
        return self.kept if len(self.kept) >= len(self.rejected) else self.kept | self.rejected


class NormBounds(Stateful):
    """Looks at every reply after it was decoded and before it is added.

    Args:
        options: of the guard.
        rule: how replies are weighed: by steps, by losses, or by neither.

    Attributes:
        on: whether there is anything to do.
        norms: by tier and cluster, how long differences were last, and how long for every effective step.
        losses: likewise, the losses that replies said, if they weigh.
        clip: tier → estimate of its quantile.
    """

    def __init__(self, options: GuardOptions, rule: Aggregation | None = None) -> None:
        self._options, self._rule = options, ByMethod() if rule is None else rule
        self._fixed = options.dp_clip if options.dp_noise else None  # a bound that depends on nobody's data
        self._loss_multiple = self._rule.most_of_losses() if options.guard else None
        self.learns = options.zeroes or self._loss_multiple is not None
        noted = options.guard_rollbacks > 0  # how far each reply came
        self._shortens = options.clips or self._fixed is not None
        bounded = self.learns or self._shortens or options.range_of_examples
        self.on = self.begins = bounded or noted
        self.norms, self.losses = LastSaid(), LastSaid()
        self._norms_now, self._losses_now, self._present = LastSaid(), LastSaid(), LastSaid()
        self.clip: dict[str, float] = {}
        self._begin()

    def begin(self, round_number: int, state: Tensor) -> None:
        """Begin a round."""
        del round_number, state
        self._begin()

    def _begin(self) -> None:
        for said in (self._norms_now, self._losses_now, self._present):  # of these the last has all lengths
            said.votes.clear()
        self._heard: Counter[str] = Counter()  # replies of this round, by tier
        self._seen: dict[str, _Seen] = {}
        self._clipped: dict[str, int] = {}
        self._weights = self._shortened_losses = 0

    # ---- what is usual -----------------------------------------------------------------------------------------------

    def hear(self, assignment: TrainAssignment, update: ClientUpdate) -> bool:
        """Take note of what a reply says before it is looked at; whether it can be judged by what is known.

        Where it cannot, nodes have said too little in the rounds before, and the replies of this one are to wait for
        each other.
        """
        if not self.learns or not isfinite(update.norm):
            return True
        group, node, lengths = group_of(assignment, update), assignment.node.id, self._lengths(assignment, update)
        self._present.note(group, node, lengths)
        if self.norms.usual(group) is not None:
            return True
        self._heard[assignment.tier] += 1
        self._norms_now.note(group, node, lengths)
        if self._loss_multiple is not None and _LOSS in update.metrics:
            self._losses_now.note(group, node, (update.metrics[_LOSS],))
        return False

    def heard_enough(self, assignments: Sequence[TrainAssignment]) -> bool:
        """Whether the replies that were heard in this round say what is usual, in every tier that is large enough."""
        asked = Counter(one.tier for one in assignments)
        heard = self._heard
        return heard.total() >= ENOUGH and all(heard[tier] >= LEAST for tier in asked if asked[tier] >= LEAST)

    def doubts(self, assignment: TrainAssignment, update: ClientUpdate) -> bool:
        """Whether a reply is too long by what was known before the round; its end may show that its tier's are."""
        if not (self._options.zeroes and isfinite(update.norm)):
            return False
        longest = self.longest(assignment, update)
        return longest is not None and self._lengths(assignment, update)[0] > longest

    def _lengths(self, assignment: TrainAssignment, update: ClientUpdate) -> Lengths:
        """How long a difference counts as, how long for every effective step, and for the root of its coordinates."""
        planned, norm = assignment.planned, update.norm
        if self._rule.COUNTS_STEPS:  # then a difference of few steps counts as if it had been of all
            norm *= planned / max(1.0, min(update.metrics.get("steps", planned), planned))
        return norm, norm / assignment.effective, norm / sqrt(max(1, update.difference.numel()))

    def longest(self, assignment: TrainAssignment, update: ClientUpdate) -> float | None:
        """How long a difference may be by what was known; None where there is nothing to tell it by."""
        usual, own = self.norms.usual_of(group_of(assignment, update), self._norms_now)
        return None if usual is None else self._most(assignment, update, usual, own=own)

    def _most(self, assignment: TrainAssignment, update: ClientUpdate, usual: Numbers, *, own: bool) -> float:
        multiple = self._options.guard_zero_multiple * (1.0 if own else ELSEWHERE)
        wide = 0.0 if assignment.optimiser.clip_norm else usual[2] * sqrt(update.difference.numel())
        return multiple * max(usual[0], usual[1] * assignment.effective, wide)

    # ---- a reply -----------------------------------------------------------------------------------------------------

    def limited(self, assignment: TrainAssignment, reply: ClientUpdate) -> ClientUpdate:
        """A reply within the limits.

        Raises:
            Rejected: its difference is far too long.
        """
        least, most = self._options.examples
        examples = reply.metrics["num-examples"]
        if (
            self._options.range_of_examples and not least < examples < most
        ):  # at an end it may have been brought there already (`believed`)
            reply = reply.with_metrics({"num-examples": min(max(examples, least), most)})
            self._weights += 1
        if not isfinite(reply.norm):
            return reply  # the average refuses it
        if self._options.zeroes:
            self._refuse(assignment, reply)
        if self._loss_multiple is not None:
            reply = self._with_usual_loss(assignment, reply, self._loss_multiple)
        return self._shortened(assignment.tier, reply) if self._shortens else reply

    def _refuse(self, assignment: TrainAssignment, reply: ClientUpdate) -> None:
        lengths, longest = self._lengths(assignment, reply), self.longest(assignment, reply)
        if longest is None or lengths[0] <= longest:
            return
        group = group_of(assignment, reply)
        present, own = self._present.usual_of(group)
        enough = 2 * len(self._present.votes.get(group, {})) >= len(self.norms.votes.get(group, {}))
        if own and enough and present and lengths[0] <= self._most(assignment, reply, present, own=True):
            return  # most of the tier's are as long in this round; a few of a tier could be liars among themselves
        self._seen.setdefault(group, _Seen()).rejected[assignment.node.id] = lengths
        raise Rejected(f"norm {lengths[0]:.3g} above {longest:.3g}, far more than usual in tier {group}")

    def _with_usual_loss(
        self, assignment: TrainAssignment, reply: ClientUpdate, multiples: tuple[float, float]
    ) -> ClientUpdate:
        """A reply whose loss is at most so many times what is usual, and so many times the largest of the others'."""
        group = group_of(assignment, reply)
        usual = self.losses.usual(group, self._losses_now)
        others = self.losses.largest_of_others(group, assignment.node.id, self._losses_now)
        if usual is None or others is None:
            return reply
        most = min(multiples[0] * max(usual[0], 0.0), multiples[1] * max(others[0], 0.0))
        if reply.metrics.get(_LOSS, 0.0) <= most:
            return reply
        self._shortened_losses += 1
        return reply.with_metrics({_LOSS: most})

    def _shortened(self, tier: str, reply: ClientUpdate) -> ClientUpdate:
        bound = self.clip.get(tier, self._options.guard_clip_start) if self._fixed is None else self._fixed
        if reply.norm <= bound:
            return reply
        share = bound / reply.norm
        said = {key: value * share for key, value in reply.metrics.items() if key == "norm"}
        self._clipped[tier] = self._clipped.get(tier, 0) + 1
        return replace(reply, difference=reply.difference * share, norm=bound, metrics={**reply.metrics, **said})

    def accepted(self, assignment: TrainAssignment, update: ClientUpdate) -> None:
        """Count what a reply that was added said, its norm as it came."""
        as_it_came = replace(update, norm=update.norm_received)
        group, node = group_of(assignment, update), assignment.node.id
        seen = self._seen.setdefault(group, _Seen())
        seen.kept[node] = self._lengths(assignment, as_it_came)
        seen.norms.append(update.norm_received)
        seen.tier = assignment.tier
        if self._loss_multiple is not None and _LOSS in update.metrics:
            seen.losses[node] = (update.metrics[_LOSS],)

    # ---- a round's end -----------------------------------------------------------------------------------------------

    def learn(self, outcome: RoundOutcome) -> None:
        """End a round: say what the bounds did, and what is usual from now on."""
        outcome.report.guard = self.report()
        for group, seen in self._seen.items():
            for node, lengths in seen.counting.items() if self.learns else ():
                self.norms.note(group, node, lengths)
            for node, loss in seen.losses.items():
                self.losses.note(group, node, loss)
        o = self._options
        for tier, norms in self._norms_by_tier().items() if o.clips else ():
            self.clip[tier] = moved(self.clip.get(tier, o.guard_clip_start), norms, o.guard_clip_quantile, CLIP_RATE)

    def _norms_by_tier(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for seen in self._seen.values():
            if seen.norms:
                found.setdefault(seen.tier, []).extend(seen.norms)
        return found

    def reaches(self) -> dict[NodeId, float]:
        """How far each reply that was added in this round came, as a multiple of the median of them all."""
        lengths = {node: norm for seen in self._seen.values() for node, (norm, *_) in seen.kept.items()}
        usual = median(lengths.values()) if lengths else 0.0
        return {node: norm / usual if usual else norm for node, norm in lengths.items()}

    def report(self) -> dict[str, Any]:
        """What the round's line of metrics says: bounds as they were in it, and what was changed; {} if all is off."""
        said: dict[str, Any] = {}
        if self._options.zeroes:
            usual = {group: self.norms.usual(group, self._norms_now) for group in self.norms.votes | self._seen}
            multiple = self._options.guard_zero_multiple
            said["norm_bounds"] = {group: multiple * numbers[0] for group, numbers in usual.items() if numbers}
        if self._options.clips:
            start, tiers = self._options.guard_clip_start, self.clip | self._norms_by_tier()
            said["clip_bounds"] = {tier: self.clip.get(tier, start) for tier in tiers}
        if self._shortens:
            said["clipped"] = dict(self._clipped)
        if self._options.range_of_examples:
            said["weights_clipped"] = self._weights
        if self._shortened_losses:
            said["losses_clipped"] = self._shortened_losses
        return said

    def checkpoint(self) -> Saved:
        """What was said, and the estimates."""
        values = {"norms": self.norms.checkpoint(), "losses": self.losses.checkpoint(), "clip": dict(self.clip)}
        return {}, values

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        del tensors
        self.norms.restore(values["norms"])
        self.losses.restore(values["losses"])
        self.clip = {tier: float(bound) for tier, bound in values["clip"].items()}


def group_of(assignment: TrainAssignment, update: ClientUpdate) -> str:
    """Whose lengths a reply is held against: those of its tier and cluster."""
    return f"{assignment.tier} of cluster {update.cluster}" if update.cluster else assignment.tier


def moved(estimate: float, norms: list[float], quantile: float, rate: float) -> float:
    """The next estimate of a quantile of norms, from those of a round (at least one)."""
    below = sum(norm <= estimate for norm in norms) / len(norms)
    return min(max(estimate * exp(rate * (quantile - below)), _SMALLEST), _LARGEST)
