"""The data of a finished run, where its server had them: to hold files against PyTorch, and to calibrate."""

from __future__ import annotations

import json

import torch

from data import DataSettings, InputFacts, Split, evaluated_on
from data import load as load_data
from flotilla.serving.formats.runtime import CannotExport
from flotilla.serving.load import FinishedRun
from models.errors import SettingError
from models.randomness import torch_generator
from server_app.folder.run_folder import CONFIG


def test_data(run: FinishedRun) -> Split:
    """What the run was evaluated on.

    Raises:
        CannotExport: the server had none, or they are not here.
    """
    try:
        found = evaluated_on(_settings(run), _facts(run))
    except SettingError as error:
        raise CannotExport(f"the run's test data cannot be read, --no-check goes without: {error}") from None
    if not len(found):
        raise CannotExport("the server had no test data, --no-check goes without")
    return found


def training_examples(run: FinishedRun, count: int) -> Split:
    """At most so many of the training examples, drawn at random, always the same.

    Raises:
        CannotExport: the server had none, or they are not here.
    """
    settings = _settings(run)
    nothing = "the server had no training data: --calibrate FILE takes inputs from files"
    if not settings.known:
        raise CannotExport(nothing)
    try:
        data = load_data(settings, _facts(run))
        if settings.own and not len(data.test_examples):
            raise CannotExport(nothing)  # all that it had is what the run was evaluated on
        draws = torch_generator(0, 0, "server", "examples")
        rows = torch.randperm(len(data.train_examples), generator=draws)[:count].sort().values
        return data.select(rows)
    except SettingError as error:
        raise CannotExport(f"the run's training data cannot be read, --calibrate FILE goes without: {error}") from None


def _settings(run: FinishedRun) -> DataSettings:
    config = json.loads((run.path / CONFIG).read_text(encoding="utf-8"))["config"]
    return DataSettings.from_config(config)


def _facts(run: FinishedRun) -> InputFacts:
    return InputFacts.from_json(run.records.inputs)
