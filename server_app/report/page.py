"""One self-contained page about a run, made from its folder alone: ``report.html``.

The same folder gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from server_app.folder.files import replace_text
from server_app.folder.progress import count, name_of
from server_app.folder.run_folder import CONFIG, REPORT, SUMMARY, read_metrics
from server_app.folder.summary import Row, summary_of
from server_app.metrics import value_of
from server_app.report.drawing import finite, style
from server_app.report.figures import figures

_MOST_REJECTED = 200  # lines of the list of rejected replies


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run folder, whatever state that is in, and return its path.

    Raises:
        OSError: the folder cannot be read or written.
        ValueError: its metrics are damaged (the message names file and line).
    """
    config, rows = _read(folder / CONFIG), read_metrics(folder)
    summary = _read(folder / SUMMARY) or summary_of(rows, {})  # there is none while the run runs
    last, best = summary.get("last") or {}, summary.get("best") or {}
    tiers = list(
        dict.fromkeys([*(last.get("tiers") or {}), *(name for row in rows for name in row.get("tiers") or {})])
    )
    state = f"{summary.get('status', 'not finished')} · {_rounds(rows, config)}"
    if model := summary.get("model"):
        state += f" · model of round {model['round']}"
    if abandoned := sum(bool(row.get("abandoned")) for row in rows):
        state += f" · {abandoned} abandoned"
    parts = [
        f"<header><h1>{escape(folder.resolve().name)}</h1><p>{escape(state)}</p></header>",
        f"<p class=error>{escape(str(summary['error']))}</p>" if summary.get("error") else "",
        _section("Tiers", _tier_table(summary, tiers)),
        _section("Rounds", figures(rows, tiers, best.get("round"), summary.get("metric")))
        if rows
        else "<p>No round has ended yet.</p>",
        _section("Fairness", _fairness(rows, tiers)),
        _section("Rejected replies", _rejected(rows)),
        _section("Configuration", _pairs(config.get("config") or {})),
        _section("Environment", _pairs({key: value for key, value in config.items() if key != "config"})),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(folder.resolve().name)} · Flotilla</title>\n<style>{style()}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )
    replace_text(folder / REPORT, page)
    return folder / REPORT


def _rounds(rows: Sequence[Row], config: Mapping[str, Any]) -> str:
    """How many rounds have ended, and of how many."""
    planned = (config.get("config") or {}).get("num-server-rounds")
    return f"{len(rows)} round{'s' * (len(rows) != 1)}" + (f" of {planned}" if planned else "")


def _tier_table(summary: Mapping[str, Any], tiers: Sequence[str]) -> str:
    last, best = summary.get("last") or {}, summary.get("best") or {}
    heads = ["tier", "parameters", "MACs", "MB down", "MB up"]
    name, shown = name_of(summary).lower(), _share if (summary.get("metric") or {}).get("share", True) else _value
    heads += [f"{name}, last (round {last.get('round', '–')})", f"{name}, own best", "in round"]
    lines = []
    for name in tiers:
        end, peak = (last.get("tiers") or {}).get(name) or {}, (summary.get("best_of_tier") or {}).get(name) or {}
        parameters, macs = end.get("parameters"), end.get("macs")
        costs = [f"{parameters:,}" if isinstance(parameters, int) else "–", "–" if macs is None else count(macs)]
        costs += [
            "–" if (size := finite(end.get(key))) is None else f"{size / 1e6:,.3f}"
            for key in ("bytes_down", "bytes_up")
        ]
        lines.append([name, *costs, shown(value_of(end)), *_peak(peak, shown)])
    lines.append(["global", "", "", "", "", shown(value_of(last)), *_peak(best, shown)])
    return _table(heads, lines, "numbers") if last else ""


def _peak(best: Mapping[str, Any], shown: Callable[[object], str]) -> list[str]:
    return [shown(value_of(best)), str(best.get("round", "–"))]


_UNASKED = (
    "Not measured. With the key fraction-evaluate above 0 clients score on their own test data every round, whatever "
    "the method: variance, worst and best 10 %, overall and by tier."
)


def _fairness(rows: Sequence[Row], tiers: Sequence[str]) -> str:
    """How evenly the clients are served, in the last round in which they scored on their own test data."""
    row: Row = next((row for row in reversed(rows) if isinstance(row.get("fairness"), Mapping)), {})
    found: Mapping[str, Any] = row.get("fairness") or {}
    each = found.get("tiers") or {}
    metric, share = found.get("metric"), "variance_points2" in found
    shown = _share if share else lambda value: _plain(value, 4)
    spread = "variance_points2" if share else "variance"
    heads = [
        "",
        "clients",
        "mean",
        "variance (points²)" if share else "variance",
        "worst 10 %",
        "best 10 %",
        "10th percentile",
        "angle (rad)",
        "KL to uniform (nats)",
    ]
    lines = []
    known = [*tiers, *(name for name in each if name not in tiers)]
    for name, of in [("all", found), *((tier, each[tier]) for tier in known if tier in each)]:
        shares = [shown(of.get(key)) for key in ("worst_10_percent_mean", "best_10_percent_mean", "percentile_10")]
        lines.append(
            [
                name,
                _plain(of.get("clients"), 0),
                shown(of.get("mean")),
                _plain(of.get(spread), 1 if share else 4),
                *shares,
                _plain(of.get("angle"), 3),
                _plain(of.get("kl_uniform"), 4),
            ]
        )
    note = (
        f"<p>{(metric or 'accuracy').capitalize()} of each client on its own test data, after round "
        f"{row.get('round')}; every client counts once. "
        "Worst and best 10 % are means over that tenth of the clients, at least one.</p>"
    )
    if not found:
        return f"<p>{_UNASKED}</p>"
    return _table(heads, lines, "numbers") + note


def _rejected(rows: Sequence[Row]) -> str:
    """Why and how often, then which."""
    found = [(row["round"], reply) for row in rows for reply in row.get("rejected") or ()]
    reasons = Counter(str(reply.get("reason")) for _, reply in found)
    total = _table(["reason", "replies"], [[reason, str(n)] for reason, n in reasons.most_common()], "numbers")
    lines = [[str(n), str(reply.get("node")), str(reply.get("reason"))] for n, reply in found[:_MOST_REJECTED]]
    more = f"<p>and {len(found) - _MOST_REJECTED} more in metrics.jsonl</p>" if len(found) > _MOST_REJECTED else ""
    each = f"<details><summary>each reply</summary>{_table(['round', 'node', 'reason'], lines)}{more}</details>"
    return total + each if found else ""


def _pairs(values: Mapping[str, Any]) -> str:
    lines = []
    for key, value in values.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        lines += [[f"{key} {part}".strip(), x if isinstance(x, str) else json.dumps(x)] for part, x in inner]
    return _table([], lines, "pairs") if lines else ""


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>\n" for line in lines)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{title}</h2>{inner}</section>" if inner else ""


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _share(value: object) -> str:
    return "–" if (number := finite(value)) is None else f"{100 * number:.2f} %"


def _plain(value: object, digits: int) -> str:
    return "–" if (number := finite(value)) is None else f"{number:,.{digits}f}"


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON file of the folder; a run that was killed early lacks it, and a report is wanted all the same."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
