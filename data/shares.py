"""Everybody's share of the training examples, found when it is asked for: no array a client, however many there are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from models.randomness import generator

Rows = NDArray[np.int64]


class Shares(Sequence[Rows]):
    """For each partition id the rows of its examples, int64; the order of rows carries no information."""

    @abstractmethod
    def rows(self, number: int) -> Rows:
        """Of one client, from 0."""

    @property
    @abstractmethod
    def sizes(self) -> Rows:
        """How many examples each client has, int64 [clients]."""

    @overload
    def __getitem__(self, number: int) -> Rows: ...
    @overload
    def __getitem__(self, number: slice) -> list[Rows]: ...
    def __getitem__(self, number: int | slice) -> Rows | list[Rows]:
        """Of one client, or of some."""
        if isinstance(number, slice):
            return [self.rows(one) for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return self.rows(number % len(self))


class Dealt(Shares):
    """Shares that do not overlap, cut out of one array.

    Args:
        order: all rows, int64.
        starts, stops: where each client's lie in it, int64 [clients].
    """

    def __init__(self, order: Rows, starts: Rows, stops: Rows) -> None:
        self._order, self._starts, self._stops = order, starts, stops

    @staticmethod
    def of(parts: Iterable[Rows]) -> Dealt:
        """Those of a list."""
        arrays = list(parts)
        sizes = np.array([len(part) for part in arrays], dtype=np.int64)
        stops = np.cumsum(sizes)
        return Dealt(np.concatenate(arrays), stops - sizes, stops)

    @staticmethod
    def equal(count: int, clients: int) -> Dealt:
        """Rows 0 to count - 1 in equal shares, give or take one, as `numpy.array_split` cuts them."""
        each, more = divmod(count, clients)
        sizes = np.full(clients, each)
        sizes[:more] += 1
        stops = np.cumsum(sizes)
        return Dealt(np.arange(count), stops - sizes, stops)

    def through(self, order: Rows, numbers: Rows) -> Dealt:
        """The same of other rows, for other clients.

        Args:
            order: what each row is in truth.
            numbers: whose share here each client gets.
        """
        return Dealt(order[self._order], self._starts[numbers], self._stops[numbers])

    def __len__(self) -> int:
        return len(self._starts)

    def rows(self, number: int) -> Rows:
        """Of one client."""
        return self._order[self._starts[number] : self._stops[number]]

    @property
    def sizes(self) -> Rows:
        """How many each client has."""
        return self._stops - self._starts


class Drawn(Shares):
    """Shares that everybody draws from the whole by itself, so there can be more clients than examples.

    Nobody has an example twice, several may have the same: pfl-research's artificial federated data sets do so
    (Granqvist et al., NeurIPS 2024).

    Args:
        count: number of examples.
        clients: number of clients.
        each: examples of a client, at most `count`.
        seed: of the run.
    """

    def __init__(self, count: int, clients: int, each: int, seed: int) -> None:
        self._count, self._clients, self._each, self._seed = count, clients, each, seed

    def __len__(self) -> int:
        return self._clients

    def rows(self, number: int) -> Rows:
        """Of one client."""
        draws = generator(self._seed, 0, number, "share")
        return draws.choice(self._count, self._each, replace=False, shuffle=False).astype(np.int64, copy=False)

    @property
    def sizes(self) -> Rows:
        """The same for all, without memory."""
        return np.broadcast_to(np.int64(self._each), (self._clients,))
