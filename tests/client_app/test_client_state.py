"""What a device keeps: versions by round, in `context.state` and in files, so that a resumed run repeats itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Context

from client_app.client_state import KEY, ClientState
from flotilla.flwr_compat.messages import from_bytes, to_bytes
from tests.support import context_of


@pytest.fixture(params=["state", "files"])
def context(request: pytest.FixtureRequest, tmp_path: Path) -> Context:
    return context_of(run_config={KEY: str(tmp_path) if request.param == "files" else ""})


def value(number: float) -> torch.Tensor:
    return torch.full((3,), number)


def write(context: Context, round_number: int, checkpoint: int = 0, name: str = "g") -> None:
    ClientState(context, 7, round_number, checkpoint=checkpoint).write(name, value(round_number))


def read(context: Context, round_number: int, name: str = "g") -> float | None:
    found = ClientState(context, 7, round_number, checkpoint=0).read(name)
    return None if found is None else float(found[0])


def test_a_round_reads_what_an_earlier_one_wrote(context: Context) -> None:
    assert read(context, 1) is None
    write(context, 2)
    write(context, 5)
    assert [read(context, n) for n in (2, 3, 5, 6, 99)] == [None, 2, 2, 5, 5]
    assert read(context, 9, "other") is None


def test_a_resumed_run_finds_what_the_uninterrupted_one_would_have(context: Context) -> None:
    """The server was killed in round 6 and goes on after its checkpoint of round 3."""
    for n in (1, 3, 4, 6):
        write(context, n, checkpoint=min(n - 1, 3))
    assert read(context, 4) == 3
    write(context, 4, checkpoint=3)
    assert read(context, 5) == 4
    assert read(context, 7) == 4  # what the stopped run wrote in round 6 is gone


def test_versions_that_no_resumed_run_can_ask_for_are_forgotten(context: Context, tmp_path: Path) -> None:
    for n in range(1, 40):
        write(context, n, checkpoint=n - 1)
    assert len(context.state) + len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert read(context, 39) == 38


def test_without_checkpoints_the_first_version_stays(context: Context) -> None:
    for n in (1, 2, 3):
        write(context, n, checkpoint=0)
    assert [read(context, n) for n in (2, 3, 4)] == [1, 2, 3]


def test_names_and_nodes_do_not_mix(context: Context) -> None:
    write(context, 1)
    write(context, 1, name="residual")
    ClientState(context, 7, 2, checkpoint=0).write("g", value(-1))
    assert read(context, 3, "residual") == 1
    if context.run_config[KEY]:
        assert ClientState(context, 8, 9, checkpoint=0).read("g") is None


def test_the_state_survives_the_wire() -> None:
    context = context_of()
    write(context, 1)
    moved = from_bytes(to_bytes(context.state))
    assert read(context_of(state=moved), 2) == 1


def test_a_damaged_file_is_a_lost_one_and_the_version_before_it_serves(tmp_path: Path) -> None:
    context = context_of(run_config={KEY: str(tmp_path)})
    write(context, 1)
    write(context, 2)
    newest = max(tmp_path.rglob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:20])
    assert read(context, 3) == 1
    assert not list(tmp_path.rglob("*.part"))


def test_a_devices_own_folder_wins(tmp_path: Path) -> None:
    context = context_of(node_config={KEY: str(tmp_path / "own")}, run_config={KEY: str(tmp_path / "runs")})
    write(context, 1)
    assert (tmp_path / "own" / "7").is_dir()
    assert not (tmp_path / "runs").exists()


def test_what_did_not_count_never_was(context: Context, tmp_path: Path) -> None:
    """Replies of rounds 2 and 5 were lost; the versions that they left go with the next one."""
    counted = 0
    for n in (1, 2, 4, 5, 6):
        memory = ClientState(context, 7, round_number=n, checkpoint=n - 1, counted=counted)
        found = memory.read("g")
        assert (None if found is None else float(found[0])) == (counted or None)
        memory.write("g", value(n))
        counted = n if n not in (2, 5) else counted
    assert len(context.state) + len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert (read(context, 5), read(context, 7)) == (4, 6)


def test_the_last_that_counted_stays_however_late_the_checkpoint(context: Context) -> None:
    """A round whose reply is lost must not cost the version that the next one goes on from."""
    write(context, 1)
    for n in (2, 3, 4):
        ClientState(context, 7, round_number=n, checkpoint=n - 1, counted=1).write("g", value(n))
    found = ClientState(context, 7, round_number=5, checkpoint=4, counted=1).read("g")
    assert found is not None
    assert float(found[0]) == 1
