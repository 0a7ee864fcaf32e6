"""Local training with backward passes of their own (`models.fused`), of some clients at once.

The same steps as `client_app.training.train` takes: the same batches in the same order, the same objective and rule;
sums are made in another order, so weights agree to the order of float32. Clients are computed side by side wherever
their next batches have one size, and each as if it were alone, bit for bit. That is tried and not assumed: the first
step of every number of clients and examples is taken both ways, and where this machine's sums differ, each is computed
alone from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from time import perf_counter

import torch
from torch import Tensor

from client_app.flat_sgd import FlatSGD
from client_app.training import Trained
from data import Augmentation, Split, batches, most_together
from models.fused.layers import one_hot
from models.fused.network import FusedNetwork
from protocol import Optimiser, Work

Networks = Callable[[int], FusedNetwork]  # one network of so many clients, in one memory
_UNSEEN = 1 << 17  # numbers that steps came to, of a client, before they are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What a client brings to its training.

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
    networks: Networks,
    starts: Tensor,
    learners: Sequence[Learner],
    optimiser: Optimiser,
    work: Work,
    *,
    into: Tensor,
    augmentation: Augmentation | None = None,
) -> list[Trained]:
    """Train a network of some clients.

    Args:
        networks: of as many clients, and of fewer where they have not the same number of examples.
        starts: their parameters, a flat vector each [K, P].
        learners: the clients.
        optimiser: settings of this round's SGD.
        work: epochs or steps, batch size.
        into: where what they have learnt goes [K, P]: `starts` themselves, or others.
        augmentation: what happens to the images of a batch; None is nothing.
    """
    network = networks(len(learners))
    own = network.coordinates
    own.read(starts)
    clients = [
        _Client(
            weights,
            FlatSGD(weights, optimiser),
            learner,
            _batches(network, learner, work, augmentation),
            squared=work.measure.squared_loss,
        )
        for weights, learner in zip(own.weights, learners, strict=True)
    ]
    while some := _next(clients, work.batch_size):
        began = perf_counter()
        used = network if len(some) == len(clients) else networks(len(some))
        for client, logs, gradient in _differentiated(used, networks, some):
            client.learn(logs, gradient)
        share = (perf_counter() - began) / len(some)
        for client in some:
            client.computing += share
            client.advance()
    own.write_others(starts, [client.rule.untouched for client in clients], into)
    own.write(own.weights, into)
    _look([client.said for client in clients])
    return [client.said.trained(client.computing) for client in clients]


class _Client:
    """A client under way.

    Attributes:
        weights: its parameters, of those coordinates that a step moves [P'].
        rule: its optimiser.
        absent: bool [classes, 1], classes whose logits count as 0; None is none.
        x: inputs of the next batch [..., B].
        y, labels: its labels, one-hot [classes, B] and as they are [B].
        size: B; 0 after the last one.
        said: what its steps came to.
        computing: seconds.
    """

    def __init__(
        self,
        weights: Tensor,
        rule: FlatSGD,
        learner: Learner,
        batches_of_its_own: Iterator[tuple[Tensor, Tensor, Tensor]],
        *,
        squared: bool,
    ) -> None:
        self.weights, self.rule = weights, rule
        self.absent = None if learner.absent is None else learner.absent.unsqueeze(1)
        self.said, self.computing = _Said(squared), 0.0
        self._batches = batches_of_its_own
        self.advance()

    def learn(self, logs: Tensor, gradient: Tensor) -> None:
        """Take the step of the batch.

        Args:
            logs: logarithms of the probabilities [classes, B].
            gradient: of the weights, written over.
        """
        self.rule.step(gradient)
        self.said.add(logs, self.labels)

    def advance(self) -> None:
        """Turn to the next batch."""
        following = next(self._batches, None)
        if following is None:
            self.size = 0
        else:
            self.x, self.y, self.labels = following
            self.size = self.labels.numel()


def _next(clients: Sequence[_Client], usual: int) -> list[_Client]:
    """Who takes the next step: those whose batches are the shortest or longest first, so that the others stay together.

    None is left at the end.
    """
    sizes = dict.fromkeys(client.size for client in clients)
    size = next((size for size in sizes if size not in (0, usual)), usual)
    return [client for client in clients if client.size == size]


def _differentiated(
    network: FusedNetwork, networks: Networks, some: Sequence[_Client]
) -> Iterator[tuple[_Client, Tensor, Tensor]]:
    """Clients, whose next batches have one size, with logarithms of the probabilities and the gradient of each.

    Each is to be used before the next one is asked for.

    Args:
        network: of as many clients.
        networks: of others.
        some: the clients.
    """
    key = some[0].size, torch.get_num_threads()  # sums depend on both
    if len(some) == 1 or network.as_alone.get(key):
        yield from zip(some, *_gradients(network, some), strict=True)
        return
    tried = None if key in network.as_alone else _gradients(network, some)
    alone, same = networks(1), True
    for i, client in enumerate(some):
        logs, gradients = _gradients(alone, [client])
        if tried is not None:
            same = same and _same_bits(tried[0][i], logs[0]) and _same_bits(tried[1][i], gradients[0])
        yield client, logs[0], gradients[0]
    network.as_alone.setdefault(key, same)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of float32 are the same, NaN as any number."""
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


def _gradients(network: FusedNetwork, some: Sequence[_Client]) -> tuple[Tensor, Tensor]:
    """Logarithms of the probabilities [K, classes, B] and gradients [K, P'] of clients side by side."""
    wanted = some[0].y[None] if len(some) == 1 else torch.stack([client.y for client in some])
    absent, step = _absent(some, network.classes), network.of(some[0].size)
    for row, weights, client in zip(step.rows, network.coordinates.weights, some, strict=True):
        row.copy_(client.x)
        if weights.data_ptr() != client.weights.data_ptr():
            weights.copy_(client.weights)
    return step.differentiate(wanted, absent), network.coordinates.gradients


def _batches(
    network: FusedNetwork, learner: Learner, work: Work, augmentation: Augmentation | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Inputs [..., B], one-hot labels [classes, B] and labels [B] of every step."""
    labels, held, draws = learner.examples.labels, learner.examples.held, learner.draws
    steps = batches(len(labels), work.batch_size, draws, work.local_epochs, work.local_steps)
    many = 1 if augmentation is not None else most_together(work.batch_size, len(labels), prod(network.input_shape))
    while group := list(islice(steps, many)):
        every, sizes = torch.cat(group), [rows.numel() for rows in group]
        x = held.index_select(0, every)
        inputs = (x if augmentation is None else augmentation(x, draws)).movedim(0, -1)
        picked = labels.index_select(0, every)
        wanted = one_hot(picked, network.classes, network.coordinates.weights)
        yield from zip(*(one.split_with_sizes(sizes, -1) for one in (inputs, wanted, picked)), strict=True)


def _absent(some: Sequence[_Client], classes: int) -> Tensor | None:
    """Absent classes of some clients, bool [K, classes, 1]; None where nobody lacks any."""
    if all(client.absent is None for client in some):
        return None
    nothing = torch.zeros(classes, 1, dtype=torch.bool)
    return torch.stack([nothing if client.absent is None else client.absent for client in some])


class _Said:
    """What a client's steps came to. Looked at now and then, since that costs as much for a few examples as for many.

    Args:
        squared: whether the mean of squared losses is asked for.

    Attributes:
        new: logarithms of the probabilities [classes, B] and labels [B] of steps that were not looked at.
        examples: of those steps.
    """

    def __init__(self, squared: bool) -> None:
        self._squared, self._steps, self._numbers = squared, 0, 0
        self.new, self.examples = list[tuple[Tensor, Tensor]](), 0
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []

    def add(self, logs: Tensor, labels: Tensor) -> None:
        """Take a step: logarithms of the probabilities [classes, B] and labels [B]."""
        self.new.append((logs, labels))
        self._steps += 1
        self.examples += labels.numel()
        self._numbers += logs.numel()
        if self._numbers > _UNSEEN:
            _look([self])

    def looked_at(self, losses: Tensor, right: Tensor) -> None:
        """Take what the new steps came to: loss, and whether the largest was the right one, of each example."""
        self._losses.append(losses)
        self._right.append(right)
        self.new, self.examples, self._numbers = [], 0, 0

    def trained(self, computing: float) -> Trained:
        """What they came to, in so many seconds."""
        if not self._steps:
            square = 0.0 if self._squared else None
            return Trained(loss=0.0, accuracy=0.0, steps=0, seconds_computing=0.0, loss_square=square)
        losses, right = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (self._losses, self._right))
        return Trained(
            loss=losses.mean(dtype=torch.float64).item(),
            accuracy=int(right.count_nonzero()) / len(right),
            steps=self._steps,
            seconds_computing=computing,
            loss_square=losses.square().mean().item() if self._squared else None,
        )


def _look(some: Sequence[_Said]) -> None:
    """See what the steps of some clients came to that were not looked at, all at once."""
    some = [one for one in some if one.new]
    if not some:
        return
    logs, labels = (torch.cat(parts, -1) for parts in zip(*(step for one in some for step in one.new), strict=True))
    losses, right = logs.gather(0, labels[None])[0].neg_(), logs.max(0).indices == labels  # argmax takes longer
    sizes = [one.examples for one in some]
    for one, own, well in zip(some, losses.split_with_sizes(sizes), right.split_with_sizes(sizes), strict=True):
        one.looked_at(own, well)
