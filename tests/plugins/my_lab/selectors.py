"""A selector: every node in its turn."""

from flotilla.models.settings import Setting, between
from flotilla.strategies.selection import Selector


class InTurn(Selector):
    """Round r begins at node r·stride."""

    OPTIONS = {"stride": Setting(2, "how far the next round begins behind the last", between(1, 100))}

    def __init__(self, stride: int = 2) -> None:
        self.stride = stride

    def select(self, candidates, count, draws, probe):
        first = candidates.round_number * self.stride
        return candidates.selection([(first + i) % len(candidates) for i in range(count)])
