"""What became of the clients: how evenly they are served, in which cluster they are, whose replies did not count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

from server_app.folder.summary import Row
from server_app.report.canvas import Spot, draw
from server_app.report.drawing import MARKS, MUTED, finite, in_page, key_of
from server_app.report.panels import stacked
from server_app.report.tables import folded, plain, table
from server_app.report.told import Told

_MOST_REJECTED = 200  # lines of the list of rejected replies
_BARS = 20
_UNASKED = (
    "Not measured. With the key fraction-evaluate above 0 clients score on their own test data every round, whatever "
    "the method: variance, worst and best 10 %, overall and by tier."
)


def fairness(told: Told) -> str:
    """How evenly the clients are served, in the last round in which they scored on their own test data."""
    row: Row = next((row for row in reversed(told.rows) if isinstance(row.get("fairness"), Mapping)), {})
    found: Mapping[str, Any] = row.get("fairness") or {}
    if not found:
        return f"<p class=note>{_UNASKED}</p>"
    each = found.get("tiers") or {}
    share = "variance_points2" in found

    def shown(value: object) -> str:
        if not share:
            return plain(value, 4)
        return "–" if (number := finite(value)) is None else f"{100 * number:.2f} %"

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
    known = [*told.tiers, *(name for name in each if name not in told.tiers)]
    for name, of in [("all", found), *((tier, each[tier]) for tier in known if tier in each)]:
        shares = [shown(of.get(key)) for key in ("worst_10_percent_mean", "best_10_percent_mean", "percentile_10")]
        variance = plain(of.get(spread), 1 if share else 4)
        ends = [plain(of.get("angle"), 3), plain(of.get("kl_uniform"), 4)]
        lines.append([name, plain(of.get("clients"), 0), shown(of.get("mean")), variance, *shares, *ends])
    what = str(found.get("metric") or "accuracy").capitalize()
    note = (
        f"<p class=note>{escape(what)} of each client on its own test data, after round "
        f"{row.get('round')}; every client counts once. "
        "Worst and best 10 % are means over that tenth of the clients, at least one.</p>"
    )
    return table(heads, lines, "numbers") + note + _histogram(row, what, share=share)


def _histogram(row: Row, what: str, *, share: bool) -> str:
    scale = 100.0 if share else 1.0
    values = [scale * number for value in (row.get("clients") or {}).values() if (number := finite(value)) is not None]
    if len(set(values)) < 3:
        return ""
    low, high = min(values), max(values)
    width = (high - low) / _BARS
    counts = [0] * _BARS
    for value in values:
        counts[min(int((value - low) / width), _BARS - 1)] += 1
    edges = [low + n * width for n in range(_BARS + 1)]

    def paint(axes: Any) -> list[Spot]:
        from matplotlib.ticker import MaxNLocator

        axes.stairs(counts, edges, fill=True, color=MARKS[0], zorder=3)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.axvline(sum(values) / len(values), color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=4)
        return [
            Spot((a + b) / 2, None, f"{n} client{'s' * (n != 1)}\n{a:.4g} to {b:.4g}")
            for n, a, b in zip(counts, edges, edges[1:], strict=False)
        ]

    title = f"Clients by their {what.lower()}{' (%)' if share else ''}, round {row.get('round')}"
    key = "<span>dashed: mean</span>"
    picture = in_page(draw(paint, height=150), "people-")
    return (
        f'<div class="figures" style="margin-top:1.2rem"><figure><figcaption>{escape(title)}'
        f'<span class="key">{key}</span></figcaption>{picture}</figure></div>'
    )


def clusters(told: Told) -> str:
    """How many clients are in which cluster, by round, and who is in them at the end."""
    rows = [row for row in told.rows if isinstance((row.get("clusters") or {}).get("sizes"), Mapping)]
    names = list(dict.fromkeys(str(name) for row in rows for name in row["clusters"]["sizes"]))
    if not rows or len(names) < 2:
        return ""
    colours = {f"cluster {name}": MARKS[n % len(MARKS)] for n, name in enumerate(names)}
    sizes = {f"cluster {name}": [finite(row["clusters"]["sizes"].get(name)) or 0.0 for row in rows] for name in names}
    moved = len(rows) > 1 and any(len(set(values)) > 1 for values in sizes.values())
    end: Mapping[str, Any] = rows[-1]["clusters"]
    members: Mapping[str, Any] = end.get("assignments") or {}
    local: Mapping[str, Any] = end.get("local") or {}
    lines = []
    for name in names:
        inside = members.get(name) or []
        accuracy = finite((local.get(name) or {}).get("accuracy"))
        listed = ", ".join(map(str, inside[:30])) + (f" and {len(inside) - 30} more" if len(inside) > 30 else "")
        shown = "–" if accuracy is None else f"{100 * accuracy:.2f} %"
        lines.append([name, plain(end["sizes"].get(name), 0), shown, listed or "–"])
    heads = ["cluster", "clients", "their own test data", "of those asked last"]
    note = f"<p class=note>After round {rows[-1]['round']}; results above are of cluster {end.get('main', 0)}.</p>"
    told_in_words = f"{table(heads, lines, 'numbers')}{note}"
    if not moved:
        return told_in_words
    picture = in_page(stacked(rows, sizes, colours, " clients"), "clusters-")
    title = f'Clients by cluster<span class="key">{key_of(colours)}</span>'
    return (
        f'<div class="pair"><figure><figcaption>{title}</figcaption>{picture}</figure><div>{told_in_words}</div></div>'
    )


def rejected(told: Told) -> str:
    """Why and how often replies did not count, when, and then which; of secure sums, whom they were opened without."""
    return _left_out(told) + _opened_without(told)


def _opened_without(told: Told) -> str:
    """Whose reply is in a sum that others opened, and why: nothing was lost with it."""
    found = [
        [str(row["round"]), str(one.get("node")), str(one.get("reason"))]
        for row in told.rows
        for group in row.get("secure") or ()
        for one in group.get("opened_without") or ()
    ]
    if not found:
        return ""
    more = f"<p>and {len(found) - _MOST_REJECTED} more in metrics.jsonl</p>" if len(found) > _MOST_REJECTED else ""
    note = "Secure sums that were opened without somebody whose own reply is in them, and counts."
    return (
        f'<h3 style="margin-top:1.4rem">Opened without</h3><p class=note>{note}</p>'
        + table(["round", "node", "reason"], found[:_MOST_REJECTED], "numbers")
        + more
    )


def _left_out(told: Told) -> str:
    found = [(row["round"], reply) for row in told.rows for reply in row.get("rejected") or ()]
    reasons = Counter(str(reply.get("reason")) for _, reply in found)
    total = table(["reason", "replies"], [[reason, str(n)] for reason, n in reasons.most_common()], "numbers")
    lines = [[str(n), str(reply.get("node")), str(reply.get("reason"))] for n, reply in found[:_MOST_REJECTED]]
    more = f"<p>and {len(found) - _MOST_REJECTED} more in metrics.jsonl</p>" if len(found) > _MOST_REJECTED else ""
    each = folded("each reply", table(["round", "node", "reason"], lines, "numbers") + more)
    if not found:
        return ""
    by_round = Counter(n for n, _ in found)
    values = [float(by_round[row["round"]]) for row in told.rows]
    if len(set(values)) < 2:
        return total + each
    picture = in_page(stacked(told.rows, {"left out": values}, {"left out": MARKS[1]}, " replies"), "rejected-")
    return (
        f'<div class="pair"><figure><figcaption>Replies left out, by round</figcaption>{picture}</figure>'
        f"<div>{total}</div></div>{each}"
    )
