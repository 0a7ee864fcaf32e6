"""The scores of a round: the global network and every tier's on the whole test set."""

from __future__ import annotations

from time import perf_counter

from flwr.serverapp import Grid

from models.statistics import channels_of_part
from server_app.evaluation import Evaluator
from server_app.metrics import Headline
from server_app.rows import Row, row_of_scores
from server_app.tier_records import GLOBAL, Moments, cluster_moments, evaluated_tiers, kept_plans
from strategies import FlowerStrategy


def evaluate(
    strategy: FlowerStrategy,
    grid: Grid,
    *,
    evaluator: Evaluator,
    headline: Headline,
    number: int,
    seconds: dict[str, float],
    last: bool,
) -> tuple[Row, Moments]:
    """Score the global network and every tier's on the whole test set.

    Args:
        strategy: whose networks.
        grid: where statistics of static batch norm are asked for.
        evaluator: of the test set.
        headline: which of the scores a run goes by.
        number: of the round.
        seconds: told how long it took.
        last: whether networks that nothing reports on are to be used as well.

    Returns:
        What the round's line says, and the moments that it took.
    """
    context, moments = strategy.context(number), Moments()
    plans = kept_plans(strategy, context)
    # Tiers that keep the same part are asked for statistics and scored once.
    speaker = {plan: name for name, plan in reversed(plans.items())}
    began = perf_counter()
    if channels_of_part(strategy.network, plans[GLOBAL]):
        asked = [tier for tier in evaluated_tiers(strategy, context) if speaker[plans[tier.name]] == tier.name]
        pooled = strategy.runner.statistics(grid, number, asked)
        moments = Moments(number, {name: speaker[plan] for name, plan in plans.items()}, pooled)
        if last:
            moments = with_other_clusters(strategy, grid, moments, number)
    seconds["statistics"] = perf_counter() - began
    began = perf_counter()
    state, parts = strategy.state, {plan: strategy.part(context, plan, strategy.state) for plan in speaker}
    scores = evaluator.scores(state, {plan: (parts[plan], moments.of(name)) for plan, name in speaker.items()})
    seconds["evaluate"] = perf_counter() - began
    of_tier = {name: scores[plan] for name, plan in plans.items()}
    as_row = {name: row_of_scores(score, headline.name) for name, score in of_tier.items() if score is not None}
    overall = as_row.pop(GLOBAL, {"loss": None, "accuracy": None})
    return {**overall, "tiers": as_row}, moments


def with_other_clusters(strategy: FlowerStrategy, grid: Grid, moments: Moments, number: int) -> Moments:
    """And those of networks that nothing reports on, but that are to be used when the run has ended."""
    if not moments.pooled:
        return moments
    asked = [tier for tier in evaluated_tiers(strategy, strategy.context(number)) if tier.name in moments.pooled]
    return Moments(number, moments.speakers, {**moments.pooled, **cluster_moments(strategy, grid, number, asked)})
