"""FedAvgM: server momentum as its paper has it, and plain FedAvg at its ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.algebra.plans import Plan
from models.networks.build import submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from strategies import FedAvgM, Settings
from tests.parity.rounds import state_of
from tests.support import Player, half_of

SPEC = completed(NetworkSpec("cnn", (1, 8, 8), 5, widths=(4, 6), norm="static-batch"))
KEYS: dict[str, Any] = {"fedavgm_server_momentum": 0.5, "fedavgm_server_learning_rate": 0.7, "num_server_rounds": 4}


@pytest.mark.parametrize(("beta", "rate"), [(0.9, 1.0), (0.5, 0.3), (0.0, 2.0)])
def test_some_rounds_are_the_papers(beta: float, rate: float) -> None:
    """v ← β·v + Δ and w ← w + η·v, in float64."""
    strategy = FedAvgM(SPEC, Settings(), **{"server-momentum": beta, "server-learning-rate": rate})
    main, context, whole = strategy.runner.main, strategy.context(1), submodel(SPEC, Plan())
    for name, tensor in state_of(SPEC).items():
        main.tensors[name].copy_(tensor)
    expected = {name: tensor.double().clone() for name, tensor in main.tensors.items()}
    velocity = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    draws = torch.Generator().manual_seed(2)
    for _ in range(5):
        main.average.reset()
        before = {name: tensor.clone() for name, tensor in main.tensors.items()}
        moved = [(torch.randn(whole.numel, generator=draws), examples) for examples in (3.0, 40.0, 7.0)]
        for difference, examples in moved:
            main.average.add(whole, difference, examples, examples)
        main.average.finish(main.tensors, out=main.tensors)
        main.remembered = strategy.refine(context, before, main.tensors, main.average, main.remembered)
        mean = whole.split(torch.stack([difference.double() * n / 50 for difference, n in moved]).sum(0))
        for name, delta in mean.items():
            velocity[name] = beta * velocity[name] + delta
            expected[name] += rate * velocity[name]
            torch.testing.assert_close(main.tensors[name].double(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_what_nobody_sent_keeps_its_value_and_its_momentum() -> None:
    strategy = FedAvgM(SPEC, Settings())
    main, context = strategy.runner.main, strategy.context(1)
    for part, count in ((submodel(SPEC, Plan()), 2), (submodel(SPEC, Plan(context.settings.tiers[1].rate)), 3)):
        main.average.reset()
        before = {name: tensor.clone() for name, tensor in main.tensors.items()}
        for _ in range(count):
            main.average.add(part, torch.ones(part.numel))
        main.average.finish(main.tensors, out=main.tensors)
        known = main.remembered
        main.remembered = strategy.refine(context, before, main.tensors, main.average, known)
    name = "stages.1.0.weight"
    same = main.tensors[name] == before[name]
    assert 0 < int(same.sum()) < same.numel()
    slot = f"velocity/{name}"
    assert torch.equal(main.remembered[slot][same], known[slot][same])
    assert not torch.equal(main.remembered[slot][~same], known[slot][~same])


def test_without_momentum_and_with_a_rate_of_one_it_is_fedavg(play: Player) -> None:
    """Bit for bit."""
    plain = play.once(method="fedavg")
    assert play(method="fedavgm", fedavgm_server_momentum=0.0).hash == plain.hash
    assert play.once(method="fedavgm").hash != plain.hash


@pytest.mark.parametrize("more", [{}, {"clustering": "ifca"}])
def test_the_momentum_is_in_the_checkpoints(play: Player, more: dict[str, Any]) -> None:
    """One for every global state; a resumed run is the uninterrupted one."""
    half = half_of(play, 2, method="fedavgm", **KEYS, **more)
    resumed = play(method="fedavgm", **KEYS, **more, resume=str(half.path))
    assert resumed.hash == play(method="fedavgm", **KEYS, **more).hash
