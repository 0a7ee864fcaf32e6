"""The run folder: what a run was asked, what it did round by round, and what came of it.

::

    runs/<name>/config.json      settings as resolved, versions, threads, platform, commit of the code
                metrics.jsonl    one JSON object a round
                summary.json     status, last and best round
                lock             who is writing here; gone when the run is
    runs/latest -> <name>

Every file is either replaced atomically or appended to and synced, so a run that is killed leaves a folder that
:meth:`RunFolder.reopen` can go on with and that ``report.py`` can read.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from models.errors import SettingError
from server_app.environment import compared, surroundings
from server_app.folder.files import dumps, plain, replace_text
from server_app.folder.lock import RunLock

Row = dict[str, Any]

CONFIG, METRICS, SUMMARY, CHECKPOINTS = "config.json", "metrics.jsonl", "summary.json", "checkpoints"


class RunFolder:
    """A run folder that this process alone writes to. Use :meth:`create` or :meth:`reopen`; also a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
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

    def check_same(self, config: Mapping[str, Any], free: frozenset[str] = frozenset()) -> None:
        """See whether a run of this configuration can go on here, changing nothing.

        Args:
            config: the settings of the run that is about to start, as given to :meth:`write_config`.
            free: keys that may differ; "versions.torch" or "threads.torch" name the surroundings, which count as well
                because bits depend on them.

        Raises:
            SettingError: "resume", if this is no run folder, another process uses it, or a key differs.
        """
        try:
            before = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
            old = {**before["config"], **compared(before)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingError("resume", str(self.path), f"a run folder with a {CONFIG} ({error})") from None
        new = {**plain(config), **compared(surroundings())}
        for key in [*old, *(key for key in new if key not in old)]:
            a, b = (json.dumps(have[key], sort_keys=True) if key in have else "not set" for have in (old, new))
            if key not in free and a != b:
                allowed = f"a run of the same configuration: {key} is {a} there, {b} now"
                raise SettingError("resume", str(self.path), allowed)
        if owner := self._lock.other_owner():
            raise SettingError("resume", str(self.path), f"a folder that no run uses: {owner}")

    @classmethod
    def reopen(cls, path: Path, config: Mapping[str, Any], free: frozenset[str] = frozenset()) -> RunFolder:
        """Open the folder of a stopped run to go on with it; the torn last line of its metrics is dropped.

        Args:
            path: the folder; ``runs/latest`` is followed.
            config, free: see :meth:`check_same`.

        Raises:
            SettingError: "resume", if this is no run folder, another process uses it, or a key differs.
        """
        run = cls(path.resolve())
        run.check_same(config, free)
        try:
            run._lock.take("resume")
            run._drop_torn_line()
        except OSError as error:
            run.close()
            raise SettingError("resume", str(run.path), f"a folder that can be written ({error})") from None
        run._point_latest_here()
        return run

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved settings together with the surroundings that the results depend on."""
        replace_text(self.path / CONFIG, dumps({"config": config, **surroundings()}, indent=2) + "\n")

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
        """All rounds so far, in order. ValueError names the line that is no JSON object."""
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
    ) -> Row:
        """Write ``summary.json`` from the metrics and return it.

        ``last`` is the last evaluated round, ``best`` the one of highest global test accuracy, the first on ties;
        either is null if there is none.

        Args:
            status: how the run ended.
            tiers: by tier name, what one device of it costs: "parameters" and "macs" (counts; MACs an example),
                "bytes_down" and "bytes_up" (bytes a round). What is missing becomes null.
            error: one line on why the run failed.
        """
        rows = self.metrics()
        evaluated = [row for row in rows if "accuracy" in row]
        ranked = [row for row in evaluated if row["accuracy"] is not None]
        best = max(ranked, key=lambda row: row["accuracy"], default=None)  # max keeps the first of equals
        summary = {
            "status": status,
            "rounds": max((row["round"] for row in rows), default=0),
            "last": _result(evaluated[-1], tiers) if evaluated else None,
            "best": _result(best, tiers) if best else None,
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

    Raises:
        ValueError: another line is no JSON object with a round; the message names file and line.
    """
    file, rows = path / METRICS, []
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            int(row["round"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file}, line {number}: no JSON object with a round") from None
        rows.append(row)
    return rows


def _result(row: Row, tiers: Mapping[str, Mapping[str, Any]]) -> Row:
    """One round as the summary gives it; tiers in the order of ``tiers``, then any that only the row knows."""
    seen: Mapping[str, Mapping[str, Any]] = row.get("tiers") or {}
    names: Sequence[str] = [*tiers, *(name for name in seen if name not in tiers)]
    costs = ("parameters", "macs", "bytes_down", "bytes_up")
    return {
        "round": row["round"],
        "loss": row.get("loss"),
        "accuracy": row["accuracy"],
        **{key: row[key] for key in ("robust",) if key in row},
        "tiers": {
            name: {
                "accuracy": (seen.get(name) or {}).get("accuracy"),
                **{cost: tiers.get(name, {}).get(cost) for cost in costs},
                # Of exits or nets by their mean of logits, where there are several; never mixed up with the last exit.
                # "robust" is of attacked examples.
                **{key: seen[name][key] for key in ("ensemble", "robust") if key in (seen.get(name) or {})},
            }
            for name in names
        },
    }
