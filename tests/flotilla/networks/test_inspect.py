"""The command `inspect`."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from typer.testing import CliRunner

from flotilla.cli import app


def test_it_shows_axes_reasons_and_tiers_and_draws_them(tmp_path: Path) -> None:
    picture = tmp_path / "edge.svg"
    name = "tests.models.foreign.nets:Edge"
    told = CliRunner().invoke(
        app, ["inspect", name, "--input", "1,8,8", "--tiers", "a:1, b:1/4", "--svg", str(picture)]
    )
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert lines[0] == f"{name}: inputs 1 x 8 x 8, 10 classes, norm static-batch"
    assert lines[1].startswith("found and proved: ")
    assert next(line for line in lines if line.startswith("squeeze")).split()[:3] == ["squeeze", "5", "inner"]
    assert "  output: last.weight, last.bias" in lines
    shares = [line.split()[3] for line in lines if line.startswith(("a ", "b "))]
    assert shares[0] == "100.0%"
    assert float(shares[1].rstrip("%")) < 25
    words = [text.text for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"12 · 3", "parameters (%)", "a (1)", "b (1/4)"} <= set(words)
    assert any(word and word.startswith("stem") for word in words)


def test_a_declared_network_is_shown_too() -> None:
    told = CliRunner().invoke(app, ["inspect", "mlp", "--input", "1,8,8"])
    assert told.exit_code == 0
    assert "found" not in told.output
    assert "200" in told.output


def test_a_wrong_input_is_one_line() -> None:
    told = CliRunner().invoke(app, ["inspect", "mlp", "--input", "big"])
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
