"""Our ServerApp; it tells the benchmark the size of its state and what each round took, and waits for its word."""

from __future__ import annotations

import os
from multiprocessing.connection import Client, Connection
from time import perf_counter
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

import server_app.app as ours
from server_app.run import Run
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.messaging import exchange
from strategies.exchange.report import RoundReport
from strategies.exchange.update import ClientUpdate

from . import ADDRESS  # relative: in the bundle this package has no parent


class Probed(Run):
    """A run with a pause after every round."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._benchmark: Connection = Client(os.environ[ADDRESS])
        self._computing: dict[int, float] = {}
        self._steps = 0
        self._weigh = self.strategy.weigh
        self.strategy.weigh = self._noting  # type: ignore[method-assign]
        self._benchmark.send(sum(tensor.numel() for tensor in self.strategy.state.values()))
        self._benchmark.recv()
        self._began = perf_counter()

    def _noting(self, context: RoundContext, assignment: TrainAssignment, update: ClientUpdate) -> tuple[float, float]:
        """Weigh a reply, and note how long its client computed and how many steps it took."""
        self._computing[assignment.node.address] = update.metrics["seconds-computing"]
        self._steps += int(update.metrics["steps"])
        return self._weigh(context, assignment, update)

    def _after(self, report: RoundReport) -> None:
        super()._after(report)
        whole = perf_counter() - self._began
        self._benchmark.send(
            {
                "whole": whole,
                "phases": dict(report.seconds),
                "computing": dict(self._computing),
                "steps": self._steps,
                "down": report.bytes_down,
                "up": report.bytes_up,
                "accepted": report.accepted,
                "selected": len(report.selected),
            }
        )
        self._computing.clear()
        self._steps = 0
        while (order := self._benchmark.recv()) is not None:
            self._benchmark.send(self._burn(order))
        self._began = perf_counter()

    def _burn(self, seconds: dict[int, float]) -> float:
        """Run a round with clients that only burn CPU time, by node; pushed and pulled like one of ours."""
        began = perf_counter()
        arrays = ArrayRecord({"x": Array(np.zeros(1))})
        messages = [
            Message(
                content=RecordDict({"arrays": arrays, "config": ConfigRecord({"seconds": amount})}),
                dst_node_id=address,
                message_type="train.burn",
            )
            for address, amount in seconds.items()
        ]
        lost = []
        exchange(self.grid, messages, lambda i, reply: lost.append(i) if _failed(reply) else None, seconds=3600.0)
        if lost:
            raise RuntimeError(f"{len(lost)} of {len(messages)} clients did not burn")
        return perf_counter() - began


def _failed(reply: Message | None) -> bool:
    return reply is None or reply.has_error()


ours.Run = Probed  # type: ignore[attr-defined]
app = ours.app
