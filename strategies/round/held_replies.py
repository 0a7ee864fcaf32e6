"""Replies that wait: the first ones of a run for each other, and later what is odd for the end of its round.

None of the first ones counts before it is known what is usual. A few of every tier are enough, and they keep their
order, so the sums are those of a run in which nobody waits. Differences lie in memory as long as they are small
together, else in a file that has no name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedRandom
from logging import WARNING

import numpy as np
import torch
from flwr.common import log

from strategies.exchange.update import ClientUpdate

MOST = 32  # replies
_IN_MEMORY = 32 << 20  # bytes
_NONE = torch.zeros(0)


class HeldReplies:
    """Replies in the order in which they came."""

    def __init__(self) -> None:
        # Position, reply, where its difference begins in the file (-1: it is in the reply), and its coordinates.
        self._held: list[tuple[int, ClientUpdate, int, int]] = []
        self._bytes = 0
        self._file: BufferedRandom | None = None

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, i: int, update: ClientUpdate) -> None:
        """Keep the reply to request `i`."""
        count = update.difference.numel()
        self._bytes += 4 * count
        where = self._written(update) if self._bytes > _IN_MEMORY else -1
        self._held.append((i, update if where < 0 else replace(update, difference=_NONE), where, count))

    def _written(self, update: ClientUpdate) -> int:
        try:
            if self._file is None:
                raw = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it lives as long as this)
                self._file = BufferedRandom(raw)
            where = self._file.seek(0, 2)
            self._file.write(update.difference.numpy().data)
        except OSError as error:  # no room there; there may be some in memory
            log(WARNING, "replies that wait stay in memory: %s", error)
            return -1
        return where

    def release(self) -> Iterator[tuple[int, ClientUpdate]]:
        """Give them back, the first one first, and forget them."""
        while self._held:
            i, update, where, count = self._held.pop(0)
            if where >= 0 and self._file is not None:
                numbers = np.empty(count, dtype=np.float32)
                self._file.seek(where)
                self._file.readinto(numbers.data)
                update = replace(update, difference=torch.from_numpy(numbers))
                del numbers
            yield i, update
            del update  # one difference at a time
        if self._file is not None:
            self._file.close()
        self._file, self._bytes = None, 0
