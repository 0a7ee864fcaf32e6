"""What came of a run: its last and its best evaluated round, and each tier's own best, from the rows of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def summary_of(rows: Sequence[Row], tiers: Mapping[str, Mapping[str, Any]]) -> Row:
    """The part of `summary.json` that the metrics decide.

    Args:
        rows: of `metrics.jsonl`.
        tiers: by tier name, what one device of it costs: "parameters" and "macs" (counts; MACs an example),
            "bytes_down" and "bytes_up" (bytes a round). What is missing becomes null.

    Returns:
        "rounds": number of the last round. "last": the last evaluated round. "best": the one in which the global
        network had its highest test accuracy, the first on ties; either is null if there is none. "best_of_tier": by
        tier, round and accuracy of *its* best, which is another round as a rule.
    """
    evaluated = [row for row in rows if "accuracy" in row]
    ranked = [row for row in evaluated if row["accuracy"] is not None]
    best = max(ranked, key=lambda row: row["accuracy"], default=None)  # max keeps the first of equals
    return {
        "rounds": max((row["round"] for row in rows), default=0),
        "last": _result(evaluated[-1], tiers) if evaluated else None,
        "best": _result(best, tiers) if best else None,
        "best_of_tier": _best_of_tier(evaluated),
    }


def _best_of_tier(evaluated: Iterable[Row]) -> dict[str, Row]:
    best: dict[str, Row] = {}
    for row in evaluated:
        for name, scores in (row.get("tiers") or {}).items():
            accuracy = (scores or {}).get("accuracy")
            if accuracy is not None and (name not in best or accuracy > best[name]["accuracy"]):
                best[name] = {"round": row["round"], "accuracy": accuracy}
    return best


def _result(row: Row, tiers: Mapping[str, Mapping[str, Any]]) -> Row:
    """One round as the summary gives it; tiers in the order of ``tiers``, then any that only the row knows."""
    seen: Mapping[str, Mapping[str, Any]] = row.get("tiers") or {}
    names: Sequence[str] = [*tiers, *(name for name in seen if name not in tiers)]
    costs = ("parameters", "macs", "bytes_down", "bytes_up")
    return {
        "round": row["round"],
        "loss": row.get("loss"),
        "accuracy": row["accuracy"],
        **{key: row[key] for key in ("robust",) if key in row},
        "tiers": {
            name: {
                "accuracy": (seen.get(name) or {}).get("accuracy"),
                **{cost: tiers.get(name, {}).get(cost) for cost in costs},
                # Of exits or nets by their mean of logits, where there are several; never mixed up with the last exit.
                # "robust" is of attacked examples.
                **{key: seen[name][key] for key in ("ensemble", "robust") if key in (seen.get(name) or {})},
            }
            for name in names
        },
    }
