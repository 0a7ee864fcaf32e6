"""One global state and what belongs to it: what averages into it, which of it was ever trained, FedDyn's h."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from models.algebra.submodel import split
from strategies.aggregation.coverage import Coverage
from strategies.aggregation.feddyn import FedDynCorrection


class GlobalState:
    """A state of the network; a run has one, or one per cluster.

    Args:
        layout: of the network.
        average: where replies are added; a plain one unless given.
        dynamic: FedDyn's server half for this state, if it is on.
        remembered: what the method remembers of it.

    Attributes:
        flat: the whole state as one vector.
        tensors: the same by name (views).
        average: see above.
        coverage: what was ever held.
        dynamic, remembered: see above.
    """

    def __init__(
        self,
        layout: Layout,
        average: PartialAverage | None = None,
        *,
        dynamic: FedDynCorrection | None = None,
        remembered: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.flat = torch.zeros(layout.parameters)
        self.tensors = split(self.flat, layout.shapes)
        self.average = PartialAverage(layout) if average is None else average
        self.coverage = Coverage(self.average)
        self.dynamic = dynamic
        self.remembered: Mapping[str, Tensor] = {} if remembered is None else remembered

    def become(self, other: GlobalState) -> None:
        """Take the values of another state of the same network."""
        self.flat.copy_(other.flat)
        self.coverage.restore({name: ever.clone() for name, ever in other.coverage.ever.items()})
        if self.dynamic is not None and other.dynamic is not None:
            self.dynamic.restore(other.dynamic.checkpoint())
        self.remembered = {name: tensor.clone() for name, tensor in other.remembered.items()}

    def checkpoint(self) -> dict[str, Tensor]:
        """Everything that the next rounds depend on."""
        tensors = {f"state/{name}": tensor for name, tensor in self.tensors.items()}
        tensors |= {f"coverage/{name}": ever.to(torch.uint8) for name, ever in self.coverage.ever.items()}
        tensors |= {f"method/{name}": tensor for name, tensor in self.remembered.items()}
        return tensors | ({} if self.dynamic is None else self.dynamic.checkpoint())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a `checkpoint`.

        Raises:
            ValueError: it is of another network, as after a change of code of one's own.
        """
        for name, tensor in self.tensors.items():
            found = tensors.get(f"state/{name}")
            if found is None or found.shape != tensor.shape:
                saved = "is not there" if found is None else f"has the shape {tuple(found.shape)}"
                raise ValueError(f"the checkpoint is of another network: {name!r} {saved}, here {tuple(tensor.shape)}")
            tensor.copy_(found)
        self.coverage.restore({name: tensors[f"coverage/{name}"] for name in self.coverage.ever})
        if self.dynamic is not None:
            self.dynamic.restore(tensors)
        self.remembered = {name: tensors[f"method/{name}"].clone() for name in self.remembered}
