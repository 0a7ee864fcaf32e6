"""Bounds on one reply: how long its difference may be, by tier, and how much it may weigh.

Parts of small tiers have short differences, so one bound for everybody is none for them: every tier has its own, a
running quantile of the norms of its accepted replies. The estimate is geometric (Andrew, Thakkar, McMahan, Ramaswamy,
NeurIPS 2021, §2): with b the share of the norms at or below C,

    C ← C · exp(η · (γ - b))

which needs one bit of a reply and moves by at most e^η a round, whatever the replies say. The two uses and their
constants are those of TensorFlow Federated's robust aggregator: differences longer than twice the 0.98 quantile are
rejected ("zero", η = ln 10, so that it can grow tenfold in a round), those longer than the 0.8 quantile are shortened
to it ("clip", η = 0.2). TFF adds 1 to the first bound; here nothing is added, because a tier's differences may be much
shorter than 1.

A rejected reply is as if it had never come, so it does not move the estimates either, unless more than half of a tier's
replies were: then it is the estimate that is wrong, and all of them count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import exp, isfinite, log
from typing import Any

from torch import Tensor

from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.exchange.update import ClientUpdate, Rejected
from strategies.robustness.options import GuardOptions

ZERO_RATE, ZERO_MULTIPLE = log(10), 2.0
CLIP_RATE = 0.2
_SMALLEST, _LARGEST = 1e-12, 1e12  # where estimates stay: nodes that do not learn send nothing, again and again


@dataclass(slots=True)
class _Seen:
    """Norms of a tier's replies in a round."""

    kept: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)

    @property
    def counting(self) -> list[float]:
        return self.kept if len(self.kept) >= len(self.rejected) else self.kept + self.rejected


class NormBounds(Stateful):
    """Looks at every reply after it was decoded and before it is added.

    Args:
        options: of the guard.

    Attributes:
        on: whether there is anything to do.
        zero, clip: tier → estimate of its quantile.
    """

    def __init__(self, options: GuardOptions) -> None:
        self._options = options
        self._fixed = options.dp_clip if options.dp_noise else None  # a bound that depends on nobody's data
        self.on = self.begins = options.guard_norm != "off" or bool(options.guard_examples) or self._fixed is not None
        self.zero: dict[str, float] = {}
        self.clip: dict[str, float] = {}
        self._seen: dict[str, _Seen] = {}
        self._clipped: dict[str, int] = {}
        self._weights = 0

    def begin(self, round_number: int, state: Tensor) -> None:
        """Begin a round."""
        del round_number, state
        self._seen, self._clipped, self._weights = {}, {}, 0

    def limited(self, tier: str, reply: ClientUpdate) -> ClientUpdate:
        """A reply within the limits.

        Raises:
            Rejected: its difference is far too long.
        """
        if not self.on:
            return reply
        least, most = self._options.examples
        examples = reply.metrics["num-examples"]
        if not least <= examples <= most:
            reply = replace(reply, metrics={**reply.metrics, "num-examples": min(max(examples, least), most)})
            self._weights += 1
        if not isfinite(reply.norm):
            return reply  # the average refuses it
        if self._options.zeroes:
            bound = ZERO_MULTIPLE * self.zero.get(tier, self._options.guard_zero_start)
            if reply.norm > bound:
                self._seen.setdefault(tier, _Seen()).rejected.append(reply.norm)
                quantile = f"the {self._options.guard_zero_quantile:g} quantile of tier {tier}"
                raise Rejected(f"norm {reply.norm:.3g} above {bound:.3g}, {ZERO_MULTIPLE:g} times {quantile}")
        bound = self._bound(tier)
        if reply.norm > bound:
            share = bound / reply.norm
            said = {key: value * share for key, value in reply.metrics.items() if key == "norm"}
            reply = replace(reply, difference=reply.difference * share, norm=bound, metrics={**reply.metrics, **said})
            self._clipped[tier] = self._clipped.get(tier, 0) + 1
        return reply

    def accepted(self, assignment: TrainAssignment, update: ClientUpdate) -> None:
        """Count the norm, as it came, of a reply that was added."""
        self.note(assignment.tier, update.norm_received)

    def note(self, tier: str, norm: float) -> None:
        """Count a norm."""
        if self._options.guard_norm != "off":
            self._seen.setdefault(tier, _Seen()).kept.append(norm)

    def learn(self, outcome: RoundOutcome) -> None:
        """End a round: say what the bounds did, and move the estimates."""
        outcome.report.guard = self.report()
        for tier, seen in self._seen.items():
            norms, o = seen.counting, self._options
            if o.zeroes:
                self.zero[tier] = moved(
                    self.zero.get(tier, o.guard_zero_start), norms, o.guard_zero_quantile, ZERO_RATE
                )
            if o.clips:
                self.clip[tier] = moved(
                    self.clip.get(tier, o.guard_clip_start), norms, o.guard_clip_quantile, CLIP_RATE
                )

    def report(self) -> dict[str, Any]:
        """What the round's line of metrics says: bounds as they were in it, and what was changed; {} if all is off."""
        said: dict[str, Any] = {}
        if self._options.zeroes:
            start = self._options.guard_zero_start
            said["norm_bounds"] = {tier: ZERO_MULTIPLE * self.zero.get(tier, start) for tier in self.zero | self._seen}
        if self._options.clips:
            start = self._options.guard_clip_start
            said["clip_bounds"] = {tier: self.clip.get(tier, start) for tier in self.clip | self._seen}
        if self._options.clips or self._fixed is not None:
            said["clipped"] = dict(self._clipped)
        if self._options.guard_examples:
            said["weights_clipped"] = self._weights
        return said

    def checkpoint(self) -> Saved:
        """The estimates."""
        return {}, {"zero": dict(self.zero), "clip": dict(self.clip)}

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        del tensors
        self.zero, self.clip = (
            {tier: float(bound) for tier, bound in values[kind].items()} for kind in ("zero", "clip")
        )

    def _bound(self, tier: str) -> float:
        if self._fixed is not None:
            return self._fixed
        return self.clip.get(tier, self._options.guard_clip_start) if self._options.clips else float("inf")


def moved(estimate: float, norms: list[float], quantile: float, rate: float) -> float:
    """The next estimate of a quantile of norms, from those of a round (at least one)."""
    below = sum(norm <= estimate for norm in norms) / len(norms)
    return min(max(estimate * exp(rate * (quantile - below)), _SMALLEST), _LARGEST)
