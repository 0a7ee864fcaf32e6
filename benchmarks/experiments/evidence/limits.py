"""Equal budgets in place of equal ratios: which part of each method fits a board, by memory, compute or link.

Boards stand for four classes of devices. The networks here are far too small for any of them to be short of anything,
so what counts is their ratio: the whole plain network takes the memory of the largest board, and the deadline is what
the second one takes for it. What a part takes is the project's own cost model (`models.cost`), for a step of training
with every exit, and its array as float32 for the link; which part a board gets is the project's own rule
(`strategies.tiers.adaptive.first`): the largest that fits the memory and meets the deadline, else the smallest that
fits the memory, else none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import inf

from benchmarks.experiments.evidence.left_out import OUT, WITHIN
from benchmarks.experiments.evidence.settings import COMMON, DATA, OWN, SPLITS, Keys
from flotilla.settings import Value
from models.algebra.plans import Plan
from models.cost import cost_of, training_bytes
from models.networks.build import layout, submodel
from models.registry import prefix_of
from server_app.config import resolve
from server_app.tier_records import kept_plans
from strategies.flower_adapter import FlowerStrategy
from strategies.tiers.adaptive import Demand, Rule, first

LIMITS = ("memory", "compute", "link")
SLACK = 1.05  # of a budget: exits are a little beside the plain network
_FORWARD_AND_BACK = 3  # passes of a training step, as on virtual devices


@dataclass(frozen=True, kw_only=True)
class Board:
    """A device.

    Attributes:
        name: of its tier.
        title: what it is.
        memory: GB.
        speed: GFLOP/s in float32.
        modem: what it sends by.
        up: Mbit/s.
    """

    name: str
    title: str
    memory: float
    speed: float
    modem: str
    up: float


# Figures and their sources stand in docs/evidence.md.
BOARDS = (
    Board(name="orin", title="Jetson Orin Nano 8GB", memory=8, speed=1280, modem="LTE Cat 4", up=50),
    Board(name="nano", title="Jetson Nano", memory=4, speed=236, modem="LTE Cat 1", up=5),
    Board(name="pi4", title="Raspberry Pi 4B, 2 GB", memory=2, speed=48, modem="LTE Cat M1", up=1),
    Board(name="pi3", title="Raspberry Pi 3B+", memory=1, speed=24, modem="LTE Cat M1, half duplex", up=0.375),
)
_EIGHTHS = ("1", "7/8", "3/4", "5/8", "1/2", "3/8", "1/4", "1/8")
_DEPTHS = ("1@4", "3/4@3", "1/2@2", "1/4@1")
_PLAIN: Keys = {"exits": "plain"}  # behind the authors' exits a part takes more than the whole plain network
# Row → settings beside those that all share, and the sizes among which a board's is chosen, widest first.
SIZES: Mapping[str, tuple[Keys, Sequence[str]]] = {
    "heterofl": ({}, _EIGHTHS),
    "fedrolex": ({}, _EIGHTHS),
    "fjord": ({}, _EIGHTHS),
    "nefl": ({}, (*_EIGHTHS, "1/16", "1/32", "1/64")),
    "splitmix": ({}, ("1", "3/4", "1/2", "1/4")),
    "scalefl": (_PLAIN, ("1@4", "7/8@4", "3/4@3", "5/8@3", "1/2@2", "3/8@2", "1/4@1", "1/8@1")),
    "depthfl": (_PLAIN, _DEPTHS),
    "inclusivefl": (_PLAIN, _DEPTHS),
}
# Rows that take the sizes of HeteroFL: everybody's is the smallest of them, or only who has the whole takes part.
_LIKE_HETEROFL = ("smallest", "exclusive")
ROWS = ("fedavg", *_LIKE_HETEROFL, *SIZES, "blockwise")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a part takes of a device: bytes to train it, multiply-accumulates of a forward pass, bytes up."""

    memory: float
    macs: float
    up: float


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a board got of a method.

    Attributes:
        size: rate and depth; "" is nothing.
        needs: of that part.
        late: seconds of a round over the deadline's; 0 where there is none.
    """

    size: str
    needs: Needs
    late: float


def _strategy(row: str, tiers: str) -> FlowerStrategy:
    keys = {**COMMON, **DATA["fashion"], **SPLITS["dirichlet-0.6"], **OWN.get(row, {}), **SIZES.get(row, ({}, ()))[0]}
    return resolve({}, overrides={**keys, "method": row, "tiers": tiers}, check_files=False).strategy()


def _needs(strategy: FlowerStrategy, plan: Plan) -> Needs:
    spec = strategy.network
    return Needs(
        memory=training_bytes(spec, plan, strategy.settings.work.batch_size, reckoned=True),
        macs=cost_of(spec, plan, every_exit=True).macs,
        up=4 * submodel(spec, plan).numel,
    )


@cache
def whole() -> Needs:
    """What the whole plain network takes."""
    return _needs(_strategy("fedavg", "a:1"), Plan())


@cache
def sizes(row: str) -> Mapping[str, Needs]:
    """Size → what it takes, for the sizes of a row."""
    if row == "fedavg":
        return {"1": whole()}
    if row == "blockwise":
        return {"1": _blockwise()}
    strategy, plans = parts("heterofl" if row in _LIKE_HETEROFL else row)
    return {size: _needs(strategy, plan) for size, plan in plans.items()}


def parts(row: str) -> tuple[FlowerStrategy, Mapping[str, Plan]]:
    """A method of `SIZES`, and the part of every size."""
    told = SIZES[row][1]
    strategy = _strategy(row, ", ".join(told))
    plans = kept_plans(strategy, strategy.context(1))
    return strategy, {size: plans[tier.name] for size, tier in zip(told, strategy.settings.tiers, strict=True)}


def _blockwise() -> Needs:
    """The most of what its stages take: the forward pass up to the stage, and two more through it alone."""
    strategy = _strategy("blockwise", "a:1")
    spec = strategy.network
    stages = [Plan(depth=depth, own_exit=True, frozen=depth - 1) for depth in sorted(layout(spec).exits)]
    forward = [0, *(cost_of(spec, Plan(depth=plan.depth, own_exit=True)).macs for plan in stages)]
    passes = [to + 2 * (to - before) for before, to in pairwise(forward)]
    found = [_needs(strategy, plan) for plan in stages]
    return Needs(
        memory=max(one.memory for one in found),
        macs=max(passes) / _FORWARD_AND_BACK,
        up=max(one.up for one in found),
    )


def seconds(limit: str, board: Board, needs: Needs) -> float:
    """Of a round on a board, by what the limit is about; 0 where it is about memory."""
    if limit == "compute":
        batch, steps = int(str(COMMON["batch-size"])), int(str(COMMON["local-steps"]))
        return steps * batch * _FORWARD_AND_BACK * 2 * needs.macs / (1e9 * board.speed)
    return 8e-6 * needs.up / board.up if limit == "link" else 0.0


def deadline(limit: str) -> float:
    """Seconds of a round: what the second board takes for the whole plain network; without end for memory."""
    return SLACK * seconds(limit, BOARDS[1], whole()) or inf


@cache
def given(limit: str, row: str) -> Mapping[str, Given]:
    """Board → what it gets of a method; the plain average knows no limit, and block-wise training has one part."""
    found, told = {}, sizes(row)
    for board in BOARDS:
        memory = SLACK * whole().memory * board.memory / BOARDS[0].memory
        demand = Demand(
            steps=[1] * len(told),
            step=[seconds(limit, board, one) for one in told.values()],
            needed=[one.memory for one in told.values()],
            coordinates=[0] * len(told),
            memory=memory if limit == "memory" and row != "fedavg" else inf,
        )
        tier = first(demand, Rule(deadline=deadline(limit), margin=1.0))
        if tier is None:
            found[board.name] = Given(size="", needs=Needs(memory=0, macs=0, up=0), late=0.0)
            continue
        size = list(told)[tier.position]
        found[board.name] = Given(size=size, needs=told[size], late=seconds(limit, board, told[size]) / deadline(limit))
    return found


@cache
def within(limit: str) -> Mapping[str, Mapping[str, Value]]:
    """Row → its settings under a limit, for every row some of whose boards can take part."""
    rows: dict[str, Mapping[str, Value]] = {}
    for row in ROWS:
        got, told = given(limit, row), list(sizes(row))
        if not any(one.size for one in got.values()):
            continue
        names = {name: name if one.size else name + OUT for name, one in got.items()}
        tiers = ", ".join(f"{names[name]}:{one.size or told[-1]}" for name, one in got.items())
        everybody = all(one.size for one in got.values())
        method = {"method": row, **OWN.get(row, {})} if everybody else _left_out(row)
        rows[row] = {**method, **SIZES.get(row, ({}, ()))[0], "tiers": tiers}
    return rows


def _left_out(row: str) -> Mapping[str, Value]:
    """The method that leaves boards out; its options have keys that begin with its own name."""
    kind = WITHIN[row]
    name = f"{kind.__module__}:{kind.__name__}"
    own = {key.removeprefix(row): value for key, value in OWN.get(row, {}).items()}
    return {"method": name, **{prefix_of(name, kind) + key: value for key, value in own.items()}}
