"""A fleet of a million nodes: objects only of those that somebody looks at."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from protocol import Hello
from strategies.exchange.fleet import Fleet, TierTable, mean_examples
from strategies.exchange.node import Node
from strategies.tiers.tier import Assignment, Tier

MANY = 1_000_000
TIERS = tuple(Tier(name, Fraction(1, 2**i)) for i, name in enumerate("abc"))
asked: list[int] = []


def fleet(count: int = MANY) -> Fleet:
    asked.clear()

    def labels(node: int) -> tuple[int, ...]:
        asked.append(node)
        return (node % 3,)

    hello = Hello(node=0, examples=1, labels=(0,), codecs=("float32",))
    examples = 1 + np.arange(count) % 7
    return Fleet(hello, range(count), addresses=range(100, 100 + count), examples=examples, labels=labels)


def table(nodes: Fleet, kind: str = "fixed") -> TierTable:
    assignment = Assignment(kind, TIERS, proportions=[Fraction(1, 3)] * 3, nodes=len(nodes), seed=1)
    positions = assignment.positions(nodes.ids, 1)
    assert positions is not None
    return TierTable(nodes, TIERS, positions)


def test_a_node_says_what_it_would_say() -> None:
    nodes = fleet()
    node = nodes[123_456]
    assert (node.id, node.address, node.examples) == (123_456, 123_556, 1 + 123_456 % 7)
    assert not asked  # labels are found when somebody wants to know
    assert node.hello == Hello(node=123_456, examples=node.examples, labels=(123_456 % 3,), codecs=("float32",))
    assert node.hello is nodes[123_456].hello
    assert asked == [123_456]
    assert [one.id for one in nodes[-2:]] == [MANY - 2, MANY - 1]


def test_who_is_looked_at_takes_memory_and_nobody_else() -> None:
    nodes = fleet()
    tracemalloc.start()
    for position in range(0, MANY, 50):
        assert nodes[position].examples
    assert tracemalloc.get_traced_memory()[0] < 2e6  # of 20,000 nodes some thousand are kept
    tracemalloc.stop()


def test_parts_of_a_fleet() -> None:
    nodes = fleet(20)
    some = nodes.some(np.array([3, 5, 8]))
    assert ([one.id for one in some], some.examples.tolist()) == ([3, 5, 8], [4, 6, 2])
    assert (some.find(5), some.find(4), some.find("x"), nodes.find(20)) == (1, None, None, None)
    assert list(nodes.without({0, 19, 77}).ids) == list(range(1, 19))
    assert nodes.of_at_most(3).examples.max() == 3
    assert nodes.of_at_most(3)[6].hello.examples == 3
    assert mean_examples(nodes) == mean_examples(list(nodes)) == mean_examples([_copy(one) for one in nodes])
    assert mean_examples(nodes.some(np.array([], dtype=np.intp))) == 0.0


def _copy(node: Node) -> Node:
    return Node(node.address, node.hello)


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_tiers_are_those_that_each_node_would_have(kind: str) -> None:
    nodes = fleet(60)
    tiers = table(nodes, kind)
    one = Assignment(kind, TIERS, proportions=[Fraction(1, 3)] * 3, nodes=60, seed=1)
    assert dict(tiers) == {node.id: one.tier_of(node.id, "", 1) for node in nodes}
    counts = tiers.counts()
    assert list(counts) == list(dict.fromkeys(tiers.values()))
    assert all(counts[tier] == list(tiers.values()).count(tier) for tier in counts)
    assert tiers.of([TIERS[0], TIERS[2]]).tolist() == [i for i in range(60) if tiers[i] != TIERS[1]]
    with pytest.raises(KeyError):
        tiers[60]


def test_what_a_node_told_cannot_be_known_beforehand() -> None:
    assert Assignment("node", TIERS, proportions=[Fraction(1, 3)] * 3, nodes=3, seed=1).positions(range(3), 1) is None


def test_a_node_that_was_not_counted_on_draws_for_itself() -> None:
    assignment = Assignment("fixed", TIERS, proportions=[Fraction(1, 3)] * 3, nodes=3, seed=1)
    found = assignment.positions(range(5), 1)
    assert found is not None
    assert [TIERS[i] for i in found] == [assignment.tier_of(node, "", 1) for node in range(5)]
