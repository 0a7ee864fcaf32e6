"""The probe of rounding errors, on few and small clients."""

from __future__ import annotations

from statistics import median

from benchmarks.probes.rounding import errors
from server_app.config.resolve import resolve


def test_both_ways_are_near_to_exact_arithmetic() -> None:
    small = {"model": "cnn", "widths": "16, 16"}
    found = errors(resolve({"method": "heterofl", "partition": "dirichlet", "learning-rate": 0.05, **small}), 3)
    assert list(found) == ["a", "b", "c", "d", "e"]
    assert all(0 < error < 0.1 for pairs in found.values() for pair in pairs for error in pair)
    ours, loops = ([pair[i] for pairs in found.values() for pair in pairs] for i in range(2))
    assert median(ours) < 10 * median(loops)
