"""The page of a method: everything that is known of it, from where it is known.

Nothing here is written by hand: the idea, the equation and the traps are docstrings, the picture is drawn, settings
come from the catalogue, numbers from the tables that programs wrote into docs/, the paper's from `recipes/`, and parity
from docs/parity.md. So a method of a plug-in has a page as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.document import table
from handbook import told
from handbook.dialect import for_mkdocs, moved, whole_numbers
from handbook.navigation import METHODS as PLACE
from handbook.navigation import file_of
from handbook.numbers import rows_of
from handbook.parity import held
from handbook.pictures import Shown, shown
from handbook.recipes import FOLDER, Recipe, recipes
from protocol import Scalar
from server_app.config.catalogue import Key, foreign, keys, option_keys
from server_app.config.document import table as settings_table
from strategies import METHODS, FlowerStrategy

SECTIONS = ("Idea", "Equation", "What every tier holds", "Settings", "Our numbers", "The paper's", "Traps", "Parity")
_WIDTH = 76  # of a command, in characters
_UP = "../"  # from a page of a method to docs/


def method_pages(root: Path, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """Content of the pages by folder and file.

    Args:
        root: the repository, whose documents are read.
        names: of methods: built in, of installed packages, or import paths.
    """
    published = recipes(root)
    pages = {"index.md": _index(names)}
    for name in names:
        drawn = shown(name)
        pages[file_of(name)] = _page(root, name, drawn, published)
        if isinstance(drawn, Shown):
            pages[_picture_of(name)] = drawn.svg
    return {PLACE: pages}


def _index(names: Sequence[str]) -> str:
    lines = [[f"[`{name}`]({file_of(name)})", told.summary(METHODS[name])] for name in names]
    return f"# Methods\n\n{table(['method', 'what it is'], lines, markdown=True)}\n"


def _page(root: Path, name: str, drawn: Shown | str, published: Sequence[Recipe]) -> str:
    method, own = METHODS[name], _own_keys(name)
    parts = (
        moved(for_mkdocs(told.idea(method)), _UP),
        _equation(method),
        _picture(name, drawn),
        _settings(method, own),
        _numbers(root, name),
        _published(name, published),
        _traps(method, drawn),
        _parity(root, name, method, own),
    )
    sections = [f"## {title}\n\n{part}" for title, part in zip(SECTIONS, parts, strict=True)]
    job = drawn.job if isinstance(drawn, Shown) else {}
    return "\n\n".join([f"# {name}", told.summary(method), _command({"method": name, **job}), *sections]) + "\n"


def _command(settings: Mapping[str, Scalar]) -> str:
    """The command of a run, in lines that a page is wide enough for."""
    lines = ["flotilla run -c '"]
    for pair in (f"{key}={json.dumps(value)}" for key, value in settings.items()):
        if len(lines[-1]) + len(pair) > _WIDTH:
            lines.append("   ")
        lines[-1] += pair if lines[-1].endswith("'") else f" {pair}"
    return "\n".join(f"    {line}" for line in lines) + "'"


def _equation(method: type[FlowerStrategy]) -> str:
    said = told.part(method, "Equation")
    own = _capital(said.text) + (
        f" (So `{said.owner}`, which it extends.)" if said.owner not in ("", method.__name__) else ""
    )
    weights = "aₖ = bₖ = nₖ, its examples" if method.BY_EXAMPLES else "aₖ = bₖ = 1"
    general = (
        "Of what every method is: `new = previous + Σ aₖ·Δₖ / Σ bₖ`, coordinate by coordinate over the devices k that"
        f" held it, here with {weights}, unless `weigh` or the setting `aggregation` says otherwise. Hooks that it has:"
    )
    lines = [[f"`{hook}`", line, f"`{owner}`"] for hook, line, owner in told.hooks(method)]
    hooks = table(["hook", "says", "in"], lines, markdown=True) if lines else "none: it is FedAvg without weights."
    return "\n\n".join(part for part in (own, general, hooks) if part)


def _picture(name: str, drawn: Shown | str) -> str:
    if isinstance(drawn, str):
        return f"Neither the default job nor one with adapters is for it: {drawn}"
    job = "the default job" if not drawn.job else "the job above"
    return (
        f"On {job} ({drawn.network}), as it is at the first round:\n\n"
        f"![What every tier holds of the network: units of every axis, and costs]({_picture_of(name)})"
    )


def _picture_of(name: str) -> str:
    return file_of(name).removesuffix(".md") + ".svg"


def _own_keys(name: str) -> list[Key]:
    known = option_keys().get(name)
    if known is None:
        return [key for key in foreign({"method": name}) if key.read_by == f"method = {name}"]
    return [key for key in keys() if key.name in known.values()]


def _settings(method: type[FlowerStrategy], own: Sequence[Key]) -> str:
    preferred = method.PREFERENCES
    usual = [
        f"norm `{preferred.norm}`",
        f"the Scaler {'on' if preferred.scaler else 'off'}",
        f"exits `{preferred.exits[0]}`",
        *([f"`dynamic-alpha` {preferred.dynamic_alpha}"] if preferred.dynamic_alpha else []),
    ]
    mine = moved(settings_table(own), _UP) if own else "It has none of its own."
    others = "All others: [configuration](../configuration.md)."
    return f"{mine}\n\nWhere nothing else is said (`auto`): {', '.join(usual)}. {others}"


def _numbers(root: Path, name: str) -> str:
    found = rows_of(name, root / "docs", METHODS.names())
    if not found:
        return "No table of these documents has it. That it trains, resumes and averages as it should is tested."
    return "\n\n".join(
        f"[{one.title}](../{one.page}), {one.heading}:\n\n{whole_numbers(table(one.heads, one.rows, markdown=True))}"
        for one in found
    )


def _published(name: str, published: Sequence[Recipe]) -> str:
    own = [one for one in published if name in one.methods]
    if not own:
        return f"None is confirmed: `{FOLDER}/` has no setting of its paper."
    return "\n\n".join(
        f"**{one.title}** ([{one.file}](../../{FOLDER}/{one.file}))\n\n"
        + "\n".join(f"- {part}: {one.said[part]}" for part in ("Expected", "Source", "Differs") if part in one.said)
        for one in own
    )


def _traps(method: type[FlowerStrategy], drawn: Shown | str) -> str:
    said = told.part(method, "Traps")
    own = _capital(said.text) + _whose(said.owner, method)
    doubts = drawn.doubts if isinstance(drawn, Shown) else ()
    lines = [f"On this job it warns: {line}." for line in doubts]
    return "\n\n".join(part for part in (own, *lines) if part) or "It names none, and warns of nothing on this job."


def _whose(owner: str, method: type[FlowerStrategy]) -> str:
    return f" (So `{owner}`, which it extends.)" if owner not in ("", method.__name__) else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _parity(root: Path, name: str, method: type[FlowerStrategy], own: Sequence[Key]) -> str:
    found = held(root, name, method, [key.name for key in own])
    parts = []
    if found.row:
        if not found.own:
            parts.append(f"As `{found.owner}`, which it extends:")
        parts.append(table(found.heads, [found.row], markdown=True))
    parts += [f"- {note}" for note in found.notes]
    if found.tests:
        parts.append(f"Tests that name it: {', '.join(f'`{test}`' for test in found.tests)}.")
    text = "\n\n".join(parts) or "It is held against no released code."
    return moved(f"{text}\n\nAll of them: [parity](parity.md).", _UP)
