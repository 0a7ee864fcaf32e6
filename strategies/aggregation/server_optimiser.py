"""A server that takes another step than the mean difference, with tensors that it remembers of every parameter.

    (step, slots) ← rule(mean difference, slots),        w ← w + step        tensor by tensor

Running statistics of batch norm are no parameters: they are plain means. A coordinate that nobody sent keeps its value,
and what is remembered of it, bit for bit; so does a rule that returns the mean difference itself change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from strategies.aggregation.coverage import touched

Tensors = Mapping[str, Tensor]
Rule = Callable[[Tensor, Tensors], tuple[Tensor, Tensors]]


def initial_slots(layout: Layout, slots: Sequence[str]) -> dict[str, Tensor]:
    """Zeros for every slot of every parameter, by "slot/parameter"."""
    parameters = {name: tensor.shape for name, tensor in layout.tensors.items() if not tensor.buffer}
    return {f"{slot}/{name}": torch.zeros(shape) for slot in slots for name, shape in parameters.items()}


def optimise(
    rule: Rule, slots: Sequence[str], *, before: Tensors, after: Tensors, average: PartialAverage, remembered: Tensors
) -> dict[str, Tensor]:
    """Put the step of a rule in the place of the mean difference.

    Args:
        rule: gives the step and the new slots of a tensor, from its mean difference and its slots by name.
        slots: their names.
        before: the state that the differences refer to.
        after: the state with their mean added; changed in place.
        average: what made it.
        remembered: the slots, see `initial_slots`.

    Returns:
        The new slots.
    """
    found = dict(remembered)
    parameters = {name: tensor for name, tensor in after.items() if f"{slots[0]}/{name}" in remembered}
    for name, held in touched(average, parameters).items():
        mean = after[name] - before[name]
        step, new = rule(mean, {slot: remembered[f"{slot}/{name}"] for slot in slots})
        # Subtracted from what is there, so that a step that is the mean leaves the very bits.
        after[name].copy_(torch.where(held, after[name] - (mean - step), after[name]))
        found |= {f"{slot}/{name}": torch.where(held, new[slot], remembered[f"{slot}/{name}"]) for slot in slots}
    return found
