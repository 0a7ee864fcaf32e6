"""TensorBoard scalars beside the metrics, in ``<run>/events/``.

Only TensorBoard's record format is imported (0.5 s; ``torch.utils.tensorboard`` takes 5 s and starts a thread), and
only when the first row is written.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


class Events:
    """Writes each metrics row as TensorBoard scalars. Never fails a run: after the first error it warns and rests.

    Args:
        folder: the run folder.
        warn: called once with one line if events cannot be written.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda line: None) -> None:
        self.folder = folder / "events"
        self._warn = warn
        self._records: Any = None
        self._broken = False

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one round; it can be seen at once."""
        if self._broken:
            return
        try:
            self._write(row)
        except Exception as error:  # whatever an absent or unfit TensorBoard, or the disk, comes up with
            self._broken = True
            self._warn(f"no more TensorBoard events in {self.folder}: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Close the file, if one was opened."""
        if self._records is not None:
            self._records.close()
            self._records = None

    def _write(self, row: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped, unused-ignore]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped, unused-ignore]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped, unused-ignore]

        now, step = time.time(), int(row["round"])
        if self._records is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
            self._records = RecordWriter((self.folder / name).open("wb"))
            self._records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            # A resumed run writes some rounds again: START makes TensorBoard forget those of the earlier file.
            start = Event(wall_time=now, step=step, session_log=SessionLog(status=SessionLog.START))
            self._records.write(start.SerializeToString())
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in scalars(row)]
        self._records.write(Event(wall_time=now, step=step, summary=Summary(value=values)).SerializeToString())
        self._records.flush()


def scalars(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a row as (tag, value): nested keys joined by "/", lists as their length."""
    for key, value in row.items():
        if key in ("round", "clients"):  # a chart for every client would hide all others
            continue
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (list, tuple)):
            yield prefix + key, float(len(value))
        elif isinstance(value, (bool, int, float)) and math.isfinite(value):
            yield prefix + key, float(value)
