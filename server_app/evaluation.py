"""Evaluation on the whole test set: the global network and every tier's network.

Static batch norm gets its statistics from the nodes' training examples (`Runner.statistics`), pooled over the
nodes of the tier; never from the test batch. Other norms need none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from data import Split
from models.adversary import Attack, robust_accuracy
from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from models.cost import cost_of
from models.device import threads
from models.evaluation import Scores, evaluate_each
from models.networks.build import build_part, shape_of
from models.networks.spec import NetworkSpec
from models.norms.dual_norm import noise_share
from models.statistics import needs_statistics, set_statistics

_SMALL = 2**32  # multiplications that one thread has done before a second one that waits for a busy core is there


class Evaluator:
    """Scores parts of the global state on the test set.

    Args:
        spec: the full network.
        test: the whole test set.
        device: where to compute.
        mix: share of the noise norms, where norms are dual.
        attack: makes the attack, anew for every score; None attacks nothing.
        attacked: rows of the test set that are attacked (int64).
        measure: what else is measured of a network's outputs and the labels; None is nothing.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        test: Split,
        device: torch.device,
        *,
        mix: float = 0.0,
        attack: Callable[[], Attack] | None = None,
        attacked: Tensor | None = None,
        measure: Callable[[Tensor, Tensor], Mapping[str, Any]] | None = None,
    ) -> None:
        self._spec, self._device = spec, device
        self._mix, self._attack, self._measure = mix, attack, measure
        rows = torch.zeros(0, dtype=torch.int64) if attacked is None else attacked
        self._attacked, self._test = test.select(rows).to(device), test.to(device)
        self._networks: dict[Hashable, tuple[nn.Module, int]] = {}  # with the threads that they are worth

    def score(self, state: Mapping[str, Tensor], plan: Plan, part: Submodel, moments: Tensor | None) -> Scores | None:
        """Score a part; None when there is no test set, or it needs statistics and there are no usable ones.

        Args:
            state: the global state.
            plan: which part of it.
            part: the same as blocks.
            moments: pooled moments of the part (see `models.statistics`).
        """
        if not len(self._test):
            return None
        key = shape_of(self._spec, plan)
        if key not in self._networks:
            small = cost_of(self._spec, plan, every_exit=True).macs * len(self._test) < _SMALL
            built = build_part(self._spec, plan).to(self._device)
            self._networks[key] = built, 1 if small else torch.get_num_threads()
        network, count = self._networks[key]
        network.load_state_dict(part.gather(state))
        if needs_statistics(network):
            if moments is None:
                return None
            try:
                set_statistics(network, moments)
            except ValueError:  # what nodes sent cannot be used; the run goes on without this score
                return None
        with threads(count), noise_share(network, self._mix):
            inputs, labels = self._test.held, self._test.labels
            outputs: list[Tensor] | None = None if self._measure is None else []
            scores = evaluate_each(network, inputs, labels, task=self._spec.task, keep=outputs)
            if self._measure is not None and outputs is not None:
                scores = replace(scores, more=self._measure(torch.cat(outputs), labels))
        if self._attack is None or not len(self._attacked):
            return scores
        robust = robust_accuracy(network, self._attacked.inputs, self._attacked.labels, self._attack(), share=self._mix)
        return replace(scores, robust=robust)
