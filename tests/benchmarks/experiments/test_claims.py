"""The experiments of docs/claims.md run, and say what they measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.experiments import claims


@pytest.mark.slow
def test_pow_d_has_a_row_for_every_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POW_D", {**claims.POW_D, "local-epochs": 1})
    monkeypatch.setattr(claims, "SELECTORS", ("uniform", "pow-d"))
    monkeypatch.setattr(claims, "RATES", (0.1,))
    _, _, plain, chosen = claims.pow_d([1]).splitlines()
    assert plain.startswith("| 0.1 | uniform | ")
    assert chosen.startswith("| 0.1 | pow-d | ")
    assert plain.split("|")[3:] != chosen.split("|")[3:]


@pytest.mark.slow
def test_fewer_levels_send_less_and_err_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(claims, "FEDPAQ", {**claims.FEDPAQ, "num-server-rounds": 2})
    monkeypatch.setattr(claims, "CODECS", {name: claims.CODECS[name] for name in ("float32", "s = 7", "s = 1")})
    lines = claims.fedpaq([1], tmp_path / "curve.svg").splitlines()[2:]
    bits, errors, sent = ([float(line.split("|")[i]) for line in lines] for i in (2, 3, 4))
    assert 32 <= bits[0] < 33  # and a header
    assert bits[0] > bits[1] > bits[2]
    assert errors[0] == 0 < errors[1] < errors[2]
    assert sent[0] > sent[1] > sent[2] > 0
    assert (tmp_path / "curve.svg").stat().st_size > 1000


@pytest.mark.slow
def test_eden(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"widths": "32, 64", "num-server-rounds": 1, "fraction-train": 0.1, "local-epochs": 1}
    monkeypatch.setattr(claims, "EDEN", {**claims.EDEN, **small, "blocks": "1, 1"})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in claims.eden([1]).splitlines()[2:]]
    assert [row[0] for row in rows] == ["float32", "s = 7", "EDEN"]
    sizes = [float(row[1]) for row in rows]
    assert sizes[0] > 8 * sizes[1] > 8 * sizes[2]
