"""What can be run by `python -m benchmarks`, and the options that all of it shares."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said; a task reads those that it names in its defaults.

    Attributes:
        parts: of the task, all of them unless some were named.
        seeds: of the runs.
        more_seeds: seeds 1 to this for the part of a study that needs more.
        rounds, nodes: of a run; 0 is what the part usually has.
        turns: with what is compared; 0 is what the part usually has.
        processes: workers; None is one per core, 0 none.
        methods, partitions: rows and divisions of a table; () is all.
        only: rows whose name has one of these.
        data_root: folder of published data sets; "" where there is none.
        root: a checkout.
        json, rows, against: files to write, to read instead of measuring, to compare with, which may be a checkout.
        default_job: whether the default job is run, too.
        whole: whether all of it is run where usually a part is.
        walk: whether every step is printed.
        operations: whether it is profiled by operation instead.
        write: whether docs/ gets what was found.
    """

    parts: Sequence[str]
    _: KW_ONLY
    seeds: Sequence[int] = ()
    more_seeds: int = 0
    rounds: int = 0
    nodes: int = 0
    turns: int = 0
    processes: int | None = None
    methods: Sequence[str] = ()
    partitions: Sequence[str] = ()
    only: Sequence[str] = ()
    data_root: str = ""
    root: Path = Path()
    json: Path | None = None
    rows: Path | None = None
    against: Path | None = None
    default_job: bool = False
    whole: bool = False
    walk: bool = False
    operations: bool = False
    write: bool = False


_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "seeds": {"type": int, "nargs": "+", "metavar": "N", "help": "seeds of the runs"},
    "more_seeds": {"type": int, "metavar": "N", "help": "seeds 1 to N for the regression"},
    "rounds": {"type": int, "metavar": "N", "help": "rounds of a run"},
    "nodes": {"type": int, "metavar": "N", "help": "nodes of a run"},
    "turns": {"type": int, "metavar": "N", "help": "bench startup, deployed: turns with the other checkout"},
    "processes": {"type": int, "metavar": "N", "help": "workers; one per core unless given, 0: none"},
    "methods": {"nargs": "+", "metavar": "NAME", "help": "rows of the table"},
    "partitions": {"nargs": "+", "metavar": "NAME", "help": "divisions of the data"},
    "only": {"nargs": "+", "metavar": "WORD", "help": "rows whose name has one of these words"},
    "data_root": {"metavar": "DIR", "help": "folder of published data sets"},
    "root": {"type": Path, "metavar": "DIR", "help": "a checkout; this one unless given"},
    "json": {"type": Path, "metavar": "FILE", "help": "write what was found as JSON"},
    "rows": {"type": Path, "metavar": "FILE", "help": "take the rows from such a file instead of measuring"},
    "against": {
        "type": Path,
        "metavar": "PLACE",
        "help": "what another checkout printed; bench startup, deployed: that checkout",
    },
    "default_job": {"action": "store_true", "help": "run the default job, too"},
    "whole": {"action": "store_true", "help": "all of it, where usually a part is run"},
    "walk": {"action": "store_true", "help": "print every step"},
    "operations": {"action": "store_true", "help": "profile by operation instead (averaging, training, pfl)"},
    "write": {"action": "store_true", "help": "put what was found into docs/"},
}


@dataclass(frozen=True, slots=True)
class Command:
    """Something to run.

    Attributes:
        run: what it does; returns the exit code.
        parts: names of its parts, of which a command line may choose some; () where it has none.
        defaults: the options that it reads, by their field of `Options`, with what they are unless said.
    """

    run: Callable[[Options], int]
    parts: Collection[str] = ()
    defaults: Mapping[str, Any] | None = None

    def __call__(self, arguments: Sequence[str], command: str, about: str | None) -> int:
        """Parse the rest of a command line and run.

        Args:
            arguments: parts and options.
            command: what stands before them.
            about: what `--help` says.

        Raises:
            SystemExit: an unknown part or option.
        """
        parser = argparse.ArgumentParser(
            prog=command, description=about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if self.parts:
            named = f"of {', '.join(self.parts)}; all unless given"
            parser.add_argument("parts", nargs="*", metavar="PART", help=named)
        for name, usual in (self.defaults or {}).items():
            parser.add_argument(f"--{name.replace('_', '-')}", default=usual, **_ARGUMENTS[name])
        given = vars(parser.parse_args(arguments))
        parts = given.pop("parts", [])
        if unknown := [part for part in parts if part not in self.parts]:
            parser.error(f"unknown: {', '.join(unknown)}; allowed is {', '.join(self.parts)}")
        return self.run(Options(parts or list(self.parts), **given))
