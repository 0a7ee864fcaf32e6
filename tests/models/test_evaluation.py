"""Scores: every input goes through a network once, whatever is wanted of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.evaluation import BATCH, Score, answers, evaluate, evaluate_each, score_of
from models.variants.base_nets import BaseNets


class Counting(nn.Module):
    """A linear layer that counts its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.layer(x)  # type: ignore[no-any-return]


class Exits(Counting):
    """Two exits; the second is its own answer."""

    def predictions(self, x: Tensor) -> list[Tensor]:
        out = super().forward(x)
        return [-out, out]


COUNT = BATCH + 70
X, Y = torch.randn(COUNT, 3), torch.randint(4, (COUNT,))


@pytest.mark.parametrize("network", [Counting(), Exits()], ids=["one", "exits"])
def test_one_pass_gives_scores_and_outputs(network: Counting) -> None:
    network.seen, kept = 0, list[Tensor]()
    scores = evaluate_each(network, X, Y, keep=kept)
    assert network.seen == COUNT
    outputs = torch.cat(list(answers(network, X)))
    assert torch.equal(torch.cat(kept), outputs)
    assert scores.own == evaluate(network, X, Y) == score_of(torch.split(outputs, BATCH), Y)
    assert len(scores.each) == (2 if isinstance(network, Exits) else 0)


def test_a_mixture_answers_with_the_mean() -> None:
    mixture, kept = BaseNets([Counting(), Counting()]), list[Tensor]()
    scores = evaluate_each(mixture, X, Y, keep=kept)
    assert torch.equal(torch.cat(kept), torch.cat(list(answers(mixture, X))))
    assert scores.own == scores.ensemble == evaluate(mixture, X, Y)
    assert [one.examples for one in scores.each] == [COUNT, COUNT]


def test_nothing_to_score_on() -> None:
    score: Score = evaluate(Counting(), X[:0], Y[:0])
    assert score.examples == 0
    assert score.loss != score.loss  # not a number


def test_outputs_need_no_gradients() -> None:
    assert not next(answers(Counting(), X)).requires_grad
