"""A run's metrics for a tracker: MLflow, Weights & Biases or trackio, each an extra; TensorBoard's events always.

Offline: a tracker writes into the run folder, and nothing is sent. What it takes is what TensorBoard gets, every round
as it ends. A resumed run writes to the tracker's same run, where the tracker can go on with one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from models.errors import SettingError
from server_app.folder.events import Events, scalars

PROJECT = "flotilla"
_LONGEST = 500  # letters of a setting's value that MLflow takes


class Sink(Protocol):
    """Takes the numbers of a run, a round at a time."""

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Add a round's."""

    def close(self) -> None:
        """That was all."""


class _MLflow:
    """Its file store, in ``<run>/mlruns``: ``mlflow ui --backend-store-uri <run>/mlruns``."""

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # else it tells its makers that it was used
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = (
            "true"  # by 3.17 only so; its data base needs more than the small package
        )
        import mlflow

        self._client = mlflow.MlflowClient((folder / "mlruns").absolute().as_uri())
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        begun = self._client.search_runs([experiment], f"tags.flotilla = '{run}'")
        if begun:
            self._id = begun[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(experiment, tags={"flotilla": run}, run_name=folder.name).info.run_id
        params = [mlflow.entities.Param(key, str(value)[:_LONGEST]) for key, value in config.items()]
        for start in range(0, len(params), 100):  # as many as it takes at once
            self._client.log_batch(self._id, params=params[start : start + 100])

    def log(self, number: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name.replace("%", ""), value, step=number)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _WandB:
    """Offline, in ``<run>/wandb``: ``wandb sync <run>/wandb/offline-*`` sends it when somebody wants that."""

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # else its makers are told of its errors
        import wandb

        self._run = wandb.init(
            project=PROJECT,
            name=folder.name,
            id=run,
            dir=str(folder),
            config=dict(config),
            mode="offline",
            resume="allow",
        )

    def log(self, number: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=number)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """Its data base, in ``<run>/trackio``: ``TRACKIO_DIR=<run>/trackio trackio show``."""

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        for elsewhere in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            os.environ.pop(elsewhere, None)
        place = str((folder / "trackio").absolute())
        if "trackio" in sys.modules and os.environ.get("TRACKIO_DIR") != place:  # which is read when it is imported
            raise RuntimeError("trackio has been imported for another folder, and takes one a process")
        os.environ["TRACKIO_DIR"] = place
        import trackio

        self._run = trackio.init(
            project=PROJECT,
            name=f"{folder.name}-{run}",
            config=dict(config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
        )
        self._finish = trackio.finish

    def log(self, number: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=number)

    def close(self) -> None:
        self._finish()


_SINKS: dict[str, Callable[[Path, str, Mapping[str, Any]], Sink]] = {
    "mlflow": _MLflow,
    "wandb": _WandB,
    "trackio": _Trackio,
}
TRACKERS = ("none", *_SINKS)


def check_tracker(name: str) -> None:
    """See that a tracker is there.

    Raises:
        SettingError: it is not; says what to install.
    """
    if name != "none" and find_spec(name) is None:
        raise SettingError("tracker", name, f"another one without {name}: pip install 'flotilla[{name}]'")


class Tracking:
    """TensorBoard's events and, if asked for, a tracker. Never fails a run: what breaks is said once, and rests.

    Args:
        folder: the run folder.
        run: the run's id.
        tracker: one of `TRACKERS`.
        config: settings of the run.
        warn: called with one line.
    """

    def __init__(
        self, folder: Path, run: str, *, tracker: str, config: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        self._events = Events(folder, warn)
        self._open = None if tracker == "none" else lambda: _SINKS[tracker](folder, run, config)
        self._name, self._warn = tracker, warn
        self._sink: Sink | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one round."""
        self._events.write(row)
        if self._open is None:
            return
        try:
            self._sink = self._sink or self._open()
            self._sink.log(int(row["round"]), dict(scalars(row)))
        except Exception as error:  # whatever another library, or the disk, comes up with
            self._open = None
            self._warn(f"nothing more for {self._name}: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Close what was opened."""
        self._events.close()
        sink, self._sink, self._open = self._sink, None, None
        if sink is not None:
            try:
                sink.close()
            except Exception as error:
                self._warn(f"{self._name} was not closed: {type(error).__name__}: {error}")
