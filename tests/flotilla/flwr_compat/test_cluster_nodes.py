"""Which nodes of a cluster run clients, how many at once, and how they prove that they can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client_app.ready import ready
from data.on_demand import OnDemand
from flotilla.flwr_compat.cluster_nodes import Node, nodes_of, shared_out, unlike
from flotilla.flwr_compat.readiness import one_line, proof_of, reason_of
from models.errors import SettingError
from server_app.config import resolve
from tests.support import TINY


def row(name: str, resources: dict[str, float], alive: bool = True) -> dict[str, Any]:
    return {"NodeID": f"{name}-0123456789", "NodeName": name, "Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("resources", "gpus", "clients", "share"),
    [
        ({"CPU": 4.0}, -1.0, 4, 0.0),
        ({"CPU": 4.0}, 0.0, 4, 0.0),
        ({"CPU": 16.0, "GPU": 2.0}, -1.0, 8, 0.25),
        ({"CPU": 4.0, "GPU": 2.0}, -1.0, 4, 0.25),
        ({"CPU": 16.0, "GPU": 2.0}, 0.5, 4, 0.5),
        ({"CPU": 16.0, "GPU": 2.0}, 2.0, 1, 2.0),
        ({"CPU": 16.0, "GPU": 2.0}, 0.0, 16, 0.0),
    ],
)
def test_clients_at_once_follow_from_what_a_node_has(
    resources: dict[str, float], gpus: float, clients: int, share: float
) -> None:
    (node,), left_out = nodes_of([row("n", resources)], gpus)
    assert (node.clients, node.gpus, left_out) == (clients, share, {})


def test_nodes_that_cannot_are_named_and_dead_ones_are_not() -> None:
    nodes, left_out = nodes_of([row("head", {}), row("cpu", {"CPU": 2.0}), row("gone", {}, alive=False)], 0.5)
    assert nodes == []
    assert left_out == {
        "head (head-012)": "it has no CPU for tasks",
        "cpu (cpu-0123)": "it has no 0.5 of a GPU for a client",
    }


def test_fewer_clients_than_fit_are_spread() -> None:
    a, b = Node("1", "a", 3, 0.0), Node("2", "b", 1, 0.0)
    assert shared_out([a, b], 0) == [a, b, a, a]
    assert shared_out([a, b], 2) == [a, b]
    assert shared_out([a, b], 9) == [a, b, a, a]
    assert shared_out([], 0) == []


def test_nodes_with_other_data_than_most() -> None:
    a, b, c = (Node(name, name, 1, 0.0) for name in "abc")
    assert unlike({a: "x", b: "y", c: "x"}) == [b]
    assert unlike({a: "x", b: "y"}) == [b]
    assert unlike({a: "x", b: "x"}) == []
    assert unlike({}) == []


def test_a_proof_is_of_the_module_the_data_and_the_folder(tmp_path: Path) -> None:
    config = dict(resolve({}, overrides=TINY).flat)
    reason, data = proof_of("client_app.app", config, "")()()
    assert (reason, data) == ("", ready(config))
    (tmp_path / "marker").touch()
    assert proof_of("client_app.app", config, str(tmp_path / "marker"))()()[0] == ""
    assert "client-state = /else" in proof_of("client_app.app", config, "/else/marker")()()[0]
    assert "No module named 'nowhere'" in proof_of("nowhere.app", config, "")()()[0]
    assert "No module named 'nowhere'" in proof_of("nowhere", config, "")()()[0]
    assert "no-such.npz" in proof_of("client_app.app", config | {"dataset": "npz:no-such.npz"}, "")()()[0]


def test_data_that_differ_are_told_apart() -> None:
    config = dict(resolve({}, overrides=TINY).flat)
    assert ready(config) == ready(config)
    assert ready(config) != ready(config | {"seed": 7})
    with pytest.raises(SettingError):
        ready(config | {"codec": "nobody:codec"})


def test_inputs_that_differ_are_told_apart(tmp_path: Path) -> None:
    config = dict(resolve({}, overrides=TINY).flat) | {"dataset": "npz:a.npz"}
    labels, found = np.arange(40) % 2, list[str]()
    for place, factor in enumerate((1.0, 1.0, 2.0)):
        folder = tmp_path / str(place)
        folder.mkdir()
        np.savez(folder / "a.npz", x=factor * np.arange(80, dtype=np.float32).reshape(40, 2), y=labels)
        found.append(ready(config | {"data-root": str(folder)}))
    assert found[0] == found[1] != found[2]


def test_no_more_pictures_than_some_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_DATA", str(tmp_path / "cache"))
    for number in range(200):
        file = tmp_path / "pictures" / "train" / "ab"[number % 2] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), number).save(file)
    asked = list[int]()

    def counted(self: OnDemand, rows: torch.Tensor) -> Any:
        asked.append(len(rows))
        return held(self, rows)

    held = OnDemand.held
    monkeypatch.setattr(OnDemand, "held", counted)
    config = dict(resolve({}, overrides=TINY).flat) | {"dataset": "image-folder", "num-clients": 1}
    ready(config | {"data-root": str(tmp_path / "pictures")})
    assert 1 < sum(asked) <= 64


def test_a_proof_reaches_a_process_that_has_nothing_of_ours(tmp_path: Path) -> None:
    """As the app process does it: its modules have another name, under which no node finds them."""
    make = """
import runpy, sys, pickle
programs = runpy.run_path(sys.argv[1])
cluster = programs["_beside"]("ray_cluster")
assert not any(name == "flotilla" or name.startswith("flotilla.") for name in sys.modules)
import ray
sys.stdout.buffer.write(ray.cloudpickle.dumps(cluster.proof_of("json", {}, "")))
"""
    read = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read())()())"
    program = Path(__file__).parents[3] / "flotilla" / "flwr_compat" / "app_process.py"
    made = subprocess.run(
        [sys.executable, "-P", "-c", make, str(program)], capture_output=True, timeout=600, check=False, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr.decode()
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-P", "-c", read], input=made.stdout, capture_output=True, timeout=600, check=False, env=bare
    )
    assert answer.stdout.decode().strip() == "('', '')", answer.stderr.decode()


def test_reasons_are_a_line() -> None:
    error = RuntimeError("It died.\n\tclass_name: ClientAppActor\n\tpid: 7\nIts node was terminated.\n")
    assert reason_of(error) == "It died. Its node was terminated."
    assert reason_of(RuntimeError()) == "RuntimeError"
    assert len(one_line("x " * 500)) == 200
