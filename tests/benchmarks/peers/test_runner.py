"""The runner of other people's libraries, with libraries that are fakes: turns, counts, ratios, and who is left out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.cpu_time import CpuTime
from benchmarks.peers import contender as contenders
from benchmarks.peers import run
from benchmarks.peers.environments import Installed, NotInstalled, wanted
from benchmarks.peers.job import JOBS, Job
from benchmarks.peers.peer import OURS, PEERS, Peer
from benchmarks.peers.pictures import write_pictures
from benchmarks.peers.result import Result, text_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

SMALL = replace(JOBS["digits"], clients=4, per_round=2, examples=5, batch_size=2, epochs=2, turns=2)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts are fakes, by their names."""

    def command(peer: Peer, processes: int, python: str) -> list[str]:
        return [python, "-m", "tests.benchmarks.peers.fakes", peer.script]

    monkeypatch.setattr(contenders, "command", command)


def _measured(*peers: Peer) -> dict[str, Result]:
    results = run.measured(SMALL, peers, lambda _: None)
    return {f"{result.name}, {result.processes}": result for result in results}


def test_everybody_has_turns_and_is_held_against_ours() -> None:
    found = _measured(Peer(name=OURS, script="well", processes=(1, 2)), Peer(name="theirs", script="well"))
    assert list(found) == [f"{OURS}, 1", f"{OURS}, 2", "theirs, 1"]
    theirs = found["theirs, 1"]
    assert (theirs.turns, theirs.down, theirs.up, theirs.accuracy) == (2, 1000, 500, 0.75)
    assert theirs.beside == f"{OURS}, 1"
    assert theirs.ratio > 0
    assert found[f"{OURS}, 2"].ratio == 0.0
    assert theirs.memory > 1e6
    assert "numpy" in theirs.versions
    text = text_of(list(found.values()), markdown=True)
    assert "a fake" in text


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("dies", "no such library"),
        ("other-network", f"{SMALL.parameters + 1:,} parameters"),
        ("fewer-steps", "11 optimiser steps, not 12"),
        ("ends", "out of rounds"),
        ("leaves", "gone between two rounds"),
    ],
)
def test_who_does_something_else_is_left_out_and_named(how: str, reason: str) -> None:
    found = _measured(Peer(name=OURS, script="well"), Peer(name="theirs", script=how))
    assert found[f"{OURS}, 1"].turns == 2
    assert reason in found["theirs, 0"].reason
    assert "not measured" in text_of(list(found.values()))


def test_who_is_not_meant_for_a_job_is_not_started() -> None:
    found = _measured(Peer(name="theirs", script="dies", without={SMALL.name: "it has no momentum"}))
    assert found["theirs, 0"].reason == "it has no momentum"


def test_who_cannot_be_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOTILLA_PEERS", str(tmp_path))

    def refuse(command: Sequence[str], peer: Peer) -> None:
        raise NotInstalled("pip: ERROR: there is no such package")

    monkeypatch.setattr("benchmarks.peers.environments._run", refuse)
    peer = Peer(name="theirs", script="well", packages=("no-such==1",), environment="none")
    assert "no such package" in _measured(peer)["theirs, 0"].reason


def test_what_cannot_be_installed_is_tried_once_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOTILLA_PEERS", str(tmp_path))
    tries = list[str]()

    def refuse(command: Sequence[str], peer: Peer) -> None:
        tries.append(peer.name)
        raise NotInstalled("pip: ERROR: there is no such package")

    monkeypatch.setattr("benchmarks.peers.environments._run", refuse)
    peer = Peer(name="theirs", script="well", packages=("no-such==1",), environment="none")
    installed = Installed(lambda _: None)
    for _ in range(2):
        results = run.measured(SMALL, [peer], lambda _: None, installed=installed)
        assert "no such package" in results[0].reason
    assert tries == ["theirs"]


@pytest.mark.parametrize(("how", "turn"), [("fewer-steps", 1), ("leaves", 2)])
def test_who_is_left_out_has_ended_before_the_others_go_on(
    how: str, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, end = list[str](), contenders._end

    def noting(started: subprocess.Popen[bytes], counted: CpuTime) -> None:
        end(started, counted)
        assert started.returncode is not None
        told.append(f"end of {how if how in str(started.args) else 'others'}")

    monkeypatch.setattr(contenders, "_end", noting)
    run.measured(SMALL, [Peer(name="theirs", script=how), Peer(name=OURS, script="well")], told.append)
    lines = [line.split(": ", 2)[-1].rpartition(": ")[0] or line for line in told]
    assert lines.index(f"end of {how}") < lines.index(f"turn {turn} of 2") < lines.index("end of others")


def test_an_environment_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOTILLA_PEERS", str(tmp_path))
    commands = list[list[str]]()

    def note(command: list[str], peer: Peer) -> None:
        commands.append(command)
        (tmp_path / "one").mkdir(exist_ok=True)

    monkeypatch.setattr("benchmarks.peers.environments._run", note)
    peer = Peer(name="one", script="well", packages=("one==1",), environment="one")
    python_of = Installed(lambda _: None).python_of
    assert python_of(peer) == str(tmp_path / "one" / "bin" / "python")
    assert commands[-1][-2:] == [*wanted(peer)]
    python_of(peer)
    assert len(commands) == 2  # a venv, and what is in it
    python_of(replace(peer, packages=("one==2",)))
    assert len(commands) == 4
    assert python_of(Peer(name=OURS, script="ours")) == sys.executable


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.name)
def test_a_job_is_handed_on_whole(job: Job) -> None:
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.name)
def test_a_job_says_how_large_its_network_is(job: Job) -> None:
    from benchmarks.peers.scripts.plain import network_of, parameters_of

    assert parameters_of(network_of(job)) == job.parameters


def test_pictures_of_a_class_have_something_in_common(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", SMALL)
    pixels, labels = np.load(folder / "x_train.npy"), np.load(folder / "y_train.npy")
    assert pixels.shape == (20, *SMALL.input_shape)
    assert pixels.dtype == np.uint8
    tests, own = np.load(folder / "x_test.npy").astype(float), np.load(folder / "y_test.npy")
    means = np.stack([tests[own == label].mean(0) for label in range(10)])
    nearest = ((pixels[:, None] - means[None]) ** 2).sum(axis=(2, 3, 4)).argmin(1)
    assert (nearest == labels).mean() > 0.9


def test_some_can_be_chosen_and_ours_goes_with_them() -> None:
    assert [peer.name for peer in run.chosen(["fluke"])] == [OURS, "FLUKE"]
    assert run.chosen([]) == list(PEERS)


def test_tables_are_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    result = Result(job="digits", name="theirs", reason="it is not there")
    file.write_text('{"machine": "a machine", "results": [' + json.dumps(result.to_json()) + "]}")
    assert main(["peers", "--rows", str(file)]) == 0
    said = capsys.readouterr().out
    assert "a machine" in said
    assert "theirs: not measured: it is not there" in said
