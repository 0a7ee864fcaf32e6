"""How much of the house one message walks through: figures that may fall, and must not rise."""

from __future__ import annotations

from benchmarks.probes.trace import LEGS, STEP, Call, figures, traced, walk

# leg → most files, most switches between them. The target for a request and its reply is 25 files and 100 switches.
MOST = {
    "in all": (58, 113),
    "a message": (45, 90),
    "the round": (20, 22),
    "to the client": (18, 24),
    "on the client": (24, 38),
    "to the average": (16, 26),
    "the step alone": (7, 14),
}


def test_a_request_and_its_reply() -> None:
    legs = traced()
    assert list(legs) == [*LEGS, STEP]
    found = figures(legs)
    assert {leg: figure for leg, figure in found.items() if figure.files > MOST[leg][0]} == {}
    assert {leg: figure for leg, figure in found.items() if figure.switches > MOST[leg][1]} == {}
    assert Call("client_app/app.py", "train_part") in legs[LEGS[2]]
    assert legs[LEGS[3]][-1].function == "PartialAverage.add"
    assert "SelectionRunner.choose" in [call.function for call in legs[LEGS[0]]]
    assert legs[LEGS[1]][0].function == "Clustering.participants"
    names = [call.function for call in legs[LEGS[2]]]
    assert names.count("answer_train") == names.count("FlatSGD.step") == 1
    assert [call.function for call in legs[STEP]].count("FlatSGD.step") == 1
    assert "answer_train" not in [call.function for call in legs[STEP]]
    assert figures(traced()) == found  # every cache is warm


def test_a_walk_is_where_calls_change_files() -> None:
    calls = [Call(file, "f") for file in ("a", "a", "b", "a", "a", "c")]
    assert walk(calls) == ["a", "b", "a", "c"]
