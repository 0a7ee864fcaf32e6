"""Which coordinates of a global state somebody trained, this round and ever."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.block_scatter import unit_pairs


def touched(average: PartialAverage, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By name, which coordinates somebody sent this round: bool, in the shapes of `like`."""
    found = {}
    for name, holders in average.coverage().items():
        if name in like:
            shape = like[name].shape
            found[name] = (holders > 0).expand(unit_pairs(shape, holders.shape[::2])).reshape(shape)
    return found


class Coverage:
    """How many clients touched each coordinate, this round and ever.

    Args:
        average: whose holders to count.

    Attributes:
        ever: tensor name → whether each unit was ever held (bool), part of a checkpoint.
    """

    def __init__(self, average: PartialAverage) -> None:
        self._average = average
        self.ever: dict[str, Tensor] = {name: holders > 0 for name, holders in average.coverage().items()}

    def count(self) -> dict[str, float]:
        """Shares "round" and "ever" and mean holders "mean", over all coordinates of the network."""
        touched = ever = holders = total = 0.0
        for name, per_unit in self._average.coverage().items():
            size = self._average.unit_size(name)
            self.ever[name] |= per_unit > 0
            touched += size * float((per_unit > 0).sum())
            ever += size * float(self.ever[name].sum())
            holders += size * float(per_unit.sum(dtype=per_unit.double().dtype))
            total += size * per_unit.numel()
        return {"round": touched / total, "ever": ever / total, "mean": holders / total}

    def restore(self, ever: Mapping[str, Tensor]) -> None:
        """Take up what a checkpoint knew."""
        self.ever = {name: tensor.bool() for name, tensor in ever.items()}
