"""The server half of every method: ordinary Flower strategies.

from strategies import HeteroFL, NetworkSpec
HeteroFL(NetworkSpec("cnn", (1, 28, 28), 10)).start(grid, arrays, num_rounds=20)
"""

from models.network import NetworkSpec
from strategies.base import PartialStrategy, Preferences
from strategies.dropout import FedEcover, FederatedDropout
from strategies.fedavg import Exclusive, FedAvg, Smallest
from strategies.fedrolex import FedRolex
from strategies.fjord import Fjord
from strategies.heterofl import HeteroFL
from strategies.settings import Schedule, Settings
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
}

__all__ = [
    "HALVING", "METHODS", "Exclusive", "FedAvg", "FedEcover", "FedRolex", "FederatedDropout", "Fjord", "HeteroFL",
    "NetworkSpec", "PartialStrategy", "Preferences", "Schedule", "Settings", "Smallest", "Tier", "parse_proportions",
    "parse_tiers",
]  # fmt: skip
