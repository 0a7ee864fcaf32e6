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

import atexit
import contextlib
import fcntl
import json
import math
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from models.errors import SettingError

Row = dict[str, Any]

CONFIG, METRICS, SUMMARY, LOCK, CHECKPOINTS = "config.json", "metrics.jsonl", "summary.json", "lock", "checkpoints"
_PACKAGES = ("flwr", "torch", "torchvision", "numpy", "ray")


class RunFolder:
    """A run folder that this process alone writes to. Use :meth:`create` or :meth:`reopen`; also a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self._locked_by = 0

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a folder for a new run.

        Raises:
            SettingError: "run-dir", if the folder already holds a run, is in use or cannot be written.
        """
        if path.name == "latest":
            raise SettingError("run-dir", str(path), 'another name: "latest" is the link to the newest run')
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            run._lock("run-dir")
        except OSError as error:
            raise SettingError("run-dir", str(path), f"a folder that can be written ({error})") from None
        if any((path / name).exists() for name in (CONFIG, METRICS, SUMMARY, CHECKPOINTS)):
            run.close()
            raise SettingError("run-dir", str(path), "a new folder: this one holds a run (resume it, or name another)")
        run._point_latest_here()
        return run

    @classmethod
    def reopen(cls, path: Path, config: Mapping[str, Any], free: frozenset[str] = frozenset()) -> RunFolder:
        """Open the folder of a stopped run to go on with it; the torn last line of its metrics is dropped.

        Args:
            path: the folder; ``runs/latest`` is followed.
            config: the settings of the run that is about to start, as given to :meth:`write_config`.
            free: keys that may differ, such as "num-server-rounds"; "versions.torch" or "threads.torch" name the
                surroundings, which count as well because bits depend on them.

        Raises:
            SettingError: "resume", if this is no run folder, another run uses it, or a key differs.
        """
        path = path.resolve()
        try:
            before = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            old = {**before["config"], **_compared(before)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingError("resume", str(path), f"a run folder with a {CONFIG} ({error})") from None
        new = {**plain(config), **_compared(surroundings())}
        for key in [*old, *(key for key in new if key not in old)]:
            a, b = (json.dumps(have[key], sort_keys=True) if key in have else "not set" for have in (old, new))
            if key not in free and a != b:
                raise SettingError("resume", str(path), f"a run of the same configuration: {key} is {a} there, {b} now")
        run = cls(path)
        try:
            run._lock("resume")
            run._drop_torn_line()
        except OSError as error:
            run.close()
            raise SettingError("resume", str(path), f"a folder that can be written ({error})") from None
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
        atexit.unregister(self.close)
        if self._locked_by == os.getpid():  # a forked child must not release its parent's folder
            self._locked_by = 0
            (self.path / LOCK).unlink(missing_ok=True)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self, key: str) -> None:
        """Take the folder, or say who has it. The lock of a dead process, or of a recycled pid, is taken over."""
        file = self.path / LOCK
        host = socket.gethostname()
        me = {"pid": os.getpid(), "host": host, "started": _started(os.getpid())}
        with _alone(self.path):
            for _ in range(2):
                try:
                    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                    break
                except FileExistsError:
                    if owner := _live_owner(file, host):
                        free = f"a folder that no run uses: {owner}"
                        raise SettingError(key, str(self.path), free) from None
                    file.unlink(missing_ok=True)
            else:
                raise SettingError(key, str(self.path), "a folder that no run uses: another just took it")
            os.write(fd, json.dumps(me).encode())
            os.close(fd)
        self._locked_by = os.getpid()
        atexit.register(self.close)

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


def plain(value: Any) -> Any:
    """Turn a value into JSON: NaN and infinities are null, numpy and torch scalars numbers, the unknown its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return plain(value.item()) if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else str(value)


def dumps(value: Any, indent: int | None = None) -> str:
    """Write valid JSON, whatever the numbers (see :func:`plain`)."""
    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def replace_text(file: Path, text: str) -> None:
    """Write a file so that a reader, and the disk after a crash, has the old text or the new one, whole."""
    temporary = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk: a rename is durable only then."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def surroundings() -> Row:
    """Versions, thread counts, platform and commit: what besides the settings decides the bits of a result."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "threads": {"torch": torch.get_num_threads(), "torch-interop": torch.get_num_interop_threads()},
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "commit": os.environ.get("FLOTILLA_COMMIT") or _commit(),
    }


def _compared(config: Mapping[str, Any]) -> Row:
    """Flatten the surroundings that a resumed run must share. A commit or a host name alone need not change a bit."""
    return {f"{part}.{key}": value for part in ("versions", "threads") for key, value in config[part].items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Name the commit of the code, "+" if it was changed since; None without git (an app bundle has no repository)."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():  # git would otherwise find a repository that merely surrounds the bundle
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _started(pid: int) -> float:
    """Seconds from boot to the start of a process: unlike the date it does not move when the clock is set."""
    return float(round(psutil.Process(pid).create_time() - psutil.boot_time(), 2))


def _live_owner(file: Path, host: str) -> str | None:
    """Who holds the lock, in words, or None if its process is gone."""
    for _ in range(20):
        try:
            owner = json.loads(file.read_text(encoding="utf-8"))
            pid, where, started = int(owner["pid"]), str(owner["host"]), float(owner["started"])
            break
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            time.sleep(0.05)  # its owner may be between creating and writing it
    else:
        return None
    if where != host:
        return f"pid {pid} on host {where} does, or did: if it is gone, delete {file}"
    try:
        alive = abs(_started(pid) - started) < 0.5 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        alive = False
    return f"pid {pid} on this host does" if alive else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: of two that find the same stale lock, the second must see the first one's new lock."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no folders; O_EXCL still holds there
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _result(row: Row, tiers: Mapping[str, Mapping[str, Any]]) -> Row:
    """One round as the summary gives it; tiers in the order of ``tiers``, then any that only the row knows."""
    seen: Mapping[str, Mapping[str, Any]] = row.get("tiers") or {}
    names: Sequence[str] = [*tiers, *(name for name in seen if name not in tiers)]
    costs = ("parameters", "macs", "bytes_down", "bytes_up")
    return {
        "round": row["round"],
        "loss": row.get("loss"),
        "accuracy": row["accuracy"],
        "tiers": {
            name: {
                "accuracy": (seen.get(name) or {}).get("accuracy"),
                **{cost: tiers.get(name, {}).get(cost) for cost in costs},
            }
            for name in names
        },
    }
