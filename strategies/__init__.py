"""The server half of every method: ordinary Flower strategies.

from strategies import HeteroFL, NetworkSpec
HeteroFL(NetworkSpec("cnn", (1, 28, 28), 10)).start(grid, arrays, num_rounds=20)
"""

from models.network import NetworkSpec
from strategies.base import PartialStrategy
from strategies.depthfl import DepthFL, ExclusiveDepth, FedDyn
from strategies.dropout import FedEcover, FederatedDropout
from strategies.fedavg import Exclusive, FedAvg, Smallest
from strategies.fedrolex import FedRolex
from strategies.fiarse import FIARSE
from strategies.fjord import Fjord
from strategies.heterofl import HeteroFL
from strategies.inclusivefl import InclusiveFL
from strategies.method import Preferences
from strategies.nefl import NeFL
from strategies.scalefl import ScaleFL
from strategies.settings import Schedule, Settings
from strategies.splitmix import SplitMix
from strategies.tiers import HALVING, Tier, parse_proportions, parse_tiers

# Name in the run config → method. A method that stands here is covered by the contract test.
METHODS: dict[str, type[PartialStrategy]] = {
    "fedavg": FedAvg,
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
}

__all__ = [
    "FIARSE", "HALVING", "METHODS", "DepthFL", "Exclusive", "ExclusiveDepth", "FedAvg", "FedDyn", "FedEcover",
    "FedRolex", "FederatedDropout", "Fjord", "HeteroFL", "InclusiveFL", "NeFL", "NetworkSpec", "PartialStrategy",
    "Preferences", "ScaleFL", "Schedule", "Settings", "Smallest", "SplitMix", "Tier", "parse_proportions",
    "parse_tiers",
]  # fmt: skip
