"""By how much our methods differ from transcriptions of their authors' rules, in numbers (docs/parity.md).

Runs the tests of parity and notes, of every comparison of tensors that passes, the largest difference and the largest
number that it is held against. What tests find equal bit for bit, or compare otherwise, is not among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.document import DOCS, ROOT, replace_part, table
from benchmarks.task import Command, Options

DOCUMENT, PART = DOCS / "parity.md", "differences"
TESTS = ROOT / "tests" / "parity"
_QUIET = ("-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of one comparison.

    Attributes:
        file: the test's.
        most: the largest difference of two numbers.
        scale: the largest number, by magnitude, that ours are held against.
    """

    file: str
    most: float
    scale: float


class Recorder:
    """A plug-in of pytest.

    Attributes:
        found: in the order of the tests.
    """

    def __init__(self) -> None:
        self.found: list[Difference] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Note what a test compares."""
        with self._noting(item.path.name):
            return (yield)

    @contextmanager
    def _noting(self, file: str) -> Iterator[None]:
        usual = torch.testing.assert_close

        def compared(actual: Any, expected: Any, **how: Any) -> None:
            usual(actual, expected, **how)
            for ours, theirs in _tensors(actual, expected):
                most, scale = float((ours - theirs).abs().max()), float(theirs.abs().max())
                self.found.append(Difference(file=file, most=most, scale=scale))

        torch.testing.assert_close = compared
        try:
            yield
        finally:
            torch.testing.assert_close = usual


def _tensors(actual: Any, expected: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What is compared, tensor by tensor, in float64; without whole numbers."""
    if isinstance(actual, Mapping):
        actual, expected = [actual[key] for key in expected], list(expected.values())
    if isinstance(actual, Sequence):
        for pair in zip(actual, expected, strict=True):
            yield from _tensors(*pair)
    elif isinstance(actual, torch.Tensor) and actual.numel() and expected.is_floating_point():
        yield actual.detach().double(), expected.detach().double()


def text_of(found: list[Difference]) -> str:
    """A line for each file: how many comparisons, and the one with the largest difference."""
    lines = []
    for file in sorted({one.file for one in found}):
        own = [one for one in found if one.file == file]
        worst = max(own, key=lambda one: one.most)
        lines.append([f"`{file}`", f"{len(own)}", f"{worst.most:.1e}", f"{worst.scale:.2g}"])
    return table(["tests", "comparisons", "largest difference", "of numbers up to"], lines, markdown=True)


def differences(tests: Path = TESTS) -> list[Difference]:
    """Run tests.

    Raises:
        RuntimeError: one of them failed.
    """
    recorder = Recorder()
    code = pytest.main([*_QUIET, str(tests)], plugins=[recorder])
    if code:
        raise RuntimeError(f"the tests of {tests} ended with {int(code)}")
    return recorder.found


def _run(options: Options) -> int:
    text = text_of(differences())
    print(text)
    if options.write:
        replace_part(DOCUMENT, PART, text)
    return 0


TASK = Command(_run, defaults={"write": False})
