"""The one training loop."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from client_app.objectives import LocalObjective
from client_app.sgd import SGD
from data import Augmentation, Split, batches
from models.device import device_named
from protocol import Optimiser, Work


@dataclass(frozen=True, slots=True)
class Trained:
    """What a round of local training came to.

    Attributes:
        loss: mean training loss over all steps, weighted by batch size (nats).
        accuracy: share of training examples predicted correctly while training.
        steps: optimiser steps.
        seconds_computing: wall seconds in forward, backward and optimiser.
    """

    loss: float
    accuracy: float
    steps: int
    seconds_computing: float


def train(
    module: nn.Module, examples: Split, objective: LocalObjective, optimiser: Optimiser, work: Work, *,
    draws: torch.Generator, augmentation: Augmentation,
) -> Trained:  # fmt: skip
    """Train a network in place.

    Args:
        module: the network; left in training mode.
        examples: the client's training examples.
        objective: gives the loss of a batch.
        optimiser: settings of this round's SGD.
        work: epochs, batch size, precision and device.
        draws: generator of the batch order and the augmentation.
        augmentation: what happens to the images of a batch.
    """
    device = device_named(work.device)
    inputs, labels = examples.inputs.to(device), examples.labels.to(device)
    module.train()
    sgd = SGD(module.parameters(), optimiser)
    precision: AbstractContextManager[object] = (
        torch.autocast(device.type, dtype=torch.bfloat16) if work.mixed_precision else nullcontext()
    )
    # Kept on the device: reading a number there after every step would wait for it.
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    steps = seen = 0
    computing = 0.0
    for index in batches(len(examples), work.batch_size, draws, work.local_epochs):
        x, y = _batch(inputs, labels, index.to(device))
        x = augmentation(x, draws)
        began = perf_counter()
        sgd.zero_grad()
        with precision:
            loss, logits = objective(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
        loss_sum += loss.detach() * len(y)
        correct += (logits.detach().argmax(1) == y).sum()
        computing += perf_counter() - began
        steps, seen = steps + 1, seen + len(y)
    sgd.zero_grad()
    return Trained(loss_sum.item() / max(1, seen), correct.item() / max(1, seen), steps, computing)


def _batch(inputs: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    return inputs.index_select(0, index), labels.index_select(0, index)
