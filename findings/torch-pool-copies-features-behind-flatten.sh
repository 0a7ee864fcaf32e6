#!/usr/bin/env bash
# torch 2.13.0, CPU: features with channels innermost (channels_last) go through a pool, a flattening and a linear layer. The backward
# pass of max_pool2d takes the memory order of the gradient that comes back from the flattening, positions innermost: it copies all
# of the features into that order, gives their gradient in it, and the convolution below copies that back. So two copies of the
# largest tensor are made in every step, and a gradient that was brought to the features' order first, a quarter of their
# size, saves both; the numbers are the same.
# For our users: cnn-flat does that behind its pool (models/networks/memory_order.py).
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" numpy
env/bin/python -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

torch.set_num_threads(1)
torch.manual_seed(0)
convolution, linear = nn.Conv2d(16, 32, 3), nn.Linear(32 * 7 * 7, 10)
x = torch.randn(8, 16, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.contiguous()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.contiguous(memory_format=torch.channels_last)


def step(turned):
    features = convolution(x)
    assert features.is_contiguous(memory_format=torch.channels_last)
    pooled = nn.functional.max_pool2d(features, 2)
    (linear((Turned.apply(pooled) if turned else pooled.contiguous()).flatten(1)) ** 2).sum().backward()


def copies(turned):
    step(turned)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        step(turned)
    rows = found.key_averages(group_by_input_shape=True)
    return sum(row.count for row in rows if row.key == "aten::copy_" and row.input_shapes[0] == [8, 32, 14, 14])


def gradient(turned):
    convolution.zero_grad()
    step(turned)
    return convolution.weight.grad.clone()


plain, turned = copies(False), copies(True)
print(f"torch {torch.__version__}: copies of the features in a step: {plain}; with the gradient in their order: {turned}")
assert torch.allclose(gradient(False), gradient(True), atol=1e-4)
raise SystemExit(0 if plain == 2 and turned == 0 else 1)
PYTHON
