"""Every benchmark, small enough for a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.bench import ray_shares
from benchmarks.bench.averaging import averaging
from benchmarks.bench.clients import clients
from benchmarks.bench.codecs import codecs
from benchmarks.bench.exported import exported
from benchmarks.bench.flower_overhead.driver import probed_app
from benchmarks.bench.foreign import foreign
from benchmarks.bench.memory import memory
from benchmarks.bench.meshgrid import meshgrid_average
from benchmarks.bench.pfl import pfl
from benchmarks.bench.ranks import ranks
from benchmarks.bench.ray_shares import RayShares
from benchmarks.bench.rounds import rounds, taken_out
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.bench.selection import selection
from benchmarks.bench.shapes import TINY, fleet
from benchmarks.bench.training import beside_in_rounds, training
from benchmarks.document import ROOT
from benchmarks.images import images
from data import DataSettings, load
from models.algebra.average import PartialAverage
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from server_app.config.resolve import resolve
from tests.benchmarks.cases import SMALL


def silent(line: str) -> None:
    del line


def test_the_ratio_is_the_median_of_the_turns() -> None:
    turns = [(1.0, 1.0), (30.0, 10.0), (2.0, 1.0)]
    row = row_of_turns("b", "what", turns, unit="ms", scale=1e3, limit=2.5)
    assert (row.ratio, row.measured, row.reference, row.turns) == (2.0, 2000.0, 1000.0, 3)
    assert row.passed
    times = row_of_turns("b", "what", [(1.0, 20.0)], unit="s", limit=25, at_least=True)
    assert times.ratio == 20.0
    assert not times.passed
    assert times.cells()[-3:-1] == ["≥ 25", "FAIL"]
    assert Row.from_json(json.loads(json.dumps(times.to_json()))) == times


def test_averaging() -> None:
    rows = averaging(silent, TINY, clients=5, turns=2, stream=1 << 12)
    assert all(row.ratio > 0 for row in rows)
    assert [row.limit for row in rows] == [1.15, None, None, None, 2.0, 25.0, None]
    assert ["1 full" in rows[1].what, "4 smaller" in rows[2].what, "its end" in rows[3].what] == [True] * 3


@pytest.mark.slow
def test_clients() -> None:
    cpu, wall, memory = clients(silent, clients=20_000, few=10, chosen=3, rounds=3, turns=1)
    assert (cpu.limit, wall.limit, memory.limit) == (1.2, None, 1.0)
    assert min(cpu.ratio, wall.ratio) > 0
    assert memory.passed


@pytest.mark.slow
def test_rounds(tmp_path: Path) -> None:
    cpu, wall = rounds(silent, count=2, turns=1, earlier=ROOT)
    assert (cpu.limit, wall.limit) == (0.35, 0.4)
    assert 0.1 < cpu.ratio < 10  # of the same build
    assert taken_out("HEAD", tmp_path / "head").joinpath("pyproject.toml").is_file()
    with pytest.raises(RuntimeError, match="is not in this repository"):
        taken_out("0" * 40, tmp_path / "none")


def test_codecs() -> None:
    rows = codecs(silent, TINY, turns=1)
    assert len(rows) == 2 * 7 + 1 + 2 + 5
    assert all(row.ratio > 0 for row in rows)
    assert [row.limit for row in rows[:4]] == [1.0, 1.0, None, None]
    assert all(row.passed for row in rows[-5:])  # the variance bound


def test_the_authors_way_gives_the_same() -> None:
    case, average = fleet(TINY, 5), PartialAverage(layout(TINY))
    for part, difference in zip(case.parts, case.differences, strict=True):
        average.add(part, difference)
    ours, theirs = average.finish(case.state), meshgrid_average(case.state, case.parts, case.differences)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name])


@pytest.mark.slow
def test_memory() -> None:
    rows = memory(silent, "tiny", few=2, many=4, methods=("heterofl",), turns=1)
    assert [row.limit for row in rows] == [1.75, 1.1]
    assert all(row.measured >= 0 for row in rows)


@pytest.mark.slow
def test_foreign() -> None:
    rows = foreign(silent, turns=1)
    assert [row.limit for row in rows] == [1.05, 1.05, 1.05, 3.0, 1.0, 0.5]
    assert all(row.passed for row in rows[3:])


@pytest.mark.slow
def test_ranks() -> None:
    rows = ranks(silent, width=48, layers=1, clients=8, turns=1, rules=("flexlora",))
    assert [row.limit for row in rows] == [3.0, 4.0]
    assert all(row.ratio > 0 and row.reference > 0 for row in rows)


def test_selection() -> None:
    rows = selection(silent, nodes=2000, clients=60, spec=TINY, turns=1)
    assert [row.limit for row in rows] == [1.0] * 8 + [None, 1.0, None, None, None]
    assert all(row.measured > 0 for row in rows)


def test_training() -> None:
    rows = training(silent, clients=6, turns=1, step_turns=0, **SMALL)
    assert 0 < rows[0].ratio <= 1
    assert rows[2].passed


@pytest.mark.slow
def test_beside_the_steps_of_a_client() -> None:
    (beside,) = beside_in_rounds(resolve(dict(SMALL)), 1)
    assert 0 < beside < 1


@pytest.mark.slow
def test_exported() -> None:
    rows = exported(silent, completed(NetworkSpec("cnn", (1, 8, 8), 10, widths=(4, 8), scaler=True)), turns=1)
    assert [row.limit for row in rows] == [None, None, None, 3.0, 3.0]
    assert all(row.measured > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("bfloat16", [False, True])
def test_pfl(monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    monkeypatch.setattr("benchmarks.bench.pfl.has_bfloat16", lambda device: bfloat16)
    rows = pfl(silent, clients=10, fraction=0.2, rounds=1, ray_rounds=0, processes=1, **{**SMALL, "tiers": "a:1"})
    assert [row.limit for row in rows] == [0.85] * (1 + bfloat16)
    assert rows[0].turns == 1


def test_random_images_have_the_shape_of_cifar10() -> None:
    with images(synthetic=True) as found:
        data = load(DataSettings(dataset=found.dataset, data_root=found.data_root))
        assert tuple(data.train.held.index_select(0, torch.tensor([0])).shape) == (1, 3, 32, 32)
        assert (len(data.train_examples), data.classes) == (50_000, 10)


def test_the_probe_is_our_app_with_other_components(tmp_path: Path) -> None:
    folder = probed_app(tmp_path / "app")
    text = (folder / "pyproject.toml").read_text()
    assert 'serverapp = "probe.server:app"' in text
    assert (folder / "probe" / "client.py").is_file()


def test_shares_of_a_run_through_ray_are_of_its_processes_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[int, tuple[str, float]] = {1: ("workers", 5.0), 2: ("workers", 1.0), 3: ("raylet", 0.5)}
    monkeypatch.setattr(ray_shares, "_processes", lambda: dict(used))
    shares = RayShares()
    shares.end()  # none has begun
    assert shares.stretches == []
    for more in (1.0, 1.5, 90.0):
        shares.begin()
        used |= {1: ("workers", used[1][1] + more), 3: ("raylet", used[3][1] + 0.1), 4: ("workers", 100.0)}
        shares.end()
        del used[4]
    assert str(shares) == (
        "CPU seconds a round, medians: workers 1.50, the server's process 0.00, raylet 0.10, Ray's others 0.00"
    )


def test_rays_processes_are_known_by_their_titles() -> None:
    worker = subprocess.Popen([sys.executable, "-c", "input()", "ray::Actor"], stdin=subprocess.PIPE)
    try:
        kind, seconds = ray_shares._processes()[worker.pid]
    finally:
        worker.communicate(b"\n")
    assert kind == "workers"
    assert seconds >= 0
    assert os.getpid() not in ray_shares._processes()
