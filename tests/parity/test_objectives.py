"""Local objectives against the authors' formulas: masked cross entropy (fill 0) and ordered dropout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client_app.client_state import ClientState
from client_app.objectives import OBJECTIVES, LocalObjective, ObjectiveContext
from models import NetworkSpec, Plan, build_part, completed, generator, initial_state, submodel, torch_generator
from protocol import Scalar, WireError
from tests.support import context_of

RATES = tuple(Fraction(i, 5) for i in range(1, 6))
NO_MEMORY = ClientState(context_of(), 0, 1, checkpoint=0)
SPEC = completed(
    NetworkSpec("resnet", (1, 8, 8), 5, widths=(10, 10), blocks=(1, 1), norm="batch-per-width", rates=RATES)
)


class _Logits(nn.Module):
    """A network whose logits are its parameter."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([logits]))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def _objective(
    name: str,
    module: nn.Module,
    labels: tuple[int, ...] = (),
    plan: Plan | None = None,
    draws: object = None,
    settings: Mapping[str, Scalar] | None = None,
) -> LocalObjective:
    spec = SPEC if plan is not None else completed(NetworkSpec("mlp", (1, 1, 1), 4))
    numbers: np.random.Generator = draws or generator(0, 0, 0, "test")  # type: ignore[assignment]
    return OBJECTIVES[name](
        ObjectiveContext(
            module=module,
            spec=spec,
            plan=plan or Plan(),
            labels=labels,
            settings=settings or {},
            draws=numbers,
            memory=NO_MEMORY,
        )
    )


# ---- masked cross entropy --------------------------------------------------------------------------------------------


def test_absent_logits_count_as_zero_and_get_no_gradient() -> None:
    """I7: log(Σ_present e^z + n_absent) - z_y, which is not the loss with the absent classes left out."""
    z = [1.2, 7.0, -0.4, -9.0]
    network = _Logits(z)
    loss, logits = _objective("masked-cross-entropy", network, labels=(0, 2))(
        torch.zeros(3, 1), torch.tensor([0, 2, 0])
    )
    present = math.exp(z[0]) + math.exp(z[2])
    expected = math.log(present + 2) - (2 * z[0] + z[2]) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert loss.item() != pytest.approx(math.log(present) - (2 * z[0] + z[2]) / 3, rel=0.05)
    loss.backward()  # type: ignore[no-untyped-call]
    assert network.logits.grad is not None
    assert network.logits.grad[0, [1, 3]].tolist() == [0.0, 0.0]
    assert network.logits.grad[0, [0, 2]].all()
    assert logits[0].tolist() == pytest.approx([1.2, 0.0, -0.4, 0.0])


def test_with_all_labels_it_is_plain_cross_entropy() -> None:
    x, y, network = torch.zeros(2, 1), torch.tensor([1, 3]), _Logits([0.3, -1.0, 2.0, 0.5])
    masked, plain = (
        _objective(n, network, labels=(0, 1, 2, 3))(x, y)[0] for n in ("masked-cross-entropy", "cross-entropy")
    )
    assert masked.item() == plain.item() == F.cross_entropy(network(x), y).item()


# ---- ordered dropout -------------------------------------------------------------------------------------------------


def _local(plan: Plan) -> nn.Module:
    network = build_part(SPEC, plan)
    network.load_state_dict(
        submodel(SPEC, plan).gather(initial_state(SPEC, torch_generator(1, 0, "server", "initial")))
    )
    return network.train()


def _batch() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, 2, 3, 4, 0])


def _drawing(index: int) -> Mock:
    return Mock(integers=Mock(return_value=index))


def _settings(**more: Scalar) -> dict[str, Scalar]:
    return {"rates": ",".join(map(str, RATES)), **more}


@pytest.mark.parametrize("most", [3, 5])
@pytest.mark.parametrize("training", [True, False])
def test_a_narrower_pass_is_the_separate_network_of_that_width(most: int, training: bool) -> None:
    """Same output; same gradients in the leading block, none elsewhere; same running statistics, no other moves."""
    x, y = _batch()
    for index in range(most):
        plan, rate = Plan(RATES[most - 1]), RATES[index]
        local, alone = _local(plan).train(training), _local(Plan(rate)).train(training)
        before = {name: tensor.clone() for name, tensor in local.state_dict().items()}
        loss, logits = _objective("ordered-dropout", local, plan=plan, draws=_drawing(index), settings=_settings())(
            x, y
        )
        torch.testing.assert_close(logits, alone(x), rtol=1e-5, atol=1e-6)
        if not training:
            continue
        expected = _local(Plan(rate))
        expected.load_state_dict(
            {name: before[name][_leading(name, tensor)] for name, tensor in expected.state_dict().items()}
        )
        reference = F.cross_entropy(expected(x), y)
        reference.backward()  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
        theirs = dict(expected.named_parameters())
        for name, parameter in local.named_parameters():
            gradient = theirs[name].grad
            assert parameter.grad is not None
            assert gradient is not None
            padded = torch.zeros_like(parameter)
            padded[_leading(name, gradient)] = gradient
            torch.testing.assert_close(parameter.grad, padded, rtol=1e-4, atol=1e-6, msg=name)
        moved = {name for name, tensor in local.state_dict().items() if not torch.equal(tensor, before[name])}
        assert moved == {name for name in before if name.endswith((f".mean_{index}", f".variance_{index}"))}
        for name in moved:
            torch.testing.assert_close(local.state_dict()[name], expected.state_dict()[name])


def _leading(name: str, small: Tensor) -> tuple[slice, ...]:
    return tuple(slice(size) for size in small.shape)


def test_distillation_at_the_widest_is_cross_entropy_alone() -> None:
    """I8."""
    plan, (x, y) = Plan(RATES[3]), _batch()
    distilled, plain = (
        _objective("ordered-dropout", _local(plan), plan=plan, draws=_drawing(3), settings=_settings(distillation=on))(
            x, y
        )[0]
        for on in (True, False)
    )
    assert distilled.item() == plain.item()


def test_statistics_of_the_widest_are_updated_once_and_twice_in_the_released_code() -> None:
    """There the teacher's forward pass is one, and the part's at p = p_max another."""
    plan, (x, y) = Plan(RATES[3]), _batch()
    ours, theirs = _local(plan), _local(plan)
    _objective("ordered-dropout", ours, plan=plan, draws=_drawing(3), settings=_settings(distillation=True))(x, y)
    statistics = [name for name in ours.state_dict() if name.endswith((".mean_3", ".variance_3"))]
    assert statistics
    theirs(x)
    assert all(torch.equal(ours.state_dict()[name], theirs.state_dict()[name]) for name in statistics)
    theirs(x)
    assert not any(torch.equal(ours.state_dict()[name], theirs.state_dict()[name]) for name in statistics)


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.0, 1.0), (0.3, 2.0)])
def test_the_distilled_loss_is_its_formula(alpha: float, temperature: float) -> None:
    """CE of the widest + (1-α)·CE of the part + α·T²·KL(widest ‖ part), the widest a constant in the last."""
    plan, (x, y) = Plan(RATES[4]), _batch()
    local = _local(plan)
    loss, reported = _objective(
        "ordered-dropout",
        local,
        plan=plan,
        draws=_drawing(1),
        settings=_settings(distillation=True, alpha=alpha, temperature=temperature),
    )(x, y)
    wide, narrow = _local(plan)(x), _local(Plan(RATES[1]))(x)
    teacher = torch.softmax(wide / temperature, 1)
    divergence = (teacher * (teacher.log() - torch.log_softmax(narrow / temperature, 1))).sum(1).mean()
    expected = F.cross_entropy(wide, y) + (1 - alpha) * F.cross_entropy(narrow, y) + alpha * temperature**2 * divergence
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(reported, wide)


def test_the_teacher_is_a_constant() -> None:
    """Its gradient is that of its own cross entropy, wherever the part does not reach."""
    plan, (x, y) = Plan(RATES[4]), _batch()
    local, alone = _local(plan), _local(plan)
    loss, _ = _objective("ordered-dropout", local, plan=plan, draws=_drawing(0), settings=_settings(distillation=True))(
        x, y
    )
    loss.backward()  # type: ignore[no-untyped-call]
    F.cross_entropy(alone(x), y).backward()  # type: ignore[no-untyped-call]
    beyond = (slice(2, None), slice(2, None))
    ours, theirs = (network.get_parameter("stages.0.0.conv1.weight").grad for network in (local, alone))
    assert ours is not None
    assert theirs is not None
    torch.testing.assert_close(ours[beyond], theirs[beyond], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(ours[:2, :2], theirs[:2, :2], atol=1e-6)


def test_widths_are_drawn_uniformly_up_to_the_devices_own() -> None:
    plan, (x, y) = Plan(RATES[2]), _batch()
    local = _local(plan)
    objective = _objective(
        "ordered-dropout", local, plan=plan, draws=generator(1, 1, 1, "objective"), settings=_settings()
    )
    times = np.zeros(3)
    for _ in range(150):
        before = {name: tensor.clone() for name, tensor in local.named_buffers()}
        objective(x, y)
        moved = {int(name[-1]) for name, tensor in local.named_buffers() if not torch.equal(tensor, before[name])}
        assert len(moved) == 1
        times[moved.pop()] += 1
    assert times.min() > 25


@pytest.mark.parametrize("settings", [{}, {"rates": "x"}, {"rates": "1/3,1"}, {"rates": "1", "alpha": "much"}])
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Scalar]) -> None:
    with pytest.raises(WireError):
        _objective("ordered-dropout", _local(Plan(RATES[1])), plan=Plan(RATES[1]), settings=settings)
