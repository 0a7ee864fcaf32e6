"""The commands `flotilla sweep` and `flotilla compare`."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flotilla.own_app import APP_DIR, WITH, chosen_app
from flotilla.refusal import refuse
from flotilla.settings import SettingsError

if TYPE_CHECKING:
    from flotilla.studies.plan import Cell
    from flotilla.studies.progress import Progress
    from flotilla.studies.search_plan import SearchPlan
    from flotilla.studies.sweep import Folder


# Typer takes a word in square brackets for a style, unless a backslash stands before it.
_TABLES = r"\[settings], \[grid] and \[rows.NAME], or \[search]"


def _sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help=f"Tables {_TABLES}.")],
    app_dir: Annotated[Path | None, APP_DIR] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the sweep is; default runs/sweeps/<name of the file>.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs side by side; default: one per core.")
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=0, help="Clients that train at once in each run; 0: its own process.")
    ] = 0,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Only say which runs there are, and their state.")] = False,
    own_code: Annotated[list[Path] | None, WITH] = None,
) -> None:
    r"""Run every combination of a grid of settings, several side by side.

    The same command goes on where a sweep was stopped, by Ctrl-C or a kill: finished runs stay, others go on from their
    last checkpoint. `flotilla compare FOLDER` holds them against each other. A file with \[search]
    looks for settings, by what devices keep out of their training and never by the test set.

    Exit codes: 0 all finished; 1 some failed or were stopped; 2 a wrong setting, nothing was started; 130 stopped.
    """
    from flotilla.studies.plan import read_plan
    from flotilla.studies.screen import Screen
    from flotilla.studies.search_plan import read_search
    from flotilla.studies.sweep import Folder, run_sweep

    try:
        place = Folder(path=(folder or Path("runs/sweeps") / file.stem).absolute())
        if (wanted := read_search(file)) is not None:
            told = {"jobs": jobs or os.cpu_count() or 1, "processes": processes, "retry": retry, "code": own_code or ()}
            raise typer.Exit(_searched(wanted, place, chosen_app(app_dir), list_only, told))
        cells = read_plan(file)
        if list_only:
            for cell in cells:
                why = place.failed(cell)
                state = "finished" if place.finished(cell) else "failed: " + why if why else "to do"
                print(f"{cell.name}  {state}")
            return
        with Screen(len(cells)) as screen:
            progress: Progress = run_sweep(
                place,
                cells,
                chosen_app(app_dir),
                jobs=jobs or os.cpu_count() or 1,
                processes=processes,
                retry=retry,
                code=own_code or (),
                report=screen.show,
            )
    except SettingsError as error:
        refuse(error)
    except KeyboardInterrupt:
        print("flotilla: SIGINT: stopped; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    shown = _seen_from_here(place.path)
    print(f"{progress.finished} of {progress.cells} runs finished in {shown}; flotilla compare {shown}")
    if progress.failed:
        print(f"flotilla: {progress.failed} failed: --list says why, --retry tries them again", file=sys.stderr)
    if progress.finished < progress.cells:
        raise typer.Exit(1)


def _searched(plan: SearchPlan, place: Folder, app_dir: Path, list_only: bool, told: Mapping[str, Any]) -> int:
    """Search, or say how far it is; the exit code."""
    from flotilla.studies.screen import Screen
    from flotilla.studies.search import BEST, best, check_corners, refusal, search, tried
    from flotilla.studies.search_journal import FAILED, REFUSED, SCORED, TO_DO
    from flotilla.studies.sweep import run_sweep

    def refused(keys: Mapping[str, Any]) -> str | None:
        return refusal(keys, app_dir, told["code"])

    if list_only:
        trials = tried(plan, place)
    else:
        check_corners(plan, refused)
        with Screen(plan.trials * len(plan.seeds)) as screen:

            def run(cells: Sequence[Cell], some: Sequence[Cell]) -> Progress:
                return run_sweep(place, cells, app_dir, only=some, report=screen.show, **told)

            trials = search(plan, place, run, refused=refused, retry=told["retry"])
    found, shown = best(trials), _seen_from_here(place.path)
    for trial in trials:
        said = trial.state if trial.score is None else f"{trial.score:.4f}"
        values = ", ".join(f"{key}={value}" for key, value in trial.values.items())
        print(f"trial {trial.number}  {said}  {values}{': ' * bool(trial.why)}{trial.why}")
    if found is not None:
        print(f"best: trial {found.number}, {found.score:.4f} on what devices kept out of training; {shown / BEST}")
    if list_only:
        return 0
    counts = Counter(trial.state for trial in trials)
    for state, why in (
        (REFUSED, "their values cannot be run together"),
        (FAILED, f"{shown}/logs say why, --retry tries them again"),
        (TO_DO, "the same command goes on with them"),
    ):
        if counts[state]:
            print(f"flotilla: {counts[state]} trials {state}: {why}", file=sys.stderr)
    return 1 if counts[FAILED] or counts[TO_DO] or not counts[SCORED] else 0


def _compare(
    places: Annotated[list[Path], typer.Argument(metavar="RUN…|SWEEP", help="Run folders, or the folder of a sweep.")],
    against: Annotated[
        str | None, typer.Option("--against", help="The row that the others are held against; default: the first.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--to", help="Folder for the files; default: comparison/, in the sweep's folder if it is one."),
    ] = None,
) -> None:
    """Hold finished runs against each other: mean ± deviation over seeds, paired differences, costs.

    Runs that are alike but for the seed are one row. Prints the tables, and writes them as Markdown, LaTeX and CSV,
    with a page of plots that needs no network. Exit codes: 0, or 2 where there is nothing to compare.
    """
    from flotilla.studies import tables
    from flotilla.studies.page import page
    from flotilla.studies.results import by_row, read_results
    from flotilla.studies.sweep import SWEEP
    from server_app.folder.files import replace_text

    try:
        results, skipped = read_results(places)
        rows = list(by_row(results))
        base = rows[0] if against is None else against
        if base not in rows:
            raise SettingsError(f"--against {base!r}: allowed is one of {', '.join(rows)}")
    except (SettingsError, ValueError) as error:
        refuse(error)
    swept = len(places) == 1 and (places[0] / SWEEP).is_file()
    own = places[0].resolve() if swept else Path.cwd()
    target = folder or own / "comparison"
    target.mkdir(parents=True, exist_ok=True)
    chosen = [tables.scores(results), *([tables.differences(results, base)] if len(rows) > 1 else [])]
    chosen += [tables.costs(results), tables.sizes(results)]
    markdown = "\n\n".join(table.markdown() for table in chosen)
    command = shlex.join(
        ["flotilla", "compare", *map(str, places), *(["--against", against] if against else [])]
        + (["--to", str(folder)] if folder else [])
    )
    title = own.name if swept else "Comparison"
    files = {
        "comparison.md": markdown + "\n",
        "comparison.tex": "\n\n".join(table.latex() for table in chosen) + "\n",
        "comparison.csv": tables.as_csv(results),
        "comparison.html": page(title, results, base, skipped, command),
    }
    for name, text in files.items():
        replace_text(target / name, text)
    print(markdown)
    for line in skipped:
        print(f"flotilla: left out: {line}", file=sys.stderr)
    print(f"\n{', '.join(files)} in {_seen_from_here(target)}")


def _seen_from_here(path: Path) -> Path:
    """Relative to the working directory, where it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("sweep")(_sweep)
    app.command("compare")(_compare)
