"""Data sets and their division among clients: tensors in memory, by node.

`DataSettings` says which data and how they are divided, `load` gives the whole set (server), `node_data` one client's
share, `batches` and `AUGMENTATIONS` what a training loop takes from it. Everything random is a function of the
settings' seed.
"""

from data.augment import AUGMENTATIONS, Augmentation, augment
from data.batches import batches
from data.examples import DataSet, Examples, Split, Task
from data.files import Files
from data.input_facts import InputFacts, SourceFacts
from data.node import NodeData, node_data, shards
from data.partition import partition
from data.preprocess import Preprocess, UnusableInput
from data.schemes import SCHEMES
from data.sets import input_facts, inspect, load
from data.settings import DataSettings
from data.sources import SOURCES, Source

__all__ = [
    "AUGMENTATIONS",
    "SCHEMES",
    "SOURCES",
    "Augmentation",
    "DataSet",
    "DataSettings",
    "Examples",
    "Files",
    "InputFacts",
    "NodeData",
    "Preprocess",
    "Source",
    "SourceFacts",
    "Split",
    "Task",
    "UnusableInput",
    "augment",
    "batches",
    "input_facts",
    "inspect",
    "load",
    "node_data",
    "partition",
    "shards",
]
