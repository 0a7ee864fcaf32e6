"""One run of the study: devices whose speed is known, a client selection rule, and what came of it.

Time is not this machine's. A device of a tier computes at the tier's rate, times a factor of its own, and its seconds
are put into its replies before the server sees them; a round takes as long as its slowest device.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from flwr.app import Message

from benchmarks.experiments.runs import Keys
from client_app.app import app
from data import load
from data.node import shards
from data.synthetic_groups import group_of
from flotilla.local.base import address_of
from flotilla.local.grid import LocalGrid, contexts
from models.cost import cost_of
from models.networks.build import build_part
from models.randomness import generator
from protocol import LOSSES, REQUEST
from server_app.config.resolve import RunConfig, resolve
from server_app.run import Run
from strategies.round.fairness import fairness

CLIENTS, ROUNDS = 40, 30
NOISY = 4  # every fourth client, where labels are noisy

COMMON: Keys = {
    "method": "heterofl",
    "dataset": "digits",
    "model": "mlp",
    "widths": "128, 64",
    "norm": "none",
    "scaler": "off",
    "tiers": "a:1, b:1/2, c:1/4",
    "tier-assignment": "node",
    "partition": "dirichlet",
    "dirichlet-alpha": 0.3,
    "num-clients": CLIENTS,
    "fraction-train": 0.2,
    "local-epochs": 3,
    "batch-size": 16,
    "learning-rate": 0.1,
    "learning-rate-schedule": "constant",
    "local-test-fraction": 0.0,
    "num-server-rounds": ROUNDS,
    "selection": "utility",
    "checkpoint-every": 1000,
    "device": "cpu",
}
# Multiply-accumulates a second. A tier is as fast as its part is large, so a round's work takes all tiers equally long.
SPEEDS = {"a": 1e8, "b": 4.2e7, "c": 1.9e7}
SPREAD = 0.5  # standard deviation of the logarithm of a device's own factor
BYTES_A_SECOND = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is varied.

    Attributes:
        data, loss, lateness: exponents a, b and c of the utility.
        correlation: of size and tier: -1, 0 or 1.
        noise: whether a quarter of the clients have noisy labels.
        seed: of the run, the division of the data and the devices.
        everybody: whether all clients are candidates (else twice as many as are chosen, drawn by size).
    """

    data: float
    loss: float
    lateness: float
    correlation: int
    noise: bool
    seed: int
    everybody: bool = False

    def keys(self) -> Keys:
        """Run settings."""
        own: Keys = {
            "selection-data-exponent": self.data,
            "selection-loss-exponent": self.loss,
            "selection-lateness-exponent": self.lateness,
            "seed": self.seed,
        }
        if self.noise:
            own["synthetic-groups"] = f"label-noise:{NOISY}"
        if self.everybody:
            own["selection-candidates"] = CLIENTS
        return COMMON | own


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a case.

    Attributes:
        accuracy, loss: of the global network on the test set, by round.
        seconds: of the devices' time until the end of each round.
        tiers: accuracy of every tier's network in the end.
        variance: of the clients' accuracies in the end, percent points squared. A client's accuracy is that of its
            tier's network on the test set, with the client's own shares of the classes.
        worst: mean accuracy of the worst tenth of the clients.
        updates: share of the updates that came from each tier.
        noisy: share of the updates that came from clients with noisy labels.
        chosen: by round, for everybody who was chosen (log n_eff, log loss less its mean over the tier's candidates).
    """

    accuracy: list[float]
    loss: list[float]
    seconds: list[float]
    tiers: dict[str, float]
    variance: float
    worst: float
    updates: dict[str, float]
    noisy: float
    chosen: list[list[tuple[float, float]]]


def tiers_of(config: RunConfig, correlation: int) -> list[str]:
    """Tier of every client: a third each, by the size of its data or at random."""
    sizes = np.array([len(rows) for rows in shards(config.data)])
    draws = generator(config.data.seed, 0, "server", "tiers of the study")
    order = draws.permutation(len(sizes))
    if correlation:
        order = order[np.argsort(-correlation * sizes[order], kind="stable")]
    names = [tier.name for tier in config.settings.tiers]
    found = [""] * len(sizes)
    for name, members in zip(names, np.array_split(order, len(names)), strict=True):
        for client in members:
            found[client] = name
    return found


class Devices:
    """Puts the devices' own seconds into replies, and remembers what they said.

    Args:
        config: of the run.
        tiers: tier of every client.

    Attributes:
        asked: round → client → loss at the state of that round.
        trained: round → client → (n_eff, seconds).
    """

    def __init__(self, config: RunConfig, tiers: Sequence[str]) -> None:
        self._tiers, self._client = list(tiers), {address_of(k): k for k in range(len(tiers))}
        factors = [generator(config.data.seed, 0, k, "speed of the study").normal() for k in range(len(tiers))]
        self._speed = [SPEEDS[name] * exp(SPREAD * factor) for name, factor in zip(tiers, factors, strict=True)]
        self._epochs = config.settings.work.local_epochs
        strategy = config.strategy()
        sizes = {
            tier.name: cost_of(strategy.network, strategy.kept_plan(strategy.context(1), tier))
            for tier in config.settings.tiers
        }
        self._macs = [3 * sizes[name].macs for name in tiers]  # forward, and twice as much backward
        self._sending = [8 * sizes[name].parameters / BYTES_A_SECOND for name in tiers]  # float32, down and up
        self.asked: dict[int, dict[int, float]] = {}
        self.trained: dict[int, dict[int, tuple[float, float]]] = {}

    def arriving(self, request: Message, reply: Message) -> list[Message]:
        """What the server gets for a request; see `LocalGrid`."""
        content: Any = reply.content
        if REQUEST in request.content and "metrics" in content and not reply.has_error():
            asked: Any = request.content[REQUEST]
            number, client = int(asked.get("round-number", 0)), self._client[request.metadata.dst_node_id]
            metrics = content["metrics"]
            if "steps" in metrics:
                examples = metrics["num-examples"]
                computing = self._epochs * examples * self._macs[client] / self._speed[client]
                metrics["seconds"] = computing + self._sending[client]
                self.trained.setdefault(number, {})[client] = (examples, metrics["seconds"])
            elif request.metadata.message_type == LOSSES:
                self.asked.setdefault(number, {})[client] = metrics["loss"]
        return [reply]

    def chosen(self, number: int) -> list[tuple[float, float]]:
        """(log n_eff, log loss less the mean of the tier's candidates) of those who trained in a round."""
        logs = {client: log(max(loss, 1e-6)) for client, loss in self.asked.get(number, {}).items()}
        of_tier: dict[str, list[float]] = {}
        for client, loss in logs.items():
            of_tier.setdefault(self._tiers[client], []).append(loss)
        return [
            (log(examples), logs[client] - fmean(of_tier[self._tiers[client]]))
            for client, (examples, _) in self.trained.get(number, {}).items()
            if client in logs
        ]


def run(case: Case) -> Outcome:
    """Run a case in this process."""
    with tempfile.TemporaryDirectory() as folder:
        config = resolve({}, overrides=case.keys() | {"run-dir": f"{folder}/run"})
        tiers = tiers_of(config, case.correlation)
        nodes = contexts(config.flat, config.num_clients)
        for k, name in enumerate(tiers):
            nodes[address_of(k)].node_config["tier"] = name
        devices = Devices(config, tiers)
        going = Run(config, LocalGrid(app, nodes, devices.arriving), write=lambda line: None)
        going.execute()
        lines = Path(f"{folder}/run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rounds = range(1, len(rows) + 1)
    taken = [max(seconds for _, seconds in devices.trained[number].values()) for number in rounds]
    parts = [client for number in rounds for client in devices.trained[number]]
    accuracies = _by_client(going, config, tiers)
    evenness = fairness(accuracies)
    return Outcome(
        accuracy=[row["accuracy"] for row in rows],
        loss=[row["loss"] for row in rows],
        seconds=list(accumulate(taken)),
        tiers={name: scores["accuracy"] for name, scores in rows[-1]["tiers"].items()},
        variance=evenness["variance_points2"],
        worst=evenness["worst_10_percent_mean"],
        updates={name: sum(tiers[client] == name for client in parts) / len(parts) for name in SPEEDS},
        noisy=sum(group_of(config.data.synthetic_groups, client) == NOISY - 1 for client in parts) / len(parts)
        if case.noise
        else 0.0,
        chosen=[devices.chosen(number) for number in rounds],
    )


def _by_client(going: Run, config: RunConfig, tiers: Sequence[str]) -> list[float]:
    """Accuracy of every client: its tier's network on the test set, with its own shares of the classes."""
    strategy, data = going.strategy, load(config.data)
    right = {}
    for tier in strategy.settings.tiers:
        plan = strategy.kept_plan(strategy.context(ROUNDS), tier)
        network = build_part(strategy.network, plan)
        network.load_state_dict(strategy.part(strategy.context(ROUNDS), plan, strategy.state).gather(strategy.state))
        with torch.no_grad():
            hits = network.eval()(data.test.inputs).argmax(1) == data.test.labels
        right[tier.name] = [hits[data.test.labels == c].float().mean().item() for c in range(data.classes)]
    labels = data.train_examples.labels.numpy()
    shares = [np.bincount(labels[rows], minlength=data.classes) / len(rows) for rows in shards(config.data)]
    return [float(np.dot(share, right[name])) for share, name in zip(shares, tiers, strict=True)]
