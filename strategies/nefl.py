"""NeFL (Kang, Cha, Shin, Lee, Kang; arXiv 2308.07761, IEEE TMC 2025): nested submodels, scaled in width and depth.

A submodel is a leading width, some residual blocks left out, or both. Every block is x + s·F(x) with a learnt step size
s. Step sizes and norms (affine part and running statistics) are *inconsistent* parameters: every submodel has its own,
averaged among the devices that trained that submodel. All others are averaged ring by ring over those who held them,
unweighted. A block that nobody trained keeps its value; the released code sets it to zero.

A tier's rate is the share of the *parameters*. The paper lists the kept blocks of a few ResNets; here a rule makes
them, after those lists ("both" has about the square root of the rate left in width and in depth each):

- Blocks are left out one at a time, each if that brings the share of the parameters that the remaining depth has closer
  to the wanted one: √rate for "both", the rate for "depth". The next one is always the last block of the stage that has
  most left (of several the deepest); blocks that change the width stay, and so does one of the others.
- The width makes up for the rest: √(rate / share of the depth) of the units of every axis, rounded up. Where most
  parameters are in a layer with one uncut side, as in `mlp`, more than the rate is left; see the run's table.

Networks without residual blocks, such as `mlp` and `cnn`, are scaled in width whatever "both" says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from math import isqrt, prod
from typing import ClassVar

from models.axes import Layout
from models.errors import SettingError
from models.network import NetworkSpec, completed, layout
from models.plans import FULL, Plan
from models.randomness import generator
from protocol import Scalar
from strategies.base import PartialStrategy
from strategies.fleet import Node
from strategies.method import Preferences
from strategies.settings import Settings
from strategies.tiers import Tier

MODES = ("width", "depth", "both")
_PRECISION = 10**6


class NeFL(PartialStrategy):
    """Nested widths and depths with norms and step sizes of their own.

    Options: `mode` ("both"): what tiers differ in, one of `MODES`; `spread` (0): a device trains, each round anew, the
    submodel of a tier at most so many places from its own, larger ones too (the authors' code has 2); `step-sizes`
    (True): whether blocks have them.
    """

    OPTIONS: ClassVar[Mapping[str, Scalar]] = {"mode": "both", "spread": 0, "step-sizes": True}
    RANGES = {"spread": (0, 100)}
    PREFERENCES = Preferences(norm="batch-per-width")
    PER_WIDTH = True

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """Step sizes, and copies of them and of the norms for the submodel of every tier.

        Raises:
            SettingError: unknown mode, or a tier that cannot be reached by leaving blocks out.
        """
        mode, steps = str(options["mode"]), bool(options["step-sizes"])
        if mode not in MODES:
            raise SettingError("mode", mode, MODES)
        if network.variants:
            return network
        whole = completed(network)
        if whole.norm == "batch-per-width":
            whole = replace(whole, rates=())  # every submodel has its own statistics anyway
        whole = replace(whole, step_sizes=steps)
        rates = sorted({tier.rate for tier in settings.tiers}, reverse=True)
        variants = dict.fromkeys(scaled(whole, rate, mode).to_json() for rate in rates)
        return replace(whole, private=("norm", "step"), variants=tuple(variants))

    def plan(self, node: Node, tier: Tier, round_number: int) -> Plan:
        """The submodel of the tier, or of one near it."""
        tiers, spread = self.settings.tiers, int(self.options["spread"])
        if spread:
            place = tiers.index(tier)
            draws = generator(self.settings.seed, round_number, node.id, "submodel")
            tier = tiers[draws.integers(max(0, place - spread), min(len(tiers), place + spread + 1))]
        return self.kept_plan(tier, round_number)

    def kept_plan(self, tier: Tier, round_number: int) -> Plan:
        """The submodel of the tier; of the largest one for the network as a whole, whose norms are trained."""
        del round_number
        rate = tier.rate if tier in self.settings.tiers else self.global_rate()
        return scaled(replace(self.network, private=(), variants=()), rate, str(self.options["mode"]))

    def global_rate(self) -> Fraction:
        """Rate of the largest tier."""
        return max(tier.rate for tier in self.settings.tiers)


@lru_cache(maxsize=256)
def scaled(network: NetworkSpec, rate: Fraction, mode: str) -> Plan:
    """The submodel that has about this share of the parameters.

    Args:
        network: completed, without private tensors.
        rate: share of the parameters, in (0, 1].
        mode: one of `MODES`.

    Raises:
        SettingError: mode "depth", and the blocks that have to stay are more than that.
    """
    if mode == "width":
        return Plan(root(rate))
    sizes, order = _block_shares(layout(network)), _order(layout(network))
    if mode == "depth" and (least := 1 - sum(sizes[block] for block in order)) > rate:
        allowed = f"width or both: {float(least):.0%} of the parameters cannot be left out, a tier has {rate}"
        raise SettingError("mode", mode, allowed)
    share, wanted = FULL, rate if mode == "depth" else root(rate)
    dropped = []
    for block in order:
        if abs(share - sizes[block] - wanted) < abs(share - wanted):
            share -= sizes[block]
            dropped.append(block)
    width = FULL if mode == "depth" else root(min(FULL, rate / share))
    return Plan(width, dropped=tuple(sorted(dropped)))


def root(share: Fraction) -> Fraction:
    """Square root; exact where it is rational, else six digits, rounded down."""
    top, bottom = isqrt(share.numerator), isqrt(share.denominator)
    if (top**2, bottom**2) == (share.numerator, share.denominator):
        return Fraction(top, bottom)
    return Fraction(isqrt(share.numerator * _PRECISION**2 // share.denominator), _PRECISION)


def _block_shares(layout: Layout) -> dict[int, Fraction]:
    """Share of the parameters in every block that can be left out."""
    sizes: Counter[int] = Counter()
    for tensor in layout.tensors.values():
        if not tensor.buffer:
            sizes[tensor.block] += prod(tensor.shape)
    return {block: Fraction(size, sizes.total()) for block, size in sizes.items()}


def _order(layout: Layout) -> list[int]:
    """The blocks that may be left out, in the order in which they are looked at; one more would be the last one."""
    stages: dict[int, set[int]] = {}
    for tensor in layout.tensors.values():
        if tensor.block:
            stages.setdefault(tensor.stage, set()).add(tensor.block)
    order: list[int] = []
    for _ in range(len(layout.blocks) - 1):
        longest = max(stages, key=lambda stage: (len(stages[stage]), stage))
        order.append(max(stages[longest]))
        stages[longest].remove(order[-1])
    return order
