"""The gradient of the loss over a device's training examples, at the state that it received."""

from __future__ import annotations

import torch
from torch import Tensor

from client_app.objectives.base import Setting
from client_app.objectives.cross_entropy import task_of
from data import Split
from models.evaluation import BATCH
from models.statistics import collect, needs_statistics, set_statistics


def gradient(objective: str, setting: Setting, examples: Split, device: torch.device) -> Tensor:
    """Gradient of the mean loss (see `measuring.loss_before`) by every coordinate of the network's state.

    In evaluation mode, so it is the gradient of that very loss; static batch norm takes its statistics from these
    examples and they count as constants. What is no parameter, or has no part in the output, has gradient 0.

    Args:
        objective: name of what would be optimised.
        setting: the network and what an objective may depend on.
        examples: the client's training examples.
        device: where the network is.

    Returns:
        Flat float32 vector on the CPU, in the order of the network's state.
    """
    module, task = setting.module, task_of(objective)(setting)
    inputs, labels = (torch.split(tensor.to(device), BATCH) for tensor in (examples.inputs, examples.labels))
    if needs_statistics(module):
        set_statistics(module, collect(module, inputs))
    module.eval()
    parameters = dict(module.named_parameters())
    sums = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    for x, y in zip(inputs, labels, strict=True):
        loss = task(x, y)[0] * (len(y) / len(examples))
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, part in zip(parameters, found, strict=True):
            if part is not None:
                sums[name] += part
    return torch.cat([tensor.detach().reshape(-1) for tensor in sums.values()]).cpu()
