"""The command `inspect`; torch comes in when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flotilla.own_app import WITH, own_app
from flotilla.refusal import refuse
from flotilla.user_code import UserCodeError, make_importable, packages_of


def inspect(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="A name, or an import path such as my.nets:make.")],
    shape: Annotated[
        str, typer.Option("--input", metavar="SHAPE", help="Of one input: 3,224,224, or the length of a text.")
    ] = "3,32,32",
    classes: Annotated[int, typer.Option("--classes", min=1, help="Number of labels.")] = 10,
    vocabulary: Annotated[int, typer.Option("--vocabulary", min=0, help="Different tokens of a text; 0: no text.")] = 0,
    norm: Annotated[str, typer.Option("--norm", help="As the setting; default: the network's usual one.")] = "",
    tiers: Annotated[str, typer.Option("--tiers", help="As the setting.")] = "a:1, b:1/2, c:1/4, d:1/8",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples of a step, for the memory.")] = 32,
    picture: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write a picture of what every tier holds.")
    ] = None,
    own_code: Annotated[list[Path] | None, WITH] = None,
) -> None:
    """Show how a network is cut: axes, what is not cut and why, and what every tier holds.

    Example:  flotilla inspect my.nets:make --with ./my --input 3,224,224
    """
    from flotilla.networks.inspection import inspect as inspected
    from flotilla.networks.inspection import text
    from models.networks.spec import NetworkSpec
    from server_app.report.network_picture import standalone
    from strategies.tiers.tier import parse_tiers

    try:
        make_importable(packages_of(own_code or (), own_app()))
        spec = NetworkSpec(network, _sides(shape), classes, norm=norm, vocabulary=vocabulary)
        found = inspected(spec, parse_tiers(tiers), batch_size)
    except (UserCodeError, ValueError) as error:
        refuse(error)
    print(text(found))
    if picture is not None:
        picture.write_text(standalone(found), encoding="utf-8")
        print(f"\n{picture}")


def _sides(text: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(part) for part in text.split(","))
    except ValueError:
        sides = ()
    if not sides or min(sides) < 1:
        raise ValueError(f"--input {text}: allowed are positive whole numbers such as 3,224,224")
    return sides


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(inspect)
