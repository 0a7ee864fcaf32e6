"""One self-contained page about a run, made from its folder alone: ``report.html``.

The same folder gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from server_app.folder.files import replace_text
from server_app.folder.progress import count, name_of
from server_app.folder.run_folder import REPORT
from server_app.metrics import value_of
from server_app.report.clients import clusters, fairness, rejected
from server_app.report.drawing import finite
from server_app.report.holders import holders
from server_app.report.network import network
from server_app.report.rounds import by_round, costs_by_round
from server_app.report.settings import settings
from server_app.report.size import against_size
from server_app.report.style import document
from server_app.report.tables import duration, megabytes, section, table
from server_app.report.told import Told, told

_BYTES = ("bytes_down", "bytes_up", "bytes_survey_down", "bytes_survey_up")


def write_report(folder: Path, baselines: Sequence[Path] = ()) -> Path:
    """Write ``report.html`` into a run folder, whatever state that is in, and return its path.

    Args:
        folder: of the run.
        baselines: folders of runs that the picture of score against size shows beside it.

    Raises:
        OSError: a folder cannot be read or written.
        ValueError: metrics are damaged (the message names file and line), or a baseline is scored by another metric.
    """
    run, names = told(folder), Counter(place.resolve().name for place in dict.fromkeys(baselines))
    others = {
        str(place) if names[place.resolve().name] > 1 else place.resolve().name: told(place) for place in baselines
    }
    name = folder.resolve().name
    parts = [
        f"<header><h1>{escape(name)}</h1><p>{escape(_state(run))}</p></header>",
        f"<p class=error>{escape(str(run.summary['error']))}</p>" if run.summary.get("error") else "",
        _sentence(run),
        _facts(run),
        *figures(run, others),
        section("Fairness", fairness(run)) if run.rows else "",
        section("Clusters", clusters(run)),
        section("Rejected replies", rejected(run)),
        settings(run),
    ]
    replace_text(folder / REPORT, document(name, parts))
    return folder / REPORT


def figures(run: Told, baselines: Mapping[str, Told]) -> list[str]:
    """What is drawn of every run."""
    parts = section("The network and its parts", network(run))
    if not run.rows:
        return ["<p>No round has ended yet.</p>", parts]
    picture, sizes = against_size(run, baselines), _tier_table(run)
    both = f'<div class="pair">{picture}<div>{sizes}</div></div>' if picture else sizes
    return [
        section("Accuracy against size" if run.share else "Score against size", both),
        parts,
        section("By round", by_round(run)),
        section("Who holds what", holders(run)),
        section("Traffic and time", costs_by_round(run)),
    ]


def _state(run: Told) -> str:
    """How the run ended, and after how many rounds of how many."""
    planned, rows = run.config.get("num-server-rounds"), run.rows
    state = f"{run.summary.get('status', 'not finished')} · {len(rows)} round{'s' * (len(rows) != 1)}"
    state += f" of {planned}" if planned else ""
    if model := run.summary.get("model"):
        state += f" · model of round {model['round']}"
    if abandoned := sum(bool(row.get("abandoned")) for row in rows):
        state += f" · {abandoned} abandoned"
    return state


def _sentence(run: Told) -> str:
    """What came out."""
    last, best, score = run.last, run.best, value_of(run.last)
    if not last or finite(score) is None:
        return ""
    digits, name = 1, name_of(run.summary).lower()
    text = f"{run.config.get('method', 'The run')}"
    text += f" on {run.config['dataset']}" if run.config.get("dataset") else ""
    text += f": the global network’s {name} is {run.shown(score, digits)} after round {last.get('round')}"
    if best and best.get("round") != last.get("round"):
        text += f" (best {run.shown(value_of(best), digits)}, round {best['round']})"
    ends = {name: end for name, end in (last.get("tiers") or {}).items() if finite(value_of(end)) is not None}
    sized = {tier: finite(end.get("parameters")) for tier, end in ends.items()}
    known = {tier: size for tier, size in sized.items() if size}
    if len(known) > 1:
        least, most = min(known, key=lambda tier: known[tier]), max(known, key=lambda tier: known[tier])
        small, large = (run.shown(value_of(ends[tier]), digits) for tier in (least, most))
        text += f"; its smallest part ({least}, {count(known[least])} parameters) has {small}"
        text += f", its largest ({most}, {count(known[most])}) {large}"
    if run.summary.get("ended"):
        text += f". It ended early: {run.summary['ended']}"
    return f'<p class="said">{escape(text)}.</p>'


def _facts(run: Told) -> str:
    """A few numbers that are wanted most."""
    if not run.rows:
        return ""
    found: list[tuple[str, str]] = []
    score, ends = value_of(run.last), (run.last.get("tiers") or {}).values()
    if finite(score) is not None:
        found.append((run.shown(score, 1), "global network"))
    scores = [value for end in ends if (value := finite(value_of(end))) is not None]
    if len(scores) > 1:
        higher = (run.summary.get("metric") or {}).get("better", "higher") == "higher"
        found.append((run.shown((min if higher else max)(scores), 1), "worst tier"))
    traffic = sum(finite(row.get(key)) or 0.0 for row in run.rows for key in _BYTES)
    seconds = sum(finite(value) or 0.0 for row in run.rows for value in (row.get("seconds") or {}).values())
    if traffic:
        found.append((megabytes(traffic), "sent, both ways"))
    if seconds:
        found.append((duration(seconds), "in its rounds"))
    asked = {str(node) for row in run.rows for node in row.get("selected") or ()}
    if asked:
        found.append((f"{len(asked):,}", "client" + "s" * (len(asked) != 1)))
    if lost := sum(len(row.get("rejected") or ()) for row in run.rows):
        found.append((f"{lost:,}", "replies left out"))
    boxes = "".join(f"<div><b>{escape(number)}</b><span>{escape(words)}</span></div>" for number, words in found)
    return f'<div class="facts">{boxes}</div>'


def _tier_table(run: Told) -> str:
    last, best = run.last, run.best
    heads = ["tier", "parameters", "MACs", "MB down", "MB up"]
    name = name_of(run.summary).lower()
    heads += [f"{name}, last (round {last.get('round', '–')})", f"{name}, own best", "in round"]
    lines = []
    for tier in run.tiers:
        end, peak = (last.get("tiers") or {}).get(tier) or {}, (run.summary.get("best_of_tier") or {}).get(tier) or {}
        parameters, macs = end.get("parameters"), end.get("macs")
        costs = [f"{parameters:,}" if isinstance(parameters, int) else "–", "–" if macs is None else count(macs)]
        costs += [
            "–" if (size := finite(end.get(key))) is None else f"{size / 1e6:,.3f}"
            for key in ("bytes_down", "bytes_up")
        ]
        lines.append([tier, *costs, run.shown(value_of(end)), *_peak(run, peak)])
    lines.append(["global", "", "", "", "", run.shown(value_of(last)), *_peak(run, best)])
    return table(heads, lines, "numbers") if last else ""


def _peak(run: Told, best: Mapping[str, Any]) -> list[str]:
    return [run.shown(value_of(best)), str(best.get("round", "–"))]
