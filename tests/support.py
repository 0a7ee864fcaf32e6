"""What many tests share: a tiny run through the in-process Grid, in a second or less."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict
from safetensors.torch import load_file

from client_app.app import app
from flotilla.local.grid import Faults, LocalGrid, contexts
from protocol import TRAIN, Scalar
from server_app.config import RunConfig, resolve
from server_app.run import Run
from strategies import METHODS, FlowerStrategy
from strategies.exchange.messaging import Clock
from strategies.methods.ranks.base import RankMethod
from strategies.tiers.tier import Assignment, Tier

TINY: dict[str, Scalar] = {
    "model": "mlp",
    "widths": "16, 8",
    "tiers": "a:1, b:1/2, c:1/4",
    "num-clients": 6,
    "batch-size": 128,
    "local-epochs": 1,
    "num-server-rounds": 2,
    "evaluate-every": 1000,
    "learning-rate-schedule": "constant",
    "node-wait": 0.0,
    "device": "cpu",
}


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    path: Path
    summary: dict[str, Any]
    lines: list[str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    @property
    def rejected(self) -> list[dict[str, Any]]:
        """Rejections of all rounds."""
        return [rejection for row in self.rows for rejection in row["rejected"]]

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "model.safetensors")

    @property
    def hash(self) -> str:
        return sha256((self.path / "model.safetensors").read_bytes()).hexdigest()


class Time:
    """Time that passes only while somebody sleeps, and then at once; see the fixture `own_time`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.clock = Clock(lambda: self.seconds, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


# Methods that are rules for pairs of low-rank factors, and all others, which take any network.
OF_RANKS = [name for name, method in METHODS.items() if issubclass(method, RankMethod)]
OF_ALL = [name for name in METHODS if name not in OF_RANKS]
RANKS: dict[str, Scalar] = {"adapter": "lora:4", "tiers": "a:4, b:2, c:1"}


def keys_of(**keys: Scalar) -> dict[str, Scalar]:
    """TINY with other values; `num_clients=4` stands for "num-clients". A rule for pairs of factors gets some."""
    told = {key.replace("_", "-"): value for key, value in keys.items()}
    return TINY | (RANKS if told.get("method") in OF_RANKS else {}) | told


def configured(**keys: Scalar) -> RunConfig:
    """Checked; also with settings that no configuration has, because these are given in Python."""
    return resolve({}, overrides=keys_of(**keys))


def run_of(
    folder: Path,
    faults: Faults | None = None,
    *,
    grid: Callable[..., LocalGrid] = LocalGrid,
    client: Any = app,
    nodes: Mapping[int, Context] | None = None,
    lines: list[str] | None = None,
    **keys: Scalar,
) -> Run:
    """A run that has not begun, in a new folder or (key `resume`) an old one."""
    config = configured(**({} if keys.get("resume") else {"run_dir": str(folder)}), **keys)
    flat = {**config.flat, "client-state": str(config.folder / "clients")}  # as `flotilla run` sets it
    people = contexts(flat, config.num_clients) if nodes is None else nodes
    return Run(config, grid(client, people, faults=faults), write=(list[str]() if lines is None else lines).append)


def play(folder: Path, faults: Faults | None = None, **options: Any) -> Outcome:
    """Run to the end, without the figures of report.html, which take longer than the run."""
    lines: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nets this small lose time to a second thread
    try:
        with patch("server_app.run.write_report"), patch.dict("os.environ", FLOTILLA_COMMIT="of no interest"):
            run = run_of(folder, faults, lines=lines, **options)
            return Outcome(run.folder.path, run.execute(), lines)
    finally:
        torch.set_num_threads(threads)


class Player:
    """Plays runs in folders of its own, and each faultless one only once."""

    def __init__(self, new_folder: Callable[[], Path]) -> None:
        self.new_folder = new_folder
        self._known: dict[tuple[tuple[str, Scalar], ...], Outcome] = {}

    def __call__(self, faults: Faults | None = None, **options: Any) -> Outcome:
        return play(self.new_folder(), faults, **options)

    def once(self, **keys: Scalar) -> Outcome:
        """The run of these keys, played at the first call; nobody may change its folder."""
        key = tuple(sorted(keys.items()))
        if key not in self._known:
            options: dict[str, Any] = dict(keys)
            self._known[key] = self(**options)
        return self._known[key]


class Stopped(Exception):
    """A run that ends in the middle."""


def half_of(player: Player, stop: int, **keys: Any) -> Outcome:
    """A run that can be resumed after round `stop` as if it had these keys from the start.

    Where the number of rounds says what a round trains, it is one of as many rounds that is stopped while it trains.
    """
    if "num-server-rounds" in configured(**keys).free:
        return player(**keys | {"num_server_rounds": stop})

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, rounds=[stop + 1]):
            raise Stopped
        return [reply]

    folder = player.new_folder()
    with pytest.raises(Stopped):
        play(folder, faults, **keys)
    return Outcome(folder, json.loads((folder / "summary.json").read_text()), [])


def address_of(node: int) -> int:
    """flwr's node id of a partition in `contexts`."""
    return 1000 + 7 * node


def trains(request: Message, node: int | None = None, rounds: Iterable[int] | None = None) -> bool:
    """Whether a request asks for training: of this node, in one of these rounds."""
    return (
        request.metadata.message_type == TRAIN
        and (node is None or request.metadata.dst_node_id == address_of(node))
        and (rounds is None or int(request.metadata.group_id) in rounds)
    )


def context_of(
    node: int = 1,
    state: RecordDict | None = None,
    *,
    node_config: Mapping[str, Scalar] | None = None,
    run_config: Mapping[str, Scalar] | None = None,
) -> Context:
    """What a ClientApp is called with: of a node that has nothing and is told nothing, or what is given here."""
    return Context(
        run_id=1,
        node_id=node,
        node_config=dict(node_config or {}),
        state=RecordDict() if state is None else state,
        run_config=dict(run_config or {}),
    )


def failed(request: Message, reason: str = "out of battery") -> Message:
    """An error reply."""
    return Message(Error(2, reason), reply_to=request)


def without(node: int, rounds: Iterable[int] | None = None) -> Faults:
    """Every training reply of a node is an error: the run without what it would have said."""
    wanted = None if rounds is None else frozenset(rounds)

    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, node, wanted) else reply]

    return faults


def tier_of(strategy: FlowerStrategy, node: int, round_number: int = 1) -> Tier:
    """The tier that is drawn for a node that says nothing of its own."""
    s = strategy.settings
    return Assignment(s.tier_assignment, s.tiers, proportions=s.proportions, nodes=s.nodes, seed=s.seed).tier_of(
        node, "", round_number
    )
