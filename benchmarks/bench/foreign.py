"""Ordinary modules: what a traced network costs beside the same layers by hand, and what tracing itself costs.

By hand are networks of ours, which declare their axes; traced they are cut as anybody's module is. A small device is
one core; its peak is of the whole process, PyTorch and torchvision in it. Times are of the processor, on one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.clock import cpu_seconds
from benchmarks.document import ROOT, Say
from models.algebra.axes import Axis, Kind
from models.algebra.plans import Plan, kept_units
from models.foreign.axes import find_axes
from models.foreign.part import build_part
from models.foreign.trace import trace
from models.networks.build import build, layout
from models.networks.complete import completed
from models.networks.named import mobilenet_v3_small
from models.networks.spec import NetworkSpec
from models.randomness import seeded_for_others
from models.statistics import static_norms

NAME = "foreign"
HALF = Fraction(1, 2)
HAND = (
    NetworkSpec("cnn", (1, 16, 16), 10, norm="static-batch"),
    NetworkSpec("resnet-post", (3, 16, 16), 10, norm="static-batch", blocks=(1, 1, 1, 1)),
    NetworkSpec("vit", (3, 32, 32), 10, whole_heads=True),
)
_BATCH, _STEPS, _GB = 32, 5, 10**9
_CHILD = """
import json, os, resource, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import torch
torch.set_num_threads(1)
from benchmarks.clock import cpu_seconds
from models.networks.build import layout
from models.networks.spec import NetworkSpec
spec = NetworkSpec("mobilenet-v3-small", (3, 224, 224), 10, norm="static-batch")
took = cpu_seconds(lambda: layout(spec))
print(json.dumps([took, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def foreign(say: Say = print, turns: int = 11) -> list[Row]:
    """Measure ordinary modules.

    Args:
        say: takes progress.
        turns: of every comparison.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = []
        for spec in HAND:
            say(f"foreign: {spec.name} by hand and traced")
            rows.append(_steps(completed(spec), turns))
        say("foreign: a trace and torch.export")
        return [*rows, _trace(max(1, turns // 4)), *_small_device(say)]
    finally:
        torch.set_num_threads(before)


def _steps(spec: NetworkSpec, turns: int) -> Row:
    inputs, network = torch.randn(_BATCH, *spec.input_shape), build(spec)
    for layer in static_norms(network).values():  # evaluation asks for some
        layer.statistics = torch.zeros(len(layer.weight)), torch.ones(len(layer.weight))
    found = find_axes(trace(network, inputs))
    by_hand = build(spec, _half(layout(spec).axes), Plan(HALF))
    traced = build_part(found, _half(found.axes))
    traced.load_state_dict(by_hand.state_dict())
    pairs = [(_seconds(traced, inputs), _seconds(by_hand, inputs)) for _ in range(turns + 1)]
    return row_of_turns(
        NAME,
        f"training step: {spec.name} of half width, traced / by hand",
        pairs[1:],
        unit="ms",
        scale=1e3 / _STEPS,
        limit=1.05,
        note=f"{_STEPS} steps a turn of {_BATCH} inputs {spec.input_shape}: forward, backward, SGD; one thread",
    )


def _half(axes: Mapping[str, Axis]) -> dict[str, int]:
    return {name: kept_units(axis.size, HALF) for name, axis in axes.items() if axis.kind is Kind.WIDTH}


def _seconds(network: nn.Module, inputs: Tensor) -> float:
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), 0.01)
    labels = torch.arange(len(inputs)) % 10

    def steps() -> None:
        for _ in range(_STEPS):
            optimiser.zero_grad()
            loss: Tensor = F.cross_entropy(network(inputs), labels)
            torch.autograd.backward(loss)
            optimiser.step()

    return cpu_seconds(steps)


def _trace(turns: int) -> Row:
    with seeded_for_others(0):
        module = mobilenet_v3_small((3, 32, 32), 10)
    example = torch.randn(2, 3, 32, 32)

    def export() -> None:
        module.eval()
        torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)

    export()
    pairs = [(cpu_seconds(lambda: find_axes(trace(module, example))), cpu_seconds(export)) for _ in range(turns)]
    return row_of_turns(
        NAME,
        "mobilenet-v3-small: trace / torch.export alone",
        pairs,
        unit="s",
        limit=3.0,
        note="both for any number of inputs; a trace exports for training and for evaluation",
    )


def _small_device(say: Say) -> list[Row]:
    say("foreign: mobilenet-v3-small on one core, exported and from the disk")
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        env = {**os.environ, "FLOTILLA_CACHE": folder, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        runs = [
            json.loads(subprocess.run([sys.executable, "-c", _CHILD], env=env, check=True, capture_output=True).stdout)
            for _ in range(2)
        ]
    (first, peak), (second, _) = runs
    return [
        Row(
            benchmark=NAME,
            what="one core, mobilenet-v3-small at 224 pixels: peak resident memory / 1 GB",
            measured=peak / 1e6,
            reference=_GB / 1e6,
            unit="MB",
            ratio=peak / _GB,
            limit=1.0,
            note=f"the whole process; the trace takes {first:.1f} s",
        ),
        Row(
            benchmark=NAME,
            what="its graphs from the disk / exported",
            measured=second,
            reference=first,
            unit="s",
            ratio=second / first,
            limit=0.5,
        ),
    ]
