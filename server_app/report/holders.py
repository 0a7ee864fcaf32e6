"""Who holds what: layers by tier, labels by client, clients by round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from server_app.report.canvas import Spot, Word, draw
from server_app.report.drawing import INK, MARKS, in_page, key_of
from server_app.report.heat import heat
from server_app.report.panels import round_axis
from server_app.report.tables import folded
from server_app.report.told import Told

_MOST_ROWS = 40  # of a map; beyond them it says how many there are
_MOST_CLASSES = 30
_EVEN = 0.2  # mean distance of the clients' labels from everybody's (total variation) up to which they are alike


def holders(told: Told) -> str:
    """The three of them, as far as they are known."""
    layers, labels, chosen = _layers(told), _labels(told), _chosen(told)
    shown = "".join(part for part, _ in (layers, labels, chosen) if part)
    rest = "".join(part for _, part in (layers, labels, chosen))
    return (f'<div class="figures">{shown}</div>' if shown else "") + rest


def _figure(title: str, inner: str, note: str = "") -> str:
    return f"<figure><figcaption>{title}</figcaption>{inner}{f'<p class=note>{note}</p>' if note else ''}</figure>"


def _layers(told: Told) -> tuple[str, str]:
    """Which share of each layer a device of each tier holds, and how many devices hold one of its weights."""
    layers: Mapping[str, Any] = told.holdings.get("layers") or {}
    tiers = [tier for tier in told.tiers if any(tier in one["held"] for one in layers.values())]
    if not layers or not tiers:
        return "", ""
    chosen = Counter[str]()
    for row in told.rows:
        chosen.update({tier: int(n) for tier, n in (row.get("selected_tiers") or {}).items()})
    everybody = sum(chosen[tier] for tier in tiers)
    # Layers that follow each other and are held alike are one line.
    groups = [
        list(group)
        for _, group in groupby(
            layers, key=lambda name: [round(layers[name]["held"].get(tier, 0), 3) for tier in tiers]
        )
    ]
    sizes = [sum(layers[name]["size"] for name in group) for group in groups]

    def share(i: int, j: int) -> float:
        if j == len(tiers):
            return sum(chosen[tier] * share(i, k) for k, tier in enumerate(tiers)) / everybody
        held = sum(layers[name]["size"] * layers[name]["held"].get(tiers[j], 0) for name in groups[i])
        return float(held / sizes[i])

    def said(i: int, j: int) -> str:
        if j == len(tiers):
            return f"{_span(groups[i])}: a weight is held by {share(i, j):.1%} of those who were asked, on average"
        return f"{_span(groups[i])}, {tiers[j]}: {share(i, j) * sizes[i]:,.0f} of {sizes[i]:,} weights"

    def written(i: int, j: int) -> str:
        found = share(i, j)
        return "–" if not found else "all" if found == 1 else f"{100 * found:.{0 if found >= 0.1 else 1}f}"

    columns = [*tiers, *(["of all"] if everybody and len(tiers) > 1 else [])]
    names = [_span(group) for group in groups[:_MOST_ROWS]]
    if {share(i, j) for i in range(len(names)) for j in range(len(tiers))} == {1.0}:
        return "", "<p class=note>Every device holds the whole network.</p>"
    note = '"of all": share of the devices asked that hold a weight of the layer, on average.' if len(tiers) > 1 else ""
    if len(groups) > _MOST_ROWS:
        note += f" {len(groups) - _MOST_ROWS} more layers are not shown."
    if told.holdings.get("by_importance"):
        note += " Tiers keep the largest weights: shares are means over layers."
    return _figure("Share of each layer that a tier holds (%)", heat(names, columns, share, said, written), note), ""


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def _labels(told: Told) -> tuple[str, str]:
    """How many examples of each class a client has; folded where all have the same mix."""
    of: Mapping[str, Any] = told.holdings.get("labels") or {}
    counts: list[list[int]] = of.get("counts") or []
    classes: list[str] = [str(name) for name in of.get("classes") or []]
    if not counts or not classes:
        return "", ""
    total = [sum(row[j] for row in counts) for j in range(len(classes))]
    most = max(map(max, counts)) or 1
    kept, shown = counts[:_MOST_ROWS], classes[:_MOST_CLASSES]
    names = [f"{n} ({sum(row)})" for n, row in enumerate(kept)]
    table = heat(
        names,
        shown,
        lambda i, j: kept[i][j] / most,
        lambda i, j: f"client {i}: {kept[i][j]} of its {sum(kept[i])} examples are {shown[j]}",
        lambda i, j: str(kept[i][j] or ""),
    )
    note = "A line a client (its examples), a column a class."
    if len(counts) < of.get("clients", 0) or len(kept) < len(counts):
        note += f" {len(kept)} of {of.get('clients', len(counts))} clients are shown."
    if len(shown) < len(classes):
        note += f" {len(shown)} of {len(classes)} classes are shown."
    far = [
        sum(abs(row[j] / sum(row) - total[j] / sum(total)) for j in range(len(classes))) / 2
        for row in counts
        if sum(row)
    ]
    apart = sum(far) / len(far) if far else 0.0
    if apart <= _EVEN:
        return "", folded(f"Labels by client: all have about the same mix (distance {apart:.2f})", table + _note(note))
    return _figure("Labels by client", table, f"{note} Mean distance from everybody's mix: {apart:.2f}."), ""


def _note(text: str) -> str:
    return f"<p class=note>{text}</p>"


def _chosen(told: Told) -> tuple[str, str]:
    """Who was asked in which round; a sentence where everybody was in every round."""
    rows = [row for row in told.rows if row.get("selected")]
    times = Counter(str(node) for row in rows for node in row["selected"])
    if not rows:
        return "", ""
    often = sorted(times.values())
    refused = {(row["round"], str(one.get("node"))) for row in rows for one in row.get("rejected") or ()}
    summary = f"{len(times)} clients were asked, each {often[0]} to {often[-1]} times in {len(rows)} rounds."
    if often[0] == len(rows) and not refused:
        return "", f"<p class=note>All {len(times)} clients were asked in every round.</p>"
    if len(rows) < 2:
        return "", f"<p class=note>{summary}</p>"
    names = sorted(times, key=_by_number)[:_MOST_ROWS]
    line = {name: n for n, name in enumerate(names)}

    def paint(axes: Any) -> list[Spot | Word]:
        asked: dict[str, list[int]] = {}
        for row in rows:
            for node in map(str, row["selected"]):
                if node in line:
                    asked.setdefault(node, []).append(row["round"])
        width = max(1.5, 0.62 * 150 / len(names))
        for colour, found in ((MARKS[0], asked), (INK, _by_node(refused, line))):
            xs, ys = _strokes(found, line)
            axes.plot(xs, ys, color=colour, linewidth=width, solid_capstyle="butt", zorder=3)
        round_axis(axes, rows)
        axes.set_ylim(len(names) - 0.4, -0.6)
        step = 1 + len(names) // 21
        axes.set_yticks([])
        left = axes.get_xlim()[0]
        return [
            *(Word(left, n, names[n][:8], right=-5, down=3.5, anchor="end") for n in range(0, len(names), step)),
            *(
                Spot(row["round"], None, f"round {row['round']}: {len(row['selected'])} asked\n{_few(row['selected'])}")
                for row in rows
            ),
        ]

    key = key_of({"asked": MARKS[0], **({"and left out by the guard or an error": INK} if refused else {})})
    more = f" The first {len(names)} of them are shown." if len(names) < len(times) else ""
    picture = in_page(draw(paint, height=min(60 + 9.0 * len(names), 330), rows=True), "chosen-")
    return _figure(f'Who was asked, by round <span class="key">{key}</span>', picture, summary + more), ""


def _by_number(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (2**63, name)


def _by_node(pairs: set[tuple[int, str]], line: Mapping[str, int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, node in sorted(pairs):
        if node in line:
            found.setdefault(node, []).append(number)
    return found


def _strokes(found: Mapping[str, Sequence[int]], line: Mapping[str, int]) -> tuple[list[float], list[float]]:
    """One path for all strokes: rounds that follow each other are one stroke, and gaps are NaN."""
    xs: list[float] = []
    ys: list[float] = []
    for node, numbers in found.items():
        begun = previous = numbers[0]
        for number in [*numbers[1:], -2]:
            if number != previous + 1:
                xs += [begun - 0.42, previous + 0.42, float("nan")]
                ys += [line[node]] * 3
                begun = number
            previous = number
    return xs, ys


def _few(nodes: Sequence[object]) -> str:
    named = ", ".join(str(node) for node in list(nodes)[:20])
    return named + (f" and {len(nodes) - 20} more" if len(nodes) > 20 else "")
