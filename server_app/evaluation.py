"""Evaluation on the whole test set: the global network and every tier's network.

Static batch norm gets its statistics from the nodes' training examples (`PartialStrategy.statistics`), pooled over the
nodes of the tier; never from the test batch. Other norms need none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from data import Split
from models.evaluation import Score, evaluate
from models.network import NetworkSpec, build_part, submodel
from models.plans import Plan
from models.statistics import needs_statistics, set_statistics


@dataclass(frozen=True, slots=True)
class Size:
    """What a part costs to hold and to run.

    Attributes:
        parameters: number of trainable coordinates.
        macs: multiply-accumulate operations of one forward pass on one input.
    """

    parameters: int
    macs: int


@lru_cache(maxsize=64)
def size_of(spec: NetworkSpec, plan: Plan) -> Size:
    """Count parameters and MACs of a part (convolutions and matrix products, as PyTorch's counter has them)."""
    with torch.device("meta"):
        network = build_part(spec, plan)
        one = torch.empty(1, *spec.input_shape)
    # Training mode: batch statistics are then not asked for. One input has none, so two are run and halved.
    network.train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.cat([one, one]))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Size(parameters, counter.get_total_flops() // 4)


class Evaluator:
    """Scores parts of the global state on the test set.

    Args:
        spec: the full network.
        test: the whole test set.
        device: where to compute.
    """

    def __init__(self, spec: NetworkSpec, test: Split, device: torch.device) -> None:
        self._spec, self._device = spec, device
        self._inputs, self._labels = test.inputs.to(device), test.labels.to(device)
        self._networks: dict[tuple[object, ...], nn.Module] = {}

    def score(self, state: Mapping[str, Tensor], plan: Plan, moments: Tensor | None) -> Score | None:
        """Score a part; None when it needs statistics and there are no usable ones.

        Args:
            state: the global state.
            plan: which part of it.
            moments: pooled moments of the part (see `models.statistics`).
        """
        part = submodel(self._spec, plan)
        key = (plan.rate, plan.depth, *sorted(part.sizes.items()))
        if key not in self._networks:
            self._networks[key] = build_part(self._spec, plan).to(self._device)
        network = self._networks[key]
        network.load_state_dict(part.gather(state))
        if needs_statistics(network):
            if moments is None:
                return None
            try:
                set_statistics(network, moments)
            except ValueError:  # what nodes sent cannot be used; the run goes on without this score
                return None
        return evaluate(network, self._inputs, self._labels)
