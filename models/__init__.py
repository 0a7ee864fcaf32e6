"""Networks that can be cut, and the algebra of their parts: plan → submodel → gather, train, average.

Pure PyTorch: nothing else of Flotilla, no Flower, no files, no logging.
"""

from models.algebra.average import PartialAverage
from models.algebra.axes import Along, Axis, Kind, Layout
from models.algebra.declarations import declare, layout_of
from models.algebra.plans import Plan, kept_units
from models.algebra.submodel import Block, Submodel, flatten, gather, split
from models.errors import SettingError
from models.networks import cnn, conv1d, mlp, recurrent, resnet, transformer  # registers the networks
from models.networks.build import build, build_part, initial_state, layout, part_of, submodel
from models.networks.builder import Builder
from models.networks.complete import completed
from models.networks.network import Network
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.randomness import generator, torch_generator

__all__ = [
    "NETWORKS",
    "Along",
    "Axis",
    "Block",
    "Builder",
    "Kind",
    "Layout",
    "Network",
    "NetworkSpec",
    "PartialAverage",
    "Plan",
    "SettingError",
    "Submodel",
    "build",
    "build_part",
    "cnn",
    "completed",
    "conv1d",
    "declare",
    "flatten",
    "gather",
    "generator",
    "initial_state",
    "kept_units",
    "layout",
    "layout_of",
    "mlp",
    "part_of",
    "recurrent",
    "resnet",
    "split",
    "submodel",
    "torch_generator",
    "transformer",
]
