"""The virtual fleet: what files may say, who is which device, and how long things take."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import exp, inf
from pathlib import Path
from random import Random

import pytest
import torch

from models import NetworkSpec, Plan, completed
from models.cost import cost_of, training_bytes
from models.errors import SettingError
from models.networks.build import submodel
from protocol import Hello
from protocol.profile import MEMORY_AVAILABLE, NEEDED, STEP
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome
from strategies.exchange.update import ClientUpdate
from strategies.virtual.clock import Late, VirtualClock
from strategies.virtual.devices import BUNDLED, Device, VirtualFleet, read_fleet

MLP = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(32, 16)))
HALF = Plan(Fraction(1, 2))


def clock_of(*devices: Device, nodes: int = 4, seed: int = 1, deadline: float = 100.0) -> VirtualClock:
    fleet = VirtualFleet(devices, "digest")
    return VirtualClock(fleet, MLP, nodes=nodes, seed=seed, deadline=deadline, batch_size=16, whole=True)


def asked(node: int, plan: Plan = HALF) -> TrainAssignment:
    who = Node(7 * node, Hello(node=node, examples=10))
    return TrainAssignment(node=who, tier="a", plan=plan, part=submodel(MLP, plan), nonce="n")


def reply(steps: float = 12.0, up: int = 20_000) -> ClientUpdate:
    return ClientUpdate(
        metrics={"steps": steps, "seconds": 99.0, "seconds-computing": 98.0}, bytes_down=50_000, bytes_up=up
    )


def end(clock: VirtualClock, *, waited_in_vain: bool = False) -> dict[str, float]:
    report = RoundReport(number=1)
    clock.learn(RoundOutcome(report=report, accepted=(), waited_in_vain=waited_in_vain))
    return report.virtual


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_fleets_can_be_read(name: str) -> None:
    fleet = read_fleet(name)
    assert fleet is not None
    assert sum(fleet.shares(100)) == 1
    assert len({device.gmacs for device in fleet.devices}) == len(fleet.devices)
    assert read_fleet("") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "device"),
        ("[[device]]\nname = 'x'", "gmacs"),
        ("[[device]]\nname = 'x'\ngmacs = 0", "gmacs = 0"),
        ("[[device]]\nname = 'x'\ngmacs = 'fast'", "float"),
        ("[[device]]\nname = 'x'\ngmacs = 1\nsails = 4", "sails"),
        ("[[device]]\nname = 'x'\ngmacs = 1\navailable = 1.5", "available = 1.5"),
        ("[[device]]\nname = 'x'\ngmacs = 1\ncount = 2.5", "int"),
        ("[[device]]\nname = 'x'\ngmacs = -1", "gmacs = -1"),
        ("[[device]]\nname = 'x'\ngmacs = 1\nslowdown = 0.5", "slowdown"),
        ("[[device]", "read"),
        ("seed = 1\n[[device]]\nname = 'x'\ngmacs = 1", "nothing else"),
        ("device = 3", "device"),
        ("[[device]]\nname = 'x'\ngmacs = 1\n[[device]]\nname = 'x'\ngmacs = 2", "once"),
        ("[[device]]\nname = 'x'\ngmacs = true", "float"),
        ("[[device]]\nname = 'x'\ngmacs = nan", "gmacs = nan"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    with pytest.raises(SettingError, match="simulated-devices") as error:
        read_fleet(str(file))
    assert named in str(error.value)


def test_a_fleet_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="mixed"):
        read_fleet("navy")
    with pytest.raises(SettingError, match="read"):
        read_fleet(str(tmp_path / "no.toml"))


def test_counts_come_first_and_shares_divide_the_rest() -> None:
    fleet = VirtualFleet(
        (Device(name="a", gmacs=1, count=3), Device(name="b", gmacs=1, share=1), Device(name="c", gmacs=1, share=3)), ""
    )
    assert fleet.shares(11) == [Fraction(3, 11), Fraction(2, 11), Fraction(6, 11)]
    for nodes in (2, 3):
        only = VirtualFleet((Device(name="a", gmacs=1, count=3),), "")
        if nodes == 3:
            assert only.shares(3) == [1]
        else:
            with pytest.raises(SettingError, match="counted"):
                only.shares(nodes)


def test_devices_are_in_proportion_and_shuffled() -> None:
    clock = clock_of(Device(name="a", gmacs=1, share=1), Device(name="b", gmacs=1, share=3), nodes=1500)
    names = [clock.device(node).name for node in range(1500)]
    assert Counter(names) == {"a": 375, "b": 1125}
    assert names != sorted(names)
    other = clock_of(Device(name="a", gmacs=1, share=1), Device(name="b", gmacs=1, share=3), nodes=1500, seed=2)
    assert names != [other.device(node).name for node in range(1500)]


def test_draws_depend_on_nobody_else() -> None:
    """Any ids in any order, more than a thousand of them: the same devices, loads and presence."""
    device = Device(name="a", gmacs=1, spread=0.3, jitter=0.2, available=0.7, busy=0.3, slowdown=4.0, spell=3)
    other = replace(device, name="b", gmacs=2)
    ids: list[int | str] = [*range(5, 4000, 3), "kitchen", *range(10**6, 10**6 + 40)]
    expected, found = clock_of(device, other), clock_of(device, other)

    def seen(clock: VirtualClock, node: int | str) -> tuple[str, float, bool]:
        return clock.device(node).name, clock.slowness(node, 7), clock.online(node, 7)

    once = {node: seen(expected, node) for node in ids}
    Random(3).shuffle(ids)
    assert {node: seen(found, node) for node in ids} == once
    assert 0.65 < sum(online for _, _, online in once.values()) / len(ids) < 0.75
    assert {name for name, _, _ in once.values()} == {"a", "b"}


def test_a_busy_spell_lasts() -> None:
    clock = clock_of(Device(name="a", gmacs=1, busy=0.5, slowdown=3.0, spell=10), nodes=50)
    for node in range(50):
        loads = [clock.slowness(node, number) for number in range(10, 20)]
        assert set(loads) in ({1.0}, {3.0})
    assert {clock.slowness(node, 15) for node in range(50)} == {1.0, 3.0}


def test_the_seconds_of_a_reply_by_hand() -> None:
    device = Device(
        name="a",
        gmacs=0.001,
        step_ms=4.0,
        down_mbit=2.0,
        up_mbit=0.5,
        latency_ms=30.0,
        spread=0.5,
        jitter=0.25,
    )
    clock = clock_of(device)
    clock.begin(1, torch.zeros(0))
    came = clock.timed(asked(2), 5, reply())
    macs = 64 * 16 + 16 * 8 + 8 * 10
    assert cost_of(MLP, HALF).macs == macs
    computing = 12 * (0.004 + 3 * 16 * macs / 1e6) * clock.slowness(2, 5)
    seconds = 0.06 + 50_000 * 8 / 2e6 + 20_000 * 8 / 0.5e6 + computing
    assert came.metrics["seconds-computing"] == pytest.approx(computing)
    assert came.metrics["seconds"] == pytest.approx(seconds)
    assert end(clock) == {"round": pytest.approx(seconds), "elapsed": pytest.approx(seconds)}
    assert clock.slowness(2, 5) != clock.slowness(2, 6)
    assert 0.2 < clock.slowness(2, 5) < exp(3)


def test_a_round_lasts_until_its_last_reply_or_the_deadline() -> None:
    clock = clock_of(Device(name="a", gmacs=inf, step_ms=1000.0), deadline=10.0)
    clock.begin(1, torch.zeros(0))
    for node, steps in enumerate((3.0, 7.0, 5.0)):
        clock.timed(asked(node), 1, reply(steps))
    assert end(clock) == {"round": 7.0, "elapsed": 7.0}
    clock.begin(1, torch.zeros(0))
    clock.timed(asked(0), 2, reply(4.0))
    with pytest.raises(Late, match="late: 11 virtual seconds"):
        clock.timed(asked(1), 2, reply(11.0))
    assert end(clock) == {"round": 10.0, "elapsed": 17.0}
    clock.begin(1, torch.zeros(0))
    assert end(clock, waited_in_vain=True) == {"round": 10.0, "elapsed": 27.0}
    other = clock_of(Device(name="a", gmacs=1.0))
    other.restore(*clock.checkpoint())
    assert other.elapsed == 27.0
    with pytest.raises(SettingError, match="simulated-devices"):
        other.restore({}, {"elapsed": 1.0, "fleet": "another"})


def test_a_part_that_does_not_fit_the_memory() -> None:
    needed = training_bytes(MLP, HALF, 16, whole=True)
    for memory, fits in ((needed + 1, True), (needed - 1, False)):
        clock = clock_of(Device(name="a", gmacs=1.0, memory_mb=memory / 1e6, latency_ms=500.0), deadline=10.0)
        clock.begin(1, torch.zeros(0))
        if fits:
            clock.timed(asked(0), 1, reply())
        else:
            with pytest.raises(Late, match="out of memory"):
                clock.timed(asked(0), 1, reply())
            assert end(clock)["round"] == pytest.approx(1.0)  # it says so at once


def test_failures_come_as_often_as_told() -> None:
    clock = clock_of(Device(name="a", gmacs=1.0, failure=0.25), nodes=1200)
    lost = 0
    for node in range(1200):
        try:
            clock.timed(asked(node), 3, reply())
        except Late:
            lost += 1
    assert 240 < lost < 360


def test_figures_are_those_of_the_device() -> None:
    clock = clock_of(Device(name="a", gmacs=0.01, step_ms=2.0, memory_mb=3.0, spread=0.4))
    plans = [Plan(), HALF]
    found = clock.figures(1, ["x", "y"], plans)
    assert found[MEMORY_AVAILABLE] == 3e6
    for name, plan in zip("xy", plans, strict=True):
        expected = (0.002 + 3 * 16 * cost_of(MLP, plan).macs / 1e7) * clock.slowness(1, 0)
        assert found[STEP + name] == pytest.approx(expected)
        assert found[NEEDED + name] == training_bytes(MLP, plan, 16, whole=True)


def test_windows_and_draws_cost_what_the_plain_part_does() -> None:
    clock = clock_of(Device(name="a", gmacs=0.001))
    seconds = []
    for plan in (HALF, replace(HALF, shift=5)):
        came = clock.timed(asked(0, plan), 1, reply())
        seconds.append(came.metrics["seconds"])
    assert seconds[0] == seconds[1]
