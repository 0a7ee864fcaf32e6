"""Which part a tier keeps and gets: what the method says, on a base in the precision that the tier holds it in."""

from __future__ import annotations

from dataclasses import replace

from models.algebra.plans import Plan
from strategies.context import RoundContext
from strategies.method import Method
from strategies.tiers.tier import Tier


def kept_part(method: Method, context: RoundContext, tier: Tier) -> Plan:
    """Which part of the state after a round a device of this tier keeps and uses; see `Method.kept_plan`."""
    return on_base(method.kept_plan(context, tier), tier)


def on_base(plan: Plan, tier: Tier) -> Plan:
    """A plan on the tier's base; the plan itself where tiers hold none in a precision of their own."""
    return replace(plan, precision=tier.precision) if tier.precision else plan
