"""Normalisation of cut networks: which statistics are used when, and what the Scaler does."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from models import NetworkSpec, Plan, build_part, completed, initial_state, submodel, torch_generator
from models.algebra.plans import kept_units
from models.evaluation import evaluate
from models.norms.layers import BatchNormPerWidth, GroupNorm, Scaler, StaticBatchNorm, groups_of, norm_layer
from models.statistics import collect, set_statistics

RATES = (Fraction(1, 4), Fraction(1, 2), Fraction(1))


def _images(count: int, channels: int = 1, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def _network(norm: str, rate: Fraction = Fraction(1), *, scaler: bool = False) -> nn.Module:
    spec = completed(NetworkSpec("cnn", (1, 8, 8), 5, widths=(8, 8, 16, 16), norm=norm, scaler=scaler, rates=RATES))
    network = build_part(spec, Plan(rate))
    state = initial_state(spec, torch_generator(0, 0, "server", "initial"))
    network.load_state_dict(submodel(spec, Plan(rate)).gather(state))
    return network


def test_static_batch_norm_refuses_to_evaluate_without_statistics() -> None:
    with pytest.raises(RuntimeError, match="estimate them on training data"):
        _network("static-batch").eval()(_images(4))


def test_static_batch_norm_has_no_statistics_in_its_state() -> None:
    assert set(StaticBatchNorm(3).state_dict()) == {"weight", "bias"}


def test_static_batch_norm_trains_like_torchs() -> None:
    ours, theirs = StaticBatchNorm(3), nn.BatchNorm2d(3, track_running_stats=False)
    x = _images(6, 3).requires_grad_()
    assert torch.equal(ours(x), theirs(x))
    one, other = (torch.autograd.grad((layer(x) ** 3).sum(), x)[0] for layer in (ours, theirs))
    assert torch.equal(one, other)


@pytest.mark.parametrize("norm", ["static-batch", "batch-per-width", "group", "none"])
@pytest.mark.parametrize("scaler", [False, True])
def test_the_test_batch_never_decides(norm: str, scaler: bool) -> None:
    """Accuracy and loss are the same however the test set is batched, one by one too."""
    network = _network(norm, Fraction(1, 2), scaler=scaler)
    network.train()
    network(_images(64, seed=1))  # moves running statistics where there are some
    if norm == "static-batch":
        set_statistics(network, collect(network, torch.split(_images(64, seed=1), 16)))
    inputs, labels = _images(60, seed=2), torch.arange(60) % 5
    scores = [evaluate(network, inputs, labels, batch_size=size) for size in (1, 7, 60)]
    assert {score.accuracy for score in scores} == {scores[0].accuracy}
    for one, other in pairwise(scores):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1)])
def test_one_value_per_channel_normalises_to_the_bias(shape: tuple[int, ...]) -> None:
    layer = StaticBatchNorm(4)
    nn.init.uniform_(layer.bias, generator=torch.Generator().manual_seed(1))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y.flatten(), layer.bias.detach(), rtol=0, atol=1e-4)
    y.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()  # what comes out does not depend on it
    assert layer.bias.grad is not None
    assert torch.equal(layer.bias.grad, torch.ones(4))


@pytest.mark.parametrize("channels", [1, 4, 32])
def test_group_norm_takes_a_batch_of_one(channels: int) -> None:
    """Late stages are one pixel wide; a group of one value has no variance."""
    layer = GroupNorm(groups_of(channels), channels, 1e-5)
    torch.nn.init.ones_(layer.bias)
    x = torch.randn(1, channels, 1, 1, requires_grad=True)
    y = layer.train()(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    if channels == 1:
        assert y.item() == pytest.approx(1.0, abs=1e-3)
    else:
        assert torch.equal(y, nn.functional.group_norm(x, layer.num_groups, layer.weight, layer.bias, 1e-5))


def test_per_width_norm_takes_one_value_per_channel_too() -> None:
    layer = BatchNormPerWidth(partial(kept_units, 4), RATES, Fraction(1))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert layer(torch.ones(1, 4)).isfinite().all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_every_width_has_statistics_of_its_own() -> None:
    narrow, wide = (BatchNormPerWidth(partial(kept_units, 8), RATES, rate) for rate in (Fraction(1, 4), Fraction(1)))
    shapes = {name: tuple(tensor.shape) for name, tensor in wide.named_buffers()}
    assert shapes == {
        "mean_0": (2,),
        "variance_0": (2,),
        "mean_1": (4,),
        "variance_1": (4,),
        "mean_2": (8,),
        "variance_2": (8,),
    }
    assert set(dict(narrow.named_buffers())) == {"mean_0", "variance_0"}
    before = {name: tensor.clone() for name, tensor in wide.named_buffers()}
    wide(_images(5, 8) + 3)
    moved = {name for name, tensor in wide.named_buffers() if not torch.equal(tensor, before[name])}
    assert moved == {"mean_2", "variance_2"}


def test_per_width_statistics_are_torchs_running_statistics() -> None:
    ours, theirs = BatchNormPerWidth(partial(kept_units, 8), RATES, Fraction(1, 2)), nn.BatchNorm2d(4)
    for seed in range(3):
        assert torch.equal(ours(_images(5, 4, seed=seed)), theirs(_images(5, 4, seed=seed)))
    assert torch.equal(ours.get_buffer("mean_1"), theirs.running_mean)  # type: ignore[arg-type]
    assert torch.equal(ours.get_buffer("variance_1"), theirs.running_var)  # type: ignore[arg-type]
    assert torch.equal(ours.eval()(_images(2, 4)), theirs.eval()(_images(2, 4)))


def test_a_width_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="1/3"):
        BatchNormPerWidth(partial(kept_units, 8), RATES, Fraction(1, 3))


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 4), (32, 2), (31, 1), (16, 1), (5, 1), (48, 3), (50, 2), (34, 2)]
)
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert groups_of(channels) == groups
    assert channels % groups == 0
    nn.GroupNorm(groups, channels)


def test_group_norm_does_not_look_at_other_examples() -> None:
    layer = norm_layer("group", "w", partial(kept_units, 64), Fraction(1, 2), channels=32, rates=RATES)
    x = _images(4, 32)
    assert torch.equal(layer.train()(x), layer.eval()(x))
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]))


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed is one of static-batch"):
        norm_layer("instance", "w", partial(kept_units, 4), Fraction(1), channels=4, rates=RATES)


def test_the_scaler_divides_by_the_rate_in_training_only() -> None:
    scaler, x = Scaler(Fraction(1, 8)), _images(2)
    assert torch.equal(scaler.train()(x), x * 8)
    assert torch.equal(scaler.eval()(x), x)
    assert Scaler(Fraction(1)).train()(x) is x


def test_the_scaler_before_a_normaliser_is_undone_at_unit_variance_and_not_at_tiny_variance() -> None:
    """I6 of the notes: the batch variance is divided out, but for the epsilon beside it."""
    norm, scaler, x = StaticBatchNorm(1), Scaler(Fraction(1, 16)), _images(64, seed=5)
    torch.testing.assert_close(norm(scaler(x)), norm(x), rtol=0, atol=1e-4)
    tiny = 1e-3 * x
    assert (norm(scaler(tiny)) - norm(tiny)).abs().max() > 0.5


def test_scaled_and_unscaled_networks_have_the_same_names() -> None:
    assert set(_network("static-batch").state_dict()) == set(_network("static-batch", scaler=True).state_dict())
