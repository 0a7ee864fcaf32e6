"""The real libraries: each installs, trains the job's network by the job's steps, and learns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.peers.job import JOBS
from benchmarks.peers.peer import PEERS, Peer
from benchmarks.peers.run import measured


@pytest.mark.slow
@pytest.mark.parametrize("peer", [peer for peer in PEERS if not peer.packages], ids=lambda peer: peer.name)
def test_ours_and_the_floor_learn(peer: Peer) -> None:
    _learns(peer)


@pytest.mark.peers
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.packages], ids=lambda peer: peer.name)
def test_a_library_learns(peer: Peer) -> None:
    _learns(peer)


def _learns(peer: Peer) -> None:
    job = replace(JOBS["cifar10" if "digits" in peer.without else "digits"], clients=20, per_round=4, turns=3)
    results = measured(job, [peer], print)
    assert [result.reason for result in results] == [""] * len(peer.processes)
    for result in results:
        assert result.turns == 3
        assert result.accuracy is None or result.accuracy > 0.3
