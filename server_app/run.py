"""One run on the server: strategy, evaluation, checkpoints, metrics, from the first line to the final table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from logging import WARNING
from time import perf_counter
from typing import Any, Literal

import psutil
from flwr.common import log
from flwr.serverapp import Grid

from data import evaluated_on, load
from models.device import device_like
from models.networks.build import initial_state
from models.randomness import torch_generator
from protocol import NodeId, record_of
from server_app.ahead import as_it_ended, sends_ahead
from server_app.config.resolve import RunConfig
from server_app.evaluation import Evaluator
from server_app.folder import checkpoint
from server_app.folder.kept import KeptRounds
from server_app.folder.progress import Progress, final_table, print_line
from server_app.folder.releases import keep_releases
from server_app.folder.settle import settle
from server_app.folder.tiers_file import TierRecords
from server_app.folder.tracking import Tracking
from server_app.loss_watch import GoBack, LossWatch, guessing
from server_app.metrics import Measure, client_figure, value_of
from server_app.network_facts import network_facts
from server_app.opening import opened
from server_app.report.page import write_report
from server_app.rows import Row, one_line, row_of
from server_app.scoring import evaluate, survey, with_other_clusters
from server_app.task_facts import decide, saved_facts
from server_app.tier_records import Moments, costs_of, tier_records
from strategies import FlowerStrategy
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import Saved
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
        config = self.config = config.for_task(facts).on_base()
        self.strategy: FlowerStrategy = config.strategy()
        self.folder = opened(config, self.strategy, facts)
        test, robust = evaluated_on(config.data, facts), config.robust
        self._client_figure = client_figure(config.headline, facts)
        measure = Measure(facts=facts, headline=config.headline, more=config.more_metrics)
        self._evaluator = Evaluator(
            self.strategy.network,
            test,
            device_like(config.settings.work.device),  # devices may be other machines
            mix=robust.mix,
            attack=(lambda: robust.attack(load(config.data, facts))) if robust.examples else None,
            attacked=robust.rows(len(test)),
            measure=measure if measure.needed else None,
        )
        self._progress = Progress(config.rounds, write, headline=config.headline)
        self._events = Tracking(
            self.folder.path, self.folder.id, tracker=config.tracker, config=config.flat, warn=_warn
        )
        self._inputs, network = facts, self.strategy.network
        self._watch = LossWatch(guessing=guessing(network), most=config.settings.guard.guard_rollbacks)
        self._unwritten: list[Row] = []
        self._ahead = sends_ahead(grid, config)
        self._forget()

    def _forget(self) -> None:
        """Begin anew."""
        self._good = False  # whether the loss of this round is known and good
        self._traffic: dict[str, Any] = {}
        self._accepted = self._in_vain = self._ended = 0
        self._values: list[float] = []  # of the headline, in every round that was evaluated
        self._enough = ""
        self._kept, self._moments = KeptRounds(), Moments()

    def execute(self) -> Row:
        """Run to the end and return the summary.

        Raises:
            NothingLearnt: every round was abandoned.
            LossExploded: and going back did not help.
        """
        with self.folder:
            try:
                first = self._first_round()
                for line in [f"run folder: {self.folder.path}", *network_facts(self.strategy)]:
                    self._write(line)
                while not self._rounds_from(first):
                    first = self._go_back()
                if first <= self.config.rounds and not self._accepted:  # nor before it was resumed
                    raise NothingLearnt("no round had the replies it needed; see rejected in metrics.jsonl")
                if self.folder.model.round != self._ended:  # the last checkpoint could not be written, or there is none
                    self._write_model()
                summary = self._summary("finished")  # last: who reads it finds the model
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt | SystemExit)
                with suppress(OSError, ValueError):  # the error itself matters more than a full disk
                    settle(self.folder, checkpoint.newest(self.folder.checkpoints, run=self.folder.id))
                    self._summary("stopped" if stopped else "failed", one_line(error))
                    write_report(self.folder.path)
                raise
            finally:
                self._events.close()
            write_report(self.folder.path)
            rates = {tier.name: tier.rate for tier in self.strategy.settings.tiers}
            for line in final_table(summary, self.folder.path, rates).splitlines():
                self._write(line)
        return summary

    def _rounds_from(self, first: int) -> bool:
        """Run the rounds to the last one; False if the loss has exploded, and the run is to go back."""
        self.strategy.runner.left_out = self._watch.left_out
        initial, last = record_of(self.strategy.state), self._ended if self._enough else self.config.rounds
        try:
            with suppress(_Enough):
                self.strategy.start(self.grid, initial, last, first_round=first, after_round=self._after)
        except GoBack as exploded:
            checkpoint.drop_after(self.folder.checkpoints, self._kept.good)
            self._watch.go_back(exploded.row)
            return False
        return True

    def _go_back(self) -> int:
        """Take up the last good checkpoint, or begin anew where there is none; return the number of the next round."""
        row, good = self._watch.untold[-1], self._kept.good
        self.strategy = self.config.strategy()  # nothing of what was learnt since then stays
        first = self._take_up(checkpoint.load(self.folder.checkpoints, good) if good else None, keep=True)
        on = f"going on after round {first - 1}, without node {row['without']}, which came furthest"
        _warn(f"round {row['round']}: the loss exploded ({row['loss']:.3g}); {on}")
        return first

    def _first_round(self) -> int:
        """Take the initial state, or that of the newest checkpoint; return the number of the next round."""
        resumed, folder = bool(self.config.resume), self.folder
        found = checkpoint.newest(folder.checkpoints, _warn, run=folder.id) if resumed else None
        if resumed:
            folder.go_on(self.config.flat, found.round_number if found else 0)
        first = self._take_up(found, keep=False)
        if found is not None:
            self._write(f"resuming after round {first - 1}")
        return first

    def _take_up(self, found: checkpoint.Checkpoint | None, *, keep: bool) -> int:
        """Take the state of a checkpoint, or the initial one; return the number of the next round.

        Args:
            found: the checkpoint.
            keep: whether the run has just gone back, and remembers why.
        """
        strategy = self.strategy
        self._unwritten.clear()
        self._forget()
        keep_releases(self.folder.path, strategy.runner.pieces.privacy, found.round_number if found else 0)
        if found is None:
            draws = torch_generator(self.config.data.seed, 0, "server", "initial state")
            for name, tensor in initial_state(strategy.network, draws).items():
                strategy.state[name].copy_(tensor)
            if start := self.config.found_start(strategy.runner.layout):
                self._write(start.load_into(strategy.state))
            self._watch.good = None
            self.folder.truncate_metrics(0)
            self.folder.model.remove()
            return 1
        strategy.runner.restore(found.tensors, found.values["strategy"])
        strategy.runner.saved_round = found.round_number
        self._moments = Moments.of_checkpoint(found.tensors, found.values["moments"])
        self._traffic, self._accepted = found.values["traffic"], int(found.values["accepted"])
        self._kept = KeptRounds.of_json(found.values["kept"])
        self._watch.restore(found.values["watch"], keep=keep)
        self._ended = found.round_number
        self.folder.truncate_metrics(self._ended)
        for line in settle(self.folder, found):
            self._write(line)
        if self.folder.model.round != self._ended:
            self._write_model()
            self._write(f"the model was not that of round {self._ended}: made again from the checkpoint")
        for row in self.folder.metrics():
            self._values += [value for value in [value_of(row)] if value is not None]
        self._enough = self.config.headline.enough(self._values)
        return self._ended + 1

    def _after(self, report: RoundReport) -> Callable[[], None] | None:
        """Take in a round. What then asks nobody is done at once, or returned: while the next one's devices train."""
        number, last = report.number, report.number >= self.config.rounds
        self._ended = number
        self._accepted += report.accepted if not report.abandoned else 0
        self._in_vain = self._in_vain + 1 if report.abandoned else 0
        self._traffic.update(report.traffic)
        if why := report.changed_nothing():
            _warn(f"round {number} changed nothing: {why}")
        self._moments = Moments()
        if self.config.is_scored(number):
            self._moments = survey(self.strategy, self.grid, report, last=last)
        reaches = self.strategy.runner.pieces.norm_bounds.reaches()
        if self._ahead and not last and self._in_vain < PATIENCE:
            saved = as_it_ended(self.strategy) if self.config.is_saved(number) else None
            return partial(self._close, report, reaches, saved)
        self._close(report, reaches)
        return None

    def _close(self, report: RoundReport, reaches: Mapping[NodeId, float], saved: Saved | None = None) -> None:
        """Evaluate, save, and write the round's line; `saved` is the strategy as it was, if it has gone on since."""
        number, last = report.number, report.number >= self.config.rounds
        scores: Row = {}
        if self.config.is_scored(number):
            evaluator, headline = self._evaluator, self.config.headline
            scores = evaluate(self.strategy, self._moments, report, evaluator=evaluator, headline=headline)
        self._good = self._watch.see(number, scores, reaches)
        if (value := value_of(scores)) is not None:
            self._values.append(value)
            self._enough = self.config.headline.enough(self._values)
        if self._enough and not last:
            last = True
            self._moments = with_other_clusters(self.strategy, self.grid, self._moments, number)
        row = row_of(report, self._client_figure) | scores | self._watch.told()
        if report.clusters and report.scores:
            row["clusters"]["local"] = self.strategy.runner.pieces.clusters.local(report.scores)
        began = perf_counter()
        if last or self.config.is_saved(number):
            self._save(number, row, saved or self.strategy.runner.checkpoint())
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

    def _save(self, number: int, row: Row, strategy: Saved) -> None:
        """Write model and checkpoint in the order that `server_app.folder.settle` relies on."""
        tensors, values = strategy
        kept = self._kept.after(row, good=self._good, headline=self.config.headline)
        moments, of_tiers = self._moments.checkpoint()
        try:
            hashes = self.folder.model.stage(self.strategy.runner.final_state(), self._tier_records(number))
            saved: dict[str, Any] = {
                "strategy": values,
                "traffic": self._traffic,
                "accepted": self._accepted,
                "kept": kept.to_json(),
                "watch": self._watch.to_json(),
                "costs": costs_of(self.strategy, self._traffic),
                "rows": [*self._unwritten, row],
                "moments": of_tiers,
                **hashes,
            }
            run = self.folder.id
            checkpoint.save(self.folder.checkpoints, number, tensors | moments, saved, pins=kept.rounds, run=run)
        except (checkpoint.CheckpointError, OSError) as error:  # a full disk must not end the training
            self.folder.model.discard()
            _warn(str(error))
            row["checkpoint_error"] = str(error)
            return
        self.strategy.runner.saved_round, self._kept = number, kept
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
        return self.folder.write_summary(
            status, costs_of(self.strategy, self._traffic), error, headline=headline, ended=ended
        )


def _warn(line: str) -> None:
    log(WARNING, line)
