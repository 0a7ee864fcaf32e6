"""The one training loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import islice
from logging import WARNING
from math import prod
from time import perf_counter

import torch
from flwr.common import log
from torch import nn

from client_app.hardware import has_bfloat16
from client_app.objectives import LocalObjective
from client_app.sgd import SGD
from client_app.stepped_layers import stepped_layers
from data import Augmentation, Split, batches, most_together
from models.adapters.own import own_tensors
from models.losses import CLASSIFICATION, loss_of, right
from models.variants.base_nets import independent
from protocol import Optimiser, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a round of local training came to.

    Attributes:
        loss: mean training loss over all steps, weighted by batch size (nats).
        accuracy: share of training examples predicted correctly while training.
        steps: optimiser steps.
        seconds_computing: wall seconds in forward, backward and optimiser.
        loss_square: mean squared cross entropy per example over all steps; None if it was not asked for.
    """

    loss: float
    accuracy: float
    steps: int
    seconds_computing: float
    loss_square: float | None = None


def train(
    module: nn.Module,
    examples: Split,
    objective: LocalObjective,
    optimiser: Optimiser,
    work: Work,
    *,
    draws: torch.Generator,
    augmentation: Augmentation | None,
    adjust: Callable[[], None] | None = None,
    task: str = CLASSIFICATION,
    memory_format: torch.memory_format = torch.contiguous_format,
    in_layers: bool = False,
) -> Trained:
    """Train a network in place.

    Args:
        module: the network, where it is to be trained; left in training mode.
        examples: the client's training examples.
        objective: gives the loss of a batch.
        optimiser: settings of this round's SGD.
        work: epochs or steps, batch size, precision.
        draws: generator of the batch order and the augmentation.
        augmentation: what happens to the images of a batch; None is nothing.
        adjust: changes the gradients in place before every step, if given.
        task: see `models.losses`.
        memory_format: of a batch of inputs, which decides that of the features.
        in_layers: whether wide linear layers take their steps in the backward pass; see `steps_in_layers`.
    """
    device = next(module.parameters()).device
    inputs, labels = examples.held.to(device), examples.labels.to(device)
    module.train()
    # Each is clipped by itself.
    optimisers = [SGD([*net.parameters(), *own_tensors(net).values()], optimiser) for net in independent(module)]
    precision: AbstractContextManager[object] = nullcontext()
    if work.mixed_precision and has_bfloat16(device):
        precision = torch.autocast(device.type, dtype=torch.bfloat16)
    elif work.mixed_precision:
        _say_without_bfloat16(device.type)
    # Kept on the device: reading a number there after every step would wait for it.
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.float64, device=device)
    squares = torch.zeros((), device=device)
    steps = seen = 0
    computing = 0.0
    for sgd in optimisers:
        sgd.zero_grad()
    stepping = stepped_layers(module, optimiser.learning_rate) if in_layers else nullcontext()
    with stepping as layers:
        steps_to_do = batches(len(labels), work.batch_size, draws, work.local_epochs, work.local_steps)
        many = 1 if augmentation is not None else most_together(work.batch_size, len(labels), prod(inputs.shape[1:]))
        while group := list(islice(steps_to_do, many)):
            rows, sizes = torch.cat(group), [one.numel() for one in group]
            there = rows.to(device)
            # What is stored is on the CPU, and rows that come back from the device would wait for it.
            picked = inputs.index_select(0, there if isinstance(inputs, torch.Tensor) else rows)
            if augmentation is not None:
                picked = augmentation(picked, draws)
            picked, wanted = picked.contiguous(memory_format=memory_format), labels.index_select(0, there)
            for x, y in zip(*(one.split_with_sizes(sizes) for one in (picked, wanted)), strict=True):
                began = perf_counter()
                if layers is not None:
                    layers.begin()
                with precision:
                    loss, logits = objective(x, y)
                loss.backward()  # type: ignore[no-untyped-call]
                if adjust is not None:
                    adjust()
                for sgd in optimisers:
                    sgd.step()
                    sgd.zero_grad()
                loss_sum += loss.detach() * len(y)
                correct += right(task, logits.detach(), y)
                if work.measure.squared_loss:
                    squares += loss_of(task, logits.detach().float(), y, "none").square().sum()
                computing += perf_counter() - began
                steps, seen = steps + 1, seen + len(y)
    square = squares.item() / max(1, seen) if work.measure.squared_loss else None
    return Trained(
        loss=loss_sum.item() / max(1, seen),
        accuracy=correct.item() / max(1, seen),
        steps=steps,
        seconds_computing=computing,
        loss_square=square,
    )


@cache  # once a process
def _say_without_bfloat16(device: str) -> None:
    what = "mixed-precision: this %s has no bfloat16 instructions and trains in float32; false may be faster"
    log(WARNING, what, device)
