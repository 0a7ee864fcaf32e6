"""Devices that own their data: four of them, none has all classes, and the model is that of the divided simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context

from flotilla import load
from models.errors import SettingError
from protocol import Scalar
from server_app.task_facts import NoFacts
from tests import own_pictures
from tests.support import Outcome, Player, address_of, context_of

KEYS: dict[str, Any] = {
    "dataset": "image-folder",
    "image_size": 8,
    "image_channels": 1,
    "num_clients": 4,
    "widths": "32, 16",
    "num_server_rounds": 3,
    "evaluate_every": 1,
    "local_epochs": 4,
    "batch_size": 16,
    "tiers": "a:1, b:1/2",
    "seed": 3,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    own_pictures.make(root, examples=500, tested=300)
    simulated = root / "simulated"
    simulated.mkdir()
    (simulated / "train").symlink_to(root / "device")
    (simulated / "test").symlink_to(root / "server" / "test")
    return root


def devices(pictures: Path, **keys: Scalar) -> dict[int, Context]:
    """Four devices, each told its own folder by its node config."""
    config = {key.replace("_", "-"): value for key, value in ({**KEYS, "partition": "own"} | keys).items()}
    return {
        address_of(node): context_of(
            address_of(node),
            node_config={"partition-id": node, "data-root": str(pictures / "device" / str(node))},
            run_config=config,
        )
        for node in range(own_pictures.DEVICES)
    }


@pytest.fixture(scope="module")
def owned(pictures: Path, play: Player) -> Outcome:
    """A run whose server has pictures to test on, and asks the devices for the facts."""
    return play(nodes=devices(pictures), data_root=str(pictures / "server"), partition="own", **KEYS)


def test_the_model_is_that_of_the_divided_simulation(pictures: Path, owned: Outcome, play: Player) -> None:
    """Bit for bit: facts asked of the nodes are those of all pictures, and every device uses all of its own."""
    simulated = play(data_root=str(pictures / "simulated"), client_from="folder", partition="natural", **KEYS)
    assert owned.rejected == []
    assert owned.hash == simulated.hash
    assert owned.summary["last"]["accuracy"] == simulated.summary["last"]["accuracy"] > 0.5
    facts = [json.loads((run.path / "facts.json").read_text()) for run in (owned, simulated)]
    assert facts[0]["classes"] == facts[1]["classes"] == [f"digit {label}" for label in range(10)]
    assert (facts[0]["mean"], facts[0]["std"]) == (facts[1]["mean"], facts[1]["std"])
    model = load(owned.path)
    assert model.classes == tuple(facts[0]["classes"])
    right = [
        model.classes[int(model(model.preprocess(file)).argmax())] == file.parent.name
        for file in sorted((pictures / "server" / "test").glob("*/*.png"))
    ]
    assert sum(right) / len(right) == owned.summary["last"]["accuracy"]


def test_a_server_without_data(pictures: Path, play: Player) -> None:
    """Nothing to test on here: devices score what they keep, and the model still says what its classes are."""
    out = play(nodes=devices(pictures), partition="own", fraction_evaluate=1.0, **KEYS)
    assert out.summary["status"] == "finished"
    assert out.summary["last"]["accuracy"] is None
    assert out.rows[-1]["local"]["accuracy"] > 0.5
    assert load(out.path).classes == tuple(f"digit {label}" for label in range(10))


def test_facts_of_another_run_and_a_device_that_does_not_fit(
    pictures: Path, owned: Outcome, play: Player, tmp_path: Path
) -> None:
    odd = tmp_path / "odd" / "secret class"
    odd.mkdir(parents=True)
    (odd / "0.png").write_bytes(next((pictures / "device" / "0").glob("*/*.png")).read_bytes())
    facts = str(owned.path / "facts.json")
    nodes = devices(pictures, task_facts=facts)
    nodes[address_of(3)].node_config["data-root"] = str(odd.parent)
    out = play(nodes=nodes, partition="own", task_facts=facts, **KEYS | {"num_server_rounds": 1})
    assert [row["accepted"] for row in out.rows] == [3]
    assert {row["node"] for row in out.rejected} == {None}
    assert all("1 classes that the run does not know" in row["reason"] for row in out.rejected)
    assert "secret" not in (out.path / "metrics.jsonl").read_text()


def test_nobody_is_asked_for_sums_under_privacy(pictures: Path, play: Player) -> None:
    private: dict[str, Any] = {"dp_noise": 1.0, "guard_rollbacks": 0, "method": "fedavg", "aggregation": "uniform"}
    with pytest.raises(SettingError, match="task-facts"):
        play(nodes=devices(pictures), partition="own", **KEYS, **private)


def test_nobody_says_anything(play: Player, tmp_path: Path) -> None:
    with pytest.raises(NoFacts, match="none of 4 nodes said what data it has"):
        play(nodes=devices(tmp_path), partition="own", **KEYS)
