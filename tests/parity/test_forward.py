"""HeteroFL's networks in training, layer by layer from their description (reference notes §2a, §2b), on our state."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import NetworkSpec, Plan, build_part, completed, submodel
from tests.parity.rounds import CLASSES, state_of

RATE = Fraction(1, 2)


def _normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """The Scaler, which stands before every norm, then batch norm by the batch at hand; ReLU follows everywhere."""
    scaled = x / float(RATE)
    mean, variance = scaled.mean((0, 2, 3), keepdim=True), scaled.var((0, 2, 3), correction=0, keepdim=True)
    weight, bias = (state[f"{name}.norm.{leaf}"].view(1, -1, 1, 1) for leaf in ("weight", "bias"))
    return F.relu((scaled - mean) / (variance + 1e-5).sqrt() * weight + bias)


def _classified(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    return F.linear(x.mean((2, 3)), state["exits.4.classifier.weight"], state["exits.4.classifier.bias"])


def resnet(x: Tensor, state: dict[str, Tensor], blocks: tuple[int, ...]) -> Tensor:
    """Pre-activation: the 1x1 shortcut, where the stride changes, takes what comes out of the first norm and ReLU."""
    x = F.conv2d(x, state["stem.weight"], padding=1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            name, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            out = _normed(x, state, f"{name}.norm1")
            skip = F.conv2d(out, state[f"{name}.shortcut.weight"], stride=stride) if stride > 1 else x
            out = F.conv2d(out, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(_normed(out, state, f"{name}.norm2"), state[f"{name}.conv2.weight"], padding=1)
            x = out + skip
    return _classified(_normed(x, state, "exits.4.ready.norm"), state)


def cnn(x: Tensor, state: dict[str, Tensor], layers: int) -> Tensor:
    """[3x3 convolution, Scaler, norm, ReLU, 2x2 max-pool], without the last pool."""
    for i in range(layers):
        x = F.conv2d(x, state[f"stages.{i}.0.weight"], state[f"stages.{i}.0.bias"], padding=1)
        x = _normed(x, state, f"stages.{i}.1")
        x = F.max_pool2d(x, 2) if i < layers - 1 else x
    return _classified(x, state)


@pytest.mark.parametrize("blocks", [(1, 1, 1, 2), (2, 2, 2, 2), None], ids=["resnet 1112", "resnet 2222", "cnn"])
def test_the_forward_pass_is_the_described_one(blocks: tuple[int, ...] | None) -> None:
    name = "resnet" if blocks else "cnn"
    spec = completed(NetworkSpec(name, (3, 16, 16), CLASSES, widths=(6, 9, 10, 13), blocks=blocks or (), scaler=True))
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(5, 3, 16, 16, generator=draws)
    # norms that do something, so that a missing or misplaced one shows
    state = {
        n: t + 0.3 * torch.randn(t.shape, generator=draws) if "norm" in n else t for n, t in state_of(spec).items()
    }
    part = submodel(spec, Plan(RATE)).gather(state)
    network = build_part(spec, Plan(RATE)).train()
    network.load_state_dict(part)
    expected = resnet(x, part, blocks) if blocks else cnn(x, part, 4)
    torch.testing.assert_close(network(x), expected, rtol=1e-3, atol=1e-4)
