from __future__ import annotations

import pytest
import torch
from torch import nn

from client_app.sgd import SGD
from protocol import Optimiser


@pytest.mark.parametrize(
    "rule",
    [
        Optimiser(0.1),
        Optimiser(0.1, momentum=0.9),
        Optimiser(0.1, weight_decay=0.01),
        Optimiser(0.1, clip_norm=0.05),
        Optimiser(0.03, 0.8, weight_decay=5e-4, clip_norm=1.0),
        Optimiser(0.1, proximal=0.2),
        Optimiser(0.03, 0.8, weight_decay=5e-4, clip_norm=0.05, proximal=0.3),
    ],
)
def test_it_is_the_rule_of_torch_optim(rule: Optimiser) -> None:
    """The same numbers as torch.optim.SGD with gradient clipping, over steps in which one layer goes unused."""
    draws = torch.Generator().manual_seed(1)
    ours, theirs = (
        nn.ModuleList([nn.Linear(4, 3) for _ in range(3)]),
        nn.ModuleList([nn.Linear(4, 3) for _ in range(3)]),
    )
    theirs.load_state_dict(ours.state_dict())
    start = [parameter.detach().clone() for parameter in theirs.parameters()]
    mine = SGD(ours.parameters(), rule)
    reference = torch.optim.SGD(theirs.parameters(), rule.learning_rate, rule.momentum, weight_decay=rule.weight_decay)
    for step in range(6):
        x = torch.randn(5, 4, generator=draws)
        used = [layer for layer in range(3) if layer != step % 2]
        for layers, zero in ((ours, mine.zero_grad), (theirs, reference.zero_grad)):
            zero()
            torch.stack([layers[i](x).square().sum() for i in used]).sum().backward()  # type: ignore[no-untyped-call]
        if rule.clip_norm:
            nn.utils.clip_grad_norm_(theirs.parameters(), rule.clip_norm)
        for parameter, sent in zip(theirs.parameters(), start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - sent, alpha=rule.proximal)
        mine.step()
        reference.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_gradients_of_features_with_channels_innermost_are_in_the_order_of_the_weights() -> None:
    """The operation reads memory as it lies, so numbers in another order would go to other weights."""
    ours, theirs = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    theirs.load_state_dict(ours.state_dict())
    rule = Optimiser(0.1, 0.9, weight_decay=0.01, clip_norm=0.05)
    mine = SGD(ours.parameters(), rule)
    reference = torch.optim.SGD(theirs.parameters(), rule.learning_rate, rule.momentum, weight_decay=rule.weight_decay)
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for layer, given, zero in (
            (ours, x.contiguous(memory_format=torch.channels_last), mine.zero_grad),
            (theirs, x, reference.zero_grad),
        ):
            zero()
            layer(given).square().sum().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), rule.clip_norm)
        mine.step()
        reference.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_parameters_that_do_not_lie_together_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        SGD([nn.Parameter(torch.zeros(3, 4)[:, :2])], Optimiser(0.1))


def test_momentum_begins_at_zero_every_round() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    for _ in range(2):
        sgd = SGD([parameter], Optimiser(1.0, momentum=0.9))
        parameter.data.zero_()
        parameter.grad = torch.ones(1)
        sgd.step()
        assert parameter.item() == -1.0


def test_without_gradients_nothing_moves() -> None:
    parameter = nn.Parameter(torch.ones(3))
    SGD([parameter], Optimiser(1.0, 0.9, weight_decay=0.1, clip_norm=1.0)).step()
    assert torch.equal(parameter, torch.ones(3))
