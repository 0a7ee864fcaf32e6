"""The scores of a round: the global network and every tier's on the whole test set.

Nodes are asked first for what a score needs of them (`survey`); the rest (`evaluate`) asks nobody.
"""

from __future__ import annotations

from time import perf_counter

from flwr.serverapp import Grid

from models.algebra.plans import Plan
from models.statistics import channels_of_part
from server_app.evaluation import Evaluator
from server_app.metrics import Headline
from server_app.rows import Row, row_of_scores
from server_app.tier_records import GLOBAL, Moments, cluster_moments, evaluated_tiers, kept_plans
from strategies import FlowerStrategy
from strategies.exchange.report import RoundReport


def survey(strategy: FlowerStrategy, grid: Grid, report: RoundReport, *, last: bool) -> Moments:
    """Ask nodes for the statistics of static batch norm, where a network has any.

    Args:
        strategy: whose networks.
        grid: where the nodes are.
        report: of the round; told how long it took.
        last: whether networks that nothing reports on are to be used as well.
    """
    number, moments, began = report.number, Moments(), perf_counter()
    context = strategy.context(number)
    plans = kept_plans(strategy, context)
    speaker = _speakers(plans)
    if channels_of_part(strategy.network, plans[GLOBAL]):
        asked = [tier for tier in evaluated_tiers(strategy, context) if speaker[plans[tier.name]] == tier.name]
        pooled = strategy.runner.statistics(grid, number, asked)
        moments = Moments(number, {name: speaker[plan] for name, plan in plans.items()}, pooled)
        if last:
            moments = with_other_clusters(strategy, grid, moments, number)
    report.seconds["statistics"] = perf_counter() - began
    return moments


def evaluate(
    strategy: FlowerStrategy, moments: Moments, report: RoundReport, *, evaluator: Evaluator, headline: Headline
) -> Row:
    """Score the global network and every tier's on the whole test set.

    Args:
        strategy: whose networks.
        moments: that they are scored with.
        report: of the round; told how long it took.
        evaluator: of the test set.
        headline: which of the scores a run goes by.

    Returns:
        What the round's line says.
    """
    context, began = strategy.context(report.number), perf_counter()
    plans = kept_plans(strategy, context)
    speaker = _speakers(plans)
    state, parts = strategy.state, {plan: strategy.part(context, plan, strategy.state) for plan in speaker}
    scores = evaluator.scores(state, {plan: (parts[plan], moments.of(name)) for plan, name in speaker.items()})
    report.seconds["evaluate"] = perf_counter() - began
    of_tier = {name: scores[plan] for name, plan in plans.items()}
    as_row = {name: row_of_scores(score, headline.name) for name, score in of_tier.items() if score is not None}
    overall = as_row.pop(GLOBAL, {"loss": None, "accuracy": None})
    return {**overall, "tiers": as_row}


def _speakers(plans: dict[str, Plan]) -> dict[Plan, str]:
    """Of tiers that keep the same part, the one that is asked about and scored for them all."""
    return {plan: name for name, plan in reversed(plans.items())}


def with_other_clusters(strategy: FlowerStrategy, grid: Grid, moments: Moments, number: int) -> Moments:
    """And those of networks that nothing reports on, but that are to be used when the run has ended."""
    if not moments.pooled:
        return moments
    asked = [tier for tier in evaluated_tiers(strategy, strategy.context(number)) if tier.name in moments.pooled]
    return Moments(number, moments.speakers, {**moments.pooled, **cluster_moments(strategy, grid, number, asked)})
