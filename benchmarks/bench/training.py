"""Training: local steps against a bare eager loop, and what a client's time goes to.

The steps of a round of the default job, of five tiers on 28x28 images, and of five tiers of the ResNet, also with mixed
precision where the CPU has bfloat16, in two processes (`benchmarks.bench.steps`); the bare loop computes in float32.
Then, through the ClientApp itself, from the bytes of a request to the bytes of its reply (one thread, the ResNet, 50
images): how much of it is forward, backward and optimiser, and how many models a process makes. And of a client of the
default job, what it and its messages take beside those, in rounds of one process and asked alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from flwr.app import Context, Message, RecordDict

from benchmarks.bench.pfl import started
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.bench.shapes import RESNET_18
from benchmarks.bench.steps import Round, in_turns
from benchmarks.document import Say
from benchmarks.images import Images, images
from client_app import model_cache as workspace
from client_app.app import app
from client_app.hardware import has_bfloat16
from data import node_data
from flotilla.flwr_compat.identity import assume_identity
from flotilla.flwr_compat.messages import from_bytes, to_bytes
from flotilla.local.grid import contexts
from flotilla.local.pool import PoolGrid
from flotilla.local.shared import attach, detach
from models.algebra.rates import single
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol import TRAIN, Hello, Reply, Scalar, Work
from server_app.config.resolve import RunConfig, resolve
from strategies.exchange.assignment import Participant
from strategies.exchange.node import Node
from strategies.round.assignments import assigned
from strategies.round.requests import train_request
from strategies.tiers.tier import HALVING, Tier

NAME = "training"
PROCESSES = 2
_ROUNDS = 5  # of a turn: one takes a tenth of a second, in which others of the machine can be at work


def training(
    say: Say = print, clients: int = 1000, turns: int = 5, step_turns: int = 9, **changes: Scalar
) -> list[Row]:
    """Measure local training.

    Args:
        say: takes progress.
        clients: into which the training images are divided.
        turns: clients that train the full network.
        step_turns: rounds of bare steps; 0 leaves them out.
        changes: other run settings, for a quick look.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assume_identity()
    try:
        rows = [*_step_rows(say, step_turns), *_beside_rows(say, _Client({}), step_turns)] if step_turns else []
        with images() as found:
            keys = _keys(found, clients) if not changes else {**changes, "num-clients": clients}
            return rows + _rows(say, _Client(keys), turns, found.what if not changes else str(changes.get("dataset")))
    finally:
        torch.set_num_threads(before)


def _step_rows(say: Say, turns: int) -> list[Row]:
    """Rounds of local training in turns with the same steps in a bare loop."""
    default = resolve({})
    examples = len(node_data(default.data, 0).train)
    fashion = completed(NetworkSpec("cnn", (1, 28, 28), 10, widths=(16, 32, 64, 128), scaler=True))
    resnet = "five tiers of the ResNet, 10 clients x 50 images of 32x32"
    cases = {
        f"default job, 20 clients x {examples} digits": (
            round_of(default.network, 20, examples, default.settings.work),
            0.25,
        ),
        "five tiers, 10 clients x 300 images of 28x28": (round_of(fashion, 10, 300, Work(batch_size=32)), 0.55),
        f"{resnet}, float32": (round_of(RESNET_18, 10, 50, Work(batch_size=10)), 0.95),
    }
    if has_bfloat16(torch.device("cpu")):
        cases[f"{resnet}, bfloat16"] = (round_of(RESNET_18, 10, 50, Work(batch_size=10, mixed_precision=True)), 0.7)
    rows = []
    for what, (asked, limit) in cases.items():
        say(f"training: {what}, in turns with the bare loop")
        times = in_turns(asked, PROCESSES, turns)
        note = "both in two processes of one thread; random inputs"
        rows.append(
            row_of_turns(NAME, f"{what} / the same steps in a bare loop", times, unit="s", limit=limit, note=note)
        )
    return rows


def _beside_rows(say: Say, client: _Client, turns: int) -> list[Row]:
    """What a client of the default job takes beside forward, backward and optimiser: in a run, and asked alone."""
    say("training: a client of the default job, beside its steps")
    what = "default job, a client beside its steps: ClientApp, request and reply from process to process"
    alone = []
    for _ in range(turns + 2):  # the first two make models and read data
        timed = [client.train(tier, i) for i, tier in enumerate(HALVING)]
        alone.append(1e3 * sum(one.with_shared - one.computing for one in timed) / len(timed))
    return [
        row_of_turns(
            NAME,
            f"{what}, in rounds of 20 / 1.5 ms",
            [(1e3 * took, 1.5) for took in beside_in_rounds(client.config, turns)],
            unit="ms",
            limit=1.0,
            note="until the last reply, less what clients computed; one process of one thread beside the server's; "
            f"a turn is the median of {_ROUNDS} rounds",
        ),
        row_of_turns(
            NAME,
            "the same of a client that is asked alone / 1.5 ms",
            [(took, 1.5) for took in alone[2:]],
            unit="ms",
            note="mean of five tiers; in a round, clients of a tier that a process has in hand share some of it",
        ),
    ]


def beside_in_rounds(config: RunConfig, turns: int) -> list[float]:
    """Seconds that a client takes beside its steps, medians of each turn's rounds: its process always has another."""
    strategy, beside = started(config), []
    with PoolGrid(config.flat, config.num_clients, processes=1) as grid:
        for number in range(1, turns * _ROUNDS + 3):  # the first two make models and read data
            report = strategy.run_round(grid, number)
            if report.rejected or report.abandoned:
                raise RuntimeError(f"a benchmark round went wrong: {report.rejected[:3]}")
            took = float(report.waiting["train"]["last"])
            beside.append(took / report.accepted - report.client_seconds["computing"])
    return [median(beside[begin : begin + _ROUNDS]) for begin in range(2, len(beside), _ROUNDS)]


def round_of(network: NetworkSpec, clients: int, examples: int, work: Work) -> Round:
    """A round of the five tiers by the default job's optimiser."""
    return Round(
        network=network.to_json(),
        rates=tuple(single(tier.rate) for tier in HALVING),
        clients=clients,
        examples=examples,
        work=work,
        optimiser=resolve({}).settings.schedule.optimiser(1),
    )


def _keys(found: Images, clients: int) -> dict[str, Scalar]:
    return {
        "dataset": found.dataset,
        "data-root": found.data_root,
        "model": "resnet",
        "num-clients": clients,
        "local-epochs": 1,
        "batch-size": 10,
        "local-test-fraction": 0.0,
        "device": "cpu",
    }


def _rows(say: Say, client: _Client, turns: int, data: str) -> list[Row]:
    say("training: the full network, one client after the other")
    client.train(HALVING[0], 0)  # makes the model and reads the data
    timed = [client.train(HALVING[0], 1 + turn) for turn in range(turns)]
    case = f"{client.config.network.name}, {client.examples} images in batches of 10 ({data}), one thread"
    rows = [
        row_of_turns(
            NAME,
            "share of a client's time in forward, backward, optimiser",
            [(t.client, t.computing) for t in timed],
            unit="s",
            limit=0.9,
            at_least=True,
            note=f"{case}; measured: the ClientApp, from request to reply",
        ),
        row_of_turns(
            NAME,
            "the same with flwr's protobuf of request and reply",
            [(t.with_wire, t.computing) for t in timed],
            unit="s",
            at_least=True,
            note="reported only: the simulation pickles instead",
        ),
    ]
    say("training: every tier, twice")
    workspace._models.clear()
    made: list[set[int]] = []
    for _ in range(2):
        for i, tier in enumerate(HALVING):
            client.train(tier, i)
        made.append({id(model) for model in workspace._models.values()})
    same = made[0] == made[1]
    rows.append(
        Row(
            benchmark=NAME,
            what="model objects / shapes, after 10 clients of 5 tiers",
            measured=len(made[1]),
            reference=len(HALVING),
            unit="",
            ratio=len(made[1]) / len(HALVING) if same else float("inf"),
            limit=1.0,
        )
    )
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """Wall seconds of a client.

    Attributes:
        computing: in forward, backward, optimiser.
        client: in the ClientApp.
        with_wire: that and flwr's serialising.
        with_shared: that and both ends' taking apart and putting together, where arrays stand in shared memory.
    """

    computing: float
    client: float
    with_wire: float
    with_shared: float


class _Client:
    """The ClientApp and what it needs to be asked."""

    def __init__(self, keys: dict[str, Scalar]) -> None:
        self.config: RunConfig = resolve(keys)
        self.examples = 0
        self._contexts: list[Context] = list(contexts(self.config.flat, self.config.num_clients).values())
        self._strategy = started(self.config)
        self._context = self._strategy.context(1)
        self._states = self._strategy.runner.states(self._context)

    def train(self, tier: Tier, node: int) -> _Timed:
        """Ask one client, by a message that is serialised and parsed, and time its answer."""
        context = self._contexts[node]
        somebody = Node(context.node_id, Hello(node=node, examples=1))
        participant = Participant(node=somebody, tier=tier, round_number=1)
        (assignment,) = assigned(
            self._context,
            [participant],
            method=self._strategy,
            states=self._states,
            pieces=self._strategy.runner.pieces,
            nodes=[somebody],
        )
        asked, _ = train_request(self._context, assignment, self._states)
        shared = _seconds_shared(asked.content)
        data = to_bytes(asked.content)
        marks = [perf_counter()]
        content = from_bytes(data)
        request = Message(content=content, dst_node_id=context.node_id, message_type=TRAIN)
        marks.append(perf_counter())
        answer = app(request, context)
        marks.append(perf_counter())
        to_bytes(answer.content)
        marks.append(perf_counter())
        metrics = Reply.from_record(answer.content).metrics
        self.examples = int(metrics["num-examples"])
        client = marks[2] - marks[1]
        return _Timed(
            computing=metrics["seconds-computing"],
            client=client,
            with_wire=marks[3] - marks[0],
            with_shared=client + shared + _seconds_shared(answer.content),
        )


def _seconds_shared(content: RecordDict) -> float:
    """Wall seconds of a message between processes that share memory, but for the pipe."""
    began = perf_counter()
    light, arrays = detach(content)
    attach(light, [memoryview(array.data) for array in arrays])
    return perf_counter() - began
