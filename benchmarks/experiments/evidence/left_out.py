"""Methods some of whose devices take no part, because no part fits them. Nothing else of a method changes.

Which devices these are the name of their tier says. They are methods by import path.
"""

from __future__ import annotations

from strategies.context import RoundContext
from strategies.flower_adapter import FlowerStrategy
from strategies.methods.blockwise import Blockwise
from strategies.methods.depthfl import DepthFL
from strategies.methods.inclusivefl import InclusiveFL
from strategies.methods.nefl import NeFL
from strategies.methods.scalefl import ScaleFL
from strategies.methods.splitmix import SplitMix
from strategies.tiers.tier import Tier

OUT = "-out"  # end of the name of a tier that is left out


class _LeftOut(FlowerStrategy):
    def eligible(self, context: RoundContext, tier: Tier) -> bool:
        """Whether the tier takes part: not if its name says so."""
        return not tier.name.endswith(OUT) and super().eligible(context, tier)


class DepthFLWithin(_LeftOut, DepthFL):
    """DepthFL without some devices."""


class InclusiveFLWithin(_LeftOut, InclusiveFL):
    """InclusiveFL without some devices."""


class NeFLWithin(_LeftOut, NeFL):
    """NeFL without some devices."""


class BlockwiseWithin(_LeftOut, Blockwise):
    """Block-wise training without some devices."""


class ScaleFLWithin(_LeftOut, ScaleFL):
    """ScaleFL without some devices."""


class SplitMixWithin(_LeftOut, SplitMix):
    """Split-Mix without some devices."""


WITHIN = {
    "depthfl": DepthFLWithin,
    "inclusivefl": InclusiveFLWithin,
    "blockwise": BlockwiseWithin,
    "nefl": NeFLWithin,
    "scalefl": ScaleFLWithin,
    "splitmix": SplitMixWithin,
}
