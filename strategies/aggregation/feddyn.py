"""The server half of FedDyn (Acar et al., ICLR 2021, Algorithm 1), for full networks and for submodels.

    h_i ← h_i - α·(count_i / N)·(mean_i - old_i)        θ_i ← mean_i - h_i/α

for every coordinate i of a parameter that somebody sent; what nobody sent keeps its value and its h. `count_i` is the
number of replies that held the coordinate and N the number of all nodes, as in the paper and in DepthFL's code; with
scaling "holders" N is the number of nodes whose tier can hold the coordinate at all. With N as in the paper, the h of a
deep stage that a quarter of the nodes can hold gathers four times slower than FedDyn among those nodes would.
Statistics of batch norm are plain means without h (DepthFL's policy).

The α of the two lines cancels: what θ loses is the mean of what devices moved, whatever their α. So it is one α here,
also where the authors' code (alpemreacar/FedDyn, commit 48a19fa, utils_methods.py) divides a device's by its examples
over their mean (`dynamic-by-examples`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from models.algebra.block_scatter import unit_pairs
from models.algebra.submodel import Submodel, shapes_of, split

SCALINGS = ("all", "holders")


class FedDynCorrection:
    """h, and what it does to a mean.

    Args:
        alpha: strength of the regulariser, above 0.
        layout: of the whole state.
        nodes: number of all nodes.
        scaling: one of `SCALINGS`.
    """

    def __init__(self, alpha: float, layout: Layout, nodes: int, scaling: str = "all") -> None:
        self._alpha, self._layout, self._nodes, self._scaling = alpha, layout, nodes, scaling
        shapes = layout.shapes
        self._flat = torch.zeros(layout.parameters)
        self.h = split(self._flat, shapes)
        self._able: dict[str, Tensor] = {}

    def correct(
        self,
        state: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        average: PartialAverage,
        able: Callable[[], Iterable[tuple[Submodel, int]]],
    ) -> None:
        """Turn the means in `state` into FedDyn's next state, in place.

        Args:
            state: old + mean difference.
            before: old.
            average: what made it; tells how many held each coordinate.
            able: the parts that nodes can hold and how many nodes hold each; asked for scaling "holders" only.
        """
        if self._scaling == "holders":
            counts = PartialAverage(self._layout, per_coordinate=average.per_coordinate)
            for part, count in able():
                counts.add(part, torch.zeros(part.numel), denominator=float(count))
            self._able = counts.denominators()
        for name, holders in average.coverage().items():
            if self._layout.tensors[name].buffer:
                continue
            seen = unit_pairs(state[name].shape, holders.shape[::2])
            mean, old, h = (tensor.view(seen) for tensor in (state[name], before[name], self.h[name]))
            nodes = self._able.get(name)
            share = holders / self._nodes if nodes is None else holders / nodes.clamp_min(1)
            h.sub_(self._alpha * share * (mean - old))
            mean.copy_(torch.where(holders > 0, mean - h / self._alpha, mean))

    def checkpoint(self) -> dict[str, Tensor]:
        """H by tensor."""
        return {f"dynamic/{name}": tensor for name, tensor in self.h.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a `checkpoint`."""
        for name in shapes_of(self.h):
            self.h[name].copy_(tensors[f"dynamic/{name}"])
