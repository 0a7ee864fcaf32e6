"""Every form of a base that is compared can be had, and each makes the smallest tier smaller."""

from __future__ import annotations

from benchmarks.experiments.bases import ADAPT, COMMON, FORMS, HEADS, Held, cells, held


def test_every_form_is_smaller_than_the_whole_in_float32() -> None:
    of = {form: held({**COMMON, **ADAPT, **own}) for form, own in FORMS.items()}
    whole = of.pop("float32")
    assert all(one.base < whole.base and one.memory < whole.memory for one in of.values())


def test_a_line_has_every_tier() -> None:
    runs = [{"a": 0.5, "b": 0.25, "c": 0.125}, {"a": 0.7, "b": 0.25, "c": 0.125}]
    line = cells("int8", Held(base=1000, memory=2**21), runs)
    assert line == ["int8", "1,000", "2.00", "60.0 ± 14.1", "25.0 ± 0.0", "12.5 ± 0.0"]
    assert len(line) == len(HEADS)
