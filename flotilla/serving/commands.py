"""The commands `predict` and `export`; torch comes in when one of them runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flotilla.refusal import refuse

_ALLOW = typer.Option(
    "--allow", metavar="'PACKAGE.*'", help="Import the network's code from there, if it is not built in; repeatable."
)


class Format(StrEnum):
    """What `export` writes."""

    safetensors = "safetensors"
    onnx = "onnx"
    executorch = "executorch"
    litert = "litert"
    peft = "peft"


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or an exported .safetensors.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES…", help="Pictures; texts, one a line; rows of .npy or .csv.")
    ],
    tier: Annotated[str, typer.Option("--tier", help="Whose network; default: the whole one.")] = "global",
    cluster: Annotated[int | None, typer.Option("--cluster", help="Of which cluster, if the run had several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with every probability.")] = False,
    allow: Annotated[list[str] | None, _ALLOW] = None,
) -> None:
    """Print the class and its probability for every file, by a tier's network.

    Example:  flotilla predict runs/latest --tier c digit.png rows.csv
    """
    from data import UnusableInput
    from flotilla.serving.load import CannotLoad, load
    from flotilla.serving.predict import predict as predictions

    try:
        model = load(run, tier, cluster=cluster, allow=allow or ())
        for one in predictions(model, files):
            print(one.to_json(model.classes) if as_json else "  ".join(one.columns()))
    except (CannotLoad, UnusableInput) as error:
        refuse(error)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, such as runs/latest.")],
    tier: Annotated[str, typer.Option("--tier", help="Whose network, or all.")] = "all",
    to: Annotated[Format, typer.Option("--to", help="Kind of file.")] = Format.onnx,
    cluster: Annotated[int | None, typer.Option("--cluster", help="Of which cluster, if the run had several.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the files; default RUN/export.")] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Hold every file against PyTorch on the run's test data.")
    ] = True,
    int8: Annotated[
        bool, typer.Option("--int8", help="Files of 8 bits as well (ONNX), where they are smaller and not slower.")
    ] = False,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            metavar="FILE",
            help="Inputs that say which values --int8 has to hold; default: the run's training data; repeatable.",
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Programs that train on a device, of --to executorch.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Keep files of 8 bits even where float is better.")] = False,
    allow: Annotated[list[str] | None, _ALLOW] = None,
) -> None:
    """Write each tier's network as one self-contained file, run it back, and print sizes, latency and accuracy.

    Example:  flotilla export runs/latest --tier all --to onnx
    """
    from data import UnusableInput
    from flotilla.serving.export import export as exported
    from flotilla.serving.export_table import table
    from flotilla.serving.export_training import export_training, training_table
    from flotilla.serving.formats.int8 import Int8
    from flotilla.serving.formats.runtime import CannotExport
    from flotilla.serving.load import CannotLoad
    from flotilla.serving.peft_folder import export_peft

    if (calibrate or force) and not int8:
        refuse("--calibrate and --force: with --int8 only")
    if train and (int8 or to is not Format.executorch):
        refuse("--train: for --to executorch only, and without --int8")
    if cluster is not None and (train or to is Format.peft):
        refuse("--cluster: without --train, and not for --to peft")
    wanted = Int8(inputs=tuple(calibrate or ()), force=force) if int8 else None
    try:
        if train:
            print(training_table(export_training(run, tier, out, allow=allow or ())))
            return
        if to is Format.peft:
            print(*export_peft(run, tier, out, allow=allow or ()), sep="\n")
            return
        print(table(exported(run, tier, to.value, out, check=check, int8=wanted, cluster=cluster, allow=allow or ())))
    except (CannotLoad, CannotExport, UnusableInput, OSError) as error:
        refuse(error)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (predict, export):
        app.command()(command)
