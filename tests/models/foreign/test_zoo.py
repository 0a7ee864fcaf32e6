"""Networks of torchvision, timm and transformers: everything is understood, proved, and gets smaller."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.probes.zoo import ZOO, row


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_network_of_the_zoo(name: str) -> None:
    found = row(name)
    assert found.proof.holds
    assert max(found.proof.moved, found.proof.differs) < 1e-5
    assert found.not_understood == 0
    assert found.axes > 1
    assert all(narrow < wide for wide, narrow in pairwise(found.shares))
