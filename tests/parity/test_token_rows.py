"""HeteroFL on texts: rows of the embedding are averaged over the devices that have the token, as in the released code.

The rule (diaoenmao cc40f3e, fed.py, `combine` of a transformer): of the embedding, and of what predicts, only the rows
that stand in a device's list of tokens are added and counted; what nobody has keeps its value.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message
from torch import Tensor

from models import NetworkSpec, completed
from models.algebra.rates import single
from models.algebra.token_rows import counts_tokens, rows_of
from models.errors import SettingError
from models.networks.build import layout, submodel
from protocol import HELLO
from strategies import HeteroFL, Settings
from strategies.tiers.tier import HALVING, Tier
from tests.corpora import write_sst2
from tests.parity.rounds import Round, node, noisy, state_of
from tests.support import Player, address_of

WORDS, LABELS = 13, 4
TRANSFORMER = completed(
    NetworkSpec("transformer", (6,), LABELS, vocabulary=WORDS, widths=(12, 10), blocks=(2,), heads=2)
)
GRU = completed(NetworkSpec("gru", (6,), LABELS, vocabulary=WORDS, widths=(6, 9, 5)))
EMBEDDING = {"transformer": "stem.tokens.weight", "gru": "stem.table.weight"}
# Tier, tokens and labels of each device. Token 12 is nobody's.
FLEET = [
    (0, (0, 1, 2, 3, 4, 5), (0, 1)),
    (1, (0, 2, 5, 6, 7), (1, 2)),
    (2, (0, 7, 8, 9, 11), (0,)),
    (2, (10,), (3,)),
]


def released_embedding(old: Tensor, replies: list[tuple[Tier, tuple[int, ...], Tensor]]) -> Tensor:
    """Token by token and column by column."""
    total, count = torch.zeros_like(old), torch.zeros_like(old)
    for tier, tokens, trained in replies:
        columns = ceil(old.shape[1] * single(tier.rate))
        assert trained.shape == (old.shape[0], columns)
        for token in tokens:
            total[token, :columns] += trained[token]
            count[token, :columns] += 1
    return torch.where(count > 0, total / count.clamp_min(1), old)


@pytest.mark.parametrize("spec", [TRANSFORMER, GRU], ids=lambda spec: spec.name)
def test_the_embedding_is_the_released_average(spec: NetworkSpec) -> None:
    name = EMBEDDING[spec.name]
    state = state_of(spec)
    by_token = Round(HeteroFL(spec, Settings(tiers=HALVING), **{"token-rows": True}), 1)
    plain = Round(HeteroFL(spec, Settings(tiers=HALVING)), 1)
    replies = []
    for i, (level, tokens, labels) in enumerate(FLEET):
        tier, who = HALVING[level], node(i, labels=labels, tokens=tokens)
        plan, part = by_token.part(who, tier)
        trained = noisy(part.gather(state), i)
        for round_ in (by_token, plain):
            round_.reply(who, tier, plan, trained, state)
        replies.append((tier, tokens, trained[name]))
    new, other = by_token.finish(state), plain.finish(state)
    torch.testing.assert_close(new[name], released_embedding(state[name], replies), rtol=1e-5, atol=1e-6)
    assert torch.equal(new[name][12].view(torch.int32), state[name][12].view(torch.int32))
    assert not torch.equal(new[name], other[name])
    for one in new:
        if one != name:
            torch.testing.assert_close(new[one], other[one], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", [TRANSFORMER, GRU], ids=lambda spec: spec.name)
@pytest.mark.parametrize("tokens", [(), (4,), (0, 1, 2, 9, 12), tuple(range(WORDS))])
def test_rows_of_a_part_are_where_they_were(spec: NetworkSpec, tokens: tuple[int, ...]) -> None:
    """Gathering the smaller part is taking its coordinates out of the larger one."""
    declared, state = layout(spec), state_of(spec)
    part = submodel(spec, HeteroFL(spec, Settings(tiers=HALVING)).plan(_context(spec), node(0), HALVING[1]))
    smaller, places = rows_of(part, declared, tokens)
    flat = torch.cat([tensor.flatten() for tensor in part.gather(state).values()])
    expected = [tensor.flatten() for tensor in smaller.gather(state).values()]
    assert torch.equal(flat[places], torch.cat(expected))
    assert set(part) - set(smaller) == (set() if tokens else {EMBEDDING[spec.name]})
    missing = (WORDS - len(tokens)) * part[EMBEDDING[spec.name]].local_shape[1]
    assert part.numel - smaller.numel == missing


def _context(spec: NetworkSpec) -> Any:
    return HeteroFL(spec, Settings(tiers=HALVING)).context(1)


def test_tokens_that_there_are_not_are_refused() -> None:
    part = submodel(GRU, HeteroFL(GRU, Settings(tiers=HALVING)).plan(_context(GRU), node(0), HALVING[0]))
    with pytest.raises(ValueError, match="tokens must be among 0 to 12, got 3 to 13"):
        rows_of(part, layout(GRU), (3, 13))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (completed(NetworkSpec("mlp", (4,), 3)), "no embedding of tokens that is declared"),
        (
            completed(replace(TRANSFORMER, tied=True)),
            "rows of tokens are classes as well",
        ),
    ],
)
def test_networks_without_rows_of_tokens_alone_are_refused(spec: NetworkSpec, why: str) -> None:
    with pytest.raises(SettingError, match=why):
        HeteroFL(spec, Settings(tiers=HALVING), **{"token-rows": True})
    assert counts_tokens(layout(spec)) == (spec.name == "transformer")


# ---- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("texts")
    write_sst2(folder)
    return {
        "dataset": "sst2",
        "data_root": str(folder),
        "vocabulary_size": 12,
        "sequence_length": 10,
        "model": "transformer",
        "widths": "16, 16",
        "blocks": "1",
        "num_clients": 3,
        "num_server_rounds": 1,
    }


def _with_tokens(node: int, tokens: list[int], seen: list[list[int]]) -> Any:
    """Notes the tokens that devices say, and lets one say others."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == HELLO:
            record = reply.content["config"]
            assert isinstance(record, ConfigRecord)
            seen.append([int(one) for one in record.get("tokens", [])])  # type: ignore[union-attr]
            if request.metadata.dst_node_id == address_of(node):
                record["tokens"] = tokens
        return [reply]

    return faults


def test_devices_say_their_tokens_only_where_they_are_asked(play: Player, texts: dict[str, Any]) -> None:
    asked: list[list[int]] = []
    unasked: list[list[int]] = []
    on = play(_with_tokens(1, [2, 3], asked), **texts, heterofl_token_rows=True)
    off = play(_with_tokens(1, [], unasked), **texts)
    assert unasked == [[], [], []]
    assert all(tokens == sorted(set(tokens)) and tokens for tokens in asked)
    assert on.rejected == off.rejected == []
    differ = [name for name in on.state if not torch.allclose(on.state[name], off.state[name], atol=1e-6)]
    assert differ == ["stem.tokens.weight"]
    rows = (on.state[differ[0]] != off.state[differ[0]]).any(1)
    assert rows[4:].any()
    assert not rows[2:4].any()


def test_where_everybody_has_every_token_nothing_changes(play: Player, texts: dict[str, Any]) -> None:
    seen: list[list[int]] = []
    on = play(_with_tokens(1, list(range(12)), seen), **texts, heterofl_token_rows=True)
    assert seen == [list(range(12))] * 3
    assert on.hash == play(**texts).hash


def test_who_claims_tokens_beyond_the_vocabulary_does_not_count(play: Player, texts: dict[str, Any]) -> None:
    out = play(_with_tokens(1, [1, 12], []), **texts, heterofl_token_rows=True)
    [rejected] = out.rejected
    assert (rejected["node"], rejected["reason"]) == (1, "tokens must be among 0 to 11, got 1 to 12")
    assert out.rows[0]["accepted"] == 2


@pytest.mark.parametrize(
    "keys",
    [
        {"secure_aggregation": True, "min_cover": 3, "heterofl_label_rows": False, "tiers": "a:1"},
        {"dp_noise": 1.0, "heterofl_label_rows": False},
    ],
)
def test_what_hides_single_devices_does_not_go_with_it(
    play: Player, texts: dict[str, Any], keys: dict[str, Any]
) -> None:
    with pytest.raises(SettingError) as caught:
        play(**texts, **keys, heterofl_token_rows=True)
    assert caught.value.key == "heterofl-token-rows"


def test_pictures_have_no_tokens(play: Player) -> None:
    with pytest.raises(SettingError, match="no embedding of tokens"):
        play(model="mlp", heterofl_token_rows=True)
