"""An engine that knows its clients asks one of them: the run is that in which everybody was asked, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from flotilla.local import run_local
from flotilla.local.directory import LocalDirectory, directory_of
from flotilla.local.grid import LazyContexts, LocalGrid
from protocol import Scalar
from server_app.folder import checkpoint
from tests.support import Outcome, Player, Time, configured, trains

CLIENTS = 12


def known(keys: Mapping[str, Any], faults: Any = None) -> dict[str, Any]:
    """Options of a run whose engine knows its clients."""
    config = configured(**keys)
    return {
        "grid": partial(LocalGrid, directory=LocalDirectory(config.data)),
        "nodes": LazyContexts(config.flat, config.num_clients),
        "faults": faults,
    }


def told(out: Outcome) -> list[dict[str, Any]]:
    """Lines of metrics without what the wall's clock says."""
    clock = {"seconds", "client_seconds", "waiting_seconds", "resident_bytes"}
    return [{key: value for key, value in row.items() if key not in clock} for row in out.rows]


CASES: list[dict[str, Scalar]] = [
    {"selection": name, "fraction_train": 0.4}
    for name in ("uniform", "by-size", "by-size-replacement", "pow-d", "divfl")
] + [
    {"tier_assignment": "dynamic"},
    {"method": "exclusive"},
    {"method": "fedavg", "partition": "quantity"},
    {"method": "fjord", "partition": "drawn", "examples_per_client": 30},
    {"partition": "labels", "fraction_evaluate": 0.5},
    {"method": "depthfl", "dynamic_alpha": 0.1, "dynamic_scaling": "holders", "dynamic_by_examples": True},
    {"partition": "square", "guard_norm": "off"},
    {"clustering": "ifca", "ifca_clusters": 2},
    {"clustering": "cfl"},
    {"statistics_nodes": 3},
    {"simulated_devices": "mixed"},
]


@pytest.mark.parametrize("keys", CASES, ids=str)
def test_the_same_run_as_if_everybody_were_asked(play: Player, keys: dict[str, Any]) -> None:
    keys = {"num_clients": CLIENTS, "num_server_rounds": 3, **keys}
    hellos = 0

    def count(request: Message, reply: Message) -> list[Message]:
        nonlocal hellos
        hellos += request.metadata.message_type == "query.hello"
        return [reply]

    out, reference = play(**known(keys, count), **keys), play(**keys)
    assert hellos == 1
    assert out.hash == reference.hash
    assert told(out) == told(reference)


def test_checkpoints_hold_who_took_part(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": CLIENTS, "num_server_rounds": 2, "fraction_train": 0.25}
    out = play(**known(keys), **keys)
    newest = checkpoint.newest(out.path / "checkpoints")
    assert newest is not None
    chosen = {node for row in out.rows for node in row["selected"]}
    assert set(newest.values["strategy"]["selection"]["nodes"]) == chosen
    assert len(chosen) < CLIENTS


def test_a_run_goes_on_on_an_engine_that_asks(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": CLIENTS, "fraction_train": 0.25, "selection": "pow-d"}
    half = play(**known(keys), **keys, num_server_rounds=2)
    whole = play(**keys, num_server_rounds=4)
    assert play(resume=str(half.path), **keys, num_server_rounds=4).hash == whole.hash


def test_who_is_silent_rests(play: Player, own_time: Time) -> None:
    del own_time  # passes at once
    keys: dict[str, Any] = {"num_clients": CLIENTS, "num_server_rounds": 5}

    def silent(request: Message, reply: Message) -> list[Message]:
        return [] if trains(request, 1) else [reply]

    out, reference = play(**known(keys, silent), **keys), play(silent, **keys)
    assert any("resting" in row for row in out.rows)
    assert (out.hash, told(out)) == (reference.hash, told(reference))


def test_what_devices_say_of_themselves_is_asked(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": 4, "tier_assignment": "measured", "num_server_rounds": 1}
    asked: list[str] = []

    def note(request: Message, reply: Message) -> list[Message]:
        asked.append(request.metadata.message_type)
        return [reply]

    play(**known(keys, note), **keys)
    assert asked.count("query.hello") == 4


def test_a_directory_is_of_data_that_are_divided() -> None:
    data = configured(num_clients=CLIENTS).data
    found = directory_of(data, CLIENTS)
    assert found is not None
    assert len(found.addresses) == len(found.examples) == CLIENTS
    assert directory_of(data, CLIENTS - 1) is None


@pytest.mark.parametrize("processes", [0, 1])
def test_a_hundred_thousand_clients(tmp_path: Path, processes: int) -> None:
    config = configured(
        num_clients=100_000,
        partition="drawn",
        examples_per_client=8,
        fraction_train=0.00005,
        statistics_nodes=6,
        num_server_rounds=2,
        run_dir=str(tmp_path / "run"),
    )
    assert run_local(config.flat, 100_000, processes) == 0
    folder = tmp_path / "run"
    assert max(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 2**20
