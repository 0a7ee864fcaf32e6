"""How much of the house one message walks through: figures that may fall, and must not rise."""

from __future__ import annotations

from benchmarks.probes.trace import LEGS, Call, figures, traced, walk

# leg → most files, most switches between them. The target for everything is 25 files and 100 switches.
MOST = {"in all": (68, 163), "to the client": (40, 71), "on the client": (29, 48), "to the average": (21, 42)}


def test_a_request_and_its_reply() -> None:
    legs = traced()
    found = figures(legs)
    assert {leg: figure for leg, figure in found.items() if figure.files > MOST[leg][0]} == {}
    assert {leg: figure for leg, figure in found.items() if figure.switches > MOST[leg][1]} == {}
    assert Call("client_app/app.py", "train_part") in legs[LEGS[1]]
    assert legs[LEGS[2]][-1].function == "PartialAverage.add"
    names = [call.function for call in legs[LEGS[1]]]
    assert names.count("answer_train") == names.count("FlatSGD.step") == 1
    assert figures(traced()) == found  # every cache is warm


def test_a_walk_is_where_calls_change_files() -> None:
    calls = [Call(file, "f") for file in ("a", "a", "b", "a", "a", "c")]
    assert walk(calls) == ["a", "b", "a", "c"]
