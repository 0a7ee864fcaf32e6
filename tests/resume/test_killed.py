"""A run that was killed anywhere and resumed is the uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.errors import SettingError
from protocol import Scalar
from tests.support import Outcome, Player

ROOT = Path(__file__).parents[2]
PLACES = ["before fold", "during fold", "during checkpoint write", "before rename", "after rename"]


# The first of these tests in a process waits for all thirteen runs: 15 s on an idle machine.
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/resume/kill.py saw."""
    command = [sys.executable, "-m", "tests.resume.kill", str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    assert all(code in (0, -9) for code in result["codes"].values()), (result["codes"], done.stderr[-4000:])
    return result


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_killed_and_resumed(found: dict[str, Any], place: str) -> None:
    assert found["codes"][place] == -9
    assert found["codes"][f"{place}, resumed"] == 0
    assert found[place]["before"] == [1, 2]  # round 3 had not ended, as far as the metrics knew
    assert found[place]["rounds"] == [1, 2, 3, 4, 5]
    assert found[place]["hash"] == found["whole"]["hash"]
    assert found[place]["accuracies"] == found["whole"]["accuracies"]


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_one(found: dict[str, Any]) -> None:
    assert found["corrupt"]["rounds"] == [1, 2, 3, 4, 5]
    assert found["corrupt"]["hash"] == found["whole"]["hash"]


@pytest.fixture(scope="module")
def done(play: Player) -> Outcome:
    return play(num_server_rounds=1, num_clients=3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2),
        ("method", "fedrolex"),
        ("tiers", "a:1, b:1/2"),
        ("learning-rate", 0.0321),
        ("batch-size", 3),
        ("num-clients", 4),
        ("widths", "16, 16"),
        ("norm", "none"),
        ("partition", "dirichlet"),
        ("quorum", 0.9),
        ("fedrolex-step", 1),
        ("codec", "float16"),
        ("threads", 2),
    ],
)
def test_another_configuration_is_refused(play: Player, done: Outcome, key: str, value: Scalar) -> None:
    before = sorted((p, p.read_bytes()) for p in done.path.rglob("*") if p.is_file())
    keys: dict[str, Any] = {"num_server_rounds": 2, "num_clients": 3} | {key.replace("-", "_"): value}
    with pytest.raises(SettingError) as caught:
        play(resume=str(done.path), **keys)
    assert key in str(caught.value)
    assert str(value) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted((p, p.read_bytes()) for p in done.path.rglob("*") if p.is_file()) == before


@pytest.mark.parametrize(
    ("keys", "forbids", "works"),
    [
        (
            {"learning_rate_schedule": "cosine"},
            "the cosine of the learning rate falls over the whole run",
            '"constant"',
        ),
        ({"method": "scalefl"}, "by its options scalefl trains by shares of the whole run", "a new run of as many"),
    ],
)
def test_more_rounds_where_the_length_counts(play: Player, keys: dict[str, Any], forbids: str, works: str) -> None:
    short = play(num_server_rounds=1, num_clients=3, **keys)
    with pytest.raises(SettingError) as caught:
        play(resume=str(short.path), num_server_rounds=2, num_clients=3, **keys)
    said = str(caught.value)
    assert "num-server-rounds is 1 there, 2 now" in said
    assert forbids in said
    assert works in said


def test_more_rounds_and_another_patience_are_no_other_configuration(play: Player) -> None:
    short = play(num_server_rounds=1, num_clients=3)
    longer = play(resume=str(short.path), num_server_rounds=2, num_clients=3, deadline=99.0, checkpoint_every=2)
    assert longer.hash == play(num_server_rounds=2, num_clients=3).hash


def test_resuming_a_finished_run_gives_the_same_model(play: Player) -> None:
    out = play(num_clients=3)
    assert play(num_clients=3, resume=str(out.path)).hash == out.hash
    assert [row["round"] for row in out.rows] == [1, 2]


def test_checkpoints_need_not_be_of_every_round(play: Player) -> None:
    keys: dict[str, Any] = {"num_clients": 3, "num_server_rounds": 4, "checkpoint_every": 3}
    out = play(**keys)
    (out.path / "checkpoints" / "round-000004.json").unlink()  # as if killed in round 4
    again = play(resume=str(out.path), **keys)
    assert again.hash == out.hash
    assert [row["round"] for row in again.rows] == [1, 2, 3, 4]


def test_without_any_checkpoint_it_begins_again(play: Player) -> None:
    out = play(num_clients=3)
    first = out.hash
    for file in (out.path / "checkpoints").iterdir():
        file.unlink()
    again = play(num_clients=3, resume=str(out.path))
    assert again.hash == first
    assert [row["round"] for row in again.rows] == [1, 2]


def test_a_folder_that_is_no_run(play: Player, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"resume = .*config\.json"):
        play(resume=str(tmp_path))
