"""What came of a run: its last and its best evaluated round, and each tier's own best, from the rows of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server_app.metrics import Headline, value_of

Row = dict[str, Any]
ACCURACY = Headline()


def summary_of(rows: Sequence[Row], tiers: Mapping[str, Mapping[str, Any]], headline: Headline = ACCURACY) -> Row:
    """The part of `summary.json` that the metrics decide.

    Args:
        rows: of `metrics.jsonl`.
        tiers: by tier name, what one device of it costs: "parameters" and "macs" (counts; MACs an example),
            "bytes_down" and "bytes_up" (bytes a round). What is missing becomes null.
        headline: what the best is the best by.

    Returns:
        "rounds": number of the last round. "last": the last evaluated round. "best": the one in which the global
        network had its best headline (its highest test accuracy), the first on ties; either is null if there is none.
        "best_of_tier": by tier, round and accuracy (and "score") of *its* best, which is another round as a rule.
        "metric": the headline, where it is not accuracy.
    """
    evaluated = [row for row in rows if "accuracy" in row]
    ranked = [(value, row) for row in evaluated if (value := value_of(row)) is not None]
    sign = 1 if headline.higher else -1
    best = max(ranked, key=lambda pair: sign * pair[0], default=(0.0, None))[1]  # max keeps the first of equals
    return {
        "rounds": max((row["round"] for row in rows), default=0),
        "last": _result(evaluated[-1], tiers) if evaluated else None,
        "best": _result(best, tiers) if best else None,
        "best_of_tier": _best_of_tier(evaluated, headline),
        **({} if headline.name == ACCURACY.name else {"metric": headline.described()}),
    }


def _best_of_tier(evaluated: Iterable[Row], headline: Headline) -> dict[str, Row]:
    best: dict[str, Row] = {}
    for row in evaluated:
        for name, scores in (row.get("tiers") or {}).items():
            value = value_of(scores or {})
            if value is not None and (name not in best or headline.better(value, value_of(best[name]) or 0.0)):
                kept = {key: scores[key] for key in ("accuracy", "score") if key in scores}
                best[name] = {"round": row["round"], **kept}
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
        **{key: row[key] for key in ("robust", "score", "metrics") if key in row},
        "tiers": {
            name: {
                "accuracy": (seen.get(name) or {}).get("accuracy"),
                **{cost: tiers.get(name, {}).get(cost) for cost in costs},
                # Of exits or nets by their mean of logits, where there are several; never mixed up with the last exit.
                # "robust" is of attacked examples.
                **{
                    key: seen[name][key]
                    for key in ("ensemble", "robust", "score", "metrics")
                    if key in (seen.get(name) or {})
                },
            }
            for name in names
        },
    }
