"""The loss of a part as it was received, and its gradient there.

Selectors choose by them, and aggregation rules for fairness weigh by the loss.

Measured before any training, in evaluation mode, without augmentation, as the mean over *all* training examples: the
F_k(w^t) of q-FFL (Li et al., ICLR 2020, Algorithm 2). It is the loss of the task, cross entropy of the part's own
output; terms that an objective adds (distillation, weight decay) are out of it, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from client_app.objectives.base import ObjectiveContext
from client_app.objectives.cross_entropy import task_of
from data import Split
from models.evaluation import batch_of
from models.statistics import estimate_statistics


@torch.no_grad()
def initial_loss(objective: str, about: ObjectiveContext, examples: Split, device: torch.device) -> float:
    """Mean loss over the examples (nats); the network's tensors stay as they are, its mode becomes evaluation.

    Static batch norm takes its statistics from these same examples.

    Args:
        objective: name of what will be optimised.
        about: the network and what an objective may depend on.
        examples: all of the client's training examples.
        device: where the network is.
    """
    module, task = about.module, task_of(objective)(about)
    total = sum(task(x, y)[0].item() * len(y) for x, y in _evaluated(module, examples, device))
    return total / len(examples)


def initial_gradient(objective: str, about: ObjectiveContext, examples: Split, device: torch.device) -> Tensor:
    """Gradient of the mean loss (see `initial_loss`) by every coordinate of the network's state.

    In evaluation mode, so it is the gradient of that very loss; static batch norm takes its statistics from these
    examples and they count as constants. What is no parameter, or has no part in the output, has gradient 0.

    Args:
        objective: name of what would be optimised.
        about: the network and what an objective may depend on.
        examples: the client's training examples.
        device: where the network is.

    Returns:
        Flat float32 vector on the CPU, in the order of the network's state.
    """
    module, task = about.module, task_of(objective)(about)
    parameters = dict(module.named_parameters())
    sums = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    for x, y in _evaluated(module, examples, device):
        loss = task(x, y)[0] * (len(y) / len(examples))
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, part in zip(parameters, found, strict=True):
            if part is not None:
                sums[name] += part
    return torch.cat([tensor.detach().reshape(-1) for tensor in sums.values()]).cpu()


def _evaluated(module: nn.Module, examples: Split, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of all examples for a network that is in evaluation mode, with their statistics where it needs some."""
    examples = examples.to(device)
    size = batch_of(examples.held)
    estimate_statistics(module, examples.held.split(size))
    module.eval()
    return examples.batches(size)
