"""A mixture of nets (Split-Mix, ICLR 2022, Algorithm 1): every net learns by itself on the same batch.

    L = Σ_k L(net_k)

No net's loss depends on another net, so each gets the gradient that it would get alone. The loss that is reported is
that sum; the logits are the mean of the nets' logits, which is what a mixture answers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from client_app.objectives.base import LocalObjective, ObjectiveContext, ObjectiveFactory
from models.variants.base_nets import independent


def every_net(make: ObjectiveFactory, setting: ObjectiveContext) -> LocalObjective:
    """The sum of one objective over the nets of a mixture.

    Args:
        make: makes the objective of one net.
        setting: of the mixture.
    """
    nets = [make(replace(setting, module=net)) for net in independent(setting.module)]

    def loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, logits = zip(*(net(inputs, labels) for net in nets), strict=True)
        return torch.stack(losses).sum(), torch.stack([part.detach() for part in logits]).mean(0)

    return loss
