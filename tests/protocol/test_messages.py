"""Texts and literals of every kind in every field of every message: `make fuzz` tries half a million."""

from __future__ import annotations

from tests.protocol.fuzz_messages import fields_tried, fuzz, kinds


def test_whatever_stands_in_a_field_is_refused_in_a_line_or_a_message() -> None:
    seen = fuzz(2500, seed=1)
    assert set(seen) == {"refused", "another message", "the same"}
    assert seen["refused"] > 1500


def test_every_field_of_every_message_is_tried() -> None:
    tried = fields_tried(4000, seed=2)
    for kind in kinds():
        for place in ("config", "request", "metrics", "secure"):
            for field in kind.example.get(place) or ():
                assert tried[f"{kind.name}: {field}"] > 0, (kind.name, field)
