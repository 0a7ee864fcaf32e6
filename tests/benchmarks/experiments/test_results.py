"""The like-for-like tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.experiments.comparison import tables
from benchmarks.experiments.figure import draw
from benchmarks.experiments.like_for_like import COMPARISONS, DEPTH, Comparison, Keys
from benchmarks.experiments.results import Plan, run_all
from models.cost import cost_of
from server_app.config.resolve import resolve
from tests.benchmarks.cases import SMALL


@pytest.mark.slow
def test_results(tmp_path: Path) -> None:
    other: Keys = {"method": "depthfl", "tiers": "a:1@2, b:1@2, c:1@1, d:1@1, e:1@1"}  # a row with tiers of its own
    made: dict[str, Keys] = {"heterofl": {"method": "heterofl"}, "depthfl": other}
    compared = Comparison(
        title="results",
        common={**SMALL, "num-clients": 10, "fraction-train": 0.5},
        partitions={"iid": {"partition": "iid"}},
        methods=made,
    )
    plan = Plan(comparison=compared, partitions=["iid"], methods=list(made), seeds=[1, 2], rounds=2)
    said: list[str] = []
    rows = run_all(plan, tmp_path, said.append, processes=0)
    assert len(rows) == 4
    again: list[str] = []
    assert [row.run for row in run_all(plan, tmp_path, again.append, processes=0)] == [row.run for row in rows]
    assert said
    assert not again  # finished rows are not run again
    text = tables(rows)
    assert "| heterofl | static-batch |" in text
    assert "±" in text
    every_exit = text.split("MACs with every exit")[1].split("kilobytes")[0]
    assert _cells(every_exit, "depthfl")[0] == "1 k"
    assert "heterofl" not in every_exit
    draw(rows, tmp_path / "results.svg")
    assert (tmp_path / "results.svg").stat().st_size > 1000


def _cells(text: str, row: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_row_is_as_large_as_it_says() -> None:
    """The rows of the depth table that differ in their tiers: what a tier holds, row against row."""
    sizes = {}
    for row in ("depthfl", "heterofl, sized as depthfl"):
        strategy = resolve({**DEPTH.common, **DEPTH.methods[row]}, check_files=False).strategy()
        plans = [strategy.kept_plan(strategy.context(1), tier) for tier in strategy.settings.tiers]
        sizes[row] = [cost_of(strategy.network, plan).parameters for plan in plans]
    for ours, theirs in zip(*sizes.values(), strict=True):
        assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_row_of_a_table_can_be_run(name: str) -> None:
    compared = COMPARISONS[name]
    plan = Plan(
        comparison=compared,
        partitions=list(compared.partitions),
        methods=list(compared.methods),
        seeds=[1],
        rounds=compared.rounds,
    )
    for partition in plan.partitions:
        tiers = {
            tuple(tier.name for tier in resolve(plan.keys(partition, row, 1), check_files=False).settings.tiers)
            for row in plan.methods
        }
        assert len(tiers) == 1  # a column for each
