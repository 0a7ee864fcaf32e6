"""Data sets and their division among clients: tensors in memory, by node.

`DataSettings` says which data and how they are divided, `load` gives the whole set (server), `node_data` one client's
share, `batches` and `AUGMENTATIONS` what a training loop takes from it. Everything random is a function of the
settings' seed.
"""

from data.agreed import agreed
from data.augment import AUGMENTATIONS, Augmentation, augment
from data.batches import batches, most_together
from data.data_error import DataError
from data.examples import DataSet, Examples, Split, Task
from data.files import Files
from data.input_facts import InputFacts, SourceFacts
from data.node import NodeData, labels_of, node_data, shards, share, train_sizes
from data.partition import partition
from data.preprocess import Preprocess, UnusableInput
from data.schemes import SCHEMES
from data.sets import evaluated_on, facts_from, input_facts, inspect, load, summarise
from data.settings import DataSettings
from data.sources import SOURCES, Source, is_local
from data.summary import Summary

__all__ = [
    "AUGMENTATIONS",
    "SCHEMES",
    "SOURCES",
    "Augmentation",
    "DataError",
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
    "Summary",
    "Task",
    "UnusableInput",
    "agreed",
    "augment",
    "batches",
    "evaluated_on",
    "facts_from",
    "input_facts",
    "inspect",
    "is_local",
    "labels_of",
    "load",
    "most_together",
    "node_data",
    "partition",
    "shards",
    "share",
    "summarise",
    "train_sizes",
]
