"""Split-Mix: who trains which nets, what becomes of them, and adversarial training through whole runs."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from hashlib import sha256
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor

from models import NetworkSpec, Plan, SettingError, build_part, generator, initial_state, submodel, torch_generator
from models.variants.base_nets import BaseNets, nets_of
from server_app.config.resolve import resolve
from strategies import Settings, SplitMix, Tier, parse_tiers
from tests.parity.rounds import Planner, Round, node, noisy
from tests.support import Player, configured, keys_of

SPEC = NetworkSpec("mlp", (1, 4, 4), 5, widths=(16, 8))
TIERS = parse_tiers("a:1, b:1/2, c:1/4, d:1/8")


def _strategy(atom: str = "1/8", tiers: tuple[Tier, ...] = TIERS, **settings: Any) -> SplitMix:
    return SplitMix(SPEC, Settings(tiers=tiers, **settings), atom=atom)


def _state(strategy: SplitMix) -> dict[str, Tensor]:
    return initial_state(strategy.network, torch_generator(3, 0, "server", "initial"))


# ---- which nets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "atom", "count"),
    [
        ("0.3", "0.1", 3),
        ("3/10", "1/10", 3),
        ("0.7", "0.1", 7),
        ("0.6", "0.2", 3),
        ("0.35", "0.1", 3),
        ("1", "1/8", 8),
        ("1/8", "0.125", 1),
        ("7/8", "1/4", 3),
    ],
)
def test_a_budget_buys_a_whole_number_of_nets(rate: str, atom: str, count: int) -> None:
    """I17: int(0.3 / 0.1) is 2 in floating point."""
    tiers = (Tier("a", Fraction(1)), Tier("b", Fraction(rate)))
    spec = NetworkSpec("mlp", (1, 4, 4), 5, widths=(80, 40))
    strategy = SplitMix(spec, Settings(tiers=tiers), atom=atom)
    assert strategy.carried(strategy.context(1), tiers[1]) == count
    assert strategy.kept_plan(strategy.context(5), tiers[1]) == Plan(bases=tuple(range(count)))
    assert len(Planner(strategy).plan(node(0), tiers[1], 1).bases or ()) == count


def test_the_nets_are_narrow_and_whole() -> None:
    strategy = _strategy()
    assert strategy.network.bases == 8
    assert strategy.network.widths == (2, 1)
    part = strategy.part(strategy.context(1), Plan(bases=(5, 2)), strategy.state)
    assert {block.source.split(".")[1] for block in part.values()} == {"5", "2"}
    assert part["bases.0.stages.0.0.weight"].local_shape == (2, 16)
    assert strategy.adapted(strategy.network, strategy.settings, strategy.options) == strategy.network


def test_auto_is_the_widest_that_the_smallest_tier_can_carry() -> None:
    for smallest, count in (("1/8", 8), ("1/4", 4), ("3/10", 4), ("2/3", 2), ("1", 1)):
        tiers = (Tier("a", Fraction(1)), Tier("b", Fraction(smallest)))
        assert _strategy("auto", tiers).network.bases == count
        assert _strategy("auto", tiers).carried(_strategy("auto", tiers).context(1), tiers[1]) == 1


def test_nobody_is_left_out_with_many_devices_and_few_a_round() -> None:
    """Shuffled ids with gaps, three devices a round: in every turn of the round-robin every net comes once."""
    strategy, tiers = _strategy(), TIERS
    planner = Planner(strategy)
    ids = generator(0, 0, "server", "ids").permutation(40_000)[:1_500].tolist()
    draws = generator(1, 0, "server", "who")
    trained: list[tuple[int, ...]] = []
    for number in range(1, 401):
        for i in draws.choice(ids, 3, replace=False).tolist():
            tier = tiers[i % 4]
            bases = planner.plan(node(i), tier, number).bases
            assert bases is not None
            assert len(set(bases)) == len(bases) == strategy.carried(strategy.context(1), tier)
            assert list(bases) == sorted(bases)
            trained.append(bases)
    for start in range(0, 1_200, 8):
        assert set().union(*trained[start : start + 8]) == set(range(8))
    count = Counter(base for bases in trained for base in bases)
    expected = sum(map(len, trained)) / 8
    assert all(abs(count[base] - expected) < 5 * expected**0.5 for base in range(8))


def test_the_smallest_devices_alone_are_a_round_robin_in_changing_order() -> None:
    planner = Planner(_strategy())
    firsts = [planner.plan(node(7 * i), TIERS[3], i + 1).bases for i in range(80)]
    cycles = [tuple(base for (base,) in firsts[start : start + 8]) for start in range(0, 80, 8)]  # type: ignore[misc]
    assert all(sorted(cycle) == list(range(8)) for cycle in cycles)
    assert len(set(cycles)) > 5


def test_the_others_are_uniform() -> None:
    """Two of four nets: each of the six pairs one time in six, over rounds and devices."""
    tiers = (Tier("a", Fraction(1)), Tier("b", Fraction(1, 2)))
    planner = Planner(_strategy("1/4", tiers))
    pairs = Counter(planner.plan(node(i % 50), tiers[1], i // 50 + 1).bases for i in range(3_000))
    assert len(pairs) == 6
    assert all(abs(count - 500) < 100 for count in pairs.values())


def test_a_restored_strategy_goes_on_where_it_was() -> None:
    whole, first = Planner(_strategy()), Planner(_strategy())
    plans = [whole.plan(node(i), TIERS[i % 4], i // 5 + 1) for i in range(30)]
    head = [first.plan(node(i), TIERS[i % 4], i // 5 + 1) for i in range(13)]
    second = Planner(_strategy(), json.loads(json.dumps(first.values)))
    assert head + [second.plan(node(i), TIERS[i % 4], i // 5 + 1) for i in range(13, 30)] == plans
    other = Planner(SplitMix(SPEC, Settings(tiers=TIERS, seed=2), atom="1/8"))
    assert [other.plan(node(i), TIERS[i % 4], i // 5 + 1) for i in range(30)] != plans


# ---- what becomes of them --------------------------------------------------------------------------------------------


def test_a_net_that_nobody_trained_stays_bit_for_bit() -> None:
    strategy = _strategy()
    state, round_ = _state(strategy), Round(strategy, 1)
    touched: set[int] = set()
    for i in range(2):
        plan, part = round_.part(node(i), TIERS[2])
        touched |= set(plan.bases or ())
        round_.reply(node(i), TIERS[2], plan, noisy(part.gather(state), i), state)
    new = round_.finish(state)
    assert 2 <= len(touched) <= 4
    for name, tensor in new.items():
        assert torch.equal(tensor, state[name]) == (int(name.split(".")[1]) not in touched), name


def test_a_width_at_inference_is_the_mean_of_the_first_nets() -> None:
    """I14: whoever trained which, a device of rate r runs the first int(r/atom) and averages their logits."""
    strategy = _strategy()
    state, x = _state(strategy), torch.randn(9, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    alone = []
    for base in range(8):
        net = build_part(strategy.network, Plan(bases=(base,)))
        net.load_state_dict(submodel(strategy.network, Plan(bases=(base,))).gather(state))
        alone.append(net.train()(x))
    for tier, count in zip(TIERS, (8, 4, 2, 1), strict=True):
        plan = strategy.kept_plan(strategy.context(1), tier)
        network = build_part(strategy.network, plan)
        assert isinstance(network, BaseNets)
        network.load_state_dict(strategy.part(strategy.context(1), plan, strategy.state).gather(state))
        torch.testing.assert_close(network.train()(x), sum(alone[:count], torch.zeros(9, 5)) / count)


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["static-batch", "group"])
def test_one_net_is_fedavg(play: Player, norm: str) -> None:
    """I14: atom 1, the same initial weights; the same bits."""
    keys: dict[str, Any] = {"tiers": "a:1", "fraction_train": 0.7, "norm": norm, "partition": "dirichlet"}
    keys["train_as"] = "loop"  # a mixture of nets is
    one, fedavg = play(method="splitmix", splitmix_atom="1", **keys), play(method="fedavg", **keys)
    assert one.rows[0]["selected"] == fedavg.rows[0]["selected"]
    assert [row["train_loss"] for row in one.rows] == [row["train_loss"] for row in fedavg.rows]
    assert _hash(one.state) == _hash(fedavg.state)
    assert one.summary["last"]["accuracy"] == fedavg.summary["last"]["accuracy"]


def _hash(state: dict[str, Tensor]) -> str:
    named = sorted((name.removeprefix("bases.0."), tensor) for name, tensor in state.items())
    return sha256(b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in named)).hexdigest()


def test_each_net_and_their_mean_are_reported(play: Player) -> None:
    out = play(method="splitmix", splitmix_atom="1/4")
    for name, count in (("a", 4), ("b", 2)):
        row = out.rows[-1]["tiers"][name]
        assert len(row["each"]) == count
        assert row["ensemble"] == row["accuracy"]
    assert "each" not in out.rows[-1]["tiers"]["c"]  # a single net
    assert "robust" not in out.rows[-1]


ROBUST: dict[str, Any] = {
    "adversarial": 0.5,
    "adversarial_steps": 2,
    "evaluate_robust": 40,
    "robust_mix": 0.5,
    "num_clients": 3,
    "num_server_rounds": 1,
}


@pytest.mark.parametrize(
    ("method", "norm"),
    [
        ("splitmix", "static-batch"),
        ("splitmix", "batch-per-width"),
        ("splitmix", "group"),
        ("splitmix", "none"),
        ("heterofl", "static-batch"),
        ("fjord", "batch-per-width"),
        ("depthfl", "group"),
        ("nefl", "batch-per-width"),
    ],
)
def test_any_method_trains_on_adversarial_inputs(play: Player, method: str, norm: str) -> None:
    out = play(method=method, norm=norm, **ROBUST)
    row = out.rows[-1]
    assert out.rejected == []
    assert isfinite(row["train_loss"])
    for scores in (row, *row["tiers"].values()):
        assert 0 <= scores["robust"] <= 1
        assert 40 * scores["robust"] == pytest.approx(round(40 * scores["robust"]))
    assert out.summary["last"]["robust"] == row["robust"]
    assert out.summary["last"]["tiers"]["c"]["robust"] == row["tiers"]["c"]["robust"]
    assert any("attacked" in line for line in out.lines)
    copies = {name for name in out.state if ".noise." in name}
    assert bool(copies) == (norm != "none")
    twins = [(out.state[name], out.state[name.replace(".noise.", ".clean.")]) for name in copies]
    assert sum(not torch.equal(noise, clean) for noise, clean in twins) >= 0.6 * len(twins)


def test_a_robust_run_repeats_and_resumes(play: Player) -> None:
    keys: dict[str, Any] = {"method": "splitmix", **ROBUST, "num_server_rounds": 3, "fraction_evaluate": 0.5}
    whole, half = play(**keys), play(**keys | {"num_server_rounds": 2})
    resumed = play(**keys, resume=str(half.path))
    assert resumed.hash == whole.hash
    assert [row["tiers"]["a"].get("robust") for row in resumed.rows[2:]] == [whole.rows[2]["tiers"]["a"]["robust"]]


def test_weight_0_is_a_run_without(play: Player) -> None:
    plain = play(method="splitmix")
    assert plain.hash == play(method="splitmix", adversarial=0.0, adversarial_epsilon="0.1", dual_norm="auto").hash
    assert plain.hash != play(method="splitmix", adversarial=0.5, dual_norm="off", adversarial_steps=1).hash


def test_only_evaluation_depends_on_the_mix(play: Player) -> None:
    """A group norm has no statistics: λ_t is looked at when networks are scored, and nowhere else."""
    runs = [play(method="splitmix", norm="group", **ROBUST | {"robust_mix": mix}) for mix in (0.0, 1.0)]
    assert runs[0].hash == runs[1].hash
    assert runs[0].rows[-1]["loss"] != runs[1].rows[-1]["loss"]


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atom", ["0", "2", "-1/8", "3/8", "0.3", "2/3", "", "half", "1/0", "nan"])
def test_an_atom_that_does_not_divide(atom: str) -> None:
    with pytest.raises(SettingError, match="1 divided by a whole number") as caught:
        configured(method="splitmix", splitmix_atom=atom)
    assert (caught.value.key, caught.value.value) == ("splitmix-atom", atom)
    with pytest.raises(SettingError):
        nets_of(atom)


def test_a_budget_below_one_net() -> None:
    with pytest.raises(SettingError, match="at least one net") as caught:
        configured(method="splitmix", splitmix_atom="1/2")
    assert caught.value.key == "tiers"
    assert "1/2" in caught.value.allowed
    assert "'c' has 1/4" in caught.value.allowed


def test_layers_too_narrow_for_a_net() -> None:
    with pytest.raises(SettingError, match="at least 1/8, for layers of 16, 8 units") as caught:
        configured(method="splitmix", splitmix_atom="1/16")
    assert caught.value.key == "splitmix-atom"


@pytest.mark.parametrize(
    ("keys", "axis", "atoms"),
    [
        ({"widths": "16, 12", "splitmix_atom": "1/8"}, "'hidden2' has 12", "1, 1/2, 1/4"),
        ({"widths": "12, 18", "splitmix_atom": "1/4"}, "'hidden2' has 18", "1, 1/2, 1/3, 1/6"),
        (
            {"model": "vit", "widths": "16, 32", "blocks": "1", "splitmix_atom": "1/8", "tiers": "a:1"},
            "'head1' has 4",
            "1, 1/2, 1/4",
        ),
        (
            {
                "model": "vit",
                "widths": "16, 32",
                "blocks": "1",
                "splitmix_atom": "1/8",
                "tiers": "a:1",
                "whole_heads": True,
            },
            "'head1' has 4",
            "1, 1/2, 1/4",
        ),
        (
            {"model": "cnn", "widths": "8, 8, 8, 9", "splitmix_atom": "1/8", "tiers": "a:1"},
            "'conv4' has 9",
            "1",
        ),
    ],
)
def test_an_atom_that_does_not_divide_a_layer(keys: dict[str, Any], axis: str, atoms: str) -> None:
    """Rounded down, eight nets of a layer of 12 would use 8 of its units."""
    with pytest.raises(SettingError) as caught:
        configured(method="splitmix", **keys)
    assert (caught.value.key, caught.value.value) == ("splitmix-atom", keys["splitmix_atom"])
    assert caught.value.allowed == f"one of {atoms}, which divide every layer ({axis})"


def test_auto_divides_every_layer() -> None:
    """Tiers of 1/4 can carry one of four nets; the layers have 12 and 18 units, so there are six."""
    network = configured(method="splitmix", widths="12, 18").network
    assert (network.bases, network.widths) == (6, (2, 3))
    vit = configured(method="splitmix", model="vit", widths="16, 32", blocks="1", whole_heads=True).network
    assert (vit.bases, vit.widths) == (4, (4, 8))
    with pytest.raises(SettingError, match="at least one net, 1/3 of the width") as caught:
        configured(method="splitmix", widths="9, 6")
    assert caught.value.key == "tiers"


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"adversarial": 1.5}, "adversarial"),
        ({"adversarial": -0.1}, "adversarial"),
        ({"adversarial_epsilon": "0"}, "adversarial-epsilon"),
        ({"adversarial_epsilon": "9/8"}, "adversarial-epsilon"),
        ({"adversarial_epsilon": "eight"}, "adversarial-epsilon"),
        ({"adversarial_epsilon": "8/0"}, "adversarial-epsilon"),
        ({"adversarial_steps": 0}, "adversarial-steps"),
        ({"evaluate_robust": -1}, "evaluate-robust"),
        ({"dual_norm": "yes"}, "dual-norm"),
        ({"dual_norm": "on"}, "dual-norm"),
        ({"robust_mix": 0.5}, "robust-mix"),
        ({"robust_mix": 0.5, "adversarial": 1.0}, "robust-mix"),
        ({"robust_mix": 0.5, "adversarial": 0.5, "dual_norm": "off"}, "robust-mix"),
        ({"adversarial": 0.5, "dataset": "har", "model": "cnn1d"}, "adversarial"),
        ({"evaluate_robust": 5, "dataset": "sst2", "model": "gru"}, "evaluate-robust"),
    ],
)
def test_adversarial_settings_that_cannot_be(keys: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingError) as caught:
        resolve(keys_of(**keys), check_files=False)
    assert caught.value.key == key
    assert caught.value.allowed
