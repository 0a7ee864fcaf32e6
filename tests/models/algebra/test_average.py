"""Laws of PartialAverage: new = previous + Σ aΔ / Σ b per coordinate, over those who held it."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import Layout, NetworkSpec, PartialAverage, Plan, Submodel, completed, flatten, layout
from models.algebra import block_scatter
from models.algebra.plans import submodel
from tests.models.generators import (
    RATES,
    Client,
    all_bits,
    assert_near,
    averaged,
    clients,
    fold,
    layouts,
    parts_of,
    per_coordinate,
    plain_average,
    plain_sums,
    plans,
    runs_along_classes,
    state_of,
)


@given(st.data(), layouts())
def test_it_is_the_plain_loop_over_index_grids(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    expected = plain_average(layout, previous, replies)
    for name, tensor in averaged(layout, previous, replies).items():
        assert_near(tensor, expected[name])


@given(st.data(), layouts())
def test_coverage_counts_are_the_plain_loops(data: st.DataObject, layout: Layout) -> None:
    replies = data.draw(clients(layout))
    average = fold(PartialAverage(layout), layout, replies)
    _, _, holders = plain_sums(layout, replies)
    for name, counts in per_coordinate(average, layout).items():
        assert torch.equal(counts.double(), holders[name]), name
        assert average.unit_size(name) * average.coverage()[name].numel() == holders[name].numel()


@given(st.data(), layouts())
def test_what_nobody_held_keeps_its_bits(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    new, (_, _, holders) = averaged(layout, previous, replies), plain_sums(layout, replies)
    for name, tensor in new.items():
        untouched = holders[name] == 0
        assert torch.equal(tensor[untouched].view(torch.int32), previous[name][untouched].view(torch.int32)), name


@given(st.data(), layouts())
def test_a_zero_difference_changes_nothing(data: st.DataObject, layout: Layout) -> None:
    """Extract, do not train, merge: the identity."""
    previous = state_of(layout, 0)
    replies = []
    for client in data.draw(clients(layout)):
        start = flatten(submodel(layout, client.plan).gather(previous))
        replies.append(dataclasses.replace(client, difference=start - start))
    for name, tensor in averaged(layout, previous, replies).items():
        assert torch.equal(tensor, previous[name])


@given(st.data(), layouts())
def test_order_changes_nothing_beyond_float_order(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    shuffled = data.draw(st.permutations(replies))
    one, other = (fold(PartialAverage(layout), layout, order) for order in (replies, shuffled))
    assert all_bits(one.coverage()) == all_bits(other.coverage())
    result = other.finish(previous)
    for name, tensor in one.finish(previous).items():
        assert_near(tensor, result[name])


@given(st.data(), layouts(), st.integers(1, 5))
def test_one_tier_is_the_plain_mean_on_its_block(data: st.DataObject, layout: Layout, count: int) -> None:
    plan, previous = data.draw(plans(layout)), state_of(layout, 0)
    part = submodel(layout, plan)
    differences = [torch.randn(part.numel, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    new = averaged(layout, previous, [Client(plan=plan, difference=difference) for difference in differences])
    mean = flatten(part.gather(previous)) + torch.stack(differences).mean(0)
    assert_near(flatten(part.gather(new)), mean)


@given(layouts(), st.integers(1, 6))
def test_full_width_is_unweighted_fedavg_bit_for_bit(layout: Layout, count: int) -> None:
    previous, total = state_of(layout, 0), torch.zeros(layout.parameters)
    replies = [
        Client(plan=Plan(), difference=torch.randn(layout.parameters, generator=torch.Generator().manual_seed(i)))
        for i in range(count)
    ]
    for client in replies:
        total += client.difference
    expected = flatten(previous) + total / count
    assert torch.equal(flatten(averaged(layout, previous, replies)), expected)


@given(st.data(), layouts(), st.sampled_from((0.5, 8.0, 3.7)))
def test_scaling_all_weights_changes_nothing(data: st.DataObject, layout: Layout, factor: float) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    scaled = [
        dataclasses.replace(c, numerator=c.numerator * factor, denominator=c.denominator * factor) for c in replies
    ]
    one, other = averaged(layout, previous, replies), averaged(layout, previous, scaled)
    if factor != 3.7:  # powers of two are exact
        assert all_bits(one) == all_bits(other)
    for name, tensor in one.items():
        assert_near(tensor, other[name])


@given(st.data(), layouts())
def test_unequal_weights_are_not_ignored(data: st.DataObject, layout: Layout) -> None:
    plan = data.draw(plans(layout))
    previous = {name: tensor * 0 for name, tensor in state_of(layout, 0).items()}
    one = torch.ones(submodel(layout, plan).numel)
    new = averaged(
        layout,
        previous,
        [
            Client(plan=plan, difference=one, numerator=3.0, denominator=3.0),
            Client(plan=plan, difference=-one, numerator=1.0, denominator=1.0),
        ],
    )
    assert torch.equal(flatten(submodel(layout, plan).gather(new)), one / 2)


@given(st.data(), layouts())
def test_writing_into_the_previous_state_gives_the_same(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    expected = averaged(layout, previous, replies)
    fold(PartialAverage(layout), layout, replies).finish(previous, out=previous)
    assert all_bits(previous) == all_bits(expected)


@given(st.data(), layouts())
def test_rounds_leave_no_residue(data: st.DataObject, layout: Layout) -> None:
    """A used average gives the bits of a new one: a resumed run is the uninterrupted run."""
    used, previous = PartialAverage(layout), state_of(layout, 0)
    for _ in range(data.draw(st.integers(1, 3))):
        fold(used, layout, data.draw(clients(layout)))
        if data.draw(st.booleans()):  # an abandoned round is never finished
            used.finish(previous)
        used.reset()
        assert used.added == 0
    if data.draw(st.booleans()):
        assert all_bits(used.finish(previous)) == all_bits(previous)
        assert not any(counts.any() for counts in used.coverage().values())
    replies = data.draw(clients(layout))
    fresh = fold(PartialAverage(layout), layout, replies)
    fold(used, layout, replies)
    assert all_bits(used.finish(previous)) == all_bits(fresh.finish(previous))
    assert all_bits(used.coverage()) == all_bits(fresh.coverage())


@given(st.data(), layouts(), st.integers(0, 3))
def test_rounds_of_the_same_parts_are_rounds_of_new_ones(data: st.DataObject, layout: Layout, least: int) -> None:
    """What is kept of a part, its places and its sum's, serves rounds in any order of any of the parts, bit for bit."""
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    used, parts, chance = PartialAverage(layout), parts_of(layout, replies), data.draw(st.randoms())
    for number in range(3):
        chosen = chance.sample(replies, chance.randint(1, len(replies)))
        for client in chosen:
            if chance.random() < 0.3:
                with pytest.raises(ValueError, match="not finite"):
                    used.add(parts[client.plan], client.difference * torch.nan)
            used.add(parts[client.plan], client.difference, client.numerator, client.denominator, client.labels)
        fresh = fold(PartialAverage(layout), layout, chosen)
        if number == 1:  # everything is in its place before the state's turn comes
            assert all_bits(used.denominators()) == all_bits(fresh.denominators())
        assert all_bits(used.finish(previous, least=least)) == all_bits(fresh.finish(previous, least=least))
        assert all_bits(used.coverage()) == all_bits(fresh.coverage())
        used.reset()


def test_a_part_may_have_another_part_s_buffer_in_the_next_round() -> None:
    declared = layout(completed(NetworkSpec("mlp", (1, 2, 2), 3, widths=(8, 8))))
    parts = [submodel(declared, Plan(rate)) for rate in (Fraction(1, 4), Fraction(1, 2), Fraction(1))]
    used, previous, draws = PartialAverage(declared), state_of(declared, 0), torch.Generator().manual_seed(1)
    for order in ((0,), (1, 0, 1), (0, 1, 2, 0), (2, 1), (0, 0)):
        fresh = PartialAverage(declared)
        for i in order:
            difference = torch.randn(parts[i].numel, generator=draws)
            for average in (used, fresh):
                average.add(parts[i], difference, 3.0, 7.0)
        assert all_bits(used.finish(previous)) == all_bits(fresh.finish(previous))
        assert all_bits(used.coverage()) == all_bits(fresh.coverage())
        used.reset()


@given(st.data(), layouts())
def test_looking_at_coverage_between_adds_changes_nothing(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    average, parts = PartialAverage(layout), parts_of(layout, replies)
    for client in replies:
        average.add(parts[client.plan], client.difference, client.numerator, client.denominator, client.labels)
        average.coverage()
    expected = plain_average(layout, previous, replies)
    for name, tensor in average.finish(previous).items():
        assert_near(tensor, expected[name])


@given(st.data(), layouts(), st.sampled_from((0, 1, 3)))
def test_boxes_and_index_vectors_agree(data: st.DataObject, layout: Layout, most: int) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    boxes = fold(PartialAverage(layout), layout, replies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_scatter, "MOST_BOXES", max(1, most))
        indexed = fold(PartialAverage(layout), layout, replies)
        assert all_bits(indexed.coverage()) == all_bits(boxes.coverage())
        result = indexed.finish(previous)
    for name, tensor in boxes.finish(previous).items():
        assert_near(tensor, result[name])


@given(layouts(), st.data())
def test_only_rows_of_the_clients_labels_change(layout: Layout, data: st.DataObject) -> None:
    classes = layout.axes["classes"].size
    labels = data.draw(st.lists(st.integers(0, classes - 1), unique=True).map(tuple))
    rate, previous = data.draw(st.sampled_from(RATES)), state_of(layout, 0)
    part = submodel(layout, Plan(rate))
    new = averaged(layout, previous, [Client(plan=Plan(rate), difference=torch.ones(part.numel), labels=labels)])
    for name, indices in part.items():
        changed = indices.gather(new[name]) != indices.gather(previous[name])
        for i, dim in enumerate(layout.tensors[name].dims):
            if runs_along_classes(dim):
                where = torch.arange(changed.shape[i]) // dim.inner % classes
                allowed = torch.isin(where, torch.tensor(labels, dtype=torch.int64))
                rows = changed.movedim(i, 0).reshape(len(where), -1)
                assert torch.equal(rows.any(1), allowed)
                assert torch.equal(rows.all(1), allowed)
                break
        else:
            assert changed.all()


@pytest.mark.parametrize("step", [1, -1])
def test_rolling_windows_cover_equally_through_the_average(step: int) -> None:
    declared = layout(completed(NetworkSpec("mlp", (1, 2, 2), 3, widths=(6, 6))))
    average = PartialAverage(declared)
    for number in range(6):
        part = submodel(declared, Plan(Fraction(2, 5), shift=step * number))
        average.add(part, torch.zeros(part.numel))
    coverage = average.coverage()
    assert coverage["stages.0.0.bias"].flatten().tolist() == [3.0] * 6
    assert coverage["exits.2.classifier.weight"].flatten().tolist() == [3.0] * 18
    assert coverage["exits.2.classifier.bias"].flatten().tolist() == [6.0] * 3


def test_a_sum_is_never_that_of_a_submodel_which_has_gone() -> None:
    """Submodels made for one reply each, more than are remembered: their ids are given again."""
    declared = layout(completed(NetworkSpec("mlp", (1, 2, 2), 3, widths=(6, 6))))
    rates = [Fraction(number, 6) for number in (1, 2, 3, 4, 5)]
    draws, together, alone = torch.Generator().manual_seed(0), PartialAverage(declared), PartialAverage(declared)
    kept = [submodel(declared, Plan(rate)) for rate in rates]
    for number in torch.randint(len(rates), (300,), generator=draws).tolist():
        difference = torch.randn(kept[number].numel, generator=draws)
        together.add(Submodel(kept[number].blocks, kept[number].sizes), difference)
        alone.add(kept[number], difference)
    previous = state_of(declared, 0)
    expected = alone.finish(previous)
    for name, tensor in together.finish(previous).items():
        assert_near(tensor, expected[name])
