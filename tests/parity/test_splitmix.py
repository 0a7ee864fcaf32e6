"""Split-Mix against plain transcriptions: the sampler, one local step, the mean of a net, PGD in pixel space."""

from __future__ import annotations

import copy
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client_app.objectives import ObjectiveContext, objective
from client_app.sgd import SGD
from client_app.training import train
from data import AUGMENTATIONS, DataSet, Examples, Split, Task
from models import NetworkSpec, Plan, build_part, completed, generator, layout, submodel
from models.adversary import Attack
from models.norms.dual_norm import noise_share
from models.variants.base_nets import BaseNets
from protocol import Optimiser, Work
from strategies import Settings, SplitMix, Tier
from strategies.exchange.assignment import Participant
from tests.parity.rounds import CNN as ANY_CNN
from tests.parity.rounds import Round, node, noisy, state_of
from tests.parity.test_objectives import NO_MEMORY

CNN = completed(replace(ANY_CNN, widths=(6, 12, 12, 18)))  # every atom of TIERS divides it
TIERS = tuple(Tier(name, Fraction(1, n)) for name, n in zip("abcd", (1, 2, 3, 6), strict=True))


# ---- the server ------------------------------------------------------------------------------------------------------


def released_mean(
    state: dict[str, Tensor], sent: list[tuple[tuple[int, ...], float, dict[str, Tensor]]]
) -> dict[str, Tensor]:
    """Net by net: the mean of those who trained it, weighted by the size of their data; nobody: as it was."""
    new = {}
    for name, old in state.items():
        base, rest = int(name.split(".")[1]), name.split(".", 2)[2]
        total, weights = torch.zeros_like(old, dtype=torch.float64), 0.0
        for bases, examples, trained in sent:
            if base in bases:
                total += examples * trained[f"bases.{bases.index(base)}.{rest}"].double()
                weights += examples
        new[name] = (total / weights).float() if weights else old
    return new


@pytest.mark.parametrize("fleet", ["abcd", "ddd", "dcdcdc", "aaad"])
def test_the_average_of_every_net(fleet: str) -> None:
    strategy = SplitMix(CNN, Settings(tiers=TIERS))
    state, round_ = state_of(strategy.network), Round(strategy, 3)
    sent = []
    for i, name in enumerate(fleet):
        tier, who = TIERS["abcd".index(name)], node(i, examples=10 + 9 * i)
        plan, part = round_.part(who, tier)
        trained = noisy(part.gather(state), i)
        round_.reply(who, tier, plan, trained, state)
        sent.append((plan.bases or (), 10.0 + 9 * i, trained))
    expected, new = released_mean(state, sent), round_.finish(state)
    for name, tensor in new.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


class ReleasedSampler:
    """Shuffles, hands out one after the other, shuffles again."""

    def __init__(self, items: list[int], draws: np.random.Generator) -> None:
        self.items, self.draws = list(items), draws
        self.draws.shuffle(self.items)
        self.place = 0

    def next(self) -> int:
        if self.place >= len(self.items):
            self.draws.shuffle(self.items)
            self.place = 0
        self.place += 1
        return self.items[self.place - 1]


def test_the_draw_has_the_released_distribution() -> None:
    """How often each set of nets is trained by devices that come in one order, over many runs: ours and the rule's."""
    order = [1, 3, 1, 2, 3, 3]  # nets that each device can carry, of three
    tiers = {count: Tier(str(count), Fraction(count, 3)) for count in (1, 2, 3)}
    draws, runs = np.random.default_rng(0), 400
    strategy = SplitMix(CNN, Settings(tiers=tuple(tiers.values())), atom="1/3")
    ours, theirs = np.zeros((len(order), 8)), np.zeros((len(order), 8))
    for run in range(runs):
        context = replace(strategy.context(1), settings=replace(strategy.settings, seed=run))
        asked = [Participant(node=node(i), tier=tiers[count], round_number=1) for i, count in enumerate(order)]
        plans, _ = strategy.plan_round(context, strategy.initial_values(), asked)
        shared = ReleasedSampler([0, 1, 2], draws)
        covered: set[int] = set()
        for i, count in enumerate(order):
            bases = plans[i].bases or ()
            first = shared.next()
            others = ReleasedSampler([b for b in range(3) if b != first], draws)
            rule = [first, *(others.next() for _ in range(count - 1))]
            ours[i, sum(1 << base for base in bases)] += 1
            theirs[i, sum(1 << base for base in rule)] += 1
            covered |= set(bases)
        assert covered == {0, 1, 2}
    assert np.abs(ours - theirs).max() < 5 * (2 * runs * 0.33 * 0.67) ** 0.5
    assert ((ours > 0) == (theirs > 0)).all()


# ---- the device ------------------------------------------------------------------------------------------------------

SPEC = completed(NetworkSpec("cnn", (2, 8, 8), 5, widths=(4, 4, 4, 4), norm="batch-per-width", bases=5, dual=True))
RULE = Optimiser(0.1, momentum=0.9, weight_decay=5e-4, clip_norm=0.3)
WORK = Work(local_epochs=2, batch_size=8, device="cpu")
LOW, HIGH = torch.tensor([-1.5, -0.5]).view(2, 1, 1), torch.tensor([2.0, 4.0]).view(2, 1, 1)


def _loaded(bases: tuple[int, ...], spec: NetworkSpec = SPEC) -> BaseNets:
    """Nets whose noise norms are not what their clean ones are."""
    plan, draws = Plan(bases=bases), torch.Generator().manual_seed(8)
    network, state = build_part(spec, plan), state_of(spec)
    for name, tensor in state.items():
        if layout(spec).tensors[name].role == "norm":
            tensor.add_(torch.rand(tensor.shape, generator=draws))
    network.load_state_dict(submodel(spec, plan).gather(state))
    assert isinstance(network, BaseNets)
    return network.train()


def _setting(module: nn.Module, weight: float = 0.0) -> ObjectiveContext:
    attack = Attack(epsilon=8 / 255, steps=3, low=LOW, high=HIGH, draws=torch.Generator().manual_seed(7))
    draws = generator(0, 0, 0, "test")
    return ObjectiveContext(
        module=module,
        spec=SPEC,
        plan=Plan(),
        labels=(),
        settings={},
        draws=draws,
        memory=NO_MEMORY,
        adversarial=weight,
        attack=attack if weight else None,
    )


def _examples() -> Split:
    draws = torch.Generator().manual_seed(2)
    inputs = LOW + (HIGH - LOW) * torch.rand(20, 2, 8, 8, generator=draws)
    return Split(inputs, torch.randint(5, (20,), generator=draws))


def _train(network: nn.Module, weight: float = 0.0) -> None:
    train(
        network,
        _examples(),
        objective("cross-entropy", _setting(network, weight)),
        RULE,
        WORK,
        draws=torch.Generator().manual_seed(1),
        augmentation=AUGMENTATIONS["none"],
    )


def test_a_net_learns_the_same_whoever_stands_beside_it() -> None:
    """Clipping, too, looks at one net at a time."""
    together = _loaded((3, 0, 4))
    _train(together)
    for place, base in enumerate((3, 0, 4)):
        alone = _loaded((base,))
        _train(alone)
        for name, tensor in alone.bases[0].state_dict().items():
            assert torch.equal(tensor, together.bases[place].state_dict()[name]), name


def test_the_nets_learn_one_after_the_other_as_released() -> None:
    """Backward net by net, one plain SGD step: without clipping the same as torch.optim over everything."""
    ours, theirs = _loaded((1, 2)), _loaded((1, 2))
    examples, rule = _examples(), replace(RULE, clip_norm=0.0)
    mine, loss = SGD(ours.parameters(), rule), objective("cross-entropy", _setting(ours))
    reference = torch.optim.SGD(theirs.parameters(), rule.learning_rate, rule.momentum, weight_decay=rule.weight_decay)
    for start in (0, 10, 0):
        x, y = examples.inputs[start : start + 10], examples.labels[start : start + 10]
        mine.zero_grad()
        total, logits = loss(x, y)
        total.backward()  # type: ignore[no-untyped-call]
        mine.step()
        reference.zero_grad()
        each = []
        for net in theirs.bases:
            one = F.cross_entropy(net(x), y)
            one.backward()  # type: ignore[no-untyped-call]
            each.append(one.item())
        reference.step()
        assert total.item() == pytest.approx(sum(each), rel=1e-6)
        assert logits.shape == (10, 5)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def released_pgd(
    network: nn.Module, pixels: Tensor, y: Tensor, mean: Tensor, std: Tensor, epsilon: float, steps: int, start: Tensor
) -> Tensor:
    """In pixels of [0, 1], normalisation being a part of the network; sum of losses; noise norms, evaluation mode."""
    step = min(epsilon * 1.25, epsilon + 4 / 255) / steps
    found = torch.clamp(pixels + epsilon * (2 * start - 1), 0, 1)
    for _ in range(steps):
        found = found.detach().requires_grad_(True)
        loss = F.cross_entropy(network((found - mean) / std), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, found)
        found = pixels + torch.clamp(found + step * gradient.sign() - pixels, -epsilon, epsilon)
        found = torch.clamp(found, 0, 1)
    return found.detach()


@pytest.mark.parametrize(("epsilon", "steps"), [(8 / 255, 7), (0.3, 3)])
def test_the_attack_is_pgd_in_pixels(epsilon: float, steps: int) -> None:
    """Through a data set whose pixels are 0 to 16, with one bright channel: our bounds and radius are its [0, 1]."""
    draws = torch.Generator().manual_seed(5)
    raw = torch.randint(0, 17, (12, 2, 8, 8), generator=draws, dtype=torch.uint8)
    raw[:, 1] = raw[:, 1] // 2 + 8
    raw[0, 0, 0, 0], raw[0, 1, 0, 0] = 0, 16
    labels = torch.arange(12) % 5
    data = DataSet(
        name="made", task=Task(5, (2, 8, 8)), train_examples=Examples(raw, labels), test_examples=Examples(raw, labels)
    )
    mean, std = (part.double() / 16 for part in data.statistics)
    low, high = (limit.double() for limit in data.limits)
    torch.testing.assert_close(low, (0 - mean) / std)
    torch.testing.assert_close(high, (1 - mean) / std)
    (net,) = _loaded((2,)).double().bases
    attack = Attack(epsilon=epsilon, steps=steps, low=low, high=high, draws=torch.Generator().manual_seed(3))
    x = ((raw.double() / 16) - mean) / std
    found = attack.perturb(net, lambda a: F.cross_entropy(net(a), labels), x)
    start = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)).double()
    with noise_share(net.eval(), 1.0):
        expected = released_pgd(net, raw.double() / 16, labels, mean, std, epsilon, steps, start)
    torch.testing.assert_close(found * std + mean, expected, rtol=0, atol=1e-6)
    assert (found - x).abs().max() > 0


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_adversarial_loss_and_who_learns_from_what(weight: float) -> None:
    """(1 - λ)·CE(clean norms, x) + λ·CE(noise norms, x'), net by net, each with adversaries of its own."""
    ours, theirs = _loaded((0, 3)), _loaded((0, 3))
    x, y = _examples().inputs, _examples().labels
    loss, _ = objective("cross-entropy", _setting(ours, weight))(x, y)
    loss.backward()  # type: ignore[no-untyped-call]
    total, draws = torch.zeros(()), torch.Generator().manual_seed(7)
    for net in theirs.bases:
        frozen = copy.deepcopy(net).eval()
        with noise_share(frozen, 1.0):
            attack = Attack(epsilon=8 / 255, steps=3, low=LOW, high=HIGH, draws=draws)
            found = attack.perturb(frozen, lambda a, f=frozen: F.cross_entropy(f(a), y), x)  # type: ignore[misc]
        clean = F.cross_entropy(net(x), y)
        with noise_share(net, 1.0):
            total = total + (1 - weight) * clean + weight * F.cross_entropy(net(found), y)
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, total)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    for name, buffer in ours.named_buffers():  # each copy saw one batch, its own
        torch.testing.assert_close(buffer, dict(theirs.named_buffers())[name], rtol=1e-5, atol=1e-6, msg=name)
