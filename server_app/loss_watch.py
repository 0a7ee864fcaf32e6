"""Whether the loss of a run has exploded, and without whose reply it goes on then.

What the guard lets through may still ruin a model: two nodes cannot tell which of them is odd, and whoever is within
the bounds may be wrong. The server scores the global network itself, so it sees that, goes back to the last checkpoint
that was good, and does without the node that came furthest in the rounds since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, log
from typing import Any

from models.losses import CLASSIFICATION
from models.networks.spec import NetworkSpec
from protocol import NodeId

# So many times the loss of guessing, or the last good one if that is larger. Before there is a good one it is compared
# with guessing only, and networks may begin far from that; where nobody can say what guessing costs, it is compared
# with the last good one only.
_FACTOR, _FIRST_FACTOR = 10.0, 1000.0
_SMALL = 1e-3  # losses below this are alike


class LossExploded(RuntimeError):
    """The loss exploded more often than a run goes back for."""


class GoBack(Exception):
    """The loss has exploded.

    Attributes:
        row: what the metrics say of it: the "round", its "loss", and "without" whom the run goes on.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(f"round {row['round']}: the loss exploded")
        self.row = row


def guessing(network: NetworkSpec) -> float | None:
    """The loss of a network that guesses (nats), where it predicts one of several classes."""
    return log(network.classes) if network.task == CLASSIFICATION and network.classes > 1 else None


@dataclass(slots=True, kw_only=True)
class LossWatch:
    """What is known of the loss.

    Attributes:
        guessing: the loss of guessing; None where it depends on the data.
        most: how often a run goes back; 0 is never.
        good: the last loss that was good; None before there is one.
        left_out: nodes whose replies are not used any more → the round whose loss had exploded.
        times: how often the run went back.
        untold: what the metrics have not yet said of that.
    """

    guessing: float | None
    most: int
    good: float | None = None
    left_out: dict[NodeId, int] = field(default_factory=dict)
    times: int = 0
    untold: list[dict[str, Any]] = field(default_factory=list)
    _reaches: dict[NodeId, float] = field(default_factory=dict)

    def see(self, number: int, scores: Mapping[str, Any], reaches: Mapping[NodeId, float]) -> bool:
        """Look at a round; whether its loss is known and good.

        Args:
            number: of the round.
            scores: of the global network, by "loss"; without one in a round that is not evaluated.
            reaches: how far each accepted difference came, as a multiple of what was usual in the round.

        Raises:
            GoBack: the loss has exploded, and the run is to go back.
        """
        for node, reach in reaches.items():
            self._reaches[node] = max(reach, self._reaches.get(node, 0.0))
        loss = scores.get("loss")
        if loss is None:
            return False
        if isfinite(loss) and loss <= self._bound():
            self.good = loss
            self._reaches.clear()
            return True
        if not self.most:
            return False
        furthest = max(self._reaches, key=lambda node: self._reaches[node], default=None)
        raise GoBack({"round": number, "loss": loss, "without": furthest})

    def _bound(self) -> float:
        """What a loss that is good does not exceed."""
        if self.guessing is None:
            return inf if self.good is None else _FIRST_FACTOR * max(self.good, _SMALL)
        return _FIRST_FACTOR * self.guessing if self.good is None else _FACTOR * max(self.guessing, self.good)

    def go_back(self, row: dict[str, Any]) -> None:
        """Count it, and leave the node out from now on.

        Raises:
            LossExploded: that was once too often.
        """
        self.times += 1
        if self.times > self.most:
            most = f"{self.most} times (guard-rollbacks)"
            raise LossExploded(f"the loss of round {row['round']} is {row['loss']:.3g}, after going back {most}")
        if row["without"] is not None:
            self.left_out[row["without"]] = row["round"]
        self.untold.append(row)
        self._reaches.clear()

    def told(self) -> dict[str, Any]:
        """What the next line of metrics says; each of it once."""
        rows, self.untold = self.untold, []
        return {"went_back": rows} if rows else {}

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        left_out, reaches = ([list(one) for one in of.items()] for of in (self.left_out, self._reaches))
        return {"good": self.good, "left_out": left_out, "times": self.times, "reaches": reaches}

    def restore(self, values: Mapping[str, Any], *, keep: bool) -> None:
        """Take up what `to_json` gave; where the run has just gone back, what it learnt by that stays (`keep`)."""
        self.good = values["good"]
        if not keep:
            self.left_out, self.times = dict(values["left_out"]), values["times"]
            self._reaches = dict(values.get("reaches", ()))  # of an older version there is none
