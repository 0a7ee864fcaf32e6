"""What the states of several clusters cost on the wire, and how they come apart there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict

from models.algebra.submodel import flatten, shapes_of
from models.variants.cluster_states import pack_states, packed_length, unpack_states
from protocol import ClusterStates, TrainRequest, bytes_of, read_request
from tests.strategies.clustering.ifca_states import started
from tests.support import Player


@pytest.mark.parametrize("slice_at", ["client", "server"])
@pytest.mark.parametrize("clusters", [2, 5])
def test_k_clusters_cost_exactly_k_downlinks_and_a_shared_trunk_counts_once(slice_at: str, clusters: int) -> None:
    keys = {"method": "heterofl", "tiers": "a:1, b:1/2", "slice_at": slice_at}

    def lengths(**more: Any) -> list[int]:
        strategy, grid, _ = started(**{**keys, **more})
        strategy.runner.begin(grid, 1)
        return [m.content.array_records["arrays"]["state"].shape[0] for m in strategy.runner.round.messages]

    plain = lengths()
    several = lengths(clustering="ifca", ifca_clusters=clusters)
    shared = lengths(clustering="ifca", ifca_clusters=clusters, ifca_shared=True)
    assert several == [clusters * numel for numel in plain]
    for numel, found in zip(plain, shared, strict=True):
        heads, rest = divmod(found - numel, clusters - 1)
        assert rest == 0
        assert 0 < heads < numel


def test_the_reply_is_one_model(play: Player) -> None:
    plain, several = play.once(), play(clustering="ifca", ifca_clusters=3)
    assert several.rows[0]["bytes_up"] == plain.rows[0]["bytes_up"]


def test_states_come_apart_as_they_were_put_together() -> None:
    draws = torch.Generator().manual_seed(0)
    states = [
        {
            "a": torch.randn(3, 2, generator=draws),
            "b": torch.randn(4, generator=draws),
            "c": torch.randn((), generator=draws),
        }
        for _ in range(3)
    ]
    shapes = shapes_of(states[0])
    for shared in ([], ["b"], ["a", "c"], ["a", "b", "c"]):
        flat = pack_states(states, shared)
        assert flat.shape == (packed_length(shapes, 3, shared),)
        for i, state in enumerate(unpack_states(flat, shapes, 3, shared)):
            assert all(torch.equal(state[name], states[0 if name in shared else i][name]) for name in shapes)
    assert torch.equal(pack_states(states, []), torch.cat([flatten(state) for state in states]))
    with pytest.raises(ValueError, match="expected 3 states"):
        unpack_states(torch.zeros(5), shapes, 3, [])


def test_requests_say_how_many_states_came_along() -> None:
    strategy, grid, _ = started(clustering="ifca", ifca_clusters=3, ifca_shared=True)
    strategy.runner.begin(grid, 1)
    content: RecordDict = strategy.runner.round.messages[0].content
    request, state = read_request(TrainRequest, content)
    assert request.clusters == ClusterStates(count=3, shared=True)
    record = content["arrays"]
    assert isinstance(record, ArrayRecord)
    assert bytes_of(record) == len(state.data)
