"""The run folder: what a run was asked, what it did round by round, and what came of it.

::

    runs/<name>/config.json      the run's id, settings as resolved, versions, threads, platform, commit of the code
                holdings.json    which share of each layer each tier keeps, the network's axes, who has which labels
                metrics.jsonl    one JSON object a round
                checkpoints/     state at the end of some rounds
                model.safetensors  the global state at the newest checkpoint
                tiers.safetensors  what makes each tier's network of it
                base.safetensors  what the network holds and nobody trains; of a network that is frozen in part
                summary.json     status, last and best round; there when the run has ended, not while it runs
                report.html      likewise
                lock             who is writing here; gone when the run is
    runs/latest -> <name>

Every file is either replaced atomically or appended to and synced, so a run that is killed leaves a folder that
:meth:`RunFolder.reopen` can go on with and that ``report.py`` can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any, Literal

from models.errors import SettingError
from server_app.environment import compared, surroundings
from server_app.folder.checkpoint import newest_round, strangers
from server_app.folder.files import dumps, plain, replace_text
from server_app.folder.lock import RunLock
from server_app.folder.model_file import ModelFile
from server_app.folder.summary import ACCURACY, Row, summary_of
from server_app.metrics import Headline

CONFIG, METRICS, SUMMARY, CHECKPOINTS = "config.json", "metrics.jsonl", "summary.json", "checkpoints"
REPORT, HOLDINGS = "report.html", "holdings.json"
_NAMES = ("run-dir", "resume")


class RunFolder:
    """A run folder that this process alone writes to. Use :meth:`create` or :meth:`reopen`; also a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self.model = ModelFile(path)
        self.id = secrets.token_hex(8)  # of a new run; a folder that holds one already says its own
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self.id = str(json.loads((path / CONFIG).read_text(encoding="utf-8"))["run"])
        self._lock = RunLock(path)

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a folder for a new run.

        Raises:
            SettingError: "run-dir", if the folder already holds a run, is in use or cannot be written.
        """
        run = cls(path)
        run.check_new()
        try:
            path.mkdir(parents=True, exist_ok=True)
            run._lock.take("run-dir")
        except OSError as error:
            raise SettingError("run-dir", str(path), f"a folder that can be written ({error})") from None
        try:
            run.check_new()  # again: somebody may have run and finished here in between
        except SettingError:
            run.close()
            raise
        run._point_latest_here()
        return run

    def check_new(self) -> None:
        """See whether a new run can have this folder, changing nothing.

        Raises:
            SettingError: "run-dir", if the folder holds a run or another process uses it.
        """
        if self.path.name == "latest":
            raise SettingError("run-dir", str(self.path), 'another name: "latest" is the link to the newest run')
        if owner := self._lock.other_owner():
            raise SettingError("run-dir", str(self.path), f"a folder that no run uses: {owner}")
        if any((self.path / name).exists() for name in (CONFIG, METRICS, SUMMARY, CHECKPOINTS)):
            allowed = "a new folder: this one holds a run (resume it, or name another)"
            raise SettingError("run-dir", str(self.path), allowed)

    def check_same(
        self,
        config: Mapping[str, Any],
        free: frozenset[str] = frozenset(),
        why: Mapping[str, str] | None = None,
        trained: Mapping[str, str] | None = None,
    ) -> None:
        """See whether a run of this configuration can go on here, changing nothing.

        Args:
            config: the settings of the run that is about to start, as given to :meth:`write_config`.
            free: keys that may differ; "versions.torch" or "threads.torch" name the surroundings, which count as well
                because bits depend on them.
            why: by key, why it is not free and what works instead.
            trained: by tier, how its part is trained; None where nobody knows yet.

        Raises:
            SettingError: "resume", if this is no run folder, another process uses it, a key differs, or a checkpoint is
                of another run; "num-server-rounds", if the run has done more.
        """
        try:
            before = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
            old = {**before["config"], **compared(before), **_by_tier(trained and before.get("trained"))}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingError("resume", str(self.path), f"a run folder with a {CONFIG} ({error})") from None
        new = {**plain(config), **compared(surroundings()), **_by_tier(trained)}
        for key in [*old, *(key for key in new if key not in old)]:
            a, b = (json.dumps(have[key], sort_keys=True) if key in have else "not set" for have in (old, new))
            if key not in free and a != b:
                allowed = f"a run of the same configuration: {key} is {a} there, {b} now"
                reason = (why or {}).get(key)
                raise SettingError("resume", str(self.path), f"{allowed}; {reason}" if reason else allowed)
        if others := strangers(self.checkpoints, self.id):
            allowed = (
                f"its own checkpoints: {others[0][0]} is of run {others[0][1]}, and this folder's run is {self.id}"
            )
            raise SettingError("resume", str(self.path), allowed)
        rounds, done = new.get("num-server-rounds"), newest_round(self.checkpoints)
        if isinstance(rounds, int) and rounds < done:
            raise SettingError("num-server-rounds", rounds, f"{done} or more: this run has done {done} rounds")
        if owner := self._lock.other_owner():
            raise SettingError("resume", str(self.path), f"a folder that no run uses: {owner}")

    @classmethod
    def reopen(
        cls,
        path: Path,
        config: Mapping[str, Any],
        free: frozenset[str] = frozenset(),
        trained: Mapping[str, str] | None = None,
    ) -> RunFolder:
        """Open the folder of a stopped run to go on with it; the torn last line of its metrics is dropped.

        Args:
            path: the folder; ``runs/latest`` is followed.
            config, free, trained: see :meth:`check_same`.

        Raises:
            SettingError: "resume", if this is no run folder, another process uses it, or a key differs.
        """
        run = cls(path.resolve())
        run.check_same(config, free, trained=trained)
        try:
            run.take()
        except OSError as error:
            run.close()
            raise SettingError("resume", str(run.path), f"a folder that can be written ({error})") from None
        run._point_latest_here()
        return run

    def take(self) -> None:
        """Take a folder that is there; the torn last line of its metrics is dropped.

        Raises:
            SettingError: "resume", if another process uses it.
            OSError: it cannot be written.
        """
        self._lock.take("resume")
        self._drop_torn_line()

    def write_config(
        self,
        config: Mapping[str, Any],
        trained: Mapping[str, str] | None = None,
        code: Mapping[str, str] | None = None,
    ) -> None:
        """Write the run's id and the resolved settings, and what else the results depend on.

        Args:
            config: the settings.
            trained: by tier, how its part is trained.
            code: digests of the user's own packages.
        """
        known = {key: value for key, value in (("trained", trained), ("code", code)) if value}
        told = {"run": self.id, "config": config, **known, **surroundings()}
        replace_text(self.path / CONFIG, dumps(told, indent=2) + "\n")

    def go_on(self, config: Mapping[str, Any], after_round: int) -> None:
        """Begin to write to a reopened folder: what it says of an end is no longer so, its settings are the new ones.

        Comes before every other change: a summary must be true of the files beside it, and a folder without one is
        settled by whoever reads it.

        What the run was called with to find its folder stays as it was in the first place, and so do versions and
        commit; "resumed" lists what has changed since.
        """
        for name in (REPORT, SUMMARY):
            (self.path / name).unlink(missing_ok=True)
        before = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        settings = {**plain(config), **{key: before["config"][key] for key in _NAMES if key in before["config"]}}
        resumed = before.get("resumed", [])
        if after_round < settings.get("num-server-rounds", 0):
            resumed = [*resumed, {"after_round": after_round, "commit": surroundings()["commit"]}]
        after = {**before, "config": settings, **({"resumed": resumed} if resumed else {})}
        replace_text(self.path / CONFIG, dumps(after, indent=2) + "\n")

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one round's line, on the disk when this returns. An OSError (disk full) leaves no half line behind."""
        fd = os.open(self.path / METRICS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            end, line = os.fstat(fd).st_size, memoryview((dumps(row) + "\n").encode())
            try:
                while line:
                    line = line[os.write(fd, line) :]
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, end)
                raise
        finally:
            os.close(fd)

    def metrics(self) -> list[Row]:
        """All rounds so far, in order; see :func:`read_metrics`."""
        return read_metrics(self.path)

    def truncate_metrics(self, after_round: int) -> None:
        """Forget the rounds after ``after_round``: the checkpoint a resumed run starts from does not know them."""
        kept = [row for row in self.metrics() if row["round"] <= after_round]
        replace_text(self.path / METRICS, "".join(dumps(row) + "\n" for row in kept))

    def write_summary(
        self,
        status: Literal["finished", "failed", "stopped"],
        tiers: Mapping[str, Mapping[str, Any]],
        error: str | None = None,
        *,
        headline: Headline = ACCURACY,
        ended: str = "",
    ) -> Row:
        """Write ``summary.json`` and return it: how the run ended, what its metrics say, which round the model is of.

        Args:
            status: how the run ended.
            tiers: by tier name, what one device of it costs; see :func:`summary_of`.
            error: one line on why the run failed.
            headline: what the best round is the best by.
            ended: one line on why the run has ended before its last round.
        """
        summary = {
            "status": status,
            **summary_of(self.metrics(), tiers, headline),
            **({"ended": ended} if ended else {}),
            "model": self.model.facts,
            **({"error": error} if error else {}),
        }
        replace_text(self.path / SUMMARY, dumps(summary, indent=2) + "\n")
        return summary

    def close(self) -> None:
        """Give the folder up. Safe to call twice; done at exit as well."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        file = self.path / METRICS
        if file.exists() and not (data := file.read_bytes()).endswith(b"\n"):
            os.truncate(file, data.rfind(b"\n") + 1)

    def _point_latest_here(self) -> None:
        temporary = self.path.parent / f".latest-{os.getpid()}"
        with contextlib.suppress(OSError, NotImplementedError):  # not every file system has symbolic links
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self.path.name, target_is_directory=True)
            try:
                temporary.replace(self.path.parent / "latest")
            except OSError:
                temporary.unlink(missing_ok=True)


def read_metrics(path: Path) -> list[Row]:
    """Read the rows of a run folder's metrics, locked or not; a last line still being written is left out.

    A damaged line, which is no JSON object with a round, costs that line and a warning: whatever happened to the disk,
    a run whose checkpoint is whole goes on.
    """
    file, rows = path / METRICS, []
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
        row = _row_in(line)
        if row is None:
            getLogger("flwr").log(WARNING, "%s, line %d is left out: no JSON object with a round", file, number)
        else:
            rows.append(row)
    return rows


def _row_in(line: bytes) -> Row | None:
    """The row that a line holds; None if it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("round")) is int else None


def _by_tier(trained: Mapping[str, str] | None) -> dict[str, str]:
    return {f"trained.{tier}": way for tier, way in (trained or {}).items()}
