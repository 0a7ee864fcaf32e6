"""Wide layers that take their own step learn what autograd and SGD learn, but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client_app import stepped_layers as stepped
from client_app.stepped_layers import stepped_layers
from client_app.training import train
from data import Split
from models.algebra.plans import Plan
from models.networks.build import build_part
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from protocol import Measurements, Optimiser, Work
from protocol.requests import AdversarialTraining
from protocol.training_way import MOST_LINEAR, steps_in_layers

RULE, WHOLE, PLAIN = Optimiser(0.05), Plan(), Work(batch_size=10)
OTHERS = [
    Optimiser(0.05, 0.9),
    Optimiser(0.05, weight_decay=1e-3),
    Optimiser(0.05, clip_norm=1.0),
    Optimiser(0.05, proximal=0.1),
]


class Twice(nn.Module):
    """A wide layer that is used twice, in vectors and in rows of them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = nn.Linear(520, 520), nn.Linear(520, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.wide(self.wide(x).relu()).relu() + self.wide(x[:, None]).squeeze(1))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.other, self.last = nn.Linear(520, 520), nn.Linear(520, 520), nn.Linear(520, 4)
        self.other.weight = self.wide.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.other(self.wide(x).relu()).relu())  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "once": lambda: nn.Sequential(
        nn.Linear(520, 600), nn.ReLU(), nn.Linear(600, 520, bias=False), nn.ReLU(), nn.Linear(520, 4)
    ),
    "twice": Twice,
    "tied": Tied,
}


def _learnt(make: Callable[[], nn.Module], rule: Optimiser, *, in_layers: bool) -> tuple[list[Tensor], list[Any]]:
    torch.manual_seed(0)
    module, draws = make(), torch_generator(1, 0, "test", "examples")
    examples = Split(torch.randn(50, 520, generator=draws), torch.randint(4, (50,), generator=draws))

    def loss(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = module(x)
        return F.cross_entropy(logits, y), logits

    trained = train(
        module,
        examples,
        loss,
        rule,
        Work(local_epochs=3, batch_size=10),
        draws=torch_generator(2, 0, "test", "batches"),
        augmentation=None,
        in_layers=in_layers,
    )
    assert "forward" not in {name for one in module.modules() for name in vars(one)}
    return [one.detach() for one in module.parameters()], [trained.loss, trained.accuracy]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_learnt_is_the_same_to_rounding(name: str) -> None:
    found, said = _learnt(NETWORKS[name], RULE, in_layers=True)
    wanted, expected = _learnt(NETWORKS[name], RULE, in_layers=False)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert said == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("has_onednn", [True, False])
def test_a_wide_weight_has_no_gradient_and_moves_in_the_backward_pass(
    monkeypatch: pytest.MonkeyPatch, *, has_onednn: bool
) -> None:
    if has_onednn and not stepped._BY_ONEDNN:
        pytest.skip("oneDNN is not used here")
    monkeypatch.setattr(stepped, "_BY_ONEDNN", has_onednn)
    layer, narrow = nn.Linear(520, 520), nn.Linear(520, 8)
    assert layer.weight.numel() > MOST_LINEAR >= narrow.weight.numel()
    x, before = torch.randn(10, 520, requires_grad=True), layer.weight.detach().clone()
    with stepped_layers(nn.Sequential(layer, narrow), 0.1) as layers:
        layers.begin()
        y = layer(x)
        assert [one.linear for one in layers.layers] == [layer]
        y.backward(dy := torch.randn_like(y))
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.weight.detach(), before - 0.1 * dy.t() @ x.detach())
    torch.testing.assert_close(x.grad, dy @ before)
    torch.testing.assert_close(layer.bias.grad, dy.sum(0))
    torch.testing.assert_close(y.detach(), F.linear(x, before, layer.bias).detach())


def test_gradients_that_stand_in_one_place() -> None:
    """A sum's gradient is one number for all: nothing that lies in memory as a matrix does."""
    layer = nn.Linear(520, 600)
    x, before = torch.randn(520, 10).t().requires_grad_(), layer.weight.detach().clone()
    with stepped_layers(layer, 0.1) as layers:
        layers.begin()
        layer(x).sum().backward()
    dy = torch.ones(10, 600)
    torch.testing.assert_close(layer.weight.detach(), before - 0.1 * dy.t() @ x.detach())
    torch.testing.assert_close(x.grad, dy @ before)


def test_layers_that_somebody_watches_or_holds_are_left_alone() -> None:
    watched, held = nn.Linear(520, 520), nn.Linear(520, 520)
    masked = nn.Linear(520, 520)
    watched.register_forward_hook(lambda *_: None)
    held.weight.requires_grad = False
    masked.weight.register_hook(lambda gradient: gradient * 0)  # type: ignore[no-untyped-call]
    with stepped_layers(nn.ModuleList([watched, held, masked]), 0.1) as layers:
        assert layers.layers == []


def test_the_wide_layer_of_a_network_of_ours_is_found() -> None:
    module = build_part(completed(NetworkSpec("cnn-flat", (3, 32, 32), 10)), Plan())
    with stepped_layers(module, 0.1) as layers:
        assert [tuple(one.linear.weight.shape) for one in layers.layers] == [(128, 12544)]


def test_it_is_put_back_after_an_error() -> None:
    layer = nn.Linear(520, 520)
    with pytest.raises(KeyError), stepped_layers(layer, 0.1):
        raise KeyError
    assert "forward" not in vars(layer)


@pytest.mark.parametrize(
    "other",
    [
        {"work": Work(train_as="loop")},
        {"work": Work(mixed_precision=True)},
        {"work": Work(adversarial=AdversarialTraining(weight=0.5))},
        {"objective": "self-distillation"},
        {"regularised": True},
        {"network": "mlp"},  # narrow
        *({"optimiser": rule} for rule in OTHERS),
    ],
    ids=str,
)
def test_who_decides_goes_by_what_is_asked(other: dict[str, Any]) -> None:
    def said(
        network: str = "cnn-flat",
        work: Work = PLAIN,
        objective: str = "cross-entropy",
        optimiser: Optimiser = RULE,
        *,
        regularised: bool = False,
    ) -> bool:
        spec = completed(NetworkSpec(network, (3, 32, 32), 10, widths=(32, 64, 128) if network != "mlp" else (32, 16)))
        return steps_in_layers(spec, WHOLE, work, objective, optimiser, regularised=regularised)

    assert said()
    assert said(work=Work(measure=Measurements(norm=True)))
    assert not said(**other)


def test_networks_that_are_not_built_in_may_use_a_weight_as_they_like(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = completed(NetworkSpec("cnn-flat", (3, 32, 32), 10))
    assert steps_in_layers(spec, WHOLE, PLAIN, "cross-entropy", RULE, regularised=False)
    monkeypatch.setattr("protocol.training_way.NETWORKS", {"mlp": None})
    assert not steps_in_layers(spec, WHOLE, PLAIN, "cross-entropy", RULE, regularised=False)
