"""The part of a report on the network: drawn of what the run folder says, small however large the network is."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from models.algebra.plans import Plan
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from server_app.inspection import Part, inspected
from server_app.report.network_picture import standalone
from server_app.report.page import write_report
from tests.server_app.report.test_page import metrics_row, page_of, write_run

SVG = "{http://www.w3.org/2000/svg}"


def report_of(folder: Path, told: dict[str, Any], rounds: int = 2) -> str:
    write_run(folder, [metrics_row(n) for n in range(1, rounds + 1)])
    (folder / "holdings.json").write_text(json.dumps({"network": told}))
    return page_of(folder)[0]


def told_of_axes(count: int, alike: bool) -> dict[str, Any]:
    """A network of so many layers."""
    costs = {"parameters": 10**9, "macs": 10**9, "bytes": 4 * 10**9, "memory": 10**10}
    sizes = [64 if alike else 10 + n for n in range(count)]
    return {
        "name": "deep<net>",
        "input": [3, 32, 32],
        "classes": 10,
        "norm": "group",
        "axes": [
            {
                "name": f"layers.{n}.a_name_that_is_quite_long",
                "size": size,
                "group": "",
                "tensors": [f"w{n}"] * 3,
                "of": 9,
            }
            for n, size in enumerate(sizes[:200])
        ],
        **({"axes_more": count - 200} if count > 200 else {}),
        "stages": [],
        "full": costs,
        "tiers": {
            name: {"rate": str(rate), **costs, "units": [-(-size * rate // 1) for size in sizes[:200]]}
            for name, rate in (("a", Fraction(1)), ("b", Fraction(1, 2)))
        },
    }


def test_an_ordinary_module_has_axes_reasons_and_tiers(tmp_path: Path) -> None:
    spec = completed(NetworkSpec("tests.models.foreign.nets:Edge", (1, 8, 8), 10))
    parts = {
        name: Part(rate=str(rate), plan=Plan(rate), batch_size=16)
        for name, rate in (("a", Fraction(1)), ("b", Fraction(1, 4)))
    }
    told = inspected(spec, parts, parts["a"])
    text = report_of(tmp_path / "run", told)
    assert text.index("Accuracy against size") < text.index("The network and its parts") < text.index("By round")
    assert f"fingerprint {spec.fingerprint}" in text
    found = dict(re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", text, flags=re.DOTALL))
    axes = next(inner for title, inner in found.items() if title.endswith("can be cut, and the units that tiers keep"))
    assert re.search(r"<td[^>]*>stem</td><td[^>]*>12</td><td[^>]*>12</td><td[^>]*>3</td>", axes)
    assert "<td>output</td><td>last.weight, last.bias</td>" in found["What is not cut, and why"]
    assert f'<td data-head="parameters">{told["tiers"]["b"]["parameters"]:,}</td>' in text
    assert re.search(r"<title>stem[^<]*\na: 12 \(100.0%\)\nb: 3 \(25.0%\)</title>", text)


def test_a_network_of_a_thousand_layers_is_a_small_part_of_a_page(tmp_path: Path) -> None:
    without = len(report_of(tmp_path / "without", {}))
    for alike in (True, False):
        text = report_of(tmp_path / str(alike), told_of_axes(1000, alike))
        assert len(text) - without < 200_000
        assert "1,000 axes that can be cut" in text
        assert "800 more are not listed here" in text
        assert "deep&lt;net&gt;" in text
        assert ("and 199 like it" in text) == alike
        picture = next(svg for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL) if "memory to train" in svg)
        assert picture.count("<title>") <= 16


def test_before_the_first_round_there_is_the_network(tmp_path: Path) -> None:
    text = report_of(tmp_path / "run", told_of_axes(3, alike=False), rounds=0)
    assert "No round has ended yet." in text
    assert "The network and its parts" in text


def test_a_folder_that_does_not_say_has_no_such_part(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [metrics_row(1)])
    for holdings in ("", "{}", '{"layers": {}}'):
        (folder / "holdings.json").write_text(holdings)
        assert "The network and its parts" not in write_report(folder).read_text(encoding="utf-8")


def test_the_picture_as_a_file_has_colours_of_its_own() -> None:
    told = told_of_axes(3, alike=False)
    drawn = ElementTree.fromstring(standalone(told))
    assert "var(" not in standalone(told)
    assert not re.search(r"#0[1-4]0\w{3}\b", standalone(told))
    words = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"deep<net>: what every tier holds", "a (1)", "b (1/2)", "10 · 5", "parameters (%)"} <= set(words)
    bars = [float(bar.get("width") or 0) for bar in drawn.iter(f"{SVG}rect") if bar.get("height") == "8"]
    assert bars.count(350.0) == 7 * 3 - 3  # the frame and tier a of 3 axes and 4 costs, and b of the costs
