"""One node of ten that lies in each number it says, under each aggregation rule, selector and clustering.

Guards as they are by default, ten rounds of a small MLP on digits. Every number is lied about in the runs in which
somebody reads it; where a lie could do more harm with it, the difference has its sign turned. What the guard cannot do
stands beside: three of ten that act together, and labels that are flipped on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from benchmarks.document import DOCS, Say, replace_part, table
from benchmarks.experiments.runs import Keys, metrics_of
from benchmarks.task import Command, Options
from client_app.device import data_of
from data import NodeData
from flotilla.local.base import address_of
from flotilla.local.grid import Faults
from protocol import (
    DIFFERENCE,
    GRADIENT,
    GRADIENTS,
    HELLO,
    LOSSES,
    MOMENTS,
    STATISTICS,
    TRAIN,
    encode,
    keep_large_buffers,
)

DOCUMENT = DOCS / "lies.md"
LIARS = (3, 6, 8)  # the first one lies alone
ALLOWED = 0.05  # that a lie may cost

COMMON: Keys = {
    "method": "fedavg",
    "dataset": "digits",
    "model": "mlp",
    "widths": "64, 32",
    "norm": "static-batch",
    "tiers": "a:1",
    "num-clients": 10,
    "batch-size": 32,
    "local-epochs": 2,
    "local-test-fraction": 0.0,
    "evaluate-every": 5,
    "checkpoint-every": 5,
    "device": "cpu",
}
_SELECTED: Keys = {"fraction-train": 0.5}
_PLAIN: Keys = {"momentum": 0.0, "learning-rate": 0.5}  # q-FFL's 1/η is the smoothness of steps without momentum
_GRADIENT: Keys = {"local-steps": 1, "clip-norm": 0.0, "weight-decay": 0.0, "learning-rate": 0.5}

Change = Callable[[RecordDict], None]


@dataclass(frozen=True, kw_only=True)
class Lie:
    """What a node says instead of the truth.

    Attributes:
        name: in the table.
        changes: message type → what becomes of the reply.
    """

    name: str
    changes: Mapping[str, Sequence[Change]]

    def by(self, nodes: Sequence[int]) -> Faults:
        """The lie of some nodes, as faults of the local grid."""
        liars = {address_of(node) for node in nodes}

        def faults(request: Message, reply: Message) -> list[Message]:
            if request.metadata.dst_node_id in liars and reply.has_content():
                for change in self.changes.get(request.metadata.message_type, ()):
                    change(reply.content)
            return [reply]

        return faults


def times(factor: float) -> Change:
    """The difference, so much longer."""

    def change(content: RecordDict) -> None:
        flat = content.array_records["arrays"][DIFFERENCE].numpy()
        content["arrays"] = ArrayRecord({DIFFERENCE: Array(np.asarray(flat * np.float32(factor)))})

    return change


def says(**numbers: float) -> Change:
    """Other numbers."""

    def change(content: RecordDict) -> None:
        for name, number in numbers.items():
            content.metric_records["metrics"][name.replace("_", "-")] = number

    return change


def examples(content: RecordDict) -> None:
    """A hello of more examples than there are."""
    content.config_records["config"]["examples"] = 2**62


def moments(content: RecordDict) -> None:
    """Moments of 1e30."""
    length = content.array_records["arrays"][MOMENTS].shape[0]
    content["arrays"] = ArrayRecord({MOMENTS: encode(torch.full((length,), 1e30, dtype=torch.float64))})


def gradient(content: RecordDict) -> None:
    """A gradient of 1e15 everywhere."""
    length = content.array_records["arrays"][GRADIENT].shape[0]
    content["arrays"] = ArrayRecord({GRADIENT: encode(torch.full((length,), 1e15))})


def other_cluster(content: RecordDict) -> None:
    """The other one of two."""
    metrics = content.metric_records["metrics"]
    metrics["cluster"] = 1.0 - float(metrics["cluster"])  # type: ignore[arg-type]


TURNED = times(-1)
_MANY = says(num_examples=1e9)
# What every run reads.
COMMON_LIES = (
    Lie(name="examples, hello", changes={HELLO: [examples], TRAIN: [_MANY, TURNED]}),
    Lie(name="examples, reply", changes={TRAIN: [_MANY, TURNED]}),
    Lie(name="difference x 1e6", changes={TRAIN: [times(1e6)]}),
    Lie(name="difference x -10", changes={TRAIN: [times(-10)]}),
    Lie(name="difference x -1", changes={TRAIN: [TURNED]}),
    Lie(name="moments 1e30", changes={STATISTICS: [moments]}),
)
STEPS = Lie(name="steps 1e9", changes={TRAIN: [says(steps=1e9)]})
ONE_STEP = Lie(name="steps 1", changes={TRAIN: [says(steps=1), TURNED]})
LOSS_BEFORE = Lie(name="loss before 1e20", changes={TRAIN: [says(loss_before=1e20), TURNED]})
NO_LOSS_BEFORE = Lie(name="loss before 0", changes={TRAIN: [says(loss_before=0.0), TURNED]})
LOSS = Lie(name="loss 1e308", changes={TRAIN: [says(loss=1e308, loss_square=1e308), TURNED]})
PROBED = Lie(name="probed loss 1e308", changes={LOSSES: [says(loss=1e308)], TRAIN: [TURNED]})
SLOW = Lie(name="seconds 1e300", changes={TRAIN: [says(seconds=1e300, seconds_computing=1e300)]})
QUICK = Lie(name="seconds 1e-300", changes={TRAIN: [says(seconds=1e-300, seconds_computing=1e-300), TURNED]})
PROBED_GRADIENT = Lie(name="probed gradient 1e15", changes={GRADIENTS: [gradient], TRAIN: [TURNED]})
CLUSTER = Lie(name="cluster, x 1e4", changes={TRAIN: [other_cluster, times(1e4)]})
CLUSTER_ONLY = Lie(name="cluster", changes={TRAIN: [other_cluster, TURNED]})
# Of what is encoded nothing else is changed: a frame that was would be refused as damaged, whatever the numbers say.
LOSS_BEFORE_ONLY = Lie(name="loss before 1e20, no turn", changes={TRAIN: [says(loss_before=1e20)]})
NORM = Lie(name="norm 1e30", changes={TRAIN: [says(norm=1e30)]})
NO_NORM = Lie(name="norm 0", changes={TRAIN: [says(norm=0.0)]})
_TRAINED = [LOSS, STEPS, SLOW, QUICK]
# Case → its keys, and what only it reads.
CASES: Mapping[str, tuple[Keys, Sequence[Lie]]] = {
    "method (by examples)": ({}, ()),
    "examples": ({"aggregation": "examples"}, ()),
    "uniform": ({"aggregation": "uniform"}, ()),
    "q-fedavg": ({"aggregation": "q-fedavg", **_PLAIN}, (LOSS_BEFORE, NO_LOSS_BEFORE)),
    "q-fedavg, qsgd": ({"aggregation": "q-fedavg", "codec": "qsgd", **_PLAIN}, (LOSS_BEFORE_ONLY, NORM, NO_NORM)),
    "q-fedsgd": ({"aggregation": "q-fedsgd", **_GRADIENT}, (LOSS_BEFORE, NO_LOSS_BEFORE)),
    "fednova": ({"aggregation": "fednova"}, (STEPS, ONE_STEP)),
    "fednova, trimmed mean": ({"aggregation": "fednova", "guard-mean": "trimmed-mean"}, (STEPS, ONE_STEP)),
    "median": ({"guard-mean": "median"}, ()),
    "feddyn": ({"dynamic-alpha": "0.1"}, ()),
    "by-size": ({"selection": "by-size", **_SELECTED}, ()),
    "by-size-replacement": ({"selection": "by-size-replacement", **_SELECTED}, ()),
    "pow-d": ({"selection": "pow-d", **_SELECTED}, (PROBED,)),
    "cpow-d": ({"selection": "cpow-d", **_SELECTED}, (PROBED,)),
    "rpow-d": ({"selection": "rpow-d", **_SELECTED}, (LOSS,)),
    "divfl": ({"selection": "divfl", **_SELECTED}, (STEPS, ONE_STEP)),
    "divfl, gradients": ({"selection": "divfl", "divfl-refresh": "everyone", **_SELECTED}, (PROBED_GRADIENT,)),
    "oort": ({"selection": "oort", **_SELECTED}, _TRAINED),
    "utility": ({"selection": "utility", **_SELECTED}, (PROBED, *_TRAINED)),
    "ifca": ({"clustering": "ifca", "ifca-clusters": 2}, (CLUSTER, CLUSTER_ONLY)),
    "cfl": ({"clustering": "cfl"}, ()),
    "cfl, qsgd": ({"clustering": "cfl", "codec": "qsgd"}, (NORM, NO_NORM)),
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a run came to.

    Attributes:
        case, lie: names; "" is nobody's.
        accuracy: on the whole test set after the last round.
        honest: without the lie.
    """

    case: str
    lie: str
    accuracy: float
    honest: float

    @property
    def cost(self) -> float:
        """Share of right answers that the lie took."""
        return self.honest - self.accuracy


def final(keys: Keys, faults: Faults | None, rounds: int) -> float:
    """Accuracy of the global network after the last round."""
    rows = metrics_of({**COMMON, "num-server-rounds": rounds, **keys}, faults)
    return float(rows[-1]["accuracy"] or 0.0)


def measure(cases: Sequence[str], say: Say = print, rounds: int = 10) -> list[Found]:
    """Run every lie of some of `CASES`, and each of them without one."""
    found = []
    for case in cases:
        keys, own = CASES[case]
        honest = final(keys, None, rounds)
        for lie in (*COMMON_LIES, *own):
            accuracy = final(keys, lie.by(LIARS[:1]), rounds)
            found.append(Found(case=case, lie=lie.name, accuracy=accuracy, honest=honest))
            say(f"{case}; {lie.name}: {accuracy:.3f}, honest {honest:.3f}")
    return found


def flipped(context: Context, facts: str, nodes: Sequence[int]) -> NodeData:
    """The examples of a device; of some, with the labels in the opposite order."""
    data = data_of(context, facts)
    if context.node_config["partition-id"] not in nodes:
        return data
    return replace(data, train=replace(data.train, labels=9 - data.train.labels))


def beyond(say: Say = print, rounds: int = 10) -> list[Found]:
    """What the guard cannot do: several that act together, and data that are wrong."""
    honest, found = final({}, None, rounds), []
    as_long = [Lie(name=f"difference x {factor:g}", changes={TRAIN: [times(factor)]}) for factor in (-1, -3.5)]
    for nodes in (LIARS[:1], LIARS):
        for lie in [*as_long, None]:
            flips: Any = nullcontext()
            if lie is None:
                flips = patch(
                    "client_app.handlers.data_of", lambda context, facts, nodes=nodes: flipped(context, facts, nodes)
                )
            with flips:
                accuracy = final({}, None if lie is None else lie.by(nodes), rounds)
            name = f"{len(nodes)} of 10: {'labels flipped' if lie is None else lie.name}"
            found.append(Found(case="", lie=name, accuracy=accuracy, honest=honest))
            say(f"{name}: {accuracy:.3f}, honest {honest:.3f}")
    return found


def as_table(found: Sequence[Found]) -> str:
    """A line per case: accuracy without a lie, and with each of those that all runs read; then its own."""
    names = [lie.name for lie in COMMON_LIES]
    lines = []
    for case in dict.fromkeys(one.case for one in found):
        of_case = {one.lie: one for one in found if one.case == case}
        own = [f"{name} {_percent(one)}" for name, one in of_case.items() if name not in names]
        honest = next(iter(of_case.values())).honest
        cells = [_percent(of_case[name]) for name in names]
        lines.append([case, f"{100 * honest:.1f}", *cells, ", ".join(own) or "-"])
    return table(["", "nobody lies", *names, "its own numbers"], lines, markdown=True)


def _percent(found: Found) -> str:
    text = f"{100 * found.accuracy:.1f}"
    return text if found.cost <= ALLOWED else f"**{text}**"


def _run(options: Options) -> int:
    """Run, print, and write the tables; 1 if a lie cost more than it may."""
    keep_large_buffers()

    def say(line: str) -> None:
        print(line, flush=True)

    found = measure(options.parts, say, options.rounds)
    worst = max(found, key=lambda one: one.cost)
    over = [one for one in found if one.cost > ALLOWED]
    text = "\n\n".join(
        [
            f"{len(found)} runs of {options.rounds} rounds; accuracy in %, in bold where a lie cost more than 5 points"
            f" ({len(over)} of {len(found)}). The most that one cost: {100 * worst.cost:.1f} points"
            f" ({worst.case}, {worst.lie}).",
            as_table(found),
        ]
    )
    others = beyond(say, options.rounds)
    lines = [[one.lie, f"{100 * one.accuracy:.1f}", f"{100 * one.honest:.1f}"] for one in others]
    out_of_reach = table(["weights by examples", "accuracy", "nobody lies"], lines, markdown=True)
    print(f"\n{text}\n\n{out_of_reach}")
    if options.write:
        replace_part(DOCUMENT, "lies", text)
        replace_part(DOCUMENT, "beyond", out_of_reach)
    return 1 if over else 0


TASK = Command(_run, parts=tuple(CASES), defaults={"rounds": 10, "write": False})
