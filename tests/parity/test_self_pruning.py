"""HetLoRA's self-pruning: the term, when ranks are given up, what the server believes, that runs repeat themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from client_app.client_state import ClientState
from client_app.objectives import ObjectiveContext, objective
from client_app.objectives.self_pruning import SelfPruning
from models import NetworkSpec, base_store
from models.adapters.adapter import Adapter
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.bases import drawn_base
from models.networks.build import layout, part_of, submodel
from models.randomness import generator
from protocol import AdversarialTraining, WireError, Work
from server_app.folder import checkpoint
from strategies import METHODS, FlowerStrategy, Settings
from strategies.exchange.assignment import Participant
from strategies.exchange.update import AcceptedUpdate
from strategies.tiers.tier import parse_ranks
from tests.parity.rounds import node
from tests.support import Player, context_of

RANK = 8
SPEC = NetworkSpec("mlp", (1, 4, 4), 5, widths=(9, 7), norm="none", adapter=Adapter(rank=RANK, alpha=8.0))
SETTINGS = Settings(tiers=parse_ranks("a:8, b:4, c:1", RANK), nodes=4)
TOLD: Mapping[str, Any] = {"strength": 0.5, "share": 0.7, "least": 1}


def about(rank: int, settings: Mapping[str, Any] = TOLD) -> ObjectiveContext:
    spec = replace(SPEC, base=base_store.hold(drawn_base(SPEC, 1)))
    draws = torch.Generator().manual_seed(3)
    state = {name: torch.randn(tensor.shape, generator=draws) for name, tensor in layout(spec).tensors.items()}
    plan = Plan(Fraction(rank, RANK))
    return ObjectiveContext(
        module=part_of(spec, plan, state),
        spec=spec,
        plan=plan,
        labels=tuple(range(5)),
        settings=settings,
        draws=generator(0, 1, 7, "objective"),
        memory=ClientState(context_of(), 7, 1, checkpoint=0),
    )


def tail(setting: ObjectiveContext, kept: int) -> torch.Tensor:
    """As the paper has it, pair by pair."""
    parameters, total = dict(setting.module.named_parameters()), torch.zeros(())
    for pair in layout(setting.spec).pairs:
        b, a = parameters[pair.b], parameters[pair.a]
        total = total + (b[:, kept:] ** 2).sum().sqrt() * (a[kept:] ** 2).sum().sqrt()
    return total


def test_the_term_is_the_product_of_the_last_ranks_norms() -> None:
    setting, draws = about(4), torch.Generator().manual_seed(5)
    x, y = torch.randn(6, 1, 4, 4, generator=draws), torch.randint(5, (6,), generator=draws)
    found, logits = objective("self-pruning", setting)(x, y)
    assert torch.allclose(found, F.cross_entropy(setting.module(x), y) + 0.5 * tail(setting, 2))  # ⌊0.7·4⌋
    assert torch.equal(logits, setting.module(x))


@pytest.mark.parametrize(("factor", "rank"), [(0.9, 5), (1.0, 8), (1.1, 8)])
def test_ranks_are_given_up_where_their_norms_have_fallen(factor: float, rank: int) -> None:
    setting = about(8)
    pruning, parameters = SelfPruning(setting), dict(setting.module.named_parameters())
    with torch.no_grad():
        for pair in layout(setting.spec).pairs:
            parameters[pair.b][:, 5:].mul_(factor)
    assert pruning.settle() == {"rank": float(rank)}
    for pair in layout(setting.spec).pairs:
        assert bool(parameters[pair.b][:, 5:].any()) is (rank == 8)
        assert bool(parameters[pair.a][5:].any()) is (rank == 8)
        assert parameters[pair.a][:5].all()


def test_the_least_rank_stays() -> None:
    for rank, least in ((1, 1), (4, 4)):
        setting = about(rank, {**TOLD, "least": least})
        pruning = SelfPruning(setting)
        with torch.no_grad():
            for parameter in setting.module.parameters():
                parameter.mul_(0.5)
        assert pruning.settle() == {"rank": float(rank)}


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"share": 1.0}, {"least": 0}, {"share": "much"}])
def test_settings_out_of_range_are_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(WireError, match="self-pruning settings"):
        objective("self-pruning", about(4, {**TOLD, **wrong}))


# ---- the server ------------------------------------------------------------------------------------------------------


def strategy_of(**options: Any) -> FlowerStrategy:
    return METHODS["hetlora"](SPEC, SETTINGS, **options)


def asked(strategy: FlowerStrategy, values: Any, tier: int = 0) -> Plan:
    one = Participant(node=node(3), tier=SETTINGS.tiers[tier], round_number=1)
    ((plan,), _) = strategy.plan_round(strategy.context(1), values, [one])
    return plan


def heard(strategy: FlowerStrategy, values: Any, held: int, said: float | None) -> Any:
    """What the server remembers after node 3, which held so many ranks, said what it has left."""

    class Assignment:
        plan = Plan(Fraction(held, RANK))

    Assignment.node = node(3)  # type: ignore[attr-defined]
    metrics = {"num-examples": 1.0} | ({} if said is None else {"rank": said})
    accepted = AcceptedUpdate(assignment=Assignment(), metrics=metrics)  # type: ignore[arg-type]
    return strategy.learnt(strategy.context(1), values, [accepted])


def test_a_device_gets_no_more_than_it_has_left() -> None:
    strategy = strategy_of(pruning=0.1, share=0.7)
    values = strategy.initial_values()
    assert asked(strategy, values) == Plan()
    values = heard(strategy, values, 8, 5.0)
    assert asked(strategy, values) == Plan(Fraction(5, 8))
    assert asked(strategy, values, tier=1) == Plan(Fraction(4, 8))  # its tier has fewer
    assert asked(strategy, heard(strategy, values, 5, 3.0)) == Plan(Fraction(3, 8))


def test_a_rank_that_all_its_holders_gave_up_stays_as_it_was() -> None:
    """With zeros on both sides it would never learn again."""
    strategy = strategy_of(pruning=0.1, share=0.7)
    layout_of_all, state = strategy.runner.layout, strategy.runner.main
    state.flat.copy_(torch.randn(state.flat.shape, generator=torch.Generator().manual_seed(1)))
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    for rank, kept in ((8, 5), (4, 4)):
        part = submodel(strategy.network, Plan(Fraction(rank, RANK)))
        left = {name: tensor.clone() for name, tensor in part.gather(before).items()}
        for pair in layout_of_all.pairs:
            left[pair.b][:, kept:] = 0.0
            left[pair.a][kept:] = 0.0
        difference = torch.cat([(left[name] - tensor).flatten() for name, tensor in part.gather(before).items()])
        state.average.add(part, difference, 1.0, 1.0)
    state.average.finish(state.tensors, out=state.tensors)
    strategy.refine(strategy.context(1), before, state.tensors, state.average, {})
    for pair in layout_of_all.pairs:
        assert torch.equal(state.tensors[pair.a][5:], before[pair.a][5:])
        assert torch.equal(state.tensors[pair.b][:, 5:], before[pair.b][:, 5:])
        assert state.tensors[pair.a][4].norm() < 0.9 * before[pair.a][4].norm()  # one of two holds it, by its weight


@pytest.mark.parametrize("said", [None, 8.0, 7.0, 4.9, 1.0, 0.0, -1.0, 1e300])
def test_only_the_next_smaller_rank_is_believed(said: float | None) -> None:
    strategy = strategy_of(pruning=0.1, share=0.7)
    assert asked(strategy, heard(strategy, strategy.initial_values(), 8, said)) == Plan()


def test_without_the_setting_nothing_is_remembered() -> None:
    strategy = strategy_of()
    assert strategy.initial_values() == {} == heard(strategy, {}, 8, 5.0)
    assert strategy.objective(strategy.context(1), SETTINGS.tiers[0]).name == "cross-entropy"
    assert asked(strategy, {}, tier=1) == strategy.plan(strategy.context(1), node(3), SETTINGS.tiers[1])


def test_adversarial_inputs_are_refused() -> None:
    work = Work(adversarial=AdversarialTraining(weight=0.5))
    with pytest.raises(SettingError, match="hetlora-pruning"):
        METHODS["hetlora"](SPEC, replace(SETTINGS, work=work), pruning=0.1)
    METHODS["hetlora"](SPEC, replace(SETTINGS, work=work))


def test_a_run_prunes_and_a_resumed_one_repeats_it(play: Player) -> None:
    keys: dict[str, Any] = {"method": "hetlora", "hetlora_pruning": 1.0, "hetlora_share": 0.6}
    whole = play(**keys, num_server_rounds=4)
    half = play(**keys, num_server_rounds=2)
    resumed = play(**keys, num_server_rounds=4, resume=str(half.path))
    assert resumed.hash == whole.hash
    saved = checkpoint.newest(whole.path / "checkpoints")
    assert saved is not None
    ranks = saved.values["strategy"]["method"]["ranks"]
    assert ranks
    assert set(ranks.values()) <= {1, 2}
    assert whole.rows[-1]["bytes_up"] < whole.rows[0]["bytes_up"]
