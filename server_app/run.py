"""One run on the server: strategy, evaluation, checkpoints, metrics, from the first line to the final table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from logging import WARNING
from time import perf_counter
from typing import Any, Literal

import psutil
from flwr.common import log
from flwr.serverapp import Grid

from data import evaluated_on, load
from models.cost import cost_of
from models.device import device_named
from models.losses import REGRESSION
from models.networks.build import build_part, initial_state
from models.randomness import torch_generator
from models.statistics import needs_statistics
from protocol import record_of
from server_app.config.resolve import RunConfig
from server_app.evaluation import Evaluator
from server_app.folder import checkpoint
from server_app.folder.events import Events
from server_app.folder.progress import Progress, final_table, print_line
from server_app.folder.run_folder import RunFolder
from server_app.folder.settle import settle
from server_app.folder.tiers_file import TierRecords
from server_app.metrics import Measure, value_of
from server_app.report.page import write_report
from server_app.rows import Row, row_of, row_of_scores
from server_app.task_facts import decide, save_facts, saved_facts
from server_app.tier_records import GLOBAL, Moments, cluster_moments, evaluated_tiers, kept_plans, tier_records
from strategies import FlowerStrategy
from strategies.exchange.report import RoundReport
from strategies.flower_adapter import NothingLearnt

PATIENCE = 5  # rounds in a row without enough replies after which a run gives up: dead actors stay dead


class _Enough(Exception):
    """The run has reached its target, or stopped getting better."""


class Run:
    """A run of one configuration on one grid.

    Args:
        config: checked configuration.
        grid: where the nodes are.
        write: takes each line of output.

    Raises:
        SettingError: the run folder cannot be used, or the run to resume is another one.
    """

    def __init__(self, config: RunConfig, grid: Grid, write: Callable[[str], None] = print_line) -> None:
        self.grid, self._write = grid, write
        saved = saved_facts(config.folder) if config.resume else None
        facts = saved or config.facts or decide(config.data, config.settings, grid)
        config = self.config = config.for_task(facts)
        self.strategy: FlowerStrategy = config.strategy()
        self.folder = _folder(config)
        save_facts(self.folder.path, facts)
        test, robust = evaluated_on(config.data, facts), config.robust
        measure = Measure(facts=facts, headline=config.headline, more=config.more_metrics)
        self._evaluator = Evaluator(
            self.strategy.network,
            test,
            device_named(config.settings.work.device),
            mix=robust.mix,
            attack=(lambda: robust.attack(load(config.data, facts))) if robust.examples else None,
            attacked=robust.rows(len(test)),
            measure=measure if measure.needed else None,
        )
        self._progress, self._events = (
            Progress(config.rounds, write, headline=config.headline),
            Events(self.folder.path, _warn),
        )
        self._inputs, self._moments = facts, Moments()
        self._traffic: dict[str, Any] = {}
        self._accepted = self._in_vain = self._ended = 0
        self._unwritten: list[Row] = []
        self._values: list[float] = []  # of the headline, in every round that was evaluated
        self._enough = ""

    def execute(self) -> Row:
        """Run to the end and return the summary.

        Raises:
            NothingLearnt: every round was abandoned.
        """
        with self.folder:
            try:
                first = self._first_round()
                self._write(f"run folder: {self.folder.path}")
                with suppress(_Enough):
                    self.strategy.start(
                        self.grid,
                        record_of(self.strategy.state),
                        self._ended if self._enough else self.config.rounds,
                        first_round=first,
                        after_round=self._after,
                    )
                if first <= self.config.rounds and not self._accepted:  # nor before it was resumed
                    raise NothingLearnt("no round had the replies it needed; see rejected in metrics.jsonl")
                if self.folder.model.round != self._ended:  # the last checkpoint could not be written, or there is none
                    self._write_model()
                summary = self._summary("finished")  # last: who reads it finds the model
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt | SystemExit)
                with suppress(OSError, ValueError):  # the error itself matters more than a full disk
                    settle(self.folder, checkpoint.newest(self.folder.checkpoints))
                    self._summary("stopped" if stopped else "failed", _one_line(error))
                    write_report(self.folder.path)
                raise
            finally:
                self._events.close()
            write_report(self.folder.path)
            rates = {tier.name: tier.rate for tier in self.strategy.settings.tiers}
            for line in final_table(summary, self.folder.path, rates).splitlines():
                self._write(line)
        return summary

    def _first_round(self) -> int:
        """Take the initial state, or that of the newest checkpoint; return the number of the next round."""
        strategy = self.strategy
        found = checkpoint.newest(self.folder.checkpoints, _warn) if self.config.resume else None
        if found is None:
            draws = torch_generator(self.config.data.seed, 0, "server", "initial state")
            for name, tensor in initial_state(strategy.network, draws).items():
                strategy.state[name].copy_(tensor)
            if start := self.config.found_start(strategy.runner.layout):
                self._write(start.load_into(strategy.state))
            if self.config.resume:
                self.folder.go_on(self.config.flat, 0)
            self.folder.truncate_metrics(0)
            self.folder.model.remove()
            return 1
        strategy.runner.restore(found.tensors, found.values["strategy"])
        strategy.runner.saved_round = found.round_number
        self._moments = Moments.of_checkpoint(found.tensors, found.values["moments"])
        self._traffic = found.values["traffic"]
        self._accepted = int(found.values["accepted"])
        self._ended = found.round_number
        self.folder.go_on(self.config.flat, self._ended)
        self.folder.truncate_metrics(self._ended)
        for line in settle(self.folder, found):
            self._write(line)
        if self.folder.model.round != self._ended:
            self._write_model()
            self._write(f"the model was not that of round {self._ended}: made again from the checkpoint")
        self._write(f"resuming after round {self._ended}")
        for row in self.folder.metrics():
            self._values += [value for value in [value_of(row)] if value is not None]
        self._enough = self.config.headline.enough(self._values)
        return self._ended + 1

    def _after(self, report: RoundReport) -> None:
        """Evaluate, save, and write the round's line."""
        number, last = report.number, report.number >= self.config.rounds
        self._ended = number
        self._accepted += report.accepted if not report.abandoned else 0
        self._in_vain = self._in_vain + 1 if report.abandoned else 0
        self._traffic.update(report.traffic)
        if not report.abandoned and not report.coverage["round"]:
            few = "every coordinate had too few holders (min-cover, guard-mean), or no reply was left"
            _warn(f"round {number} changed nothing: {few}")
        self._moments = Moments()
        due = last or number % self.config.evaluate_every == 0
        scores = self._evaluate(number, report.seconds, last=last) if due else {}
        if (value := value_of(scores)) is not None:
            self._values.append(value)
            self._enough = self.config.headline.enough(self._values)
        if self._enough and not last:
            last = True
            self._ask_the_other_clusters(number)
        row = row_of(report, shares=self.config.network.task != REGRESSION) | scores
        if report.clusters and report.scores:
            row["clusters"]["local"] = self.strategy.runner.pieces.clusters.local(report.scores)
        began = perf_counter()
        if last or number % self.config.checkpoint_every == 0:
            self._save(number, row)
        row["seconds"]["checkpoint"] = perf_counter() - began
        row["resident_bytes"] = psutil.Process().memory_info().rss
        self._unwritten.append(row)
        self._append_metrics(last=last)
        self._events.write(row)
        self._progress.round(row)
        if self._enough:
            self._write(f"ended after round {number}: {self._enough}")
            raise _Enough
        if self._in_vain >= PATIENCE:
            raise NothingLearnt(f"{PATIENCE} rounds in a row had too few replies; see rejected in metrics.jsonl")

    def _append_metrics(self, *, last: bool) -> None:
        """Write the lines of this round and of those before it that a full disk did not take."""
        try:
            while self._unwritten:
                self.folder.append_metrics(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            if last:
                raise
            _warn(f"metrics of round {self._unwritten[0]['round']}: not written yet ({error})")

    def _ask_the_other_clusters(self, number: int) -> None:
        """Moments of networks that nothing reports on, but that are to be used when the run has ended."""
        strategy, moments = self.strategy, self._moments
        if moments.pooled:
            asked = [
                tier for tier in evaluated_tiers(strategy, strategy.context(number)) if tier.name in moments.pooled
            ]
            pooled = {**moments.pooled, **cluster_moments(strategy, self.grid, number, asked)}
            self._moments = Moments(number, moments.speakers, pooled)

    def _evaluate(self, number: int, seconds: dict[str, float], *, last: bool) -> Row:
        """Score the global network and every tier's on the whole test set."""
        strategy = self.strategy
        context = strategy.context(number)
        plans = kept_plans(strategy, context)
        # Tiers that keep the same part are asked for statistics and scored once.
        speaker = {plan: name for name, plan in reversed(plans.items())}
        began = perf_counter()
        if needs_statistics(build_part(strategy.network, plans[GLOBAL])):
            asked = [tier for tier in evaluated_tiers(strategy, context) if speaker[plans[tier.name]] == tier.name]
            pooled = strategy.runner.statistics(self.grid, number, asked)
            self._moments = Moments(number, {name: speaker[plan] for name, plan in plans.items()}, pooled)
            if last:
                self._ask_the_other_clusters(number)
        seconds["statistics"] = perf_counter() - began
        began = perf_counter()
        state, parts = strategy.state, {plan: strategy.part(context, plan, strategy.state) for plan in speaker}
        scores = {
            plan: self._evaluator.score(state, plan, parts[plan], self._moments.of(name))
            for plan, name in speaker.items()
        }
        seconds["evaluate"] = perf_counter() - began
        of_tier = {name: scores[plan] for name, plan in plans.items()}
        as_row = {
            name: row_of_scores(score, self.config.headline.name)
            for name, score in of_tier.items()
            if score is not None
        }
        overall = as_row.pop(GLOBAL, {"loss": None, "accuracy": None})
        return {**overall, "tiers": as_row}

    def _save(self, number: int, row: Row) -> None:
        """Write model and checkpoint in the order that `server_app.folder.settle` relies on."""
        tensors, values = self.strategy.runner.checkpoint()
        moments, of_tiers = self._moments.checkpoint()
        try:
            hashes = self.folder.model.stage(self.strategy.runner.final_state(), self._tier_records(number))
            saved: dict[str, Any] = {
                "strategy": values,
                "traffic": self._traffic,
                "accepted": self._accepted,
                "costs": self._costs(),
                "rows": [*self._unwritten, row],
                "moments": of_tiers,
                **hashes,
            }
            checkpoint.save(self.folder.checkpoints, number, tensors | moments, saved)
        except (checkpoint.CheckpointError, OSError) as error:  # a full disk must not end the training
            self.folder.model.discard()
            _warn(str(error))
            row["checkpoint_error"] = str(error)
            return
        self.strategy.runner.saved_round = number
        try:
            self.folder.model.commit(number)
        except OSError as error:  # what is staged stays: it is the checkpoint's, and settling gives it its name
            _warn(f"the model of round {number} has not got its name yet ({error})")
            row["checkpoint_error"] = str(error)

    def _write_model(self) -> None:
        """Write the model by itself, of the round that has ended."""
        records = self._tier_records(self._ended)
        self.folder.model.write(self._ended, self.strategy.runner.final_state(), records)

    def _tier_records(self, number: int) -> TierRecords:
        inputs, mix = self._inputs, self.config.robust.mix
        return tier_records(self.strategy, number, inputs=inputs, noise_share=mix, moments=self._moments)

    def _summary(self, status: Literal["finished", "failed", "stopped"], error: str | None = None) -> Row:
        headline, ended = self.config.headline, self._enough if status == "finished" else ""
        return self.folder.write_summary(status, self._costs(), error, headline=headline, ended=ended)

    def _costs(self) -> dict[str, dict[str, int | None]]:
        """What a device of each tier holds, computes and moves in a round."""
        costs: dict[str, dict[str, int | None]] = {}
        for tier in self.strategy.settings.tiers:
            plan = self.strategy.kept_plan(self.strategy.context(1), tier)
            size, moved = cost_of(self.strategy.network, plan), self._traffic.get(tier.name, {})
            costs[tier.name] = {
                "parameters": size.parameters,
                "macs": size.macs,
                "bytes_down": moved.get("down"),
                "bytes_up": moved.get("up"),
            }
        return costs


def _folder(config: RunConfig) -> RunFolder:
    if config.resume:
        return RunFolder.reopen(config.folder, config.flat, config.free)
    folder = RunFolder.create(config.folder)
    folder.write_config(config.flat)
    return folder


def _warn(line: str) -> None:
    log(WARNING, line)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
