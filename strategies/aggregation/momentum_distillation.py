"""Momentum distillation (InclusiveFL, Liu et al., KDD 2022, §3.3): deeper layers teach a smaller size's last one.

    Δ_last(small) ← (1 - β)·Δ_last(small) + β·m        m = mean over the layers above it of the largest model's updates

The paper mixes gradients, one server step a round; here devices take local steps, so it mixes the round's averaged
updates, of the same round. Only layers of one shape can be mixed: those of a transformer, not the stages of a network
that get wider.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.spec import NetworkSpec
from models.networks.stage_tensors import same_shapes, stage_sources
from protocol import Scalar

USUAL = 0.2  # the paper's β


class Momentum:
    """Who teaches whom.

    Args:
        network: the global network, completed.
        sizes: the part of every size, by its depth.
    """

    def __init__(self, network: NetworkSpec, sizes: Mapping[int, Plan]) -> None:
        largest = max(sizes)
        self._last = {depth: stage_sources(network, plan, depth) for depth, plan in sizes.items() if depth < largest}
        self._deeper = {
            stage: stage_sources(network, sizes[largest], stage) for stage in range(min(sizes) + 1, largest + 1)
        }
        self._teachers = {
            depth: [
                stage for stage, names in self._deeper.items() if stage > depth and same_shapes(network, names, own)
            ]
            for depth, own in self._last.items()
        }

    def strength(self, given: Scalar) -> float:
        """β; "auto" is the paper's where anybody can be taught, else 0.

        Raises:
            SettingError: (key momentum) not a share, or one that could never act.
        """
        teaches = any(self._teachers.values())
        if given == "auto":
            return USUAL if teaches else 0.0
        try:
            beta = float(given)
        except ValueError:
            beta = -1.0
        if not 0 <= beta <= 1:
            raise SettingError("momentum", given, '"auto", or 0 to 1 in quotes, such as "0.2"')
        if beta and not teaches:
            allowed = '"auto" or "0" here: above no smaller size\'s last layer there is one of its shape'
            raise SettingError("momentum", given, allowed)
        return beta

    def mix(
        self, state: Mapping[str, Tensor], before: Mapping[str, Tensor], covered: Mapping[str, Tensor], beta: float
    ) -> None:
        """Let the round's updates teach, in place; all sizes learn from them as they were averaged.

        Args:
            state: after the round was averaged.
            before: the round.
            covered: how many held each coordinate; a layer that nobody trained neither teaches nor learns.
            beta: the share that is taught.
        """
        moved = {
            stage: [state[name] - before[name] for name in names]
            for stage, names in self._deeper.items()
            if any(covered[name].any() for name in names)
        }
        for depth, own in self._last.items():
            teachers = [moved[stage] for stage in self._teachers[depth] if stage in moved]
            if not teachers or not any(covered[name].any() for name in own):
                continue
            for position, name in enumerate(own):
                mean = torch.stack([updates[position] for updates in teachers]).mean(0)
                state[name].copy_(before[name] + (1 - beta) * (state[name] - before[name]) + beta * mean)
