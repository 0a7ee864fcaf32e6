"""Runs of the table of rules for unlike ranks are those that docs/ranks.md says; how the table is made."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest

from benchmarks.experiments import rank_plan
from benchmarks.experiments.rank_plan import DATA, FAMILIES, METHODS, PARTS, SEEDS, cells, rate_of, tuning_cells
from benchmarks.experiments.rank_tables import Place, as_csv, tables
from benchmarks.experiments.ranks import DOCUMENT
from flotilla.studies.one_run import PROCESSOR
from strategies import METHODS as ALL
from strategies.methods.ranks.base import RankMethod

BASES = {name: Path(f"/bases/{name}") for name in DATA}


def test_rows_differ_in_the_method_alone() -> None:
    found = cells(list(PARTS), SEEDS, list(METHODS), BASES)
    assert len(found) == len(PARTS) * len(METHODS) * 3
    assert len({cell.name for cell in found}) == len(found)
    assert [cell.seed for cell in found] == sorted(SEEDS * (len(found) // 3))  # all rows of a seed before the next
    own = {"method", "adapter", "tiers", "adapter-alpha", "learning-rate"}
    shared = {json.dumps({k: v for k, v in cell.keys.items() if k not in own and k != "seed"}) for cell in found}
    assert len(shared) == len(PARTS)
    for cell in found:
        assert str(cell.keys["dataset"]).endswith("_second")  # the half that the base has not seen


def test_every_rule_for_ranks_has_a_row_and_a_learning_rate() -> None:
    rules = {name for name, method in ALL.items() if issubclass(method, RankMethod)}
    assert rules - {str(keys["method"]) for keys in METHODS.values()} == {"fedsa-lora"}  # the server has no B to score
    assert sorted(METHODS) == sorted([*FAMILIES, *(name for others in FAMILIES.values() for name in others)])
    for data, one in DATA.items():
        assert set(one.rates) == set(FAMILIES)
        assert set(one.rates.values()) <= set(one.searched)
        assert rate_of(data, "prelort") == one.rates["rbla"]


def test_learning_rates_are_chosen_on_other_examples_and_another_seed() -> None:
    for _, method, rate, cell in tuning_cells(BASES):
        assert str(cell.keys["dataset"]).endswith("_tuning")
        assert cell.seed not in SEEDS
        assert (cell.keys["learning-rate"], method in FAMILIES) == (rate, True)


def test_the_document_says_what_is_run() -> None:
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    rounds, tiers = rank_plan.ROUNDS, rank_plan.TIERS
    assert f"{rounds['num-clients']} devices" in text
    assert f"{rounds['num-server-rounds']} rounds of {rounds['local-steps']} steps" in text
    assert f"batches of {rounds['batch-size']}" in text
    assert tiers in text
    for name in METHODS:
        assert name in text


def run(folder: Path, method: str, seed: int, accuracy: float) -> Place:
    """A run folder of two tiers."""
    place = folder / f"{method}-{seed}"
    place.mkdir()
    tiers = {"a": {"accuracy": accuracy}, "e": {"accuracy": accuracy - 0.1}}
    (place / "summary.json").write_text(json.dumps({"last": {"accuracy": accuracy, "tiers": tiers}}))
    rows = [{"round": number, "bytes_down": 1_500_000, "bytes_up": 500_000} for number in (1, 2)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "holdings.json").write_text(
        json.dumps({"network": {"tiers": {"a": {"memory": 3e6}, "e": {"memory": 1e6}}}})
    )
    log = folder / f"{method}-{seed}.log"
    log.write_text(f"round 1\n{PROCESSOR.format('2.50')}\n{PROCESSOR.format('1.50')}\n")
    return Place(part="images-iid", method=method, seed=seed, run=place, log=log)


def test_a_line_has_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    runs = [run(tmp_path, "rbla", 1, 0.6), run(tmp_path, "rbla", 2, 0.8), run(tmp_path, "flora", 1, 0.5)]
    lines = tables(runs).splitlines()
    assert lines[0] == "**images-iid**, seeds 1, 2"
    assert lines[2] == "| method | runs | a | e | global | worst tier | MB down / up | peak MB, a / e | CPU s |"
    assert lines[4].split(" | ")[1:] == [
        "2",
        "70.0 ± 14.1",
        "60.0 ± 14.1",
        "70.0 ± 14.1",
        "60.0 ± 14.1",
        "3.0 / 1.0",
        "3.00 / 1.00",
        "4.0 |",
    ]
    assert lines[5].startswith("| flora | 1 | 50.0 | 40.0 | 50.0 | 40.0 |")


def test_numbers_are_there_as_they_are(tmp_path: Path) -> None:
    rows = list(csv.DictReader(StringIO(as_csv([run(tmp_path, "rbla", 1, 0.6)]))))
    assert [row["tier"] for row in rows] == ["global", "a", "e"]
    assert float(rows[2]["accuracy"]) == pytest.approx(0.5)
    assert (rows[2]["peak_bytes"], rows[0]["peak_bytes"]) == ("1000000", "")
    assert (rows[0]["run_bytes_down"], rows[0]["cpu_seconds"]) == ("3000000", "4.00")
