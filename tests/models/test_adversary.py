"""Projected gradient descent stays where it may go and does harm; dual norms keep clean and noisy inputs apart."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from models import NetworkSpec, Plan, build, build_part, completed, initial_state, layout, submodel, torch_generator
from models.adversary import Attack, robust_accuracy
from models.evaluation import evaluate
from models.networks.registry import NETWORKS
from models.norms.dual_norm import dual_norms, noise_share, noise_share_of
from models.norms.layers import BatchNormPerWidth, Scaler, StaticBatchNorm
from models.statistics import collect, set_statistics, static_norms
from tests.models.inputs import drawn, kind_of

RATES = tuple(Fraction(1, n) for n in (4, 2, 1))
LOW, HIGH = torch.tensor([-1.5, -0.5]).view(2, 1, 1), torch.tensor([2.0, 4.0]).view(2, 1, 1)


def _attack(epsilon: float = 0.1, steps: int = 7, seed: int = 0) -> Attack:
    return Attack(epsilon=epsilon, steps=steps, low=LOW, high=HIGH, draws=torch.Generator().manual_seed(seed))


def _images(count: int, seed: int = 0) -> Tensor:
    """Within the range, on its edges too."""
    draws = torch.Generator().manual_seed(seed)
    return (LOW + (HIGH - LOW) * (1.2 * torch.rand(count, 2, 8, 8, generator=draws) - 0.1)).clamp(LOW, HIGH)


def _spec(norm: str, *, dual: bool = True) -> NetworkSpec:
    return completed(
        NetworkSpec("cnn", (2, 8, 8), 5, widths=(4, 6, 8, 8), norm=norm, scaler=True, rates=RATES, dual=dual)
    )


def _network(norm: str, *, dual: bool = True, plan: Plan | None = None) -> nn.Module:
    spec, plan = _spec(norm, dual=dual), plan or Plan()
    network = build_part(spec, plan)
    state = initial_state(spec, torch_generator(0, 0, "server", "initial"))
    network.load_state_dict(submodel(spec, plan).gather({name: 2 * tensor for name, tensor in state.items()}))
    return network.train()


# ---- the attack ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    epsilon=st.floats(1e-3, 1),
    steps=st.integers(1, 4),
    seed=st.integers(0, 99),
    norm=st.sampled_from(["static-batch", "batch-per-width", "group", "none"]),
)
def test_it_stays_in_the_ball_and_in_the_range(epsilon: float, steps: int, seed: int, norm: str) -> None:
    network, x, y = _network(norm), _images(6, seed), torch.arange(6) % 5
    before = x.clone()
    found = _attack(epsilon, steps, seed).perturb(network, lambda a: F.cross_entropy(network(a), y), x)
    assert torch.equal(x, before)
    assert not found.requires_grad
    assert bool(((found >= LOW) & (found <= HIGH)).all())
    assert bool(((found - x).abs() <= epsilon * (HIGH - LOW) * (1 + 1e-5) + 1e-6).all())
    assert not torch.equal(found, x)


@pytest.mark.parametrize("norm", ["static-batch", "batch-per-width", "group", "none"])
def test_it_raises_the_loss_more_than_noise_does(norm: str) -> None:
    network, x, y = _network(norm).eval(), _images(40), torch.arange(40) % 5
    if norm == "static-batch":
        set_statistics(network, collect(network, [x]))

    def loss(a: Tensor) -> Tensor:
        return F.cross_entropy(network(a), y)

    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) * 2 - 1
    shaken = (x + 0.05 * (HIGH - LOW) * noise.sign()).clamp(LOW, HIGH)
    found = _attack(0.05).perturb(network, loss, x, 0.0)
    assert loss(found) > loss(shaken) + 0.02
    assert loss(found) > loss(_attack(0.05, steps=1).perturb(network, loss, x, 0.0))


def test_an_input_outside_of_the_range_may_stay_there() -> None:
    network, y = _network("group"), torch.arange(4)
    x = _images(4) + 5
    found = _attack(0.01).perturb(network, lambda a: F.cross_entropy(network(a), y), x)
    assert bool(((found - x).abs() <= 0.01 * (HIGH - LOW) + 1e-6).all())


@pytest.mark.parametrize("norm", ["static-batch", "batch-per-width"])
def test_it_leaves_no_trace(norm: str) -> None:
    """Mode, share, gradients, running statistics: as before. And it sees no scaler."""
    network, x, y = _network(norm, plan=Plan(Fraction(1, 2))), _images(6), torch.arange(6) % 5
    network.register_buffer("unused", torch.zeros(1))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes: set[bool] = set()
    for module in network.modules():
        if isinstance(module, Scaler):
            module.register_forward_hook(lambda layer, *_: modes.add(layer.training))
    with noise_share(network, 0.25):
        _attack().perturb(network, lambda a: F.cross_entropy(network(a), y), x)
        assert noise_share_of(network) == 0.25
    assert modes == {False}
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_the_step_is_the_published_one() -> None:
    """min(1.25·8, 8 + 4)/7 of 255 at ε = 8/255; for large ε the second is less."""
    for epsilon, step in ((8, 10 / 7), (40, 44 / 7)):
        attack = Attack(epsilon=epsilon / 255, steps=7, low=LOW, high=HIGH, draws=torch.Generator())
        assert 255 * attack._step == pytest.approx(step)


def test_robust_accuracy_is_of_the_attacked_and_repeats() -> None:
    network, x = _network("group"), _images(60)
    with torch.no_grad():
        y = network.eval()(x).argmax(1)  # so it is always right on clean inputs
    small, large = (robust_accuracy(network, x, y, _attack(e), batch_size=17) for e in (1e-6, 0.2))
    assert small == 1.0
    assert large < 0.7
    assert large == robust_accuracy(network, x, y, _attack(0.2), batch_size=17)
    assert robust_accuracy(network, x[:0], y[:0], _attack()) != robust_accuracy(network, x[:0], y[:0], _attack())  # nan


# ---- dual norms ------------------------------------------------------------------------------------------------------

NORMED = [(name, norm) for name, network in NETWORKS.items() for norm in network.norms if norm != "none"]


@pytest.mark.parametrize(("name", "norm"), NORMED)
def test_every_norm_exists_twice_and_is_declared(name: str, norm: str) -> None:
    spec = completed(NetworkSpec(name, classes=5, norm=norm, rates=RATES, dual=True, **kind_of(name)))  # type: ignore[arg-type]
    single = replace(spec, dual=False)
    for plan in (Plan(), Plan(Fraction(1, 2))):
        built = {key: tuple(tensor.shape) for key, tensor in build_part(spec, plan).state_dict().items()}
        assert built == {key: block.local_shape for key, block in submodel(spec, plan).items()}
        once, twice = (submodel(s, plan).numel for s in (single, spec))
        norms = sum(b.numel for n, b in submodel(single, plan).items() if layout(single).tensors[n].role == "norm")
        assert twice - once == norms > 0
    network = build(spec)
    assert len(dual_norms(network)) > 0
    with torch.device("meta"):
        assert build(single).train()(torch.zeros_like(drawn(spec, 2), device="meta")).shape == (2, 5)
    assert NetworkSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("norm", ["static-batch", "batch-per-width", "group"])
def test_the_ends_are_the_single_networks(norm: str) -> None:
    """λ_t = 0 computes with the clean copies only, 1 with the noise copies only, 1/2 neither."""
    spec, x = _spec(norm), _images(8)
    state = _state_with_different_norms(spec)
    network = build(spec)
    network.load_state_dict(state)
    network.train()
    outputs = {}
    for share, own in ((0.0, "clean"), (1.0, "noise")):
        alone = build(replace(spec, dual=False))
        alone.load_state_dict(_single(state, own))
        with noise_share(network, share):
            outputs[share] = network(x)
        assert torch.equal(outputs[share], alone.train()(x))
    with noise_share(network, 0.5):
        half = network(x)
    assert not torch.allclose(outputs[0.0], outputs[1.0])
    assert not torch.allclose(half, outputs[0.0])
    assert not torch.allclose(half, outputs[1.0])


def _state_with_different_norms(spec: NetworkSpec) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(4)
    state = initial_state(spec, torch_generator(0, 0, "server", "initial"))
    for name, tensor in state.items():
        if layout(spec).tensors[name].role == "norm":
            tensor.add_(torch.rand(tensor.shape, generator=draws), alpha=0.3)
    return state


def _single(state: dict[str, Tensor], own: str) -> dict[str, Tensor]:
    """What a network without dual norms has of it."""
    other = {"clean": ".noise.", "noise": ".clean."}[own]
    return {name.replace(f".{own}.", "."): tensor for name, tensor in state.items() if other not in name}


@pytest.mark.parametrize("norm", ["static-batch", "batch-per-width", "group"])
def test_one_layer_mixes_outputs(norm: str) -> None:
    network = _network(norm)
    layer, x = dual_norms(network)[0], torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in layer.noise.parameters():
            parameter.add_(0.5)
    layer.share = 0.25
    torch.testing.assert_close(layer(x), 0.75 * layer.clean(x) + 0.25 * layer.noise(x))


def test_adversarial_batches_do_not_touch_the_clean_copies() -> None:
    """Neither running statistics nor gradients; and the other way round."""
    for share, touched in ((0.0, "clean"), (1.0, "noise")):
        network = _network("batch-per-width")
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with noise_share(network, share):
            network(_images(8) + 1).square().sum().backward()
        moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
        learnt = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
        of_norms = {name for name in moved | learnt if ".clean." in name or ".noise." in name}
        assert of_norms
        assert all(f".{touched}." in name for name in of_norms)
    assert any(isinstance(module, BatchNormPerWidth) for module in network.modules())


def test_statistics_of_each_copy_are_of_its_own_inputs() -> None:
    network, clean, noisy = _network("static-batch"), _images(20), _images(20, seed=9) * 0.5
    moments = collect(network, torch.split(clean, 10), list(torch.split(noisy, 10)))
    set_statistics(network, moments)
    for share, batches in ((0.0, clean), (1.0, noisy)):
        alone = build(replace(_spec("static-batch"), dual=False))
        alone.load_state_dict(_single(dict(network.state_dict()), "noise" if share else "clean"))
        set_statistics(alone, collect(alone, torch.split(batches, 10)))
        x = _images(7, seed=3)
        with noise_share(network.eval(), share), torch.no_grad():
            torch.testing.assert_close(network(x), alone.eval()(x))


def test_without_adversarial_inputs_both_copies_see_the_clean_ones() -> None:
    network, x = _network("static-batch"), _images(20)
    set_statistics(network, collect(network, iter(torch.split(x, 10))))
    scores = []
    for share in (0.0, 0.3, 1.0):
        with noise_share(network, share):
            scores.append(evaluate(network, x, torch.arange(20) % 5))
    assert scores[0] == scores[2]
    assert scores[1].loss == pytest.approx(scores[0].loss, abs=1e-5)


def test_a_mixture_is_restored_after_an_error() -> None:
    network = _network("group")
    with pytest.raises(ZeroDivisionError), noise_share(network, 1.0):
        raise ZeroDivisionError
    assert noise_share_of(network) == 0.0
    assert noise_share_of(_network("group", dual=False)) == 0.0
    assert isinstance(next(iter(static_norms(_network("static-batch")).values())), StaticBatchNorm)
