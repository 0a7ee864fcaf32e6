"""What there is: the commands `methods`, `keys` and `explain`.

They answer from the registry and the catalogue of settings, so what a plug-in adds is there as well.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flotilla.nearest import either, nearest
from flotilla.own_app import chosen_app, extends_ours, runs_our_server
from flotilla.refusal import refuse
from flotilla.settings import SettingsError, app_defaults, values_in

if TYPE_CHECKING:
    from server_app.config.catalogue import Key


def built_in_methods() -> list[str]:
    """Names of the methods that are built in, off the registry's source: `run --help` must not load torch for them."""
    here = Path(__file__).parent  # in a wheel the packages stand here, in a checkout beside this folder
    source = next(path for folder in (here, here.parent) if (path := folder / "strategies" / "__init__.py").is_file())
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "_BUILT_IN"
            and isinstance(node.value, ast.Dict)
        ):
            return [str(ast.literal_eval(key)) for key in node.value.keys if key is not None]
    raise LookupError(f"{source} has no _BUILT_IN")


METHOD_NAMES = ", ".join(built_in_methods())

_YEAR = r"\b(?:19|20)\d\d\b"


def methods() -> None:
    """List the methods: name, what a device gets, paper.

    Choose one with  flotilla run -c 'method="fedrolex"'. Those of installed packages are listed too.
    """
    from strategies import METHODS

    rows = []
    for name in METHODS.names():
        try:
            found = METHODS[name]
        except ValueError as error:  # a package whose method cannot be loaded
            rows.append((name, str(error), ""))
            continue
        rows.append((name, _first_sentence(found), source_of(found)))
    _print_table(("METHOD", "WHAT", "SOURCE"), rows)


def keys(
    word: Annotated[str, typer.Argument(help="Show only keys with this in their name, meaning or section.")] = "",
) -> None:
    """List the settings of a run: key, default, meaning; those that installed packages add come last.

    Every key can be given to  flotilla run -c KEY=VALUE;  flotilla explain KEY  says all about one. In the folder of an
    app they are the app's own.
    """
    try:
        known = _catalogue(_values(None)[0], others=_other_app())
    except SettingsError as error:
        refuse(error)
    found = [key for key in known if _about(key, word)]
    if not found:
        refuse(f"{word}: no key has this in its name or meaning; {_did_you_mean(word, known)}")
    _print_table(("KEY", "DEFAULT", "MEANING"), [(key.name, _toml(key.default), _plain(key.words)) for key in found])


def _complete_key(incomplete: str) -> list[str]:
    """Complete a key, from the app's pyproject.toml alone: a shell does not wait for torch."""
    try:
        return [key for key in app_defaults(chosen_app(None)) if key.startswith(incomplete)]
    except SettingsError:
        return []


def explain(
    key: Annotated[str, typer.Argument(help="Name of the key.", autocompletion=_complete_key)],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="FOLDER", help="Show the value that the run in this folder has.")
    ] = None,
) -> None:
    """Explain one setting: value, default, what is allowed, who reads it, what it means.

    Example:  flotilla explain learning-rate-schedule --run runs/latest
    """
    try:
        values, where = _values(run)
    except SettingsError as error:
        refuse(error)
    known = _catalogue(values, others=run is None and _other_app())
    found = next((one for one in known if one.name == key), None)
    if found is None:
        refuse(f"{key}: no such setting; {_did_you_mean(key, known)}")
    value = values.get(key, found.default)
    lines = {
        "value": f"{_toml(value)}  ({where})",
        "default": _toml(found.default),
        "allowed": _allowed(found),
        "read by": found.read_by or "every run",
        "meaning": _plain(found.words),
        "section": found.section,
    }
    print(key)
    for title, text in lines.items():
        if text:
            print(textwrap.fill(text, max(_width(), 40), initial_indent=f"  {title:<9}", subsequent_indent=" " * 11))


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (methods, keys, explain):
        app.command()(command)


def source_of(method: type) -> str:
    """The paper of a method, from its documentation: that of the class, its item in that of the module, the module's.

    A citation is what stands in brackets with a year in it, after the method's name or, in the module's first line,
    after any; nothing if the documentation cites nobody for it, as for baselines.
    """
    module = inspect.getdoc(sys.modules[method.__module__]) or ""
    item = "".join(re.findall(rf"^- `{method.__name__}`(.*?)(?=^- |\Z)", module, re.S | re.M))
    bracket = rf"\(([^()]*{_YEAR}[^()]*)\)"
    found = (
        re.search(rf"{method.__name__}`? {bracket}", module, re.I)
        or re.search(bracket, f"{method.__doc__ or ''}{item}")
        or re.match(rf": (.*?{_YEAR}[^.]*)", item, re.S)
        or (None if item else re.search(bracket, module.partition("\n\n")[0]))
    )
    return " ".join(found[1].split()) if found else ""


def _first_sentence(method: type) -> str:
    """What the class says of itself in its first line."""
    text = (method.__doc__ or "").strip().partition("\n")[0]
    return text.partition(". ")[0].rstrip(".")


def _other_app() -> bool:
    """Whether the working directory holds an app of somebody else's, whose keys are not Flotilla's."""
    app_dir = chosen_app(None)
    return not extends_ours(app_dir) and not runs_our_server(app_dir)


def _catalogue(values: Mapping[str, Any], *, others: bool) -> Sequence[Key]:
    """Every key: ours, those of installed packages, and those of what these values name, if it can be found here.

    Args:
        values: of a run, or what an app's are where nobody says anything else.
        others: they are those of somebody else's app, which says no more of its keys than that.
    """
    from server_app.config.catalogue import Key, foreign
    from server_app.config.catalogue import keys as ours

    if others:
        return [
            Key(name=name, type=type(value), default=value, allowed="", words="", section="", read_by="this app")
            for name, value in values.items()
        ]
    try:
        return [*ours(), *foreign(values)]
    except ValueError:  # a run's values may name a package that went with it and is not here
        return [*ours(), *foreign()]


def _values(run: Path | None) -> tuple[Mapping[str, Any], str]:
    """Values by key, and where they are from: a run's, or those of the app that `flotilla run` would run here."""
    if run is None:
        app_dir = chosen_app(None)
        return values_in(app_dir), f"in {app_dir / 'pyproject.toml'}"
    try:
        return json.loads((run / "config.json").read_text(encoding="utf-8"))["config"], f"in {run / 'config.json'}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{run}: no run folder with a config.json ({error})") from None


def _about(key: Key, word: str) -> bool:
    return any(word.lower() in text.lower() for text in (key.name, key.words, key.section))


def _did_you_mean(word: str, known: Iterable[Key]) -> str:
    from server_app.config.catalogue import moved

    if where := moved(word):
        return where
    near = nearest(word, [key.name for key in known])
    return (f"did you mean {either(near)}? " if near else "") + "`flotilla keys` lists all"


def _allowed(key: Key) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a string, in quotes"}
    return "; ".join(filter(None, [kinds[key.type], key.allowed]))


def _toml(value: object) -> str:
    """Write a value as `-c` takes it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)


def _plain(words: str) -> str:
    """Words without the marks of Markdown."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", words).replace("`", "")


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns; a terminal gets a line a row, a pipe the whole text of the last columns."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads) - 1)]
    for line in lines:
        text = "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        if sys.stdout.isatty() and len(text) > (room := _width()):
            text = text[: room - 1] + "…"
        print(text)


def _width() -> int:
    return shutil.get_terminal_size((100, 24)).columns
