"""One client's examples: its shard of the train split, divided into its own train and test part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from data.cache import ByteCache
from data.data_error import DataError
from data.examples import DataSet, Split
from data.flower_partitioners import is_flower
from data.input_facts import InputFacts
from data.partition import partition
from data.schemes import BY_CLASS, SCHEMES
from data.sets import load
from data.settings import DataSettings
from data.shares import Shares
from data.synthetic_groups import regroup
from models.errors import SettingError
from models.randomness import generator


@dataclass(frozen=True, eq=False)
class NodeData:
    """What a client has.

    Attributes:
        train: never empty.
        test: empty for a shard of one example and where `local-test-fraction` is 0.
        labels: the classes present in `train`, ascending; where a label is no class, all that is predicted.
    """

    train: Split
    test: Split
    labels: tuple[int, ...]


def node_data(settings: DataSettings, partition_id: int, facts: InputFacts | None = None) -> NodeData:
    """Return the examples of one client; recently used clients are kept in memory.

    That is its share of what is divided; where it owns its data, all of them, which may be a single example, or of one
    class, and may have a test part. Otherwise the local test part has `local-test-fraction` of the shard, rounded, but
    at least one example where the fraction is above 0 and never the whole shard. It is drawn without regard to classes.

    Args:
        settings: which data, divided how.
        partition_id: which client; of data of its own any number.
        facts: of the run's task; None: as these data themselves say.

    Raises:
        SettingError: no such partition, no data, other data than those that are divided, or as `load` and `partition`.
    """
    return _nodes.get((settings, partition_id, facts), lambda: _make(settings, partition_id, facts))


def share(settings: DataSettings, partition_id: int) -> NDArray[np.int64]:
    """Rows of the train split that are one client's, its local test part among them, ascending; no input is read.

    Raises:
        SettingError: as `node_data`.
    """
    _check(settings, partition_id)
    data = load(settings)
    if settings.own:
        _check_own(settings, data)
    return _rows(settings, partition_id, data)


def _check(settings: DataSettings, partition_id: int) -> None:
    if settings.own:
        if not settings.known:
            allowed = 'the folder of this device\'s own data, in its node config: data-root="/…"'
            raise DataError("", allowed, "its node config names no data-root, and partition is own")
    elif not 0 <= partition_id < settings.num_clients:
        raise SettingError(
            "partition-id", partition_id, f"0 to {settings.num_clients - 1} with num-clients = {settings.num_clients}"
        )


def _rows(settings: DataSettings, partition_id: int, data: DataSet) -> NDArray[np.int64]:
    return np.arange(len(data.train_examples)) if settings.own else np.sort(shards(settings).rows(partition_id))


def _check_own(settings: DataSettings, data: DataSet) -> None:
    if not len(data.train_examples):
        raise DataError(settings.data_root, "a folder with at least one training example", "it has no examples")


def _make(settings: DataSettings, partition_id: int, facts: InputFacts | None) -> NodeData:
    _check(settings, partition_id)
    data = load(settings, facts)
    if settings.own:
        _check_own(settings, data)
        if len(data.test_examples):
            return NodeData(data.train, data.test, _present(data.train.labels))
    elif facts is not None and facts.examples not in (0, len(data.train_examples)):
        theirs, found = facts.examples, len(data.train_examples)
        allowed = f'the files of the run, which have {theirs} training examples, not {found}; or partition = "own"'
        raise DataError(settings.data_root, allowed, f"it has {found} training examples where the run has {theirs}")
    test_rows, train_rows = _divided(settings, partition_id, data)
    test, train = (
        regroup(
            settings.synthetic_groups, data.select(part), partition_id, data.classes, settings.seed, tested=held_out
        )
        for part, held_out in ((test_rows, True), (train_rows, False))
    )
    return NodeData(train, test, _present(train.labels))


def _divided(settings: DataSettings, partition_id: int, data: DataSet) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that a client is tested on, and those that it trains on."""
    rows = _rows(settings, partition_id, data)
    shuffled = torch.from_numpy(generator(settings.seed, 0, partition_id, "local-split").permutation(rows))
    tested = _test_size(len(rows), settings.local_test_fraction)
    return shuffled[:tested], shuffled[tested:]


def _present(labels: torch.Tensor) -> tuple[int, ...]:
    if labels.is_floating_point():  # no class is absent where there are none
        return tuple(range(labels.shape[1]))
    return tuple(np.unique(labels.numpy()).tolist())


def _test_size(examples: int, fraction: float) -> int:
    return min(examples - 1, max(1, round(examples * fraction))) if fraction > 0 else 0


def train_sizes(settings: DataSettings) -> NDArray[np.int64]:
    """How many training examples each client has in `node_data`, int64 [clients]; of data that are divided."""
    sizes, fraction = shards(settings).sizes, settings.local_test_fraction
    if fraction <= 0:
        return sizes
    tested = np.minimum(sizes - 1, np.maximum(1, np.rint(sizes * fraction).astype(np.int64)))
    return np.where(sizes > 0, sizes - tested, sizes)


def labels_of(settings: DataSettings, partition_id: int, facts: InputFacts | None = None) -> tuple[int, ...]:
    """The labels of one client of data that are divided, as `node_data` says them, without its inputs."""
    if settings.synthetic_groups:
        return _make(settings, partition_id, facts).labels
    data = load(settings, facts)
    return _present(data.train_examples.labels[_divided(settings, partition_id, data)[1]])


def _bytes(node: NodeData) -> int:
    return node.train.nbytes + node.test.nbytes


@lru_cache(maxsize=4)
def shards(settings: DataSettings) -> Shares:
    """Return everybody's training rows: the whole partition, read and divided on the first call.

    Raises:
        SettingError: as `load` and `partition` do.
    """
    examples = load(settings).train_examples
    owners = None if examples.owners is None else examples.owners.numpy()
    if examples.labels.is_floating_point() and settings.partition in BY_CLASS:
        others = ", ".join(name for name in SCHEMES if name not in BY_CLASS)
        raise SettingError("partition", settings.partition, f"one of {others} where a label is no class")
    labels = examples.classes
    if is_flower(settings.partition) and examples.labels.is_floating_point() and examples.labels.shape[1] == 1:
        labels = examples.labels[:, 0].numpy()  # numbers are a property to go by, for one who goes by such
    return partition(labels, settings, owners)


# A shard is remade in milliseconds, so the cache need not hold everybody: 400 clients of 50 CIFAR images, 8 of 2,500.
_nodes: ByteCache[NodeData] = ByteCache(limit=256 * 2**20, size=_bytes)
