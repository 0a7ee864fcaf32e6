"""The arithmetic floor: the same optimiser steps in a bare loop, over processes of one thread.

No Flower, and nothing of ours but the network and the setting of the C library that the clients have as well.
"""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from time import perf_counter

import torch
from torch.nn import functional as F

from models.networks.build import build
from models.networks.spec import NetworkSpec
from protocol import keep_large_buffers

_POOL = 64  # clients' data that a worker holds; more than fit a cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The work of a round.

    Attributes:
        network: as a JSON of its spec, to be handed to processes.
        clients: a round.
        examples: of a client.
        batch_size: examples a step.
        learning_rate: of plain SGD.
    """

    network: str
    clients: int
    examples: int
    batch_size: int
    learning_rate: float = 0.1


class Floor:
    """Processes that do the steps of one round whenever they are asked. Clients are taken first come, first served."""

    def __init__(self, steps: Steps, processes: int) -> None:
        method = mp.get_context("spawn")
        self._steps, self._next = steps, method.Value("i", 0)
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(processes):
            ours, theirs = method.Pipe()
            process = method.Process(target=_work, args=(theirs, steps, self._next, number), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def round(self) -> float:
        """Wall seconds of one round."""
        self._next.value = 0
        began = perf_counter()
        for pipe in self._pipes:
            pipe.send(True)
        for pipe in self._pipes:
            pipe.recv()
        return perf_counter() - began

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(False)
        for process in self._processes:
            process.join()


@contextmanager
def floor(steps: Steps, processes: int) -> Iterator[Floor]:
    """Make a `Floor`, run one round to warm up, and close it in the end."""
    processes_of_it = Floor(steps, processes)
    try:
        processes_of_it.round()
        yield processes_of_it
    finally:
        processes_of_it.close()


def _work(pipe: Connection, steps: Steps, next_client: Synchronized[int], number: int) -> None:
    torch.set_num_threads(1)
    keep_large_buffers()
    torch.manual_seed(number)
    spec = NetworkSpec.from_json(steps.network)
    network = build(spec)
    optimiser = torch.optim.SGD(network.parameters(), lr=steps.learning_rate)
    data = [
        (torch.randn(steps.examples, *spec.input_shape), torch.randint(spec.classes, (steps.examples,)))
        for _ in range(_POOL)
    ]
    pipe.send(None)
    while pipe.recv():
        for client in _claimed(next_client, steps.clients):
            inputs, labels = data[client % _POOL]
            for index in torch.randperm(steps.examples).split(steps.batch_size):  # type: ignore[no-untyped-call]
                optimiser.zero_grad()
                loss = F.cross_entropy(network(inputs[index]), labels[index])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        pipe.send(None)


def _claimed(next_client: Synchronized[int], clients: int) -> Iterator[int]:
    while True:
        with next_client.get_lock():
            client = next_client.value
            next_client.value = client + 1
        if client >= clients:
            return
        yield client
