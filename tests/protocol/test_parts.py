"""A codec's memory under submodels: coordinates of the full network, whatever part a round holds."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from models.algebra.plans import Plan
from models.algebra.submodel import Block, Submodel, flatten, split
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol.codecs import CodecSettings, OfPart, codec_of
from protocol.codecs.topk import RESIDUAL
from tests.protocol.cases import Kept, draws

SPEC = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(40, 25)))
SHAPES = layout(SPEC).shapes
TOTAL = layout(SPEC).parameters
PLANS = [
    Plan(),
    Plan(Fraction(1, 2)),
    Plan(Fraction(1, 3), shift=37),  # wraps
    Plan(Fraction(1, 3), units=(("hidden1", (3, 7, 8, 21, 39)), ("hidden2", (0, 2, 24)))),
]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))


def numbers() -> Tensor:
    """Each coordinate of the network is its own number; large enough that a wrong index shows."""
    assert TOTAL > 1000
    return torch.arange(1, TOTAL + 1, dtype=torch.float32)


def test_nothing_is_known_at_first() -> None:
    assert OfPart(Kept(), submodel(SPEC, PLANS[1]), SHAPES).read("x") is None


@every_plan
def test_a_part_is_read_where_it_lives(plan: Plan) -> None:
    memory, part = Kept(), submodel(SPEC, plan)
    memory.write("x", numbers())
    expected = flatten(part.gather(split(numbers(), SHAPES)))
    read = OfPart(memory, part, SHAPES).read("x")
    assert read is not None
    assert torch.equal(read, expected)


@every_plan
def test_what_a_part_does_not_hold_keeps_its_value(plan: Plan) -> None:
    memory, part = Kept(), submodel(SPEC, plan)
    memory.write("x", numbers())
    OfPart(memory, part, SHAPES).write("x", -flatten(part.gather(split(numbers(), SHAPES))))
    held = set(flatten(part.gather(split(numbers(), SHAPES))).int().tolist())
    assert [abs(v) for v in memory.vectors["x"].tolist()] == numbers().tolist()
    assert {-int(v) for v in memory.vectors["x"].tolist() if v < 0} == held


@every_plan
def test_the_first_write_leaves_zeros_around_it(plan: Plan) -> None:
    memory, part = Kept(), submodel(SPEC, plan)
    OfPart(memory, part, SHAPES).write("x", torch.ones(part.numel))
    assert len(memory.vectors["x"]) == TOTAL
    assert int(memory.vectors["x"].sum()) == part.numel


def test_a_vector_of_another_network_is_lost() -> None:
    memory = Kept()
    memory.write("x", torch.ones(7))
    assert OfPart(memory, submodel(SPEC, Plan()), SHAPES).read("x") is None
    assert OfPart(memory, submodel(SPEC, PLANS[1]), SHAPES).read("x") is None


def test_a_masked_coordinate_is_neither_read_nor_written() -> None:
    whole = submodel(SPEC, Plan())
    name = next(name for name, block in whole.items() if len(block.shape) == 2)
    block = whole[name]
    mask = (torch.arange(block.numel).view(block.local_shape) % 3 == 0).float()
    part = Submodel(
        dict(whole) | {name: Block(source=block.source, shape=block.shape, runs=block.runs, mask=mask)}, whole.sizes
    )
    memory = Kept()
    memory.write("x", numbers())
    seen = OfPart(memory, part, SHAPES)
    read = seen.read("x")
    assert read is not None
    assert int((read == 0).sum()) == int((mask == 0).sum())
    seen.write("x", torch.zeros(part.numel))
    assert torch.equal(split(memory.vectors["x"], SHAPES)[name] == 0, mask != 0)


def test_error_feedback_loses_nothing_while_the_window_moves() -> None:
    """In full coordinates, Σ sent + e = Σ Δ."""
    codec, memory = codec_of(CodecSettings("topk", share=0.1, small=20)), Kept()
    sent, given = torch.zeros(TOTAL, dtype=torch.float64), torch.zeros(TOTAL, dtype=torch.float64)
    draw = torch.Generator().manual_seed(3)
    for number in range(12):
        part = submodel(SPEC, Plan(Fraction(1, 3), shift=5 * number))
        sizes = [block.numel for block in part.values()]
        x = torch.randn(part.numel, generator=draw)
        flat = codec.decode(codec.encode(x, sizes, draws(), OfPart(memory, part, SHAPES)), sizes, Kept()).flat
        for total, values in ((given, x), (sent, flat)):
            own = Kept()
            OfPart(own, part, SHAPES).write("x", values)
            total += own.vectors["x"]
    torch.testing.assert_close(sent + memory.vectors[RESIDUAL], given, rtol=1e-4, atol=1e-4)
