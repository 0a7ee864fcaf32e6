"""Every benchmark in miniature: rows come out, limits are judged, documents are written. Speed is not tested here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.bench.__main__ import main, write
from benchmarks.bench.averaging import averaging
from benchmarks.bench.codecs import codecs
from benchmarks.bench.images import images
from benchmarks.bench.memory import memory
from benchmarks.bench.meshgrid import meshgrid_average
from benchmarks.bench.pfl import pfl
from benchmarks.bench.rows import HEADS, Row, row_of_turns, table
from benchmarks.bench.selection import selection
from benchmarks.bench.shapes import TINY, fleet
from benchmarks.bench.training import training
from benchmarks.experiments.comparison import tables
from benchmarks.experiments.document import replace_part
from benchmarks.experiments.figure import draw
from benchmarks.experiments.like_for_like import COMPARISONS, DEPTH, Comparison, Keys
from benchmarks.experiments.results import Plan, run_all
from benchmarks.probes.flower_overhead.driver import probed_app
from data.files import Files
from data.published import Published
from data.sources import SOURCES
from models.algebra.average import PartialAverage
from models.cost import size_of
from models.networks.build import layout
from protocol import Scalar
from server_app.config.resolve import resolve

SMALL: dict[str, Scalar] = {
    "dataset": "digits",
    "model": "mlp",
    "widths": "16, 8",
    "batch-size": 64,
    "local-epochs": 1,
    "device": "cpu",
    "tiers": "a:1, b:1/2, c:1/4, d:1/8, e:1/8",
    "local-test-fraction": 0.0,
}


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


def test_a_table_is_text_or_markdown() -> None:
    assert table(["a", "bc"], [["1", "2"]]).splitlines() == ["a  bc", "-  --", "1  2"]
    assert table(["a", "b"], [["1", "2"]], markdown=True).splitlines()[1] == "| --- | --- |"


def test_averaging() -> None:
    rows = averaging(silent, TINY, clients=5, turns=2, stream=1 << 12)
    assert len(rows) == 4
    assert all(row.ratio > 0 for row in rows)
    assert [row.limit for row in rows] == [1.5, 2.0, 25.0, None]


def test_codecs() -> None:
    rows = codecs(silent, TINY, turns=1)
    assert len(rows) == 2 * 6 + 1 + 5
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


def test_memory() -> None:
    rows = memory(silent, "tiny", few=2, many=4, methods=("heterofl",))
    assert [row.limit for row in rows] == [3.0, 1.1]
    assert all(row.measured >= 0 for row in rows)


def test_selection() -> None:
    rows = selection(silent, nodes=2000, clients=60, spec=TINY, turns=1)
    assert [row.limit for row in rows] == [1.0] * 8 + [None, 1.0, None, None, None]
    assert all(row.measured > 0 for row in rows)


def test_training() -> None:
    rows = training(silent, clients=6, turns=1, **SMALL)
    assert 0 < rows[0].ratio <= 1
    assert rows[2].passed


def test_pfl() -> None:
    rows = pfl(silent, clients=10, fraction=0.2, rounds=1, ray_rounds=0, processes=1, **{**SMALL, "tiers": "a:1"})
    assert [row.limit for row in rows] == [1.1]
    assert rows[0].turns == 1


def test_synthetic_images_have_the_format_of_fashion_mnist() -> None:
    with images(synthetic=True) as found:
        source = SOURCES[found.dataset]
        assert isinstance(source, Published)
        train, _ = source.read(Files(root=Path(found.data_root)))
        assert tuple(train.values.shape) == (50_000, 1, 28, 28)


def test_the_probe_is_our_app_with_other_components(tmp_path: Path) -> None:
    folder = probed_app(tmp_path / "app")
    text = (folder / "pyproject.toml").read_text()
    assert 'serverapp = "probe.server:app"' in text
    assert (folder / "probe" / "client.py").is_file()


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        Row(
            benchmark="averaging",
            what="a / b",
            measured=1.0,
            reference=1.0,
            unit="s",
            ratio=1.0,
            limit=1.5,
            note="said",
        ),
        Row(benchmark="x", what="c / d", measured=2.0, reference=1.0, unit="s", ratio=2.0, limit=1.5),
    ]
    monkeypatch.setattr("benchmarks.bench.__main__.BENCHMARKS", {"one": lambda _: rows[:1], "two": lambda _: rows})
    assert main(["one", "--json", str(tmp_path / "rows.json")]) == 0
    assert main([]) == 1
    assert "FAIL" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["three"])
    document = tmp_path / "results.md"
    document.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    write(tmp_path / "rows.json", document)
    text = document.read_text()
    assert " | ".join(HEADS) in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="markers"):
        replace_part(document, "other", "")


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
        plans = [strategy.kept_plan(tier, 1) for tier in strategy.settings.tiers]
        sizes[row] = [size_of(strategy.network, plan).parameters for plan in plans]
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
