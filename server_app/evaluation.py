"""Evaluation on the whole test set: the global network and every tier's network.

Static batch norm gets its statistics from the nodes' training examples (`Runner.statistics`), pooled over the
nodes of the tier; never from the test batch. Other norms need none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
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
from models.evaluation import Scores, evaluate_together
from models.networks.build import build_part, shape_of
from models.networks.one_pass import Held, OnePass, in_passes
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
        """Score one part; see `scores`."""
        return self.scores(state, {plan: (part, moments)})[plan]

    def scores(
        self, state: Mapping[str, Tensor], wanted: Mapping[Plan, tuple[Submodel, Tensor | None]]
    ) -> dict[Plan, Scores | None]:
        """Score parts; those that nest, in one pass, as each by itself (see `models.networks.one_pass`).

        Args:
            state: the global state.
            wanted: which parts of it: the same as blocks, and its pooled moments (see `models.statistics`).

        Returns:
            By part; None when there is no test set, or it needs statistics and there are no usable ones.
        """
        found: dict[Plan, Scores | None] = dict.fromkeys(wanted)
        if not len(self._test):
            return found
        of_count: dict[int, list[Held]] = {}  # sums of other threads may round otherwise
        for plan, (part, _) in wanted.items():
            network, count = self._network(plan)
            of_count.setdefault(count, []).append(Held(network=network, plan=plan, part=part))
        for count, several in of_count.items():
            for one_pass in in_passes(self._spec, several):
                members = [several[i] for i in one_pass.members]
                # Parts of one shape have one network: they are loaded right before they are scored.
                if all(_load(one, state, wanted[one.plan][1]) for one in members):
                    scores = self._scores([one.network for one in members], one_pass, count)
                    found |= dict(zip([one.plan for one in members], scores, strict=True))
        return found

    def _network(self, plan: Plan) -> tuple[nn.Module, int]:
        key = shape_of(self._spec, plan)
        if key not in self._networks:
            small = cost_of(self._spec, plan, every_exit=True).macs * len(self._test) < _SMALL
            built = build_part(self._spec, plan).to(self._device)
            self._networks[key] = built, 1 if small else torch.get_num_threads()
        return self._networks[key]

    def _scores(self, networks: Sequence[nn.Module], one_pass: OnePass, count: int) -> list[Scores]:
        inputs, labels, measure = self._test.held, self._test.labels, self._measure
        outputs: list[list[Tensor]] | None = None if measure is None else [[] for _ in networks]
        with threads(count), ExitStack() as shares:
            for network in networks:
                shares.enter_context(noise_share(network, self._mix))
            scores = evaluate_together(networks, inputs, labels, one_pass=one_pass, task=self._spec.task, keep=outputs)
        if measure is not None and outputs is not None:
            more = [measure(torch.cat(kept), labels) for kept in outputs]
            scores = [replace(score, more=one) for score, one in zip(scores, more, strict=True)]
        if self._attack is None or not len(self._attacked):
            return scores
        attacked, of = self._attacked, self._attacked.labels
        robust = [robust_accuracy(one, attacked.inputs, of, self._attack(), share=self._mix) for one in networks]
        return [replace(score, robust=one) for score, one in zip(scores, robust, strict=True)]


def _load(one: Held, state: Mapping[str, Tensor], moments: Tensor | None) -> bool:
    """Put a part of the state into its network; whether it can be scored."""
    one.network.load_state_dict(one.part.gather(state))
    if not needs_statistics(one.network):
        return True
    if moments is None:
        return False
    try:
        set_statistics(one.network, moments)
    except ValueError:  # what nodes sent cannot be used; the run goes on without this score
        return False
    return True
