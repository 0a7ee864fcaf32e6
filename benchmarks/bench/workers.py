"""Processes of one thread that do a round whenever they are asked, and share its clients, first come, first served."""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from time import perf_counter
from typing import Any

import torch

from protocol import keep_large_buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one of the processes has in common with the others.

    Attributes:
        number: of the process.
        pipe: to whom it works for.
        next_client: the first that nobody has taken in this round.
    """

    number: int
    pipe: Connection
    next_client: Synchronized[int]

    def rounds(self) -> Iterator[str]:
        """What is asked for, round by round; the process is ready when it asks, and done when it asks again."""
        self.pipe.send(None)
        while way := self.pipe.recv():
            yield way
            self.pipe.send(None)

    def clients(self, count: int) -> Iterator[int]:
        """Those of a round's clients that fall to this process."""
        while True:
            with self.next_client.get_lock():
                client = self.next_client.value
                self.next_client.value = client + 1
            if client >= count:
                return
            yield client


Target = Callable[[Share, Any], None]


class Workers:
    """The processes; use `workers`."""

    def __init__(self, target: Target, work: Any, processes: int) -> None:
        method = mp.get_context("spawn")
        self._next: Synchronized[int] = method.Value("i", 0)
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(processes):
            ours, theirs = method.Pipe()
            process = method.Process(target=_work, args=(target, work, number, theirs, self._next), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def round(self, way: str = "round") -> float:
        """Wall seconds of one round."""
        self._next.value = 0
        began = perf_counter()
        for pipe in self._pipes:
            pipe.send(way)
        for pipe in self._pipes:
            pipe.recv()
        return perf_counter() - began

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send("")
        for process in self._processes:
            process.join()


def _work(target: Target, work: Any, number: int, pipe: Connection, next_client: Synchronized[int]) -> None:
    torch.set_num_threads(1)
    keep_large_buffers()
    target(Share(number=number, pipe=pipe, next_client=next_client), work)


@contextmanager
def workers(target: Target, work: Any, processes: int, ways: Sequence[str] = ("round",)) -> Iterator[Workers]:
    """Make processes, let them warm up, and end them.

    Args:
        target: what each of them does with its share and the work.
        work: the same for all; it is handed to them, so it must be picklable.
        processes: how many.
        ways: kinds of rounds, each of which is done once to warm up.
    """
    made = Workers(target, work, processes)
    try:
        for way in ways:
            made.round(way)
        yield made
    finally:
        made.close()
