"""Tiers of a run as files for other programs, each run back and held against PyTorch on the run's own test data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data import Split
from flotilla.serving.export_table import FLOAT, Exported, latencies, why_not
from flotilla.serving.formats import executorch_file, litert_file, onnx_file
from flotilla.serving.formats.int8 import EXAMPLES, Int8, quantised
from flotilla.serving.formats.runtime import CannotExport, Runtime, example_of, logits_of, write_whole
from flotilla.serving.load import FinishedRun, following_only, load, to_export
from flotilla.serving.model import TierModel
from flotilla.serving.run_data import test_data, training_examples
from flotilla.serving.tier_file import write_tier_file
from models.device import threads
from models.evaluation import batch_of
from models.losses import REGRESSION, right

SAFETENSORS = "safetensors"
LARGEST = 1e-4  # difference between logits of a file and of PyTorch


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """A kind of file that another library runs.

    Attributes:
        suffix: of its names.
        check_installed: raises CannotExport where a package is missing.
        content: makes a file's content of a network.
        runtime: runs a content.
    """

    suffix: str
    check_installed: Callable[[], None]
    content: Callable[[TierModel], bytes]
    runtime: Callable[[bytes], Runtime]


FORMATS: Mapping[str, FileFormat] = {
    "onnx": FileFormat(
        suffix="onnx",
        check_installed=onnx_file.check_installed,
        content=onnx_file.onnx_bytes,
        runtime=onnx_file.OnnxModel,
    ),
    "executorch": FileFormat(
        suffix="pte",
        check_installed=executorch_file.check_installed,
        content=executorch_file.pte_bytes,
        runtime=executorch_file.ExecuTorchModel,
    ),
    "litert": FileFormat(
        suffix="tflite",
        check_installed=litert_file.check_installed,
        content=litert_file.tflite_bytes,
        runtime=litert_file.LiteRTModel,
    ),
}


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """Of a file: its accuracy, and the largest difference of its logits, on the test data; None if nobody looked."""

    accuracy: float | None = None
    difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A file that is not written yet."""

    numbers: str
    content: bytes
    runtime: Runtime
    checked: _Checked


def export(
    run: Path,
    tier: str,
    to: str,
    out: Path | None = None,
    *,
    check: bool = True,
    int8: Int8 | None = None,
    cluster: int | None = None,
    allow: Iterable[str] = (),
) -> list[Exported]:
    """Write a file for one tier, or for every one.

    Args:
        run: folder of a finished run.
        tier: its name, or "all".
        to: "safetensors" or one of `FORMATS`.
        out: folder of the files; None: "export" in the run's.
        check: run every file on the run's test data: its logits must be PyTorch's within `LARGEST`, its accuracy the
            reported one. A file that fails is not written. Of 8 bits both are only told.
        int8: make files of 8 bits beside the others (ONNX only), and keep those that are worth it.
        cluster: whose networks, see `load`; of another than the run's results are of no accuracy was reported.
        allow: import paths that may be followed, see `load`.

    Raises:
        CannotLoad: as `load`.
        CannotExport: a package is missing, the network cannot be translated, or the file does not compute the same.
        UnusableInput: a file that is to calibrate is no input of this network.
        OSError: a file cannot be written.
    """
    if to != SAFETENSORS and to not in FORMATS:
        raise CannotExport(f"--to {to}: allowed is {', '.join([SAFETENSORS, *FORMATS])}")
    if int8 is not None and to != "onnx":
        raise CannotExport(f"--int8: for --to onnx, not for {to}")
    if to != SAFETENSORS:
        FORMATS[to].check_installed()
    allow = tuple(allow)
    with following_only(allow, run):
        opened, models, folder = to_export(run, tier, out, cluster)
        test = test_data(opened) if check else None
        job = _Job(
            kind=FORMATS.get(to),
            folder=folder,
            beside="" if cluster is None else f".cluster{cluster}",
            test=test,
            calibration=None if int8 is None else _calibration(opened, int8, models[0]),
            force=int8 is not None and int8.force,
            allow=allow,
        )
        folder.mkdir(parents=True, exist_ok=True)
        return [row for model in models for row in (_safetensors if job.kind is None else _files)(job, model)]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is the same for every tier.

    Attributes:
        kind: of the files; None is safetensors.
        folder: where they go.
        beside: what their names have besides the tier.
        test: what they are held against; None: nothing.
        calibration: inputs for files of 8 bits; None: there are none of these.
        force: whether these are kept where float is better.
        allow: import paths that may be followed.
    """

    kind: FileFormat | None
    folder: Path
    beside: str
    test: Split | None
    calibration: Tensor | None
    force: bool
    allow: tuple[str, ...]


def _safetensors(job: _Job, model: TierModel) -> list[Exported]:
    file = job.folder / f"tier-{model.card.tier}{job.beside}.{SAFETENSORS}"
    write_tier_file(model, file)
    try:
        checked = _held(model, load(file, allow=job.allow), job.test)
    except ValueError:
        file.unlink()
        raise
    (eager,) = _latencies(model, [])
    row = Exported(
        tier=model.card.tier,
        file=file,
        parameters=_parameters(model),
        bytes=file.stat().st_size,
        eager_seconds=eager,
        accuracy=checked.accuracy,
        difference=checked.difference,
    )
    return [row]


def _files(job: _Job, model: TierModel) -> list[Exported]:
    """The float file, and the one of 8 bits where it is wanted and worth it; measured together."""
    assert job.kind is not None
    made = _made(job, job.kind, model)
    eager, *own = _latencies(model, [one.runtime for one in made])
    rows, name = list[Exported](), f"tier-{model.card.tier}{job.beside}"
    for one, seconds in zip(made, own, strict=True):
        row = Exported(
            tier=model.card.tier,
            numbers=one.numbers,
            file=job.folder / f"{name}{'' if not rows else f'.{one.numbers}'}.{job.kind.suffix}",
            parameters=_parameters(model),
            bytes=len(one.content),
            eager_seconds=eager,
            seconds=seconds,
            accuracy=one.checked.accuracy,
            difference=one.checked.difference,
        )
        rows.append(_kept(row, rows[0] if rows and not job.force else None, one.content))
    return rows


def _made(job: _Job, kind: FileFormat, model: TierModel) -> list[_Made]:
    content = kind.content(model)
    runtime = kind.runtime(content)
    checked = _held(model, partial(logits_of, runtime), job.test)
    made = [_Made(numbers=FLOAT, content=content, runtime=runtime, checked=checked)]
    if job.calibration is not None:
        content = quantised(model, content, job.calibration)
        runtime = kind.runtime(content)
        checked = _compared(model, partial(logits_of, runtime), job.test)
        made.append(_Made(numbers="int8", content=content, runtime=runtime, checked=checked))
    return made


def _calibration(run: FinishedRun, int8: Int8, model: TierModel) -> Tensor:
    """Inputs that a file of 8 bits is calibrated with."""
    if not int8.inputs:
        return training_examples(run, EXAMPLES).inputs
    return torch.cat([model.preprocess.file(file) for file in int8.inputs])[:EXAMPLES]


def _kept(row: Exported, other: Exported | None, content: bytes) -> Exported:
    """Write a file, unless another is better."""
    assert row.file is not None
    reason = "" if other is None else why_not(row, other)
    if not reason:
        write_whole(content, row.file)
        return row
    row.file.unlink(missing_ok=True)  # an older one would be taken for this one
    return replace(row, file=None, reason=reason)


def _held(model: TierModel, run: Callable[[Tensor], Tensor], test: Split | None) -> _Checked:
    """What `_compared` finds, if the file computes what it must.

    Raises:
        CannotExport: it does not.
    """
    found, tier = _compared(model, run, test), model.card.tier
    if found.difference is None:
        return found
    if not found.difference <= LARGEST:
        by = f"{found.difference:.1e}, above {LARGEST:g}"
        raise CannotExport(f"tier {tier!r}: its logits differ from PyTorch's by {by}")
    if model.card.accuracy is not None and found.accuracy != model.card.accuracy:
        raise CannotExport(
            f"tier {tier!r}: its accuracy is {found.accuracy!r}, and the run reported {model.card.accuracy!r}"
        )
    return found


@torch.no_grad()
def _compared(model: TierModel, run: Callable[[Tensor], Tensor], test: Split | None) -> _Checked:
    """A file on the test data, where there are any."""
    if test is None:
        return _Checked()
    answered, difference, task = 0.0, 0.0, model.card.network.task
    for x, y in test.batches(batch_of(test.held)):
        wanted, found = model(x), run(x)
        difference = max(difference, float((wanted - found).abs().max()))
        answered += right(task, found, y).item()
    return _Checked(accuracy=None if task == REGRESSION else answered / len(test), difference=difference)


def _latencies(model: TierModel, runtimes: Iterable[Runtime]) -> list[float]:
    """Seconds of one example: in PyTorch, then by each runtime."""
    one = example_of(model, 1)
    array = one.numpy()
    calls: list[Callable[[], object]] = [lambda: model(one), *(partial(runtime.run, array) for runtime in runtimes)]
    with threads(1), torch.inference_mode():
        return latencies(calls)


def _parameters(model: TierModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
