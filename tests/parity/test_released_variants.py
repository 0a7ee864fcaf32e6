"""Where a method's released code is not its paper: transcriptions of the code, against what we do when told so.

Repositories, commits and what it comes to are in docs/parity.md.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client_app.client_state import ClientState
from client_app.objectives import OBJECTIVES, ObjectiveContext
from client_app.objectives.importance import kept
from models import (
    NetworkSpec,
    Plan,
    build_part,
    completed,
    generator,
    initial_state,
    layout,
    torch_generator,
)
from models.evaluation import evaluate
from models.norms.layers import StaticBatchNorm, groups_of
from models.predictions import predictions
from models.statistics import estimate_statistics
from protocol import Scalar, WireError
from strategies import FIARSE, FedEcover, ScaleFL, Schedule, Settings, SplitMix
from strategies.tiers.tier import Tier
from tests.support import Player, configured, context_of

MLP = completed(NetworkSpec("mlp", (1, 4, 4), 5, widths=(12, 8), norm="none"))
WHOLE = Plan()


def objective_of(name: str, module: nn.Module, plan: Plan = WHOLE, **settings: Scalar) -> Any:
    return OBJECTIVES[name](
        ObjectiveContext(
            module=module,
            spec=MLP,
            plan=plan,
            labels=(),
            settings=settings,
            draws=generator(0, 0, 0, "test"),
            memory=ClientState(context_of(), 0, 1, checkpoint=0),
        )
    )


def drawn(spec: NetworkSpec) -> nn.Module:
    """A network with an initial state."""
    network = build_part(spec, WHOLE).train()
    network.load_state_dict(initial_state(spec, torch_generator(5, 0, "server", "initial")))
    return network


def batch(classes: int = 5) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(4)
    return torch.randn(24, 1, 4, 4, generator=draws), torch.randint(classes, (24,), generator=draws)


# ---- FIARSE ----------------------------------------------------------------------------------------------------------


class _Step(torch.autograd.Function):
    """The released step: booleans out, the slope 2θ/(s + θ)² in the backward pass."""

    called = 0

    @staticmethod
    def forward(ctx: Any, scores: Tensor, least: Tensor) -> Tensor:
        ctx.save_for_backward(scores, least)
        return scores >= least

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        _Step.called += 1
        scores, least = ctx.saved_tensors
        return gradients[0] * 2 * least / (scores + least) ** 2 * (scores >= least), None


def test_the_released_steps_gradient_never_acts() -> None:
    """Autograd does not go through booleans, so what is left is the mask: our "code", and not the paper's gradient."""
    draws = torch.Generator().manual_seed(3)
    weight, above = torch.randn(500, generator=draws), torch.randn(500, generator=draws)
    least, gradients = torch.tensor(0.4), {}
    _Step.called = 0
    for name in ("released", "code", "paper"):
        w = weight.clone().requires_grad_()
        out = w * _Step.apply(w.abs(), least) if name == "released" else kept(w, float(least), name)  # type: ignore[no-untyped-call]
        assert torch.equal(out.detach(), weight * (weight.abs() >= least))
        gradients[name] = torch.autograd.grad((out * above).sum(), w)[0]
    assert _Step.called == 0
    assert torch.equal(gradients["code"], gradients["released"])
    assert (gradients["paper"] - gradients["code"]).abs().max() > 0.1


@pytest.mark.parametrize("share", ["1", "1/4"])
def test_fiarses_code_masks_at_every_share(share: str) -> None:
    """Six steps of plain SGD; at share 1 the least weight is the threshold, and what falls below it stops."""
    plan, (x, y) = Plan(keep=Fraction(share)), batch()
    network = drawn(MLP)
    # None is near 0, or the threshold of a share of 1 would be.
    start = {name: torch.where(t < 0, t - 0.1, t + 0.1) for name, t in network.state_dict().items()}
    sizes = torch.cat([tensor.abs().flatten() for tensor in start.values()]).sort(descending=True).values
    least = sizes[-(-len(sizes) * plan.keep.numerator // plan.keep.denominator) - 1]
    trained = {}
    for name in ("code", "paper"):
        network.load_state_dict(start)
        loss = objective_of("importance-masked", network, plan, gradient=name)
        optimiser = torch.optim.SGD(network.parameters(), 0.5)
        for _ in range(6):
            optimiser.zero_grad()
            loss(x, y)[0].backward()
            optimiser.step()
        trained[name] = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    expected = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    for _ in range(6):
        used = {name: w * (w.abs() >= least) for name, w in expected.items()}
        value = F.cross_entropy(torch.func.functional_call(network, used, (x,)), y)
        for w, gradient in zip(expected.values(), torch.autograd.grad(value, list(expected.values())), strict=True):
            w.data -= 0.5 * gradient
    for name, w in expected.items():
        torch.testing.assert_close(trained["code"][name], w.detach(), rtol=1e-4, atol=1e-6)
    apart = max(float((trained["code"][name] - trained["paper"][name]).abs().max()) for name in start)
    assert apart > 0.01


def test_fiarse_is_told_whose_gradient(play: Player) -> None:
    context = FIARSE(MLP).context(1)
    assert FIARSE(MLP).objective(context, Tier("a", Fraction(1))).settings == {}
    assert FIARSE(MLP, gradient="code").objective(context, Tier("a", Fraction(1))).settings == {"gradient": "code"}
    with pytest.raises(WireError, match="this client knows paper, code"):
        objective_of("importance-masked", drawn(MLP), gradient="other")
    keys: dict[str, Any] = {"method": "fiarse", "tiers": "a:1, b:1/4", "num_server_rounds": 2}
    assert play(**keys, fiarse_gradient="code").hash != play(**keys).hash


# ---- ScaleFL ---------------------------------------------------------------------------------------------------------


def test_scalefls_exits_have_the_authors_size() -> None:
    """Three convolutions of 32 channels with their norms, and a linear layer; a plain exit has 330 parameters."""
    for kind, size in (("convolutional", 28_170), ("plain", 330)):
        spec = NetworkSpec(
            "resnet-post", (3, 8, 8), 10, widths=(32, 32), blocks=(1, 1), norm="static-batch", exits=kind
        )
        tensors = layout(completed(spec)).tensors.values()
        assert sum(torch.Size(t.shape).numel() for t in tensors if t.exit == 1 and not t.buffer) == size
        assert sum(torch.Size(t.shape).numel() for t in tensors if t.exit == 2 and not t.buffer) == 330


def test_scalefls_divergence_is_the_released_one() -> None:
    """KLDivLoss as it is by default averages over batch and classes; the teacher is not detached."""
    spec = completed(NetworkSpec("cnn", (1, 8, 8), 7, widths=(6, 6), exits="plain"))
    network, x, y = drawn(spec), torch.randn(9, 1, 8, 8), torch.arange(9) % 7
    settings: dict[str, Scalar] = {"weight": 0.5, "temperature": 3.0, "by-depth": True}

    def value(kind: str) -> Tensor:
        about = ObjectiveContext(
            module=network,
            spec=spec,
            plan=Plan(),
            labels=(),
            settings=settings | {"distillation": kind},
            draws=generator(0, 0, 0, "test"),
            memory=ClientState(context_of(), 0, 1, checkpoint=0),
        )
        return OBJECTIVES["deep-supervision"](about)(x, y)[0]

    early, last = predictions(network, x)
    with pytest.warns(UserWarning, match="batchmean"):
        released = nn.KLDivLoss()(F.log_softmax(early / 3, 1), F.softmax(last / 3, 1))
    expected = (F.cross_entropy(early, y) + 0.5 * 9 * released + 2 * F.cross_entropy(last, y)) / 3
    for ours, theirs in zip(
        torch.autograd.grad(value("last-elementwise"), list(network.parameters())),
        torch.autograd.grad(expected, list(network.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        plain = (F.cross_entropy(predictions(network, x)[0], y) + 2 * F.cross_entropy(last, y)) / 3
        paper, code = value("last") - plain, value("last-elementwise") - plain
    torch.testing.assert_close(paper, 7 * code, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("variant", "first"), [("code", 4), ("paper", 3)])
def test_when_scalefl_begins_to_distil(variant: str, first: int) -> None:
    """Of eight rounds a quarter goes by; the code's comparison is strict."""
    spec = NetworkSpec("cnn", (1, 8, 8), 5, widths=(8, 8))
    strategy = ScaleFL(spec, Settings(schedule=Schedule(rounds=8)), variant=variant)
    tier = Tier("a", Fraction(1))
    distils = ["distillation" in strategy.objective(strategy.context(number), tier).settings for number in range(1, 9)]
    assert distils.index(True) == first - 1
    assert all(distils[first - 1 :])


# ---- Split-Mix, FedEcover --------------------------------------------------------------------------------------------


def test_splitmixs_masked_loss_is_the_released_one() -> None:
    network, (x, y) = drawn(MLP), batch(classes=3)
    mask = torch.zeros(len(y), 5)
    mask[:, torch.unique(y)] = 1
    loss, logits = objective_of("batch-masked-cross-entropy", network)(x, y)
    torch.testing.assert_close(loss, F.cross_entropy(network(x) * mask, y))
    assert not logits[:, 3:].any()
    whole = Tier("a", Fraction(1))
    strategy = SplitMix(MLP, Settings(tiers=(whole,)), loss="masked")
    assert strategy.objective(strategy.context(1), whole).name == "batch-masked-cross-entropy"


def test_splitmix_counts_nets_in_fractions() -> None:
    """int(0.6 / 0.2) is 2 in floats."""
    assert int(0.6 / 0.2) == 2
    strategy = SplitMix(
        NetworkSpec("mlp", (1, 4, 4), 5, widths=(10, 10)),
        Settings(tiers=(Tier("a", Fraction(1)), Tier("b", Fraction(3, 5)), Tier("c", Fraction(1, 5)))),
        atom="1/5",
    )
    assert [strategy.carried(strategy.context(1), tier) for tier in strategy.settings.tiers] == [5, 3, 1]


def test_fedecover_has_the_scaler() -> None:
    assert FedEcover.PREFERENCES.scaler
    assert configured(method="fedecover").network.scaler
    assert not configured(method="dropout").network.scaler


# ---- FedDyn ----------------------------------------------------------------------------------------------------------


def test_feddyns_alpha_by_examples(play: Player) -> None:
    """Equal where devices have as many examples as each other, and not where they have not."""
    keys: dict[str, Any] = {"method": "feddyn", "num_server_rounds": 2, "local_test_fraction": 0.0}
    even: dict[str, Any] = {"partition": "iid", "num_clients": 3}
    one, by_examples = (play(**keys, **even, dynamic_by_examples=told) for told in (False, True))
    sizes = {node["examples"] for node in by_examples.rows[-1].get("nodes", [])} or {1}
    assert len(sizes) == 1
    uneven: dict[str, Any] = {"partition": "dirichlet", "dirichlet_alpha": 0.3}
    assert play(**keys, **uneven, dynamic_by_examples=True).hash != play(**keys, **uneven).hash
    assert one.hash is not None


# ---- HeteroFL: statistics, groups, local accuracy --------------------------------------------------------------------


def test_heterofls_statistics_are_means_over_batches() -> None:
    """Transcribed by torch's cumulative average; ours are those of all activations."""
    draws = torch.Generator().manual_seed(2)
    batches = [torch.randn(8, 3, generator=draws) + i for i in range(4)]
    theirs = nn.BatchNorm1d(3, momentum=None)
    for x in batches:
        theirs(x)
    ours = nn.Sequential(StaticBatchNorm(3))
    estimate_statistics(ours, batches)
    everything, layer = torch.cat(batches), ours[0]
    assert isinstance(layer, StaticBatchNorm)
    assert layer.statistics is not None
    torch.testing.assert_close(layer.statistics[0], everything.mean(0))
    torch.testing.assert_close(layer.statistics[1], everything.var(0, unbiased=False))
    assert theirs.running_mean is not None
    assert theirs.running_var is not None
    torch.testing.assert_close(theirs.running_mean, everything.mean(0))
    torch.testing.assert_close(theirs.running_var, torch.stack([x.var(0) for x in batches]).mean(0))
    assert (theirs.running_var < layer.statistics[1]).all()  # what lies between the batches is missing


def test_groups_are_neither_of_the_two_codes() -> None:
    assert [groups_of(channels) for channels in (16, 64, 512)] == [1, 4, 32]


def test_local_accuracy_leaves_absent_labels_out() -> None:
    """HeteroFL's code fills in 0, which wins over logits below it; ours is the best of the device's labels."""

    class Below(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[-1.0, -2.0, 3.0]]).expand(len(x), 3)

    x, y = torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)
    assert evaluate(Below(), x, y, allowed=[0, 1]).accuracy == 1.0
    filled = Below()(x).masked_fill(torch.tensor([False, False, True]), 0.0)
    assert (filled.argmax(1) == y).float().mean() == 0.0
