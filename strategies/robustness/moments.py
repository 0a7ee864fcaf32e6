"""Moments of static batch norm pooled over devices, without those that are far from the others'.

A device says, for every layer, a count, sums and sums of squares (see `models.statistics`), and pooling adds them; so
one that says much too much decides alone. Two numbers of a layer are alike on all devices: how many activations an
example has there, and their root mean square, since layers below are normalised. Whoever is beyond a multiple of the
medians of either is left out. What is left is added in the order in which it came, so honest devices pool to the same
bits.

Two devices of a tier that are alike say what is usual there, as one that lies finds nobody alike. In other tiers of
fewer than three devices those of all tiers say it, within a wider bound, since the length of what a layer is given
depends on how many units feed it; layers that are as good as dead there say nothing (with FIARSE's masks whole layers
may be). Where there are not three at all, nobody can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from protocol import NodeId
from strategies.robustness.last_said import LEAST

MOST_ACTIVATIONS, MOST_LENGTH = 2.0, 3.0  # so many times what is usual
MOST_LENGTH_ELSEWHERE = 30.0  # likewise, of what is usual in other tiers
DEAD = 1e-3  # root mean square below which a batch norm's epsilon, 1e-5, counts ten times as much
_FIRST = 64  # answers of a tier that wait for each other; those after them are judged by these

LeftOut = Callable[[NodeId, str], None]


@dataclass(slots=True, kw_only=True)
class _Tier:
    layers: list[str]
    channels: list[int]
    held: list[tuple[NodeId, Tensor, Tensor]] = field(default_factory=list)  # node, moments, facts
    facts: list[Tensor] = field(default_factory=list)
    pooled: Tensor | None = None

    def add(self, moments: Tensor) -> None:
        self.pooled = moments.clone() if self.pooled is None else self.pooled + moments


class MomentPool:
    """Adds up the moments of every tier.

    Args:
        channels: tier → layer → its channels, in network order.
        guard: whether answers are held against each other.
        left_out: told of whoever is not counted, and why.
    """

    def __init__(self, channels: Mapping[str, Mapping[str, int]], *, guard: bool, left_out: LeftOut) -> None:
        self._tiers = {
            name: _Tier(layers=list(layers), channels=list(layers.values())) for name, layers in channels.items()
        }
        self._guard, self._left_out = guard, left_out

    def add(self, name: str, node: NodeId, moments: Tensor, examples: float) -> None:
        """Take an answer.

        Args:
            name: of the tier that it is about.
            node: whose it is.
            moments: float64, of the tier's layers; checked by `models.statistics.check_moments`.
            examples: training examples of the node.
        """
        tier = self._tiers[name]
        if not self._guard:
            tier.add(moments)
            return
        facts = _facts(moments, tier.channels, examples)
        if len(tier.facts) < _FIRST:
            tier.facts.append(facts)
            tier.held.append((node, moments, facts))
        else:
            self._judge(tier, self._usual(tier), node, moments, facts)

    def pooled(self) -> dict[str, Tensor]:
        """Tier → pooled moments; tiers that nobody answered for are absent."""
        for tier in self._tiers.values():
            usual = self._usual(tier)
            for node, moments, facts in tier.held:
                self._judge(tier, usual, node, moments, facts)
            tier.held.clear()
        return {name: tier.pooled for name, tier in self._tiers.items() if tier.pooled is not None}

    def _judge(self, tier: _Tier, usual: Tensor | None, node: NodeId, moments: Tensor, facts: Tensor) -> None:
        if usual is not None:
            own = len(tier.facts) >= LEAST
            most_length = MOST_LENGTH if own else MOST_LENGTH_ELSEWHERE
            # A layer without activations says nothing; nor does one that is dead in the parts of all other tiers, or
            # that too few of them have.
            times = (facts / usual).nan_to_num(nan=1.0, posinf=None if own else 1.0).amax(1)
            for what, found, most in zip(
                ("activations an example", "their root mean square"),
                times.tolist(),
                (MOST_ACTIVATIONS, most_length),
                strict=True,
            ):
                if not found <= most:
                    self._left_out(node, f"{what} are {found:.3g} times what is usual: allowed is {most:g}")
                    return
        tier.add(moments)

    def _usual(self, tier: _Tier) -> Tensor | None:
        """Medians by layer (2, layers) of the tier, or of all tiers; None where too few answered.

        Parts of other depths have other layers, so these are told by their names; NaN where too few have one.
        """
        if len(tier.facts) >= LEAST:
            return torch.stack(tier.facts).quantile(0.5, dim=0)
        if len(tier.facts) == 2 and _alike(*tier.facts):
            return None
        said: dict[str, list[Tensor]] = {layer: [] for layer in tier.layers}
        for one in self._tiers.values():
            for layer, facts in zip(one.layers, torch.stack(one.facts).unbind(2) if one.facts else (), strict=False):
                said.get(layer, []).extend(found for found in facts if found[1] >= DEAD)
        if all(len(found) < LEAST for found in said.values()):
            return None
        unknown = torch.full((2,), torch.nan, dtype=torch.float64)
        medians = [
            torch.stack(found).quantile(0.5, dim=0) if len(found) >= LEAST else unknown for found in said.values()
        ]
        return torch.stack(medians, dim=1)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether neither of two devices' facts is beyond a multiple of the other's."""
    times = torch.maximum(one / other, other / one).nan_to_num(nan=1.0).amax(1)
    return bool(times[0] <= MOST_ACTIVATIONS) and bool(times[1] <= MOST_LENGTH)


def _facts(moments: Tensor, channels: Sequence[int], examples: float) -> Tensor:
    """Activations an example and their root mean square, of every layer: (2, layers)."""
    parts = torch.split(moments, [1 + 2 * count for count in channels])
    counts = [part[0] / examples for part in parts]
    lengths = [
        (part[1 + width :].sum() / (width * part[0])).sqrt() for width, part in zip(channels, parts, strict=True)
    ]
    return torch.stack([torch.stack(counts), torch.stack(lengths)])
