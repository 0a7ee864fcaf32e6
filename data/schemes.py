"""How training examples are divided among clients: as they were found, by Flower's partitioners, or dealt.

flwr-datasets costs about three seconds to import (it brings pandas, SciPy and matplotlib), so it is imported when a
partition is made and not before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence, Sized
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data import dealing
from data.shares import Dealt, Drawn, Shares
from models.errors import SettingError
from models.randomness import generator

Rows = NDArray[np.int64]


class Division(Protocol):
    """What schemes read of a run's settings; `data.settings.DataSettings` says what each of them means."""

    @property
    def dataset(self) -> str:
        """Name of the data set, for messages."""

    @property
    def num_clients(self) -> int:
        """Number of parts."""

    @property
    def dirichlet_alpha(self) -> float:
        """Concentration of "dirichlet"."""

    @property
    def labels_per_client(self) -> int:
        """Classes of a part of "labels"."""

    @property
    def examples_per_client(self) -> int:
        """Examples of a part of "drawn"."""


Scheme = Callable[[Rows, Division, int], Sequence[Rows]]


def _iid(labels: Rows, settings: Division, seed: int) -> Shares:
    """Cut equal shares in order, give or take one, as Flower's partitioner does: who calls has shuffled."""
    del seed
    return Dealt.equal(len(labels), settings.num_clients)


def _dirichlet(labels: Rows, settings: Division, seed: int) -> list[Rows]:
    """Divide each class by proportions from Dirichlet(alpha): Yurochkin et al., ICML 2019, arXiv 1905.12022.

    Drawn again, up to ten times, until everybody has an example; then those without get one of whoever has most.
    """
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        settings.num_clients, "label", settings.dirichlet_alpha, min_partition_size=1, shuffle=False, seed=seed
    )
    try:
        with warnings.catch_warnings():
            # One per repeated draw; we only care whether the last of them succeeded.
            warnings.filterwarnings("ignore", message="The specified min_partition_size")
            return _divide(labels, partitioner)
    except ValueError:
        return dealing.dirichlet(labels, settings.num_clients, settings.dirichlet_alpha, _draw(seed))


def _labels(labels: Rows, settings: Division, seed: int) -> list[Rows]:
    """Give each client a number of classes, each shared equally by those who have it: Li et al., arXiv 2102.02079.

    A client's first class goes round in turn and the others are drawn. Where that leaves a class over, or a holder of
    one without an example of it, the classes are dealt instead, which works wherever anything does.
    """
    from flwr_datasets.partitioner import PathologicalPartitioner

    clients, wanted, classes = settings.num_clients, settings.labels_per_client, len(np.unique(labels))
    if wanted > classes:
        raise SettingError("labels-per-client", wanted, f"1 to {classes} with dataset {settings.dataset!r}")
    if clients * wanted < classes:
        least, alone = -(-classes // clients), -(-classes // wanted)
        allowed = f"{least} to {classes} with num-clients = {clients}, or num-clients of at least {alone}: else some of"
        raise SettingError("labels-per-client", wanted, f"{allowed} the {classes} classes are nobody's")
    if (most := dealing.most_clients(labels, wanted)) < clients:
        allowed = f"at most {most} with labels-per-client = {wanted}: everybody is to have an example of each"
        raise SettingError("num-clients", clients, allowed)
    partitioner = PathologicalPartitioner(clients, "label", wanted, "first-deterministic", shuffle=False, seed=seed)
    try:
        with warnings.catch_warnings():
            # Classes that nobody has are dealt below.
            warnings.filterwarnings("ignore", message="Classes: .* will NOT be used")
            parts = _divide(labels, partitioner)
    except ValueError:
        parts = []
    drawn = sum(map(len, parts)) == len(labels)
    return parts if drawn else dealing.deal_classes(labels, clients, wanted, _draw(seed))


def _balanced(labels: Rows, settings: Division, seed: int) -> list[Rows]:
    """Equal sizes, classes by Dirichlet; see `dealing.balanced_dirichlet`."""
    return dealing.balanced_dirichlet(labels, settings.num_clients, settings.dirichlet_alpha, _draw(seed))


def _quantity(labels: Rows, settings: Division, seed: int) -> list[Rows]:
    """Sizes by Dirichlet, classes alike; see `dealing.quantities`."""
    return dealing.quantities(labels, settings.num_clients, settings.dirichlet_alpha, _draw(seed))


def _shards(labels: Rows, settings: Division, seed: int) -> list[Rows]:
    """Sort by label, cut into equal shards and give everybody as many: McMahan et al., arXiv 1602.05629, §3."""
    clients, each = settings.num_clients, settings.labels_per_client
    if clients * each > len(labels):
        allowed = f"at most {len(labels) // each} with labels-per-client = {each} shards of {len(labels)} examples"
        raise SettingError("num-clients", clients, allowed)
    return dealing.shards(labels, clients, each, _draw(seed))


def _sized(share: Callable[[Rows], NDArray[np.float64]]) -> Scheme:
    """Sizes by a function of the place among the clients, as Flower's partitioners of these names; nobody has none."""

    def divide(labels: Rows, settings: Division, seed: int) -> list[Rows]:
        return dealing.sized(len(labels), share(np.arange(1, settings.num_clients + 1)))

    return divide


def _draw(seed: int) -> np.random.Generator:
    return generator(seed, 0, "server", "dealing")


def _divide(labels: Rows, partitioner: Any) -> list[Rows]:
    """Let a Flower partitioner divide the rows of `labels`; returns row numbers by partition."""
    import datasets

    class _RowNumbers(datasets.Dataset):  # type: ignore[misc, unused-ignore]
        """A data set whose selections are the selected row numbers.

        The partitioners only ever read the label column and select rows. Doing that in Arrow takes 5 ms a partition
        and over a second for the column; here 1,000 clients take 30 ms, and nothing private of flwr-datasets is used.
        """

        def __getitem__(self, key: Any) -> Any:
            return labels

        def select(self, indices: Any, *_: Any, **__: Any) -> Any:
            return np.asarray(indices, dtype=np.int64)

    partitioner.dataset = _RowNumbers.from_dict({"label": labels})
    return [partitioner.load_partition(number) for number in range(partitioner.num_partitions)]


def natural(owners: Rows, settings: Division, seed: int) -> list[Rows]:
    """Give each client the examples of one owner; with fewer clients than owners, of several owners.

    Owners with fewer than two examples are left out. The others are taken in the order of their numbers: client p has
    the p-th owner, or the p-th of as many groups of consecutive owners as there are clients, equal give or take one
    owner. Nothing is drawn.

    Raises:
        SettingError: there are more clients than such owners.
    """
    people, counts = np.unique(owners, return_counts=True)
    people = people[counts >= 2]
    if settings.num_clients > len(people):
        raise SettingError(
            "num-clients",
            settings.num_clients,
            f"at most {len(people)} with partition 'natural', the people who have 2 examples in {settings.dataset!r}",
        )
    groups = np.array_split(people, settings.num_clients)
    client_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    rows = np.flatnonzero(np.isin(owners, people))
    clients = client_of[np.searchsorted(people, owners[rows])]
    order = np.argsort(clients, kind="stable")
    return np.split(rows[order], np.searchsorted(clients[order], np.arange(1, len(groups))))


def drawn(labels: Sized, settings: Division, seed: int) -> Shares:
    """Let everybody draw as many of all examples as `examples_per_client` says; shares overlap.

    Raises:
        SettingError: that is more than there are.
    """
    each, count = settings.examples_per_client, len(labels)
    if each > count:
        raise SettingError("examples-per-client", each, f"1 to {count} with dataset {settings.dataset!r}")
    return Drawn(count, settings.num_clients, each, seed)


BY_CLASS = frozenset({"dirichlet", "dirichlet-balanced", "labels", "shards"})  # what needs classes

SCHEMES: dict[str, Scheme] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "dirichlet-balanced": _balanced,
    "labels": _labels,
    "shards": _shards,
    "quantity": _quantity,
    "linear": _sized(lambda place: place.astype(np.float64)),
    "square": _sized(lambda place: np.square(place, dtype=np.float64)),
    "exponential": _sized(lambda place: np.exp(place - place.max(), dtype=np.float64)),
    "natural": natural,
    "drawn": drawn,
}
