"""Networks that can be cut, and the algebra of their parts: plan → submodel → gather, train, average.

Pure PyTorch: nothing else of Flotilla, no Flower, no files, no logging.
"""

from models import cnn, mlp, recurrent, resnet, signal, transformer  # registers the networks
from models.average import PartialAverage
from models.axes import Along, Axis, Kind, Layout, declare, layout_of
from models.errors import SettingError
from models.network import (
    NETWORKS,
    Builder,
    Network,
    NetworkSpec,
    build,
    build_part,
    completed,
    initial_state,
    layout,
    submodel,
)
from models.plans import Plan, kept_units
from models.randomness import generator, torch_generator
from models.submodel import Block, Submodel, flatten, gather, split

__all__ = [
    "NETWORKS", "Along", "Axis", "Block", "Builder", "Kind", "Layout", "Network", "NetworkSpec", "PartialAverage",
    "Plan", "SettingError", "Submodel", "build", "build_part", "cnn", "completed", "declare", "flatten", "gather",
    "generator", "initial_state", "kept_units", "layout", "layout_of", "mlp", "recurrent", "resnet", "signal", "split",
    "submodel", "torch_generator", "transformer",
]  # fmt: skip
