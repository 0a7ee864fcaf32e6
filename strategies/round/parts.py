"""Which part a node gets and keeps: what the method says, on a base in the precision that its tier holds it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from models.algebra.plans import Plan
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant
from strategies.method import Method, Values
from strategies.tiers.tier import Tier


def kept_part(method: Method, context: RoundContext, tier: Tier) -> Plan:
    """Which part of the state after a round a device of this tier keeps and uses; see `Method.kept_plan`."""
    return _on_base(method.kept_plan(context, tier), tier)


def parts_of_round(
    method: Method, context: RoundContext, values: Values, participants: Sequence[Participant]
) -> tuple[list[Plan], Values]:
    """Which part each node of a round gets, and what the method remembers; see `Method.plan_round`."""
    plans, values = method.plan_round(context, values, participants)
    return [_on_base(plan, one.tier) for plan, one in zip(plans, participants, strict=True)], values


def _on_base(plan: Plan, tier: Tier) -> Plan:
    return replace(plan, precision=tier.precision) if tier.precision else plan
