"""Tables as text, and documents with parts that are written."""

from __future__ import annotations

from benchmarks.document import table


def test_a_table_is_text_or_markdown() -> None:
    assert table(["a", "bc"], [["1", "2"]]).splitlines() == ["a  bc", "-  --", "1  2"]
    assert table(["a", "b"], [["1", "2"]], markdown=True).splitlines()[1] == "| --- | --- |"
