"""Tiers of a run as files for other programs, each run back and held against PyTorch on the run's own test data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from data import DataSettings, InputFacts, Split, evaluated_on
from flotilla.serving.load import FinishedRun, load, open_run, tier_of
from flotilla.serving.model import TierModel
from flotilla.serving.onnx_file import CannotExport, OnnxModel, check_installed, onnx_bytes, write_onnx
from flotilla.serving.tier_file import write_tier_file
from models.device import threads
from models.errors import SettingError
from models.evaluation import BATCH
from models.losses import REGRESSION, right
from models.registry import following
from server_app.folder.run_folder import CONFIG

FORMATS = ("safetensors", "onnx")
LARGEST = 1e-4  # difference between logits of a file and of PyTorch
_WARM, _REPEATS = 20, 200
_Checked = tuple[float | None, float] | tuple[None, None]  # accuracy and largest difference
_NOT: _Checked = (None, None)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file.

    Attributes:
        tier: whose network it holds.
        file: where it is.
        parameters: of the network.
        bytes: of the file.
        eager_seconds: of one example in PyTorch, one thread, the median.
        seconds: of one example by the file's own runtime, likewise; None where PyTorch runs it.
        accuracy: on the test data, of what was read back from the file; None if it was not checked.
        difference: the largest between logits of both, on the test data; None if it was not checked.
    """

    tier: str
    file: Path
    parameters: int
    bytes: int
    eager_seconds: float
    seconds: float | None
    accuracy: float | None
    difference: float | None


def export(
    run: Path, tier: str, to: str, out: Path | None = None, *, check: bool = True, allow: Iterable[str] = ()
) -> list[Exported]:
    """Write a file for one tier, or for every one.

    Args:
        run: folder of a finished run.
        tier: its name, or "all".
        to: one of `FORMATS`.
        out: folder of the files; None: "export" in the run's.
        check: run every file on the run's test data: its logits must be PyTorch's within `LARGEST`, its accuracy the
            reported one. A file that fails is not written.
        allow: import paths that may be followed, see `load`.

    Raises:
        CannotLoad: as `load`.
        CannotExport: a package is missing, the network cannot be translated, or the file does not compute the same.
        OSError: a file cannot be written.
    """
    if to not in FORMATS:
        raise CannotExport(f"--to {to}: allowed is {' or '.join(FORMATS)}")
    if to == "onnx":
        check_installed()
    with following(allow):
        opened = open_run(run)
        names = opened.tiers if tier == "all" else [tier]
        models = [tier_of(opened, name) for name in names]
        test = _test_data(opened) if check else None
        folder = run / "export" if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        write = _safetensors if to == "safetensors" else _onnx
        return [write(model, folder / f"tier-{model.card.tier}.{to}", test) for model in models]


def _test_data(run: FinishedRun) -> Split:
    config = json.loads((run.path / CONFIG).read_text(encoding="utf-8"))["config"]
    try:
        found = evaluated_on(DataSettings.from_config(config), InputFacts.from_json(run.records.inputs))
    except SettingError as error:
        raise CannotExport(f"the run's test data cannot be read, --no-check goes without: {error}") from None
    if not len(found):
        raise CannotExport("the server had no test data, --no-check goes without")
    return found


def _safetensors(model: TierModel, file: Path, test: Split | None) -> Exported:
    write_tier_file(model, file)
    try:
        again = load(file)
        checked = _NOT if test is None else _held(model, again, test)
    except ValueError:
        file.unlink()
        raise
    return _row(model, file, checked)


def _onnx(model: TierModel, file: Path, test: Split | None) -> Exported:
    content = onnx_bytes(model)
    runtime = OnnxModel(content)
    checked = _NOT if test is None else _held(model, runtime.logits, test)
    write_onnx(content, file)
    return _row(model, file, checked, runtime)


@torch.no_grad()
def _held(model: TierModel, run: Callable[[Tensor], Tensor], test: Split) -> tuple[float | None, float]:
    """Accuracy of a file, and its largest difference, on the test data.

    Raises:
        CannotExport: it does not compute the same.
    """
    answered, difference, tier, task = 0.0, 0.0, model.card.tier, model.card.network.task
    for x, y in zip(torch.split(test.inputs, BATCH), torch.split(test.labels, BATCH), strict=True):
        wanted, found = model(x), run(x)
        difference = max(difference, float((wanted - found).abs().max()))
        answered += right(task, found, y).item()
    accuracy = None if task == REGRESSION else answered / len(test)
    if not difference <= LARGEST:
        raise CannotExport(f"tier {tier!r}: its logits differ from PyTorch's by {difference:.1e}, above {LARGEST:g}")
    if accuracy != model.card.accuracy:
        raise CannotExport(f"tier {tier!r}: its accuracy is {accuracy!r}, and the run reported {model.card.accuracy!r}")
    return accuracy, difference


def _row(model: TierModel, file: Path, checked: _Checked, runtime: OnnxModel | None = None) -> Exported:
    inputs = model.card.inputs
    one = torch.zeros(1, *inputs.input_shape, dtype=torch.int64 if inputs.vocabulary else torch.float32)
    calls: list[Callable[[], object]] = [lambda: model(one)]
    if runtime is not None:
        array = one.numpy()
        calls.append(lambda: runtime.run(array))
    with threads(1), torch.inference_mode():
        eager, *own = latencies(calls)
    return Exported(
        tier=model.card.tier,
        file=file,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=file.stat().st_size,
        eager_seconds=eager,
        seconds=own[0] if own else None,
        accuracy=checked[0],
        difference=checked[1],
    )


def latencies(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Median seconds of each call; they take turns, so whatever else the machine does meets all of them."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(_WARM + _REPEATS):
        for call, times in zip(calls, taken, strict=True):
            began = perf_counter()
            call()
            times.append(perf_counter() - began)
    return [median(times[_WARM:]) for times in taken]


def table(rows: Iterable[Exported]) -> str:
    """What was written, as text: sizes, latency of one example in one thread, accuracy."""
    heads = ("tier", "parameters", "bytes", "PyTorch µs", "file µs", "faster", "accuracy", "difference", "file")
    lines = [heads]
    for row in rows:
        own = ("–", "–") if row.seconds is None else (_us(row.seconds), f"{row.eager_seconds / row.seconds:.1f}x")
        unknown = "not checked" if row.difference is None else "–"
        accuracy = unknown if row.accuracy is None else f"{100 * row.accuracy:.2f} %"
        difference = "–" if row.difference is None else f"{row.difference:.0e}"
        counts = (f"{row.parameters:,}", f"{row.bytes:,}")
        lines.append((row.tier, *counts, _us(row.eager_seconds), *own, accuracy, difference, str(row.file)))
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(line[n].rjust(widths[n]) for n in range(1, len(heads) - 1)), line[-1]])
        for line in lines
    )


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}"
