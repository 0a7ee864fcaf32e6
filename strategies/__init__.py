"""The server half of every method: ordinary Flower strategies.

from flotilla.strategies import HeteroFL, NetworkSpec
HeteroFL(NetworkSpec("cnn", (1, 28, 28), 10)).start(grid, arrays, num_rounds=20)
"""

from collections.abc import Collection, Mapping

from models.networks.spec import NetworkSpec
from models.registry import Registry, Unfit
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Method, Preferences
from strategies.methods.blockwise import Blockwise
from strategies.methods.depthfl import DepthFL, ExclusiveDepth, FedDyn
from strategies.methods.dropout import FedEcover, FederatedDropout
from strategies.methods.fedavg import Exclusive, FedAvg, Smallest
from strategies.methods.fedavgm import FedAvgM
from strategies.methods.fedprox import FedProx
from strategies.methods.fedrolex import FedRolex
from strategies.methods.fiarse import FIARSE
from strategies.methods.fjord import Fjord
from strategies.methods.heterofl import HeteroFL
from strategies.methods.inclusivefl import InclusiveFL
from strategies.methods.nefl import NeFL
from strategies.methods.ranks.frozen_a import FFALoRA
from strategies.methods.ranks.heads import Ravan
from strategies.methods.ranks.het_lora import HetLoRA
from strategies.methods.ranks.own_b import FedSALoRA
from strategies.methods.ranks.prefix_average import NestedRanks, PrefixAverage
from strategies.methods.ranks.products import FlexLoRA, FLoRIST, HLoRA, RaFLoRA
from strategies.methods.ranks.random_ranks import RandomRanks
from strategies.methods.ranks.square_core import FedSB
from strategies.methods.ranks.stacking import FLoRA
from strategies.methods.ranks.zero_padding import ZeroPadding
from strategies.methods.scalefl import ScaleFL
from strategies.methods.splitmix import SplitMix
from strategies.settings import Schedule, Settings
from strategies.tiers.tier import HALVING, Tier, parse_proportions, parse_ranks, parse_tiers

# Name in the run config → method. A method that stands here is covered by the contract test.
_BUILT_IN: dict[str, type[FlowerStrategy]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "smallest": Smallest,
    "exclusive": Exclusive,
    "heterofl": HeteroFL,
    "fedrolex": FedRolex,
    "dropout": FederatedDropout,
    "fedecover": FedEcover,
    "fjord": Fjord,
    "feddyn": FedDyn,
    "depthfl": DepthFL,
    "depthfl-exclusive": ExclusiveDepth,
    "inclusivefl": InclusiveFL,
    "scalefl": ScaleFL,
    "nefl": NeFL,
    "splitmix": SplitMix,
    "fiarse": FIARSE,
    "blockwise": Blockwise,
    "rbla": PrefixAverage,
    "prelort": NestedRanks,
    "zero-padding": ZeroPadding,
    "hetlora": HetLoRA,
    "fslora": RandomRanks,
    "ffa-lora": FFALoRA,
    "fedsa-lora": FedSALoRA,
    "fed-sb": FedSB,
    "ravan": Ravan,
    "flexlora": FlexLoRA,
    "hlora": HLoRA,
    "raflora": RaFLoRA,
    "florist": FLoRIST,
    "flora": FLoRA,
}


def _method(found: object) -> type[FlowerStrategy] | None:
    if not isinstance(found, type) or not issubclass(found, FlowerStrategy):
        return None
    for parent in found.__mro__[1:] if isinstance(found.OPTIONS, Mapping) else ():  # whose hooks read their own options
        if lost := [one for one in _options(parent) if one not in _options(found)]:
            wanted = f"OPTIONS = {{**{parent.__name__}.OPTIONS, …}}"
            raise Unfit(f"a method that has its parents' options ({wanted}); {found.__name__} lacks {', '.join(lost)}")
    return found


def _options(kind: type) -> Collection[str]:
    options = getattr(kind, "OPTIONS", {})
    return options if isinstance(options, Mapping) else ()  # the registry says what is wrong with others


METHODS: Registry[type[FlowerStrategy]] = Registry(
    "method",
    group="flotilla.methods",
    expected="a subclass of strategies.FlowerStrategy",
    check=_method,
    built_in=_BUILT_IN,
)

__all__ = [
    "FIARSE",
    "HALVING",
    "METHODS",
    "Blockwise",
    "DepthFL",
    "Exclusive",
    "ExclusiveDepth",
    "FFALoRA",
    "FLoRA",
    "FLoRIST",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedEcover",
    "FedProx",
    "FedRolex",
    "FedSALoRA",
    "FedSB",
    "FederatedDropout",
    "Fjord",
    "FlexLoRA",
    "FlowerStrategy",
    "HLoRA",
    "HetLoRA",
    "HeteroFL",
    "InclusiveFL",
    "Method",
    "NeFL",
    "NestedRanks",
    "NetworkSpec",
    "Preferences",
    "PrefixAverage",
    "RaFLoRA",
    "RandomRanks",
    "Ravan",
    "ScaleFL",
    "Schedule",
    "Settings",
    "Smallest",
    "SplitMix",
    "Tier",
    "ZeroPadding",
    "parse_proportions",
    "parse_ranks",
    "parse_tiers",
]
