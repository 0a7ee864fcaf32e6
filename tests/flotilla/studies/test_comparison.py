"""Runs held against each other: seeds that are one row, differences by pairs, fronts, files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from flotilla.cli import app
from flotilla.settings import SettingsError
from flotilla.studies import tables
from flotilla.studies.page import page
from flotilla.studies.results import Result, TierResult, by_row, read_results
from flotilla.studies.statistics import front, paired, spread
from server_app.report.page import write_report


def result(row: str, seed: int, last: float, **changes: Any) -> Result:
    tier = TierResult(last=last, best=last, parameters=100, macs=1000, traffic=800)
    told = Result(
        row=row,
        seed=seed,
        folder=Path(f"{row}-{seed}"),
        metric="accuracy",
        share=True,
        higher=True,
        last=last,
        best=last + 0.01,
        tiers={"a": tier, "b": replace(tier, last=last / 2, parameters=25)},
        clients=None,
        curve=[(1, last / 2), (2, last)],
        traffic=2e6,
        seconds=3.0,
        memory=None,
    )
    return replace(told, **changes)


def write_run(
    folder: Path, score: float, config: Mapping[str, Any], *, rounds: int = 2, status: str = "finished"
) -> Path:
    """A run folder with what a comparison reads."""
    folder.mkdir(parents=True)
    tiers = {
        name: {
            "accuracy": score / n,
            "parameters": 100 // n,
            "macs": 1000 // n,
            "bytes_down": 400,
            "bytes_up": 400 // n,
        }
        for n, name in ((1, "a"), (2, "b"))
    }
    ended = {"round": rounds, "loss": 0.1, "accuracy": score, "tiers": tiers}
    own = {name: {"round": rounds, "accuracy": tier["accuracy"]} for name, tier in tiers.items()}
    summary = {"status": status, "rounds": rounds, "last": ended, "best": ended, "best_of_tier": own}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"config": {"method": "heterofl", **config}}), encoding="utf-8")
    rows = [
        {
            "round": n,
            "accuracy": score * n / rounds,
            "bytes_down": 1600,
            "bytes_up": 1000,
            "seconds": {"train": 1.0, "fold": 0.5},
            "resident_bytes": 6e8,
            "fairness": {"worst_10_percent_mean": score / 4},
            "tiers": {name: {"accuracy": tier["accuracy"]} for name, tier in tiers.items()},
        }
        for n in range(1, rounds + 1)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


# ---- statistics ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_a_paired_difference_is_that_of_scipys_paired_test(pairs: list[tuple[float, float]]) -> None:
    ours = [result("a", seed, x) for seed, (x, _) in enumerate(pairs)]
    theirs = [result("b", seed, y) for seed, (_, y) in reversed(list(enumerate(pairs)))]
    found = paired(ours, theirs, lambda one: one.last)
    assert found is not None
    gaps = np.array([x - y for x, y in pairs])
    assert found.mean == pytest.approx(gaps.mean(), abs=1e-12)
    if gaps.std() < 1e-9:
        return
    interval = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert found.half == pytest.approx((interval.high - interval.low) / 2)
    assert found.clear == (interval.low > 0 or interval.high < 0)


def test_only_seeds_that_both_have_are_paired() -> None:
    ours, theirs = [result("a", 1, 0.5), result("a", 2, 0.9)], [result("b", 2, 0.6), result("b", 3, 0.1)]
    found = paired(ours, theirs, lambda one: one.last)
    assert found is not None
    assert found.mean == pytest.approx(0.3)
    assert (found.half, found.count, found.clear) == (None, 1, False)
    assert paired(ours[:1], theirs, lambda one: one.last) is None


def test_spread_of_one_value_has_no_deviation() -> None:
    assert spread([0.5]).deviation is None
    assert spread([0.5, 0.7]).deviation == pytest.approx(np.std([0.5, 0.7], ddof=1))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_nobody_on_the_front_is_beaten_and_everybody_else_is(points: list[tuple[int, int]]) -> None:
    for (cost, score), on in zip(points, front(points), strict=True):
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
        assert on == (not beaten)


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_runs_that_are_alike_but_for_the_seed_are_one_row(tmp_path: Path) -> None:
    places = [
        write_run(tmp_path / "1", 0.8, {"seed": 1, "run-dir": "x", "batch-size": 8}),
        write_run(tmp_path / "2", 0.9, {"seed": 2, "run-dir": "y", "batch-size": 8}),
        write_run(tmp_path / "3", 0.7, {"seed": 1, "run-dir": "z", "batch-size": 16}),
        write_run(tmp_path / "4", 0.6, {"seed": 1, "method": "fedavg"}),
        write_run(tmp_path / "5", 0.6, {"seed": 1}, status="stopped"),
    ]
    results, skipped = read_results([*places, tmp_path / "none"])
    assert {row: len(runs) for row, runs in by_row(results).items()} == {
        "heterofl, batch-size=8": 2,
        "heterofl, batch-size=16": 1,
        "fedavg": 1,
    }
    assert [line.split(": ", 1)[1] for line in skipped] == [
        "its status is stopped",
        "no run folder: it has no config.json",
    ]
    first = results[0]
    assert (first.worst, first.clients, first.traffic, first.seconds, first.memory) == (0.4, 0.2, 5200.0, 3.0, 6e8)
    assert first.curve == [(1, 0.4), (2, 0.8)]


def test_a_sweep_names_its_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "r1", 0.8, {"seed": 1})
    told = {"runs": [{"row": "usual", "seed": 1, "run": "r1"}, {"row": "usual", "seed": 2, "run": "r2"}]}
    (tmp_path / "sweep.json").write_text(json.dumps(told), encoding="utf-8")
    results, skipped = read_results([tmp_path])
    assert [one.row for one in results] == ["usual"]
    assert len(skipped) == 1


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no finished run in"):
        read_results([tmp_path])
    (tmp_path / "sweep.json").write_text("{", encoding="utf-8")
    with pytest.raises(SettingsError, match="is damaged"):
        read_results([tmp_path])


# ---- tables and the page ---------------------------------------------------------------------------------------------

SOME = [
    result("heterofl", 1, 0.80),
    result("heterofl", 2, 0.82),
    result("fed_avg|x", 1, 0.7),
    result("fed_avg|x", 2, 0.712),
]


def test_tables_have_means_deviations_and_differences() -> None:
    assert tables.scores(SOME).lines[0] == [
        "heterofl",
        "2",
        "81.0 ± 1.4 / 82.0 ± 1.4",
        "81.0 ± 1.4",
        "40.5 ± 0.7",
        "40.5 ± 0.7",
    ]
    assert tables.differences(SOME, "heterofl").lines == [["fed_avg|x", "2", "-10.4 ± 5.1 *", "-5.2 ± 2.5 *"]]
    assert tables.sizes(SOME).lines[0][2] == "100 *"
    assert tables.sizes(SOME).lines[2][2] == "100"
    assert r"fed\_avg|x" in tables.scores(SOME).latex()
    assert r"$\pm$" in tables.scores(SOME).latex()
    assert r"fed_avg\|x" in tables.scores(SOME).markdown()


def test_where_less_is_better_the_least_is_best() -> None:
    """RMSE: the worst tier has most of it, the front and the sentence go by the least."""
    runs = [replace(one, metric="rmse", share=False, higher=False) for one in SOME]
    assert runs[0].worst == runs[0].tiers["a"].last == 0.80
    assert (
        page("x", runs, "heterofl", [], "").count("fed_avg|x has the best global network (0.7060 in the last round)")
        == 1
    )
    on = {(point.row, point.tier): "parameters" in point.fronts for point in tables.points(runs)}
    assert on == {
        ("heterofl", "a"): False,
        ("heterofl", "b"): False,
        ("fed_avg|x", "a"): False,  # its own narrow tier has less of it, for less
        ("fed_avg|x", "b"): True,
    }
    assert tables.scores(runs).title.startswith("Rmse (less is better)")
    assert tables.scores(runs).lines[0][2] == "0.810 ± 0.014 / 0.820 ± 0.014"


def test_a_run_counts_once_and_what_was_not_evaluated_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "1", 0.8, {"seed": 1})
    (tmp_path / "latest").symlink_to(run)
    other = write_run(tmp_path / "2", 0.8, {"seed": 2})
    summary = json.loads((other / "summary.json").read_text())
    summary["last"]["tiers"]["b"]["accuracy"] = None
    (other / "summary.json").write_text(json.dumps(summary))
    never = write_run(tmp_path / "3", 0.8, {"seed": 3})
    (never / "summary.json").write_text(json.dumps({"status": "finished", "last": None, "best": None}))
    results, skipped = read_results([run, tmp_path / "latest", other, never])
    assert [(one.seed, list(one.tiers)) for one in results] == [(1, ["a", "b"]), (2, ["a"])]
    assert [line.split(": ", 1)[1] for line in skipped] == ["it was never evaluated"]


def test_the_csv_has_every_run_and_tier() -> None:
    lines = list(csv.DictReader(StringIO(tables.as_csv(SOME))))
    assert len(lines) == 4 * 3
    assert {line["tier"] for line in lines} == {"global", "a", "b"}
    assert float(lines[0]["last"]) == 0.8


def test_the_page_needs_nothing_from_elsewhere_and_escapes_names() -> None:
    told = page("x", [replace(one, row=f"<b>{one.row}") for one in SOME], "<b>heterofl", ["a: b"], "flotilla compare x")
    assert not re.search(r'(?:src|href)="(?!#)', told)
    assert "<b>heterofl" not in told
    assert "&lt;b&gt;heterofl has the best global network (81.0 % in the last round)" in told
    assert told.count("<svg") == 5
    assert "<title>&lt;b&gt;heterofl, b\n25 parameters\n40.5 ± 0.71 (2 seeds)</title>" in told


def test_the_command_writes_four_files(tmp_path: Path) -> None:
    places = [str(write_run(tmp_path / str(seed), 0.8, {"seed": seed})) for seed in (1, 2)]
    out = CliRunner().invoke(app, ["compare", *places, "--to", str(tmp_path / "out")])
    assert out.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"comparison.{kind}" for kind in ("csv", "html", "md", "tex")
    ]
    refused = CliRunner().invoke(app, ["compare", *places, "--against", "other"])
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [((53.6, 53.9), "53.75 ± 0.21"), ((1000.0, 1200.0), "1100 ± 141"), ((3.0, 3.0), "3 ± 0"), ((3.0,), "3")],
)
def test_seconds_are_shown_to_the_second_digit_of_their_deviation(seconds: Sequence[float], shown: str) -> None:
    found = [result("a", seed, 0.5, seconds=some) for seed, some in enumerate(seconds)]
    assert tables.costs(found).lines[0][2] == shown


def long_run(folder: Path, score: float, config: Mapping[str, Any]) -> Path:
    """A run of 200 rounds whose lines are as long as those of a real one: 100 clients, 20 of them a round."""
    place, draw = write_run(folder, score, config, rounds=200), np.random.default_rng(int(1e4 * score))
    file, waited = place / "metrics.jsonl", dict.fromkeys(("sent", "first", "last", "processed"), 0.001234567890123)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["selected"] = draw.choice(100, 20, replace=False).tolist()
        row["rejected"] = [{"node": row["selected"][0], "reason": "a difference of norm 12.3, more than 4 x the usual"}]
        row["tiers"] = {name: {"accuracy": draw.random(), "loss": draw.random()} for name in row["tiers"]}
        row["clients"] = {str(node): draw.random() for node in range(100)}
        row["seconds"] = {name: draw.random() for name in ("hello", "plan", "train", "fold", "evaluate", "checkpoint")}
        row["waiting_seconds"] = dict.fromkeys(("hello", "train", "statistics", "evaluate"), waited)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.mark.slow
def test_report_and_comparison_of_fifty_runs_of_200_rounds(tmp_path: Path) -> None:
    """Under ten seconds together, and under three megabytes each; processor time, as others may be at work."""
    places = [
        long_run(tmp_path / f"{n}-{seed}", 0.5 + 0.01 * n, {"seed": seed, "batch-size": n})
        for n in range(10)
        for seed in range(5)
    ]
    began = process_time()
    out = CliRunner().invoke(app, ["compare", *map(str, places), "--to", str(tmp_path / "out")])
    assert out.exit_code == 0
    report = write_report(places[0])
    took = process_time() - began
    sizes = [file.stat().st_size for file in (report, tmp_path / "out" / "comparison.html")]
    print(f"{took:.1f} s of the processor; report {sizes[0]:,} bytes, comparison {sizes[1]:,} bytes")  # with -s
    assert took < 10
    assert max(sizes) < 3e6
