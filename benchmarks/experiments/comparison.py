"""Tables from the run folders of a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.document import table
from models.cost import cost_of
from server_app.config.resolve import RunConfig

TITLES = {"iid": "IID", "dirichlet": "Dirichlet 0.5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One finished run.

    Attributes:
        norm: normalisation of its network.
        last, best: the evaluated rounds, as `summary.json` has them.
        coverage: of the last round, as `metrics.jsonl` has it.
        all_macs: by tier, MACs with every exit computed.
    """

    norm: str
    last: dict[str, Any]
    best: dict[str, Any]
    coverage: dict[str, float]
    all_macs: dict[str, int]

    @staticmethod
    def read(folder: Path, config: RunConfig) -> Summary:
        """Read the run folder of a configuration."""
        strategy = config.strategy()
        macs = {
            tier.name: cost_of(strategy.network, strategy.kept_plan(strategy.context(1), tier), every_exit=True).macs
            for tier in strategy.settings.tiers
        }
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        coverage = json.loads(lines[-1])["coverage"]
        return Summary(
            norm=strategy.network.norm, last=summary["last"], best=summary["best"], coverage=coverage, all_macs=macs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One row of the comparison, for one seed."""

    partition: str
    method: str
    seed: int
    run: Summary


def tables(rows: Sequence[Finished], stated: Sequence[str] = ()) -> str:
    """Everything as Markdown: accuracies for every division of the data, then what a device of each tier pays."""
    parts = list(stated)
    for partition in dict.fromkeys(row.partition for row in rows):
        parts.append(f"**{TITLES[partition]}**: test accuracy in %, last round / best round")
        chosen = [row for row in rows if row.partition == partition]
        parts.append(_accuracies(chosen))
        if several := [row for row in chosen if any("ensemble" in tier for tier in row.run.last["tiers"].values())]:
            parts.append("of the mean of logits of everything in the network that predicts (exits, nets), likewise")
            parts.append(_ensembles(several))
    parts.append("**Costs** of one device of each tier: parameters and MACs of the network it uses in the end")
    parts.append(_sizes(rows))
    if several := [row for row in rows if _exits_cost(row.run)]:
        parts.append("MACs with every exit, which is what training and the mean of logits compute")
        parts.append(_all_macs(several))
    parts.append('and kilobytes down / up in a round (a part is sent as float32; `slice-at = "server"`)')
    parts.append(_bytes(rows))
    return "\n\n".join(parts)


def by_method(rows: Sequence[Finished]) -> dict[str, list[Summary]]:
    """Sort the runs by method, one for each seed."""
    found: dict[str, list[Summary]] = {}
    for row in rows:
        found.setdefault(row.method, []).append(row.run)
    return found


def tiers(rows: Sequence[Finished]) -> list[str]:
    """Names of the tiers, widest first."""
    return list(rows[0].run.last["tiers"])


def _accuracies(rows: Sequence[Finished]) -> str:
    names = tiers(rows)
    lines = []
    for method, runs in by_method(rows).items():
        whole = _both(runs, lambda result: result["accuracy"])
        each = [_both(runs, lambda result, name=name: result["tiers"][name]["accuracy"]) for name in names]  # type: ignore[misc]
        share = 100 * mean(run.coverage["ever"] for run in runs)
        lines.append(
            [method, runs[0].norm, whole, *each, f"{share:.0f} %", f"{mean(run.coverage['mean'] for run in runs):.1f}"]
        )
    return table(["method", "norm", "global", *names, "covered", "holders"], lines, markdown=True)


def _ensembles(rows: Sequence[Finished]) -> str:
    names = tiers(rows)
    lines = []
    for method, runs in by_method(rows).items():
        lines.append([method, *(_both(runs, partial(_ensemble, name)) for name in names)])
    return table(["method", *names], lines, markdown=True)


def _ensemble(tier: str, result: dict[str, Any]) -> float:
    """Accuracy of a tier's ensemble, or of its only predictor."""
    found = result["tiers"][tier]
    return float(found.get("ensemble", found["accuracy"]))


def _both(runs: Sequence[Summary], of: Callable[[dict[str, Any]], float]) -> str:
    return f"{_spread([of(run.last) for run in runs])} / {_spread([of(run.best) for run in runs])}"


def _spread(values: Sequence[float]) -> str:
    """Mean in percent, with the standard deviation over seeds if there are several."""
    text = f"{100 * mean(values):.1f}"
    return f"{text} ± {100 * stdev(values):.1f}" if len(values) > 1 else text


def _sizes(rows: Sequence[Finished]) -> str:
    names = tiers(rows)
    lines: dict[tuple[str, ...], list[str]] = {}
    for method, runs in by_method(rows).items():
        of = runs[0].last["tiers"]
        cells = tuple(f"{of[name]['parameters']:,} / {of[name]['macs'] / 1e3:,.0f} k" for name in names)
        lines.setdefault(cells, []).append(method)
    return table(["methods", *names], [[", ".join(who), *cells] for cells, who in lines.items()], markdown=True)


def _exits_cost(run: Summary) -> bool:
    return any(macs > run.last["tiers"][tier]["macs"] for tier, macs in run.all_macs.items())


def _all_macs(rows: Sequence[Finished]) -> str:
    names = tiers(rows)
    lines: dict[tuple[str, ...], list[str]] = {}
    for method, runs in by_method(rows).items():
        cells = tuple(f"{runs[0].all_macs[name] / 1e3:,.0f} k" for name in names)
        lines.setdefault(cells, []).append(method)
    return table(["methods", *names], [[", ".join(who), *cells] for cells, who in lines.items()], markdown=True)


def _bytes(rows: Sequence[Finished]) -> str:
    names = tiers(rows)
    lines: dict[tuple[str, ...], list[str]] = {}
    for method, runs in by_method(rows).items():
        of = runs[0].last["tiers"]
        cells = tuple(f"{_kilo(of[name]['bytes_down'])} / {_kilo(of[name]['bytes_up'])}" for name in names)
        lines.setdefault(cells, []).append(method)
    return table(["methods", *names], [[", ".join(who), *cells] for cells, who in lines.items()], markdown=True)


def _kilo(size: float | None) -> str:
    return "-" if size is None else f"{size / 1e3:.1f}"
