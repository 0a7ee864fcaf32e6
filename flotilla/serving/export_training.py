"""Tiers of a run as programs that train on a device: written only where their gradients are PyTorch's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from data import Split
from flotilla.serving.export_table import aligned, latencies
from flotilla.serving.formats import executorch_file
from flotilla.serving.formats.runtime import CannotExport, example_of, write_whole
from flotilla.serving.formats.training_file import (
    LARGEST,
    STEPS,
    Trained,
    TrainingProgram,
    largest_difference,
    training_bytes,
)
from flotilla.serving.load import FinishedRun, following_only, to_export
from flotilla.serving.model import TierModel
from flotilla.serving.run_data import training_examples
from models.device import threads
from models.losses import CLASSIFICATION, MULTI_LABEL
from models.randomness import torch_generator
from server_app.folder.run_folder import CONFIG

_TURNS = 20


@dataclass(frozen=True, kw_only=True)
class TrainingProgramFile:
    """One file that trains.

    Attributes:
        tier: whose network it trains.
        file: where it is.
        parameters: of the network.
        bytes: of the file.
        batch: examples of a step.
        eager_seconds: of loss and gradients of a batch in PyTorch, one thread, the median.
        seconds: of the same by the file.
        difference: of gradients over a few steps, see `largest_difference`.
    """

    tier: str
    file: Path
    parameters: int
    bytes: int
    batch: int
    eager_seconds: float
    seconds: float
    difference: float


def export_training(
    run: Path, tier: str, out: Path | None = None, *, allow: Iterable[str] = ()
) -> list[TrainingProgramFile]:
    """Write an ExecuTorch program that trains, for batches of the run's own size, of one tier or of every one.

    Gradients are held against PyTorch's on training data of the run, or on drawn inputs where its server had none.

    Args:
        run: folder of a finished run.
        tier: its name, or "all".
        out: folder of the files; None: "export" in the run's.
        allow: import paths that may be followed, see `load`.

    Raises:
        CannotLoad: as `load`.
        CannotExport: the package is missing, the network cannot be translated, or its gradients are not PyTorch's.
        OSError: a file cannot be written.
    """
    executorch_file.check_installed()
    with following_only(allow, run):
        opened, models, folder = to_export(run, tier, out)
        if "adapter" in json.loads(opened.records.network):
            raise CannotExport("--train: for networks all of which is trained, not beside a frozen base")
        folder.mkdir(parents=True, exist_ok=True)
        batch = int(json.loads((run / CONFIG).read_text(encoding="utf-8"))["config"]["batch-size"])
        return [_program(opened, model, batch, folder / f"tier-{model.card.tier}.training.pte") for model in models]


def _program(run: FinishedRun, model: TierModel, batch: int, file: Path) -> TrainingProgramFile:
    batches = _batches(run, model, batch * STEPS)
    x, y = batches.inputs[:batch], batches.labels[:batch]
    content = training_bytes(model, x, y)
    difference = largest_difference(model, content, batches.inputs, batches.labels)
    if not difference <= LARGEST:
        by = f"by {difference:.1e} of their size, above {LARGEST:g}"
        raise CannotExport(f"tier {model.card.tier!r}: gradients of its program differ from PyTorch's {by}")
    program, eager = TrainingProgram(content), Trained(model)

    def in_pytorch() -> None:
        eager.zero_grad()
        eager(x, y)[0].backward()

    with threads(1):
        eager_seconds, seconds = latencies([in_pytorch, partial(program.gradients, x, y)], repeats=_TURNS)
    write_whole(content, file)
    return TrainingProgramFile(
        tier=model.card.tier,
        file=file,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=len(content),
        batch=batch,
        eager_seconds=eager_seconds,
        seconds=seconds,
        difference=difference,
    )


def _batches(run: FinishedRun, model: TierModel, count: int) -> Split:
    """As many training examples; drawn ones where there are not so many."""
    try:
        found = training_examples(run, count)
        if len(found) == count:
            return found
    except CannotExport:  # gradients can be compared on anything
        pass
    draws, like, card = torch_generator(0, 0, "server", "gradients"), example_of(model, count), model.card
    outputs = card.network.classes
    if card.inputs.vocabulary:
        inputs = torch.randint(0, card.inputs.vocabulary, like.shape, generator=draws)
    else:
        inputs = torch.randn(like.shape, generator=draws)
    if card.network.task == CLASSIFICATION:
        return Split(inputs, torch.randint(0, outputs, (count,), generator=draws))
    labels = torch.randn(count, outputs, generator=draws)
    return Split(inputs, (labels > 0).float() if card.network.task == MULTI_LABEL else labels)


def training_table(rows: Sequence[TrainingProgramFile]) -> str:
    """The rows as text."""
    heads = ("tier", "parameters", "bytes", "batch", "PyTorch ms", "file ms", "gradients differ", "file")
    return aligned([heads, *map(_cells, rows)])


def _cells(row: TrainingProgramFile) -> tuple[str, ...]:
    counts = (f"{row.parameters:,}", f"{row.bytes:,}", str(row.batch))
    times = (f"{1e3 * row.eager_seconds:,.1f}", f"{1e3 * row.seconds:,.1f}")
    return row.tier, *counts, *times, f"{row.difference:.0e}", str(row.file)
