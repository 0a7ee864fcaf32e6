"""Local training with backward passes of their own (`models.fused`), of some clients at once.

The same steps as `client_app.training.train` takes: the same batches in the same order, the same objective and rule;
sums are made in another order, so weights agree to the order of float32. Clients are computed side by side and each as
if it were alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from time import perf_counter

import torch
from torch import Tensor

from client_app.flat_sgd import FlatSGD
from client_app.training import Trained
from data import Augmentation, Split, batches
from models.fused.layers import one_hot
from models.fused.network import FusedNetwork
from protocol import Optimiser, Work

_AT_ONCE = 1 << 20  # numbers of the inputs that are picked at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """One client of a batch.

    Attributes:
        examples: its training examples.
        draws: generator of its batch order and augmentation.
        absent: bool [classes], classes whose logits count as 0; None is none.
    """

    examples: Split
    draws: torch.Generator
    absent: Tensor | None = None


@torch.inference_mode()
def train_fused(
    network: FusedNetwork,
    flats: Tensor,
    learners: Sequence[Learner],
    optimiser: Optimiser,
    work: Work,
    *,
    augmentation: Augmentation | None = None,
) -> list[Trained]:
    """Train a network of some clients in place.

    Args:
        network: of as many clients.
        flats: their parameters, a flat vector each [K, P]: what they begin from, and then what they have learnt.
        learners: the clients; their batches must be of the same sizes.
        optimiser: settings of this round's SGD.
        work: epochs or steps, batch size.
        augmentation: what happens to the images of a batch; None is nothing.
    """
    own, absent = network.coordinates, _absent(learners, network.classes)
    own.read(flats)
    rule = FlatSGD(own.weights, own.gradients, optimiser)
    said = _Said(work.measure.squared_loss)
    computing = 0.0
    for x, y in _batches(network, learners, work, augmentation):
        began = perf_counter()
        step = network.of(y.shape[2])
        step.inputs.copy_(x)
        logs = step.differentiate(y, absent)
        rule.step()
        said.add(logs, y)
        computing += perf_counter() - began
    trained = said.trained(len(learners), computing / len(learners))
    flats.mul_(rule.untouched)
    own.write(own.weights, flats)
    return trained


def _batches(
    network: FusedNetwork, learners: Sequence[Learner], work: Work, augmentation: Augmentation | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs [K, ..., B] and one-hot labels [K, classes, B] of every step.

    Without augmentation the examples of many steps are picked at once: picking costs as much for a few as for many.
    """
    wanted = [one_hot(one.examples.labels, network.classes, network.coordinates.weights) for one in learners]
    orders = [
        batches(len(one.examples.labels), work.batch_size, one.draws, work.local_epochs, work.local_steps)
        for one in learners
    ]
    examples = _AT_ONCE // prod(network.input_shape)
    largest = min(work.batch_size, max(len(one.examples.labels) for one in learners))
    at_once = 1 if augmentation is not None else max(1, examples // max(1, largest))
    steps = zip(*orders, strict=True)
    while group := list(islice(steps, at_once)):
        picked, labels = [], []
        for one, own, rows in zip(learners, wanted, zip(*group, strict=True), strict=True):
            every = torch.cat(rows)
            x = one.examples.held.index_select(0, every)
            picked.append((x if augmentation is None else augmentation(x, one.draws)).movedim(0, -1))
            labels.append(own.index_select(0, every).t())
        inputs, classes = torch.stack(picked), torch.stack(labels)
        end = 0
        for rows in group:
            begin, end = end, end + len(rows[0])
            yield inputs[..., begin:end], classes[..., begin:end]


def _absent(learners: Sequence[Learner], classes: int) -> Tensor | None:
    """Absent classes of all clients, bool [K, classes, 1]; None where nobody lacks any."""
    if all(one.absent is None for one in learners):
        return None
    nothing = torch.zeros(classes, dtype=torch.bool)
    return torch.stack([nothing if one.absent is None else one.absent for one in learners]).unsqueeze(2)


class _Said:
    """What the steps came to. Looked at now and then, since that costs as much for a few examples as for many.

    Args:
        squared: whether the mean of squared losses is asked for.
    """

    def __init__(self, squared: bool) -> None:
        self._squared, self._steps, self._numbers = squared, 0, 0
        self._new: list[tuple[Tensor, Tensor]] = []
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []

    def add(self, logs: Tensor, wanted: Tensor) -> None:
        """Take a step: logarithms of the probabilities and one-hot labels [K, classes, B]."""
        self._new.append((logs, wanted))
        self._steps += 1
        self._numbers += logs.numel()
        if self._numbers > _AT_ONCE:
            self._look()

    def _look(self) -> None:
        logs, wanted = (torch.cat(parts, 2) for parts in zip(*self._new, strict=True))
        self._losses.append(logs.mul(wanted).sum(1).neg_())
        self._right.append(logs.argmax(1) == wanted.argmax(1))
        self._new, self._numbers = [], 0

    def trained(self, clients: int, computing: float) -> list[Trained]:
        """For every client, with so many seconds each."""
        if self._new:
            self._look()
        if not self._steps:
            square = 0.0 if self._squared else None
            return [Trained(loss=0.0, accuracy=0.0, steps=0, seconds_computing=0.0, loss_square=square)] * clients
        losses, right = torch.cat(self._losses, 1), torch.cat(self._right, 1)
        return [
            Trained(
                loss=own.mean(dtype=torch.float64).item(),
                accuracy=hits.double().mean().item(),
                steps=self._steps,
                seconds_computing=computing,
                loss_square=own.square().mean().item() if self._squared else None,
            )
            for own, hits in zip(losses, right, strict=True)
        ]
