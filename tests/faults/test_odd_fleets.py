"""Fleets that are not what a run expects, and devices that have hardly any data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from numpy.typing import NDArray
from PIL import Image

from data import SCHEMES, DataSettings, node_data
from flotilla.local.grid import LocalGrid, contexts
from models.algebra.plans import Plan
from models.networks.build import initial_state, submodel
from models.randomness import torch_generator
from protocol import TRAIN
from tests.support import OF_ALL, Player, address_of, configured, failed, keys_of


def people(count: int, nodes: Iterable[int] | None = None, **keys: Any) -> dict[int, Context]:
    """Contexts of some of the partitions."""
    everybody = contexts(keys_of(**keys | {"num_clients": count}), count)
    return everybody if nodes is None else {address_of(node): everybody[address_of(node)] for node in nodes}


def told(nodes: Mapping[int, Context], tiers: Mapping[int, str]) -> dict[int, Context]:
    for node, tier in tiers.items():
        nodes[address_of(node)].node_config["tier"] = tier
    return dict(nodes)


def test_a_tier_without_clients_leaves_its_own_coordinates_alone(play: Player) -> None:
    """Nobody of tier a: what only the full network has stays as it was drawn, bit for bit."""
    out = play(tier_proportions="0, 1, 1", num_server_rounds=2)
    config = configured(tier_proportions="0, 1, 1")
    held = submodel(config.network, Plan(config.settings.tiers[1].rate))
    for name, before in initial_state(config.network, torch_generator(1, 0, "server", "initial state")).items():
        after, covered = out.state[name], torch.zeros_like(before, dtype=torch.bool)
        held[name].gather(covered).fill_(True)  # one leading run: a view
        assert torch.equal(after[~covered].view(torch.int32), before[~covered].view(torch.int32)), name
        assert not torch.equal(after[covered], before[covered]), name
    last = out.rows[-1]
    assert out.summary["status"] == "finished"
    assert last["accuracy"] is None
    assert set(last["tiers"]) == {"b", "c"}


def test_a_node_joins_in_the_middle_of_a_run(play: Player) -> None:
    class Growing(LocalGrid):
        def get_node_ids(self) -> Iterable[int]:
            joined = any(trained == 2 for trained in rounds)
            return [node for node in super().get_node_ids() if joined or node != address_of(3)]

    rounds: list[int] = []

    def count(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == TRAIN:
            rounds.append(int(request.metadata.group_id))
        return [reply]

    out = play(count, grid=Growing, num_clients=4, num_server_rounds=3)
    assert [sorted(row["selected"]) for row in out.rows] == [[0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]
    assert out.summary["status"] == "finished"
    assert not out.rejected


def test_a_node_leaves_and_comes_back_under_another_address(play: Player) -> None:
    class Restarted(LocalGrid):
        def get_node_ids(self) -> Iterable[int]:
            gone = address_of(3) if rounds else 5555
            return [node for node in super().get_node_ids() if node != gone]

    rounds: list[int] = []

    def count(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == TRAIN:
            rounds.append(int(request.metadata.group_id))
        return [reply]

    nodes = people(4)
    nodes[5555] = nodes[address_of(3)]
    out = play(count, grid=Restarted, nodes=nodes, num_clients=4)
    assert out.hash == play.once(num_clients=4).hash
    assert not out.rejected


def test_two_nodes_with_one_partition(play: Player) -> None:
    nodes = people(4)
    nodes[9999] = people(4)[address_of(2)]
    out = play(nodes=nodes, num_clients=4)
    assert out.hash == play.once(num_clients=4).hash
    assert {r["node"] for r in out.rejected} == {2}
    assert "two nodes" in out.rejected[0]["reason"]


def test_a_node_that_tells_an_unknown_tier(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": 4, "tier_assignment": "node"}
    tiers = {0: "a", 1: "b", 2: "c"}
    out = play(nodes=told(people(4, **keys), tiers | {3: "huge"}), **keys)
    reference = play(nodes=told(people(4, [0, 1, 2], **keys), tiers), **keys)
    assert out.hash == reference.hash
    assert not reference.rejected
    assert all(r["node"] == 3 and "'huge'" in r["reason"] and "a, b, c" in r["reason"] for r in out.rejected)
    assert [len(row["rejected"]) for row in out.rows] == [1, 1]


def test_a_node_that_tells_no_tier(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": 3, "tier_assignment": "node", "num_server_rounds": 1}
    out = play(nodes=told(people(3, **keys), {0: "a", 1: "b"}), **keys)
    assert [r["node"] for r in out.rejected] == [2]


@pytest.mark.parametrize("how", ["error", "nonsense"])
def test_a_node_that_cannot_say_hello(play: Player, how: str) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type != "query.hello" or request.metadata.dst_node_id != address_of(3):
            return [reply]
        if how == "error":
            return [failed(request)]
        reply.content.config_records["config"]["examples"] = 0
        return [reply]

    out, reference = play(faults, num_clients=4), play(nodes=people(4, [0, 1, 2]), num_clients=4)
    assert out.hash == reference.hash
    assert len(out.rejected) == 2
    assert all("1021" in r["reason"] or "node 3" in r["reason"] for r in out.rejected)


def test_a_partition_without_examples(play: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scheme of ours gives everybody an example; somebody's own need not. The data room makes what it says."""

    def all_but_the_last(labels: NDArray[np.int64], settings: DataSettings, seed: int) -> list[NDArray[np.int64]]:
        parts = np.array_split(np.arange(len(labels)), settings.num_clients - 1)
        return [*parts, np.arange(0)]

    monkeypatch.setitem(SCHEMES, "shards", all_but_the_last)
    keys: dict[str, Any] = {"num_clients": 4, "partition": "shards", "seed": 91}  # divisions are remembered by settings
    settings = configured(**keys).data
    (empty,) = (node for node in range(4) if len(node_data(settings, node).train) == 0)
    out = play(nodes=people(4, **keys), **keys)
    assert out.hash == play(nodes=people(4, set(range(4)) - {empty}, **keys), **keys).hash
    assert out.summary["status"] == "finished"
    assert [row["accepted"] for row in out.rows] == [3, 3]
    assert [len(row["rejected"]) for row in out.rows] == [1, 1]
    assert all(f"node {address_of(empty)}: " in one["reason"] and "0 examples" in one["reason"] for one in out.rejected)


def test_a_device_whose_own_folder_has_no_images(play: Player, tmp_path: Path) -> None:
    for owner in ("everybody", "nobody"):
        for part, name in product(("train", "test"), ("ant", "bee")):
            (tmp_path / owner / part / name).mkdir(parents=True)
            for number in range(0 if owner == "nobody" and part == "train" else 8):
                grey = Image.new("L", (8, 8), 20 * number + (100 if name == "ant" else 0))
                grey.save(tmp_path / owner / part / name / f"{number}.png")
    keys: dict[str, Any] = {
        "num_clients": 4,
        "dataset": "image-folder",
        "data_root": str(tmp_path / "everybody"),
        "image_size": 8,
    }
    nodes = people(4, **keys)
    nodes[address_of(3)].node_config["data-root"] = str(tmp_path / "nobody")
    out = play(nodes=nodes, **keys)
    assert out.hash == play(nodes=people(4, [0, 1, 2], **keys), **keys).hash
    assert out.summary["status"] == "finished"
    assert [len(row["rejected"]) for row in out.rows] == [1, 1]
    assert all(
        "node 1021: " in one["reason"] and "data: the device's own data cannot be used" in one["reason"]
        for one in out.rejected
    )


@pytest.mark.parametrize("method", ["heterofl", "fjord", "fedavg"])
def test_one_class_per_client(play: Player, method: str) -> None:
    out = play(method=method, partition="labels", labels_per_client=1, num_clients=10, fraction_evaluate=0.5)
    assert isfinite(out.rows[-1]["loss"])
    assert isfinite(out.rows[-1]["local"]["accuracy_own_labels"])


@pytest.mark.parametrize("method", OF_ALL)
def test_clients_with_one_example(play: Player, method: str) -> None:
    """As many clients as examples; five of them are there. Every batch is a batch of one, also for batch norm."""
    keys: dict[str, Any] = {
        "method": method,
        "num_clients": 1437,
        "tier_assignment": "dynamic",
        "fraction_evaluate": 1.0,
    }
    out = play(nodes=people(1437, [3, 700, 1100, 1200, 1436], **keys), tiers="a:1, b:1/2", **keys)
    assert not out.rejected
    assert all(row["accepted"] > 0 for row in out.rows)
    assert all(tensor.isfinite().all() for tensor in out.state.values())


@pytest.mark.parametrize("norm", ["static-batch", "batch-per-width", "group", "none"])
@pytest.mark.parametrize("network", [{}, {"model": "cnn", "widths": "4, 8, 8, 8"}])
def test_batches_of_one(play: Player, norm: str, network: dict[str, Any]) -> None:
    keys: dict[str, Any] = {"num_clients": 400, "batch_size": 1, "norm": norm, "num_server_rounds": 1, **network}
    out = play(nodes=people(400, [7, 300], **keys), **keys)
    assert out.rows[0]["accepted"] == 2
    assert all(tensor.isfinite().all() for tensor in out.state.values())


def test_fewer_nodes_than_needed_is_an_error_that_says_what_to_do(play: Player) -> None:
    with pytest.raises(RuntimeError, match=r"1 nodes are online, the run needs 2.*num-supernodes=4"):
        play(nodes=people(4, [1]), num_clients=4)
