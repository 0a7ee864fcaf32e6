"""Differences are noted of what passes, by file; a test that fails ends it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.probes.differences import DOCUMENT, TESTS, Difference, differences, text_of

PASSES = """
import torch

def test_close():
    torch.testing.assert_close(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 4.5]), rtol=1, atol=1)
    torch.testing.assert_close(torch.tensor([3]), torch.tensor([3]))  # whole numbers say nothing
    torch.testing.assert_close(torch.zeros(0), torch.zeros(0))
    torch.testing.assert_close({"a": [torch.ones(2)]}, {"a": [torch.ones(2)]})
    torch.testing.assert_close(torch.tensor([0.25]), torch.tensor([0.0]), rtol=1, atol=1)
"""


def test_what_passes_is_noted_and_what_fails_is_raised(tmp_path: Path) -> None:
    usual = torch.testing.assert_close
    file = tmp_path / "test_one_of_two.py"
    file.write_text(PASSES)
    name = file.name
    assert differences(tmp_path) == [
        Difference(file=name, most=0.5, scale=4.5),
        Difference(file=name, most=0.0, scale=1.0),
        Difference(file=name, most=0.25, scale=0.0),
    ]
    (tmp_path / "test_far.py").write_text(
        "import torch\n\ndef test_far():\n    torch.testing.assert_close(torch.ones(1), torch.zeros(1))\n"
    )
    with pytest.raises(RuntimeError, match="ended with 1"):
        differences(tmp_path)
    assert torch.testing.assert_close is usual


def test_a_line_has_the_largest_difference() -> None:
    found = [Difference(file="test_b.py", most=1.0, scale=100.0), Difference(file="test_b.py", most=0.5, scale=2.0)]
    found += [Difference(file="test_a.py", most=0.0, scale=0.0)]
    assert text_of(found).splitlines()[2:] == [
        "| `test_a.py` | 1 | 0.0e+00 | 0 |",
        "| `test_b.py` | 2 | 1.0e+00 | 1e+02 |",
    ]


def test_the_document_has_every_file_that_compares_tensors() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text[text.index("<!-- differences:begin -->") : text.index("<!-- differences:end -->")]
    for file in sorted(TESTS.glob("test_*.py")):
        compares = "torch.testing.assert_close(" in file.read_text(encoding="utf-8")
        assert (f"`{file.name}`" in table) == compares, file.name
