"""The loss of a part as it was received, which aggregation rules for fairness weigh by.

Measured before any training, in evaluation mode, without augmentation, as the mean over *all* training examples: the
F_k(w^t) of q-FFL (Li et al., ICLR 2020, Algorithm 2). It is the loss of the task, cross entropy of the part's own
output; terms that an objective adds (distillation, weight decay) are out of it, as in the authors' code.
"""

from __future__ import annotations

import torch

from client_app.objectives.base import Setting
from client_app.objectives.cross_entropy import task_of
from data import Split
from models.evaluation import BATCH
from models.statistics import collect, needs_statistics, set_statistics


@torch.no_grad()
def loss_before(objective: str, setting: Setting, examples: Split, device: torch.device) -> float:
    """Mean loss over the examples (nats); the network's tensors stay as they are, its mode becomes evaluation.

    Static batch norm takes its statistics from these same examples.

    Args:
        objective: name of what will be optimised.
        setting: the network and what an objective may depend on.
        examples: all of the client's training examples.
        device: where the network is.
    """
    module, task = setting.module, task_of(objective)(setting)
    inputs, labels = (torch.split(tensor.to(device), BATCH) for tensor in (examples.inputs, examples.labels))
    if needs_statistics(module):
        set_statistics(module, collect(module, inputs))
    module.eval()
    total = sum(task(x, y)[0].item() * len(y) for x, y in zip(inputs, labels, strict=True))
    return total / len(examples)
