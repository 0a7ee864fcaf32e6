"""Runs of docs/evidence.md are those that it says; what fits a budget fits it; killed, the command goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch
from torch import nn

from benchmarks.document import ROOT
from benchmarks.experiments.evidence import limits, plan, settings, tables
from benchmarks.experiments.evidence.command import DOCUMENT, NUMBERS, TITLES
from benchmarks.experiments.evidence.left_out import OUT, WITHIN
from benchmarks.experiments.evidence.peak import measured_bytes, step_bytes
from benchmarks.experiments.evidence.rows import Row, as_csv, in_order, read_csv, torch_of
from benchmarks.experiments.runs import metrics_of
from flotilla.settings import SettingsError
from strategies import METHODS
from strategies.methods.ranks.base import RankMethod
from tests.benchmarks.cases import SMALL


def test_every_method_without_ranks_has_a_row() -> None:
    assert sorted(settings.METHODS) == sorted(n for n, method in METHODS.items() if not issubclass(method, RankMethod))
    assert set(TITLES) == set(plan.PARTS)


def test_rows_differ_in_the_method_alone_and_come_seed_by_seed() -> None:
    found = plan.cells(list(plan.PARTS), plan.SEEDS)
    assert len({cell.name for *_, cell in found}) == len(found)
    assert [cell.seed for *_, cell in found] == sorted((cell.seed for *_, cell in found), key=str)
    for part in plan.PARTS:
        own = {"seed", "method", *(key for keys in settings.OWN.values() for key in keys)}
        if part.startswith("limit-"):
            own |= {"tiers", "exits", *(key for keys in limits.within("memory").values() for key in keys)}
        kept = [{k: v for k, v in cell.keys.items() if k not in own} for where, _, cell in found if where == part]
        assert all(keys == kept[0] for keys in kept)


def test_what_a_board_gets_fits_its_budget_and_the_next_larger_does_not() -> None:
    for row in limits.SIZES:
        told = limits.sizes(row)
        for board in limits.BOARDS:
            budget = limits.SLACK * limits.whole().memory * board.memory / limits.BOARDS[0].memory
            fitting = [size for size, needs in told.items() if needs.memory <= budget]
            assert limits.given("memory", row)[board.name].size == (fitting[0] if fitting else "")
            for limit in ("compute", "link"):
                took = {size: limits.seconds(limit, board, needs) for size, needs in told.items()}
                quick = [size for size, one in took.items() if one <= limits.deadline(limit)]
                got = limits.given(limit, row)[board.name]
                assert got.size == (quick[0] if quick else list(told)[-1])
                assert (got.late <= 1) == bool(quick)


def test_short_of_memory_depths_leave_boards_out_and_widths_do_not() -> None:
    memory = limits.within("memory")
    assert str(memory["depthfl"]["tiers"]).count(OUT) == str(memory["inclusivefl"]["tiers"]).count(OUT) == 2
    assert not any(OUT in str(memory[row]["tiers"]) for row in ("heterofl", "fedrolex", "fjord", "nefl", "scalefl"))
    assert not any(OUT in str(keys["tiers"]) for limit in ("compute", "link") for keys in limits.within(limit).values())


def test_a_step_holds_what_a_sum_by_hand_says() -> None:
    """Two linear layers without biases, 8 → 64 → 4, 16 examples."""
    network = nn.Sequential(nn.Linear(8, 64, bias=False), nn.ReLU(), nn.Linear(64, 4, bias=False))
    found = step_bytes(network, torch.zeros(16, 8), 4)
    weights, activations = 8 * 64 + 64 * 4, 16 * (8 + 64)
    assert 4 * (3 * weights + activations) <= found <= 4 * (3 * weights + 3 * activations) + 8 * 16 + 4096


def test_the_cost_model_says_at_least_what_is_held() -> None:
    for row in ("heterofl", "depthfl", "splitmix"):
        strategy, plans = limits.parts(row)
        for size, plan_of_size in plans.items():
            found = measured_bytes(strategy.network, plan_of_size, strategy.settings.work.batch_size)
            assert 0.8 <= found / limits.sizes(row)[size].memory <= 1.02


@pytest.mark.parametrize("row", ["depthfl", "splitmix"])
def test_who_is_left_out_is_never_asked(row: str) -> None:
    kind = WITHIN[row]
    method = {"method": f"{kind.__module__}:{kind.__name__}", "exits": "auto"}
    tiers = "a:1@2, b:1/2@1, c-out:1/2@1"
    rows = metrics_of({**SMALL, **method, "tiers": tiers, "num-clients": 6, "num-server-rounds": 3})
    assert {tier for one in rows for tier in one["selected_tiers"]} == {"a", "b"}
    assert all(len(one["selected"]) == 4 for one in rows)


def line(method: str, seed: int, tier: str, last: float) -> Row:
    return Row(
        part="fashion-iid",
        method=method,
        seed=seed,
        tier=tier,
        last=last,
        best=round(last + 0.1, 5),
        worst_clients=0.25 if tier == "global" else None,
        parameters=1000,
        macs=5000,
        bytes_down=None,
        bytes_up=4000,
        peak_bytes=None if tier == "global" else 20_000,
        run_bytes_up=2_000_000,
        cpu_seconds=3.5,
        run=f"{method}-{seed}",
        torch="2",
    )


def test_tables_have_means_and_deviations_and_say_what_is_missing(tmp_path: Path) -> None:
    rows = []
    for seed in (1, 2):
        scores = {"global": 0.5 + seed / 10, "a": 0.6, "b": 0.3 + seed / 10}
        rows += [line("heterofl", seed, tier, score) for tier, score in scores.items()]
    rows += [line("depthfl", 1, "global", 0.4), line("depthfl", 1, "a", 0.4), line("depthfl", 1, "b-out", 0.1)]
    lines = tables.accuracies(rows).splitlines()
    assert lines[0].startswith("| method | runs | a | b | global | best round | worst tier | worst clients | MB up |")
    assert lines[2].startswith("| heterofl | 2 | 60.0 ± 0.0 | 45.0 ± 7.1 | 65.0 ± 7.1 | 75.0 ± 7.1 | 45.0 ± 7.1 | 25.0")
    assert lines[3].startswith("| depthfl | 1 | 40.0 | – | 40.0 | 50.0 | none |")
    limited = tables.accuracies([replace(row, part="limit-memory") for row in rows]).splitlines()
    assert limited[0].split(" | ")[7] == "all boards"
    assert [text.split(" | ")[7] for text in limited[2:]] == ["52.5 ± 3.5", "25.0"]  # (40 + 10) / 2
    wanted = [("fashion-iid", method, seed) for seed in (1, 2) for method in ("heterofl", "depthfl")]
    assert tables.missing(rows, wanted) == "fashion-iid, seed 2: depthfl"
    assert tables.missing(rows, [*wanted, ("cifar-iid", "depthfl", 1)]).endswith("cifar-iid, seed 1: all rows")
    file = tmp_path / "evidence.csv"
    file.write_text(as_csv(rows))
    assert read_csv(file) == rows
    assert [row.method for row in in_order(rows[::-1], [("fashion-iid", "depthfl")])] == ["depthfl"] * 3
    file.write_text("part,method\nx,y\n")
    with pytest.raises(SettingsError, match="allowed is a file that this command wrote"):
        read_csv(file)


def test_an_order_is_compared_by_ranks() -> None:
    def rows(part: str, scores: list[float]) -> list[Row]:
        told = zip(settings.UNLIKE, scores, strict=True)
        return [replace(line(method, 1, "a", score), part=part) for method, score in told]

    rising = [at / 100 for at in range(len(settings.UNLIKE))]
    found = tables.agreement(
        [*rows("fashion-iid", rising), *rows("fashion-dirichlet-0.3", [1 - one**2 for one in rising])], TITLES
    )
    assert found.splitlines()[-1] == "| Fashion-MNIST, IID | Fashion-MNIST, Dirichlet 0.3 | -1.00 |"
    assert tables.agreement(rows("fashion-iid", rising)[1:], TITLES) == ""


def test_the_document_says_what_is_run() -> None:
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    common = settings.COMMON
    assert f"{common['num-server-rounds']} rounds" in text
    assert f"{common['local-steps']} steps of {common['batch-size']}" in text
    assert settings.TIERS in text
    for board in limits.BOARDS:
        assert board.title in text
        assert f"{board.speed:g}" in text
    for part in ("evidence", "evidence costs", "evidence limits"):
        assert f"<!-- {part}:begin -->" in text


def test_the_document_has_the_numbers_that_are_checked_in() -> None:
    rows = read_csv(NUMBERS)
    wanted = [(part, method, seed) for part in plan.PARTS for seed in plan.SEEDS for method in plan.rows_of(part)]
    assert tables.text(rows, wanted, TITLES) in DOCUMENT.read_text(encoding="utf-8")
    assert {(row.part, row.method, row.seed) for row in rows} <= set(wanted)
    here = {cell.name for *_, cell in plan.cells(list(plan.PARTS), plan.SEEDS)}
    assert {row.run for row in rows} <= here  # a setting that is changed makes another run


# The command with two rows on digits; it stops nowhere by itself.
_CHILD = """
import sys
from pathlib import Path
from benchmarks.experiments.evidence import command, plan, settings
from benchmarks.task import Options
settings.COMMON |= {"tiers": "a:1, b:1/2", "num-clients": 4}
settings.COMMON |= {"num-server-rounds": 3, "evaluate-every": 1, "fraction-train": 1.0}
settings.DATA["fashion"] = {"dataset": "digits", "model": "mlp", "widths": "16, 8"}
for name in [name for name in plan.PARTS if name != "fashion-iid"]:
    del plan.PARTS[name]
for name in [name for name in settings.METHODS if name not in ("fedavg", "heterofl", "fedrolex")]:
    del settings.METHODS[name]
settings.OWN.clear()
options = Options(["fashion-iid"], seeds=[1, 2], processes=1, root=Path(sys.argv[1]))
print(len(command.measured(options)), "lines")
"""


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    numbers = tmp_path / "runs" / "evidence" / "evidence.csv"
    command = [sys.executable, "-c", _CHILD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        until = monotonic() + 120
        while not (numbers.is_file() and read_csv(numbers)) and child.poll() is None and monotonic() < until:
            sleep(0.05)
        child.kill()
        said = child.stdout.read() if child.stdout else ""
    assert child.returncode == -9, said
    before = read_csv(numbers)
    assert before, said
    first = numbers.parent / "runs" / before[0].run / "summary.json"
    stamp = first.stat().st_mtime_ns
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "18 lines"  # three rows, two seeds, two tiers and the whole
    after = read_csv(numbers)
    assert after[: len(before)] == before
    assert len({row.run for row in after}) == 6
    assert first.stat().st_mtime_ns == stamp  # what was finished was not run again
    assert json.loads(first.read_text())["status"] == "finished"


def test_the_version_of_pytorch_is_the_runs_own_and_not_the_readers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"versions": {"torch": "1.0.0+old"}}', encoding="utf-8")
    assert torch_of(tmp_path) == "1.0.0+old"
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match="by which PyTorch"):
        torch_of(tmp_path)
