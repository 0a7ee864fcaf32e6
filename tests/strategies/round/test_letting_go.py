"""What a round's requests carry, a state, is not held beside the replies."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from flwr.app import ArrayRecord, Message

from benchmarks.bench.memory import Replies
from benchmarks.bench.shapes import TINY
from protocol import TRAIN
from strategies import FedAvg, FlowerStrategy, HeteroFL, Settings


class _Watched(Replies):
    """Looks, whenever a node answers, whether anybody still holds what it and the others were sent."""

    def __init__(self, strategy: FlowerStrategy, clients: int) -> None:
        super().__init__(strategy, clients)
        self.sent: list[weakref.ref[ArrayRecord]] = []
        self.held: list[int] = []

    def accept(self, message: Message) -> None:
        if message.metadata.message_type == TRAIN:
            record = message.content["arrays"]
            assert isinstance(record, ArrayRecord)
            self.sent.append(weakref.ref(record))
        super().accept(message)

    def _answer(self, request: Message) -> Message:
        if request.metadata.message_type == TRAIN:
            self.held.append(sum(record() is not None for record in self.sent))
        return super()._answer(request)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Cycles would be found at some time or other, which depends on counts of objects and not on their size."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("slice_at", ["client", "server"])
@pytest.mark.parametrize("method", [FedAvg, HeteroFL])
def test_nobody_holds_a_state_that_was_sent(method: type[FlowerStrategy], slice_at: str) -> None:
    strategy = method(TINY, Settings(nodes=7, slice_at=slice_at))
    grid = _Watched(strategy, 7)
    for number in (1, 2):
        assert strategy.run_round(grid, number).accepted == 7
        assert strategy.runner.round.messages == []
    assert len(grid.sent) == 14
    assert grid.held == [0] * 14
