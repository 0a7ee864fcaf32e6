"""The report: one page, complete, closed in itself, whatever state the run folder is in."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flotilla.settings import parse_run_config
from server_app.config import defaults
from server_app.folder.files import dumps
from server_app.folder.run_folder import METRICS, RunFolder
from server_app.report.page import write_report
from strategies.round.fairness import fairness_by_tier

TIERS = {
    name: {"parameters": 1000 // 4**n, "macs": 9000, "bytes_down": 4000, "bytes_up": 4000}
    for n, name in enumerate("abcde")
}


def metrics_row(number: int, evaluated: bool = True) -> dict[str, Any]:
    accuracy = 1 - 0.9 * math.exp(-number / 9)
    row = {
        "round": number,
        "abandoned": number == 7,
        "selected": [1, 2, 3],
        "accepted": 2,
        "rejected": [{"node": 3, "reason": "NaN in <w>"}],
        "train_loss": 0.3,
        "bytes_down": 10**6,
        "bytes_up": 10**5,
        "coverage": {"round": 0.5, "ever": 1.0, "mean": 1.5},
        "seconds": {"wait": 1.0, "evaluate": 0.2},
    }
    if evaluated:
        row |= {"loss": 0.1, "accuracy": accuracy, "tiers": {t: {"loss": 0.2, "accuracy": accuracy} for t in TIERS}}
        row["local"] = {"accuracy": 0.8, "accuracy_own_labels": 0.9, "loss": 0.1}
    return row


def write_run(folder: Path, rows: list[dict[str, Any]], config: dict[str, Any] | None = None) -> Path:
    """A run folder's files, without the wait for each line to be on the disk."""
    with RunFolder.create(folder) as run:
        run.write_config(config or {"method": "heterofl"})
        (folder / METRICS).write_text("".join(dumps(row) + "\n" for row in rows))
        run.write_summary("finished", TIERS)
    return folder


_TYPERS = ("-W", "ignore:'click.utils:DeprecationWarning")  # typer's, of what click gives up


class Page(HTMLParser):
    """Finds what a page asks of others, and whether its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)
        self.asked += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")
        ]
        self.ids += [v or "" for k, v in attrs if k == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(folder: Path) -> tuple[str, Page]:
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.asked == []
    assert "script" not in page.tags
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    for picture in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ET.fromstring(picture)
        assert "var(--" in picture
        assert not re.search(r"#0[1-4][0-9a-f]{4}\b", picture)  # every placeholder has become a colour of the page
    return text, page


def test_a_whole_run(tmp_path: Path) -> None:
    rows = [metrics_row(number, number % 2 == 0) for number in range(1, 13)]
    text, page = page_of(write_run(tmp_path / "run", rows))
    assert page.tags.count("svg") == 4  # size, accuracy, who was asked, seconds; the rest does not change
    assert "finished · 12 rounds · 1 abandoned" in text
    assert "heterofl: the global network’s accuracy is 76.3 % after round 12" in text
    for word in (
        "accuracy, last (round 12)",
        "heterofl",
        "NaN in &lt;w&gt;",
        "versions torch",
        "12.0 MB down, 1.20 MB up",
    ):
        assert word in text
    flat = text[text.index("The same in every round: Loss") :]
    assert "in training 0.3" in flat[: flat.index("</details>")]


@pytest.mark.parametrize(("asked", "shown"), [(10**6, True), (10**4, False)])
def test_bytes_besides_training_are_shown_where_they_count(tmp_path: Path, asked: int, shown: bool) -> None:
    rows = [metrics_row(n) | {"bytes_survey_down": n * asked, "bytes_survey_up": 0} for n in (1, 2, 3)]
    text, _ = page_of(write_run(tmp_path / "run", rows))
    assert ("3.00 MB down, 300 kB up, 6.00 MB besides training" in text) == shown
    assert ("besides training" in text) == shown


def test_a_run_that_measured_no_fairness_says_how(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "run", [metrics_row(1)])).read_text()
    section = text[text.index("<h2>Fairness") : text.index("<h2>Rejected")]
    assert "Not measured" in section
    assert "fraction-evaluate" in section


def test_fairness_of_the_last_round_that_has_it(tmp_path: Path) -> None:
    rows = [metrics_row(number) for number in (1, 2, 3)]
    rows[0] |= {"fairness": fairness_by_tier([("b", 0.1), ("x<y", 0.9)])}
    rows[1] |= {"fairness": fairness_by_tier([("b", 0.25), ("b", 0.75), ("x<y", 0.5)])}
    text, page = page_of(write_run(tmp_path / "run", rows))
    assert page.tags.count("svg") == 5  # those and the clients by round
    assert "after round 2" in text
    section = text[text.index("<h2>Fairness") : text.index("<h2>Rejected")]
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in section.splitlines() if "<td" in line]
    assert [line[0] for line in lines] == ["all", "b", "x&lt;y"]
    assert [line[:7] for line in lines[:2]] == [
        ["all", "3", "50.00 %", "416.7", "25.00 %", "75.00 %", "30.00 %"],
        ["b", "2", "50.00 %", "625.0", "25.00 %", "75.00 %", "30.00 %"],
    ]


def test_text_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    row = metrics_row(1)
    row["tiers"] = {bad: {"accuracy": 0.5, "loss": 1.0}}
    row["seconds"] = {bad: 1.0}
    row["rejected"] = [{"node": bad, "reason": bad}]
    folder = write_run(tmp_path / "a<b>&c", [row], {bad: bad})
    with RunFolder.reopen(folder, {bad: bad}) as run:
        run.write_summary("failed", {bad: {}}, error=bad)
    text, _ = page_of(folder)
    assert bad not in text
    assert text.count("&lt;script&gt;") >= 8


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [metrics_row(1)],
        [metrics_row(1, evaluated=False)],
        [{"round": 1}],
        [{"round": 7, "abandoned": True, "selected": [], "accepted": 0}],
        [metrics_row(1) | {"loss": math.nan, "accuracy": math.nan, "seconds": {"wait": math.inf}}],
        [metrics_row(n) | {"loss": 1e30 * n, "tiers": {"a": None}, "coverage": None} for n in (1, 2)],
        [metrics_row(0), metrics_row(1), metrics_row(9)],
        [metrics_row(1) | {"fairness": {"mean": None, "tiers": {"a": {}}}}, metrics_row(2) | {"fairness": None}],
    ],
    ids=["no round", "one", "unevaluated", "bare", "abandoned", "nan", "huge", "gaps", "unfair"],
)
def test_odd_runs(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    page_of(write_run(tmp_path / "run", rows))


def test_more_tiers_than_colours(tmp_path: Path) -> None:
    row = metrics_row(1) | {"tiers": {f"t{n}": {"accuracy": n / 20, "loss": 1.0} for n in range(20)}}
    page_of(write_run(tmp_path / "run", [row]))


def test_a_killed_run_without_summary_or_with_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(json.dumps(metrics_row(1)) + '\n{"round": 2')
    text, _ = page_of(tmp_path)
    assert "not finished · 1 round" in text


def test_each_tiers_best_is_its_own(tmp_path: Path) -> None:
    """Where the global network is best, tier b is at its worst."""
    rows = [
        metrics_row(n) | {"accuracy": whole, "tiers": {"a": {"accuracy": whole}, "b": {"accuracy": part}}}
        for n, whole, part in ((1, 0.5, 0.75), (2, 0.9, 0.4167), (3, 0.8, 0.7))
    ]
    text = write_report(write_run(tmp_path / "run", rows)).read_text()
    lines = dict(re.findall(r"<tr><td[^>]*>(\w+)</td>.*?((?:<td[^>]*>[^<]*</td>){3})</tr>", text))
    assert re.findall(r"<td[^>]*>([^<]*)</td>", lines["b"]) == ["70.00 %", "75.00 %", "1"]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", lines["global"]) == ["80.00 %", "90.00 %", "2"]


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [metrics_row(n) for n in range(1, 5)])
    here = write_report(folder).read_bytes()
    code = f"import pathlib, server_app.report.page as r; r.write_report(pathlib.Path({str(folder)!r}))"
    root = Path(__file__).resolve().parents[3]
    subprocess.run(
        [sys.executable, "-W", "error", *_TYPERS, "-c", code], cwd=root, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert (folder / "report.html").read_bytes() == here


def test_matplotlib_is_imported_only_for_a_report_and_left_as_it_was(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, server_app.report.page as r\n"
        "import server_app.folder.progress, server_app.folder.checkpoint, server_app.folder.events\n"
        "assert not {'matplotlib', 'tensorboard'} & set(sys.modules)\n"
        f"r.write_report(pathlib.Path({str(write_run(tmp_path / 'run', [metrics_row(1)]))!r}))\n"
        "import matplotlib\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams['svg.hashsalt'] is None\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[3], check=True)


def test_four_hundred_rounds_take_seconds_and_no_minutes(tmp_path: Path) -> None:
    """Under a second on an idle machine; something quadratic in the rounds would take a minute."""
    folder = write_run(tmp_path / "run", [metrics_row(n) for n in range(1, 401)])
    start = time.process_time()  # processor time: the machine may be busy with others
    write_report(folder)
    assert time.process_time() - start < 10


# ---- what is shown of what ------------------------------------------------------------------------------------------


def test_a_pointer_is_told_the_values(tmp_path: Path) -> None:
    text, _ = page_of(write_run(tmp_path / "run", [metrics_row(n) for n in (1, 2, 3)]))
    accuracy = 100 * (1 - 0.9 * math.exp(-2 / 9))
    assert f"<title>round 2\nglobal {accuracy:.4g} %\na {accuracy:.4g} %" in text
    assert "<title>a: 1,000 parameters\nround 3: " in text


def test_baselines_are_beside_the_runs_own_tiers(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [metrics_row(n) for n in (1, 2)])
    other = write_run(tmp_path / "smallest <b>", [metrics_row(n) for n in (1, 2, 3)])
    write_report(folder, [other])
    text = (folder / "report.html").read_text()
    assert text.count("<title>smallest &lt;b&gt;, ") == len(TIERS)
    assert "<b>, " not in text
    assert re.findall(r"<title>smallest &lt;b&gt;, a: 1,000 parameters\nround (\d)", text) == ["3"]
    assert re.findall(r"<title>a: 1,000 parameters\nround (\d)", text) == ["2"]


def test_baselines_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [metrics_row(1)])
    others = [write_run(tmp_path / place / "run", [metrics_row(1)]) for place in "ab"]
    text = write_report(folder, others).read_text()
    assert [text.count(f"<title>{other}, ") for other in others] == [len(TIERS)] * 2


def test_a_baseline_of_another_metric_is_refused(tmp_path: Path) -> None:
    folder, other = (write_run(tmp_path / name, [metrics_row(1)]) for name in ("run", "other"))
    summary = json.loads((other / "summary.json").read_text())
    metric = {"name": "loss", "better": "lower", "share": False}
    (other / "summary.json").write_text(json.dumps(summary | {"metric": metric}))
    with pytest.raises(ValueError, match="other: its metric is loss, and the run's is accuracy"):
        write_report(folder, [other])


def test_what_was_changed_runs_it_again(tmp_path: Path) -> None:
    changed = {
        "method": "fedrolex",
        "widths": "it's 8",
        "momentum": 0.5,
        "augment": "none",
        "run-dir": "/x",
        "own": True,
    }
    text, _ = page_of(write_run(tmp_path / "run", [metrics_row(1)], defaults() | changed))
    (command,) = re.findall(r"<pre>(.*?)</pre>", text)
    words = shlex.split(unescape(command))
    assert words[:3] == ["flotilla", "run", "--run-config"]
    assert parse_run_config([words[3]]) == {"method": "fedrolex", "widths": "it's 8", "momentum": 0.5, "own": True}
    assert f"{len(defaults()) + 1 - 4} settings as they are by default" in text


@pytest.mark.parametrize(("counts", "folded"), [([[5, 5], [6, 5]], True), ([[9, 0], [0, 9]], False)])
def test_labels_that_all_have_alike_are_folded(tmp_path: Path, counts: list[list[int]], folded: bool) -> None:
    folder = write_run(tmp_path / "run", [metrics_row(1)])
    labels = {"classes": ["<cat>", "dog"], "counts": counts, "clients": 2}
    (folder / "holdings.json").write_text(json.dumps({"labels": labels}))
    text, _ = page_of(folder)
    assert ("<summary>Labels by client" in text) == folded
    assert f"client 1: {counts[1][1]} of its {sum(counts[1])} examples are dog" in text
    assert "<cat>" not in text


def test_layers_that_are_held_alike_are_one_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [metrics_row(n) | {"selected_tiers": {"a": 1, "b": 3}} for n in (1, 2)])
    held = {"a": 1.0, "b": 0.5}
    layers = {name: {"size": 10, "held": held} for name in ("one", "two", "three")}
    layers["last"] = {"size": 30, "held": {"a": 1.0, "b": 0.0}}
    (folder / "holdings.json").write_text(json.dumps({"layers": layers}))
    text, _ = page_of(folder)
    assert re.findall(r"<tr><th>([^<]+)</th><td style", text) == ["one … three", "last"]
    assert "one … three, b: 15 of 30 weights" in text
    assert "last: a weight is held by 25.0% of those who were asked, on average" in text


@pytest.mark.parametrize("left_out", [0, 2])
def test_whom_secure_sums_were_opened_without(tmp_path: Path, left_out: int) -> None:
    rows = [metrics_row(n) | {"rejected": [{"node": 3, "reason": "too long"}] * left_out} for n in (1, 2)]
    without = [{"node": 7, "reason": "secure aggregation, unmask: <late>"}]
    rows[1]["secure"] = [{"tier": "a", "summed": 3, "opened_without": without}, {"tier": "b", "left_out": "gone"}]
    text, _ = page_of(write_run(tmp_path / "run", rows))
    section = text[text.index("<h2>Rejected replies</h2>") :]
    assert ("too long" in section) == bool(left_out)
    line = re.search(r"Opened without.*?<td[^>]*>2</td><td[^>]*>7</td><td[^>]*>([^<]*)</td>", section, flags=re.DOTALL)
    assert line is not None
    assert line[1] == "secure aggregation, unmask: &lt;late&gt;"


def test_clusters_and_whose_replies_did_not_count(tmp_path: Path) -> None:
    rows = [metrics_row(n) for n in (1, 2, 3)]
    for n, row in enumerate(rows):
        row["clusters"] = {"main": 1, "sizes": {"0": 3 - n, "1": n}, "assignments": {"0": [4], "1": [5, "x"]}}
        row["rejected"] = [{"node": 3, "reason": "too long"}] * n
    text, _ = page_of(write_run(tmp_path / "run", rows))
    assert "<title>round 2\ncluster 0 2 clients\ncluster 1 1 clients</title>" in text
    assert "results above are of cluster 1" in text
    assert "<title>round 3\nleft out 2 replies</title>" in text
