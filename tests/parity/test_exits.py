"""DepthFL's and ScaleFL's losses and averages against plain transcriptions of the authors' rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from client_app.client_state import ClientState
from client_app.objectives import OBJECTIVES, LocalObjective, ObjectiveContext
from models import NetworkSpec, Plan, build_part, completed, generator, layout, submodel
from models.networks.staged import Staged
from protocol import Scalar, WireError
from strategies import DepthFL, ExclusiveDepth, ScaleFL, Schedule, Settings, Tier
from tests.parity.rounds import CLASSES, Round, node, noisy, state_of
from tests.support import context_of

DEEP = completed(
    NetworkSpec(
        "resnet-post",
        (3, 8, 8),
        CLASSES,
        widths=(5, 6, 7, 8),
        blocks=(1, 1, 1, 1),
        norm="batch-per-width",
        exits="bottleneck",
    )
)
TIERS = tuple(Tier(name, Fraction(1), depth) for name, depth in zip("abcd", (4, 3, 2, 1), strict=True))


def _loaded(plan: Plan, spec: NetworkSpec = DEEP) -> Staged:
    network = build_part(spec, plan)
    network.load_state_dict(submodel(spec, plan).gather(state_of(spec)))
    assert isinstance(network, Staged)
    return network.train()


def _objective(network: Staged, settings: Mapping[str, Scalar]) -> LocalObjective:
    memory = ClientState(context_of(), 0, 1, checkpoint=0)
    draws = generator(0, 0, 0, "test")
    return OBJECTIVES["deep-supervision"](
        ObjectiveContext(
            module=network, spec=DEEP, plan=Plan(), labels=(), settings=settings, draws=draws, memory=memory
        )
    )


def _batch() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(4)
    return torch.randn(6, 3, 8, 8, generator=draws), torch.randint(CLASSES, (6,), generator=draws)


# ---- DepthFL ---------------------------------------------------------------------------------------------------------


def released_depthfl_loss(logits: list[Tensor], y: Tensor, weight: float) -> Tensor:
    """Loop over exits: cross entropy, plus w/(d-1) of each other exit's divergence; the teacher detached, plus 1e-7."""
    total = torch.zeros(())
    for i, student in enumerate(logits):
        total = total + F.cross_entropy(student, y)
        for j, teacher in enumerate(logits):
            if j != i:
                p = torch.softmax(teacher, 1).detach() + 1e-7
                divergence = (p * (p.log() - torch.log_softmax(student, 1))).sum(1).mean()
                total = total + weight / (len(logits) - 1) * divergence
    return total


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("weight", [0.0, 0.287, 1.0])
def test_depthfls_loss_and_gradients(depth: int, weight: float) -> None:
    network, (x, y) = _loaded(Plan(depth=depth)), _batch()
    loss, reported = _objective(network, {"distillation": "mutual", "weight": weight})(x, y)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    logits = network.predictions(x)
    assert len(logits) == depth
    expected = released_depthfl_loss(logits, y, weight)
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(reported, logits[-1], rtol=1e-3, atol=1e-4)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_weight_of_the_distillation_by_round() -> None:
    """w = exp(-5 (1 - min(t, 300)/300)²): .0067 at the start, .287 at 150, 1 from 300 on."""
    strategy = DepthFL(DEEP, Settings(tiers=TIERS))
    found = [strategy.distillation_weight(t + 1) for t in (0, 150, 300, 900)]
    assert found == pytest.approx([0.0067, 0.287, 1, 1], abs=5e-4)
    assert found[0] == pytest.approx(math.exp(-5))


def released_depthfl_mean(state: dict[str, Tensor], sent: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Per tensor the plain mean of those who sent it; what nobody sent stays."""
    new = {}
    for name, old in state.items():
        pieces = [trained[name] for trained in sent if name in trained]
        new[name] = sum(pieces, torch.zeros_like(old)) / len(pieces) if pieces else old
    return new


@pytest.mark.parametrize("present", ["abcd", "bbcd", "d", "aaaa"])
def test_depthfls_average_is_the_plain_mean_by_tensor(present: str) -> None:
    state, round_ = state_of(DEEP), Round(DepthFL(DEEP, Settings(tiers=TIERS)), 1)
    sent = []
    for i, name in enumerate(present):
        tier = next(tier for tier in TIERS if tier.name == name)
        plan, part = round_.part(node(i, examples=10 * (i + 1)), tier)
        assert plan.depth == tier.depth
        trained = noisy(part.gather(state), i)
        round_.reply(node(i, examples=10 * (i + 1)), tier, plan, trained, state)
        sent.append(trained)
    new = round_.finish(state)
    for name, expected in released_depthfl_mean(state, sent).items():
        torch.testing.assert_close(new[name], expected, rtol=1e-4, atol=1e-5)
        if not any(name in trained for trained in sent):
            assert torch.equal(new[name], state[name])


def test_a_device_of_depth_d_holds_the_stem_stages_and_exits_up_to_d() -> None:
    tensors = layout(DEEP).tensors
    for depth in (1, 2, 3, 4):
        held = {name for name, tensor in tensors.items() if tensor.stage <= depth and tensor.exit <= depth}
        assert set(submodel(DEEP, Plan(depth=depth))) == held
        assert {tensors[name].exit for name in held} == {0, *range(1, depth + 1)}


def test_exclusive_depth_leaves_out_who_cannot_carry_it() -> None:
    strategy = ExclusiveDepth(DEEP, Settings(tiers=TIERS), depth=3)
    assert [strategy.eligible(strategy.context(1), tier) for tier in TIERS] == [True, True, False, False]
    assert {strategy.plan(strategy.context(1), node(0), tier) for tier in TIERS} == {Plan(depth=3)}
    deepest = ExclusiveDepth(DEEP, Settings(tiers=TIERS[1:]))
    assert deepest.plan(deepest.context(1), node(0), TIERS[1]) == Plan(depth=3)


def test_depths_are_spread_over_tiers_that_have_none() -> None:
    tiers = tuple(Tier(name, Fraction(1, 2**i)) for i, name in enumerate("abcde"))
    strategy = DepthFL(DEEP, Settings(tiers=tiers))
    assert [strategy.context(1).depth_of(tier) for tier in tiers] == [4, 4, 3, 2, 1]
    assert strategy.context(1).depth_of(Tier("global", Fraction(1))) == 4


# ---- ScaleFL ---------------------------------------------------------------------------------------------------------


def released_scalefl_loss(logits: list[Tensor], y: Tensor, gamma: float, temperature: float) -> Tensor:
    """Σ j·[CE_j + γT²·KL(last ‖ j)] / (L(L+1)/2), the last exit by cross entropy only."""
    total, teacher = torch.zeros(()), torch.softmax(logits[-1].detach() / temperature, 1)
    for j, student in enumerate(logits, 1):
        term = F.cross_entropy(student, y)
        if j < len(logits):
            divergence = (teacher * (teacher.log() - torch.log_softmax(student / temperature, 1))).sum(1).mean()
            term = term + gamma * temperature**2 * divergence
        total = total + j * term
    return total / (len(logits) * (len(logits) + 1) / 2)


@pytest.mark.parametrize("depth", [1, 3])
def test_scalefls_loss(depth: int) -> None:
    network, (x, y) = _loaded(Plan(depth=depth)), _batch()
    settings: dict[str, Scalar] = {"distillation": "last", "weight": 0.05, "temperature": 3.0, "by-depth": True}
    loss, _ = _objective(network, settings)(x, y)
    torch.testing.assert_close(loss, released_scalefl_loss(network.predictions(x), y, 0.05, 3.0), rtol=1e-3, atol=1e-4)


def test_scalefl_distils_after_its_first_rounds() -> None:
    spec = NetworkSpec("cnn", (1, 8, 8), 5, widths=(8, 8, 8, 8))
    for options, after in (({}, 25), ({"distillation-after": 0.5}, 50), ({"distillation-after": 0.0}, 0)):
        strategy = ScaleFL(spec, Settings(tiers=TIERS, schedule=Schedule(rounds=100)), variant="paper", **options)
        named = [strategy.objective(strategy.context(t), TIERS[0]).settings.get("distillation") for t in range(1, 101)]
        assert named == [None] * after + ["last"] * (100 - after)
    never = ScaleFL(spec, Settings(tiers=TIERS, schedule=Schedule(rounds=100)), **{"distillation-after": 1.0})
    assert all("distillation" not in never.objective(never.context(t), TIERS[0]).settings for t in (1, 99, 100))


def test_scalefl_cuts_width_and_depth() -> None:
    tiers = (Tier("a", Fraction(1), 4), Tier("b", Fraction(3, 4), 3), Tier("c", Fraction(1, 2), 1))
    strategy = ScaleFL(NetworkSpec("cnn", (1, 8, 8), 5, widths=(8, 8, 8, 8)), Settings(tiers=tiers))
    held = [
        strategy.part(strategy.context(1), strategy.plan(strategy.context(1), node(0), tier), strategy.state)
        for tier in tiers
    ]
    assert [part["stages.0.0.weight"].local_shape[0] for part in held] == [8, 6, 4]
    assert ["stages.3.0.weight" in part for part in held] == [True, False, False]
    assert ["exits.1.classifier.weight" in part for part in held] == [True, True, True]


def test_unknown_distillation_is_refused() -> None:
    with pytest.raises(WireError, match="this client knows none, mutual, last, last-elementwise"):
        _objective(_loaded(Plan(depth=2)), {"distillation": "sideways"})
