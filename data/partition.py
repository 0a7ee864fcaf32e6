"""Which client has which training examples: a pure function of labels, owners, settings and seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.flower_partitioners import divide, is_flower
from data.schemes import SCHEMES, drawn, natural
from data.settings import DataSettings
from data.shares import Dealt, Shares
from models.errors import SettingError
from models.randomness import generator


def partition(
    labels: NDArray[np.int64] | NDArray[np.float32], settings: DataSettings, owners: NDArray[np.int64] | None = None
) -> Shares:
    """Divide training examples among `settings.num_clients` clients.

    Args:
        labels: int64 [N], the train split's labels; numbers, where one of Flower's partitioners may go by them.
        settings: `partition`, `num_clients`, `seed` and what the scheme needs.
        owners: int64 [N], who each example is from; partition "natural" needs it.

    Returns:
        For each partition id the rows of its examples, int64; disjoint, complete, and nobody has none. The order of
        rows carries no information. (The natural partition leaves out owners with a single example, and some of
        Flower's partitioners leave examples over. Of partition "drawn" shares overlap.)

    Raises:
        SettingError: there are more clients than examples, or the scheme cannot give everybody an example, or every
            example to somebody; names what to change.
    """
    scheme = None if is_flower(settings.partition) else SCHEMES[settings.partition]
    if scheme is drawn:
        return drawn(labels, settings, settings.seed)
    if settings.num_clients > len(labels):
        raise SettingError(
            "num-clients", settings.num_clients, f'at most {len(labels)} with dataset "{settings.dataset}"'
        )
    if scheme is None:
        draw = generator(settings.seed, 0, "server", "partition")
        order, seed = draw.permutation(len(labels)), int(draw.integers(2**31))
        shuffled = None if owners is None else owners[order]
        parts = divide(settings.partition, labels[order], shuffled, settings.num_clients, seed)
        return Dealt.of(parts).through(order, np.arange(len(parts)))
    if scheme is natural:
        if owners is None:
            allowed = f"another one: {settings.dataset!r} does not say who its examples are from"
            raise SettingError("partition", settings.partition, allowed)
        return Dealt.of(natural(owners, settings, settings.seed))  # ids stay those of owners, whatever the seed
    draw = generator(settings.seed, 0, "server", "partition")
    # The partitioners cut each class (iid: the whole set) in the order of the rows, and data sets come sorted.
    order = draw.permutation(len(labels))
    dealt = scheme(labels[order].astype(np.int64, copy=False), settings, int(draw.integers(2**31)))
    # Some schemes go by the partition id (a client's first class is its id modulo the classes). Tiers may go by the id
    # as well, and a tier must not be a set of classes.
    shares = dealt if isinstance(dealt, Dealt) else Dealt.of(dealt)
    return shares.through(order, draw.permutation(len(shares)))
