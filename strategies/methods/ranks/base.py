"""What rules for pairs of low-rank factors have in common.

A device of rank r holds the first r of R ranks of every pair; α/R is the same for all (`models.algebra.pairs`). So a
tier's rate is r/R, and the start of a round is a truncation. Two kinds of rules differ in what becomes of the replies:

- `RankMethod`: the average by coordinate is the rule, or all of it but a factor per rank.
- `ProductMethod`: the rule needs the pair of every device, and says what the new pair is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import ClassVar

from torch import Tensor

from models.adapters.adapter import PAIR, Adapter
from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from models.algebra.block_scatter import unit_pairs
from models.algebra.factor_average import FactorAverage
from models.algebra.pairs import Pair
from models.algebra.plans import Plan
from models.algebra.stack import Stacks
from models.errors import SettingError
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol import Scalar
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences, Tensors
from strategies.settings import Settings
from strategies.tiers.tier import Tier

# Bytes of the stacks that are worked on side by side, unless one is larger: of more the calls are fewer, and less stays
# in cache.
_TOGETHER = 72 << 20


class RankMethod(FlowerStrategy):
    """The first ranks of every pair, weighted by examples."""

    PREFERENCES = Preferences(norm="group")
    BY_EXAMPLES = True
    PER_WIDTH = True
    EXACT_DOWN: ClassVar[bool] = False  # whether devices hold something of the state that they do not send back

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """With the rule's form of adapter.

        Raises:
            SettingError: it has no pairs, or what is held and not trained would not come to the devices as it is.
        """
        if cls.EXACT_DOWN and settings.codec_down.name != "float32":
            raise SettingError("codec-down", settings.codec_down.name, f"float32 for {cls.__name__}")
        if network.adapter is not None and network.adapter.form != PAIR:
            return network
        if not layout(completed(network)).pairs:
            allowed = f'a rank, such as "lora:16": {cls.__name__} is a rule for pairs of low-rank factors'
            raise SettingError("adapter", "", allowed)
        assert network.adapter is not None  # there are pairs
        return replace(network, adapter=cls.form(network.adapter, settings, options))

    @classmethod
    def form(cls, adapter: Adapter, settings: Settings, options: Mapping[str, Scalar]) -> Adapter:
        """What the rule makes of an adapter of pairs.

        Raises:
            SettingError: its rank does not fit the rule.
        """
        del settings, options
        return adapter

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The tier's first ranks."""
        del node
        return self.kept_plan(context, tier)


class ProductMethod(RankMethod):
    """A rule that makes a new pair of what every device has made of it."""

    REFINES = True
    KEEPS_FACTORS = True
    ONE_AGE = "products are averaged of factors beside one and the same pair"

    def refine(
        self, context: RoundContext, before: Tensors, after: Tensors, average: PartialAverage, remembered: Tensors
    ) -> Tensors:
        """The rule's pair in place of the average; all other tensors are as averaged."""
        assert isinstance(average, FactorAverage)
        for pairs in _alike(context.layout, average):
            b, a = self.joined(average.stacks(pairs, before))
            for place, pair in enumerate(pairs):
                after[pair.b].copy_(b[place])
                after[pair.a].copy_(a[place])
        return remembered

    @abstractmethod
    def joined(self, stacks: Stacks) -> tuple[Tensor, Tensor]:
        """The new B of (pairs, m, R) and A of (pairs, R, n).

        Args:
            stacks: what the devices began with, and what they made of it, of a few pairs.
        """


def _alike(layout: Layout, average: FactorAverage) -> Iterator[Sequence[Pair]]:
    """The pairs that somebody held, several of one shape and the same devices at a time."""
    kinds: dict[tuple[int, int, int], list[Pair]] = {}
    most: dict[tuple[int, int, int], int] = {}
    for pair in layout.pairs:
        if (who := average.who(pair)) is not None:
            (rows, _), (_, columns) = (layout.tensors[name].shape for name in (pair.b, pair.a))
            kind = rows, columns, id(who)
            kinds.setdefault(kind, []).append(pair)
            most[kind] = max(1, _TOGETHER // (4 * (rows + columns) * (who.rank + len(who.ranks))))
    for kind, pairs in kinds.items():
        count = ceil(len(pairs) / ceil(len(pairs) / most[kind]))  # no group is much smaller than another
        yield from (pairs[i : i + count] for i in range(0, len(pairs), count))


def shares_of_holders(average: PartialAverage, layout: Layout) -> dict[str, Tensor]:
    """Weight of those who held a coordinate over the weight of all who replied, for the tensors of pairs.

    Everybody holds the head, so the largest weight that a coordinate of any tensor has is that of all.

    Returns:
        For every tensor, what can be multiplied with it.
    """
    sums = average.denominators()
    names = [name for pair in layout.pairs for name in (pair.a, pair.b)]
    everybody = max(float(one.max()) for one in sums.values())
    shares = {}
    for name in names:
        shape = layout.tensors[name].shape
        counts = sums[name].shape[::2]
        broad = (sums[name] / everybody).expand(unit_pairs(shape, counts))
        shares[name] = broad.reshape(shape)
    return shares
