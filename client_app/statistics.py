"""Moments of static batch norm over a device's own training examples, for the noise copies of dual norms as well."""

from __future__ import annotations

import torch
from flwr.app import Context
from torch import Tensor, nn
from torch.nn import functional as F

from client_app.device import attack_of
from data import Split
from models.adversary import Attack
from models.device import device_named
from models.evaluation import batch_of
from models.statistics import collect
from models.variants.base_nets import independent
from protocol import PartRequest


def moments_of(module: nn.Module, examples: Split, request: PartRequest, context: Context) -> Tensor:
    """Moments of every static batch norm of a part (see `models.statistics.collect`).

    Where the request mixes noise norms in, they are estimated on adversarial inputs, as they are trained: each net of a
    mixture on its own. Where it does not, they see clean inputs, since nobody is going to use them.

    Args:
        module: with the part loaded; left in evaluation mode.
        examples: the device's training examples.
        request: where to compute, and how to attack.
        context: of the device.
    """
    device = device_named(request.work.device)
    examples = examples.to(device)
    size = batch_of(examples.held)
    training = request.work.adversarial
    noisy = training is not None and training.noise_share and request.network.dual
    attack = attack_of(training, request, context) if training is not None and noisy else None
    parts = [
        collect(net, examples.held.split(size), None if attack is None else _attacked(net, attack, examples, size))
        for net in independent(module)
    ]
    return torch.cat(parts)


def _attacked(net: nn.Module, attack: Attack, examples: Split, size: int) -> list[Tensor]:
    net.train()  # static batch norm has no statistics yet: the attack sees the batch's, as it does in training

    def attacked(x: Tensor, y: Tensor) -> Tensor:
        return attack.perturb(net, lambda found: F.cross_entropy(net(found), y), x)

    return [attacked(x, y) for x, y in examples.batches(size)]
