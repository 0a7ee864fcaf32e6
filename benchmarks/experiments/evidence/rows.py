"""What a finished run came to, as lines of a CSV: one for each tier, and one for the network as a whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import TypeVar

from benchmarks.experiments.rank_tables import Place
from flotilla.settings import SettingsError
from flotilla.studies.results import read_results
from server_app.folder.run_folder import CONFIG
from server_app.tier_records import GLOBAL

Line = TypeVar("Line")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A tier of a run; the network as a whole is the tier "global".

    Attributes:
        part: of the evidence.
        method: the row.
        seed: of the run.
        tier: its name.
        last, best: accuracy of its network on the test set, in the last round and in the best evaluated one.
        worst_clients: mean accuracy of the worst tenth of the clients on their own data; None where it was not asked.
        parameters, macs: of the network that a device of the tier ends with.
        bytes_down, bytes_up: of one device in a round; None where nobody was asked.
        peak_bytes: to train it, by the cost model; None for the network as a whole.
        run_bytes_up: of the whole run.
        cpu_seconds: of the whole run.
        run: name of its folder, which ends in a digest of all settings.
        torch: version that it ran with.
    """

    part: str
    method: str
    seed: int
    tier: str
    last: float
    best: float
    worst_clients: float | None
    parameters: int | None
    macs: int | None
    bytes_down: int | None
    bytes_up: int | None
    peak_bytes: int | None
    run_bytes_up: int
    cpu_seconds: float
    run: str
    torch: str


def read_run(place: Place) -> list[Row]:
    """The lines of a finished run.

    Raises:
        SettingsError: it is damaged.
    """
    results, skipped = read_results([place.run])
    if not results:
        raise SettingsError(skipped[0])
    (result,) = results
    torch = torch_of(place.run)

    def row(tier: str, last: float, best: float) -> Row:
        told = place.last["tiers"].get(tier, {})
        whole = {name: _whole(told.get(name)) for name in ("parameters", "macs", "bytes_down", "bytes_up")}
        return Row(
            part=place.part,
            method=place.method,
            seed=place.seed,
            tier=tier,
            last=round(last, 5),
            best=round(best, 5),
            worst_clients=None if result.clients is None else round(result.clients, 5),
            parameters=whole["parameters"],
            macs=whole["macs"],
            bytes_down=whole["bytes_down"],
            bytes_up=whole["bytes_up"],
            peak_bytes=_whole(place.memory.get(tier)),
            run_bytes_up=round(place.traffic[1]),
            cpu_seconds=round(place.seconds, 2),
            run=place.run.name,
            torch=torch,
        )

    every = {GLOBAL: (result.last, result.best)} | {name: (one.last, one.best) for name, one in result.tiers.items()}
    return [row(tier, *scores) for tier, scores in every.items()]


def torch_of(run: Path) -> str:
    """The version of PyTorch that a run began with, from its folder; a run goes on with no other.

    Raises:
        SettingsError: its folder does not say.
    """
    try:
        return str(json.loads((run / CONFIG).read_text(encoding="utf-8"))["versions"]["torch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{run / CONFIG} does not say by which PyTorch it ran ({error})") from None


def as_csv(rows: Iterable[Row]) -> str:
    """All lines, with a head; scores to five digits, what is not known as nothing."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    for row in rows:
        writer.writerow([_cell(value) for value in asdict(row).values()])
    return text.getvalue()


def read_csv(file: Path) -> list[Row]:
    """The lines of a file that `as_csv` wrote.

    Raises:
        SettingsError: it cannot be read, or is no such file.
    """
    return lines_of(file, _row)


def lines_of(file: Path, made: Callable[[dict[str, str]], Line]) -> list[Line]:
    """The lines of a CSV with a head, each made of its cells by name.

    Raises:
        SettingsError: it cannot be read, or a line cannot be made.
    """
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            return [made(line) for line in csv.DictReader(opened)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{file}: allowed is a file that this command wrote ({error})") from None


def in_order(rows: Sequence[Row], wanted: Sequence[tuple[str, str]]) -> list[Row]:
    """Those of some parts and methods, in the order of these."""
    places = {one: place for place, one in enumerate(wanted)}
    kept = [row for row in rows if (row.part, row.method) in places]
    return sorted(kept, key=lambda row: (places[row.part, row.method], row.seed))


def _whole(value: object) -> int | None:
    return round(value) if isinstance(value, int | float) else None


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.5f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def _row(line: dict[str, str]) -> Row:
    def number(name: str) -> int | None:
        return int(line[name]) if line[name] else None

    return Row(
        part=line["part"],
        method=line["method"],
        seed=int(line["seed"]),
        tier=line["tier"],
        last=float(line["last"]),
        best=float(line["best"]),
        worst_clients=float(line["worst_clients"]) if line["worst_clients"] else None,
        parameters=number("parameters"),
        macs=number("macs"),
        bytes_down=number("bytes_down"),
        bytes_up=number("bytes_up"),
        peak_bytes=number("peak_bytes"),
        run_bytes_up=int(line["run_bytes_up"]),
        cpu_seconds=float(line["cpu_seconds"]),
        run=line["run"],
        torch=line["torch"],
    )
