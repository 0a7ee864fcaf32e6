"""Channels innermost: chosen by what is declared, and the same training but for the order of float32 sums."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models.adapters.adapter import Adapter
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks import memory_order
from models.networks.build import build_part, initial_state, part_of
from models.networks.complete import completed
from models.networks.memory_order import MOST_CHANNELS
from models.networks.registry import NETWORKS
from models.networks.spec import EXITS, NetworkSpec
from models.norms.layers import CHANNEL_NORMS
from models.randomness import torch_generator
from models.recent import Recent
from protocol import Work, memory_format
from protocol.memory_format import channels_last

SIDE, CLASSES, BATCH = 16, 5, 4
RESNET = completed(NetworkSpec("resnet", (3, SIDE, SIDE), CLASSES, widths=(64, 256), blocks=(1, 1)))
OF_IMAGES = [name for name, network in NETWORKS.items() if network.prove is None and 3 in network.dimensions]


@pytest.mark.parametrize(
    ("network", "changes", "last"),
    [
        (RESNET, {}, True),  # 64 channels, then 256
        (replace(RESNET, widths=(256, 64)), {}, False),
        (replace(RESNET, widths=(64, 256, 64), blocks=(1, 1, 1)), {}, False),  # which would turn them again and again
        (replace(RESNET, input_shape=(1, SIDE, SIDE)), {}, False),
        (RESNET, {"plan": Plan(Fraction(1, 2))}, True),
        (RESNET, {"plan": Plan(Fraction(1, 2)), "work": Work(train_as="loop")}, False),
        (replace(RESNET, adapter=Adapter(rank=2)), {"plan": Plan(Fraction(1, 2))}, False),
        (completed(NetworkSpec("cnn-flat", (3, SIDE, SIDE), CLASSES)), {}, True),
        (completed(NetworkSpec("mlp", (3, SIDE, SIDE), CLASSES)), {}, False),  # no convolution
        (completed(NetworkSpec("cnn1d", (9, 128), CLASSES)), {}, False),  # no images
    ],
)
def test_which_parts(network: NetworkSpec, changes: dict[str, Any], last: bool) -> None:
    asked: dict[str, Any] = {"plan": Plan(), "work": Work()} | changes
    assert channels_last(network, asked["plan"], asked["work"]) is last


def test_plans_of_one_shape_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(memory_format, "_known", Recent(8))

    def counted(spec: NetworkSpec, plan: Plan) -> nn.Module:
        built.append(plan)
        return build_part(spec, plan)

    monkeypatch.setattr(memory_format, "build_part", counted)
    for shift in range(5):
        assert channels_last(RESNET, Plan(Fraction(1, 2), shift=shift), Work())
    assert len(built) == 1


@pytest.mark.parametrize("most", [MOST_CHANNELS, 8])
@pytest.mark.parametrize("norm", CHANNEL_NORMS)
@pytest.mark.parametrize("exits", EXITS)
@pytest.mark.parametrize("name", OF_IMAGES)
def test_gradients_are_those_of_the_usual_order(
    monkeypatch: pytest.MonkeyPatch, name: str, exits: str, norm: str, most: int
) -> None:
    """Whatever a declared network does between its layers, also where it flattens, gates or concatenates features.

    All convolutions are narrow, or those of the first width alone.
    """
    monkeypatch.setattr(memory_order, "MOST_CHANNELS", most)
    later = 8 if most == MOST_CHANNELS else 16
    widths = (8, *([later] * (len(NETWORKS[name].widths) - 1)))
    rates = (Fraction(1, 2), Fraction(1)) if norm == "batch-per-width" else ()
    try:
        spec = completed(
            NetworkSpec(name, (3, SIDE, SIDE), CLASSES, widths=widths, norm=norm, exits=exits, rates=rates)
        )
        network = part_of(spec, Plan(), initial_state(spec, torch_generator(1, 0, "server", "initial state")))
    except SettingError:
        pytest.skip("no such network")
    network = network.train().double()
    inputs = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    usual = _gradients(network, inputs)
    seen: list[bool] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _module, _given, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    found = _gradients(network, inputs.contiguous(memory_format=torch.channels_last))
    # It does something, where there is something to do.
    assert any(seen) == any(isinstance(module, nn.Conv2d) for module in network.modules())
    if name in ("cnn", "resnet") and later > most:
        assert not all(seen)
    for own, other in zip(usual, found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet", "resnet-post"])
def test_features_have_positions_innermost_from_the_first_wide_convolution_on(name: str) -> None:
    spec = completed(NetworkSpec(name, (3, SIDE, SIDE), CLASSES, widths=(64, 256), blocks=(2, 2)))
    network = build_part(spec, Plan()).train()
    after: list[tuple[int, bool]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda one, _x, y: after.append((one.out_channels, y.is_contiguous())))
    inputs = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch_generator(1, 0, "server", "images"))
    network(inputs.contiguous(memory_format=torch.channels_last))
    assert {channels for channels, _ in after} == {64, 256}
    assert all(positions == (channels == 256) for channels, positions in after)
    after.clear()
    network(inputs)
    assert all(positions for _, positions in after)  # nobody asked for another order


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the convolutions of which gradients of weights are wanted: kernel, stride, channels, whether innermost."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...], int, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            _, x, weight, _, stride = args[:5]
            self.seen.append((tuple(weight.shape[2:]), tuple(stride), weight.shape[1], x.stride(1) == 1))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("units", [1, 4, 8])
def test_no_gradient_is_asked_for_that_onednn_writes_past_its_memory(name: str, units: int) -> None:
    """A 1x1 convolution with a stride, of few channels that are innermost: on CPUs with AVX2 the process dies."""
    widths = tuple(units << i for i in range(len(NETWORKS[name].widths)))
    try:
        spec = completed(NetworkSpec(name, (3, SIDE, SIDE), CLASSES, widths=widths))
    except SettingError:
        pytest.skip("no such network")
    network = part_of(spec, Plan(), initial_state(spec, torch_generator(1, 0, "server", "initial state"))).train()
    inputs = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch_generator(1, 0, "server", "images"))
    with _Convolutions() as convolutions:
        _gradients(network, inputs.to(memory_format=torch.channels_last))
    single = [one[1:] for one in convolutions.seen if one[0] == (1, 1)]
    assert not [one for one in single if one[0] != (1, 1) and one[1] < 16 and one[2]]
    if name.startswith("resnet") and units > 1:  # a single channel is not innermost
        assert ((1, 1), (1, 1), units, True) in convolutions.seen  # the shortcut, of positions that were picked


_ON_AVX2 = """
import torch
from tests.protocol.test_memory_format import gradients_of_a_part

for units in (4, 8, 16):
    usual, last = (gradients_of_a_part(units, order) for order in (torch.contiguous_format, torch.channels_last))
    for own, other in zip(usual, last, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)
"""


def gradients_of_a_part(units: int, order: torch.memory_format) -> list[Tensor]:
    """Of a ResNet's narrow part in float32, three times over, with images of 32x32."""
    spec = completed(NetworkSpec("resnet", (3, 32, 32), CLASSES, widths=(units, 2 * units), blocks=(1, 1)))
    network = part_of(spec, Plan(), initial_state(spec, torch_generator(1, 0, "server", "initial state"))).train()
    inputs = torch.randn(10, 3, 32, 32, generator=torch_generator(1, 0, "server", "images"))
    for _ in range(2):
        _gradients(network, inputs.to(memory_format=order))
    return _gradients(network, inputs.to(memory_format=order))


def test_narrow_parts_train_on_a_cpu_with_avx2() -> None:
    """As if this one had nothing better."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}  # with two threads it never ended
    environment = os.environ | limits | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _ON_AVX2], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_convolution_of_ones_own_keeps_the_usual_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody picks positions for it, nor for what a narrower part has of it."""
    made = [nn.Conv2d(3, 64, 3), nn.Conv2d(64, 8, 1, stride=2)]
    monkeypatch.setattr(memory_format, "build_part", lambda spec, plan: nn.Sequential(*made))
    monkeypatch.setattr(memory_format, "_known", Recent(8))
    assert not channels_last(RESNET, Plan(), Work())
    made[1] = nn.Conv2d(64, 8, 1)
    monkeypatch.setattr(memory_format, "_known", Recent(8))
    assert channels_last(RESNET, Plan(), Work())


def _gradients(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    network.zero_grad()
    F.cross_entropy(network(inputs), torch.arange(len(inputs)) % CLASSES).backward()  # type: ignore[no-untyped-call]
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
