"""The benchmark of evaluation, small: a row for each way in which tiers differ, and the same scores."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from benchmarks.bench.evaluating import evaluation


def test_each_case_has_a_row() -> None:
    before = torch.get_num_threads()
    rows = evaluation(lambda line: None, examples=4, turns=1)
    assert torch.get_num_threads() == before
    assert [row.limit for row in rows] == [0.6, 0.9, 1.1]
    assert all(row.measured > 0 and row.reference > 0 for row in rows)


def test_other_scores_are_no_result() -> None:
    with patch("benchmarks.bench.evaluating.Evaluator.score", return_value=None), pytest.raises(AssertionError):
        evaluation(lambda line: None, examples=4, turns=1)
