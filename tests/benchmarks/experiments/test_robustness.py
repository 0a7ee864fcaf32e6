"""The trade-off curve in miniature."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.experiments.robustness import SHARES, TRAINING, as_table, draw, measure


def test_robustness(tmp_path: Path) -> None:
    said: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        points = measure(
            said.append,
            1,
            0,
            model="mlp",
            widths="8, 8",
            batch_size=256,
            num_clients=2,
            local_epochs=1,
            tiers="a:1, b:1/2",
            splitmix_atom="1/2",
            adversarial_steps=2,
        )
    finally:
        torch.set_num_threads(threads)
    *fixed, dual = TRAINING
    assert [point.share for point in points if point.training == dual and point.tier == "a"] == list(SHARES)
    assert {point.share for point in points if point.training in fixed} == {None}
    assert {point.tier for point in points} == {"a", "b"}
    assert all(0 <= point.robust <= point.clean + 0.05 <= 1.05 for point in points)
    assert len({point.clean for point in points if point.training == dual}) > 1
    assert len(said) == len(SHARES) + 2
    text = as_table(points)
    assert text.splitlines()[0] == "| trained on | λ_t | a | b |"
    assert len(text.splitlines()) == 2 + 2 + len(SHARES)
    draw(points, tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").stat().st_size > 1000
