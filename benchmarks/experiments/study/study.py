"""The study: which exponents of the utility rule pay.

Every combination of the exponents a, b, c with three correlations of size and tier, with and without label noise, then
the regression; tables and plots go into docs/study.md. Finished runs are kept in runs/study-…/ and not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from itertools import product
from multiprocessing import get_context
from os import cpu_count

from benchmarks.document import DOCS, ROOT, replace_part
from benchmarks.experiments.study import figures, regression, tables
from benchmarks.experiments.study.runs import COMMON, SPEEDS, SPREAD, Case, Outcome, run
from benchmarks.task import Command, Options

DOCUMENT = DOCS / "study.md"
EXPONENTS = ((0.0, 0.5, 1.0), (0.0, 1.0), (0.0, 2.0))
CONDITIONS = [(correlation, noise) for noise in (False, True) for correlation in (-1, 0, 1)]


def cases(seeds: Sequence[int], more_seeds: int) -> Iterator[Case]:
    """All runs: the rules, then uniform draws for the regression with more seeds."""
    for seed in seeds:
        for (correlation, noise), (data, loss, lateness) in product(CONDITIONS, product(*EXPONENTS)):
            yield Case(data=data, loss=loss, lateness=lateness, correlation=correlation, noise=noise, seed=seed)
    for seed in range(1, more_seeds + 1):
        for correlation, noise in CONDITIONS:
            yield Case(
                data=0.0, loss=0.0, lateness=0.0, correlation=correlation, noise=noise, seed=seed, everybody=True
            )


def outcomes(wanted: Sequence[Case], processes: int) -> dict[Case, Outcome]:
    """Run what is not there yet, whole runs side by side."""
    made = json.dumps([COMMON, SPEEDS, SPREAD], sort_keys=True)
    folder = ROOT / "runs" / f"study-{sha256(made.encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {case: folder / ("-".join(map(str, asdict(case).values())) + ".json") for case in wanted}
    found: dict[Case, Outcome] = {}
    for case, file in files.items():
        with suppress(OSError, ValueError, TypeError):
            found[case] = Outcome(**json.loads(file.read_text(encoding="utf-8")))
    missing = [case for case in wanted if case not in found]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as workers:
        going = {workers.submit(run, case): case for case in missing}
        for number, future in enumerate(as_completed(going), 1):
            case, outcome = going[future], future.result()
            temporary = files[case].with_suffix(".part")
            temporary.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
            temporary.replace(files[case])
            found[case] = outcome
            print(f"{number}/{len(missing)} {case}: {100 * outcome.accuracy[-1]:.1f} %", flush=True)
    return {case: found[case] for case in wanted}


def _run(options: Options) -> int:
    """Run, print, and write tables and plots."""
    processes = cpu_count() or 1 if options.processes is None else options.processes
    found = outcomes(list(cases(options.seeds, options.more_seeds)), max(1, processes))
    rules = {case: one for case, one in found.items() if not case.everybody}
    fits = {
        which: regression.fit(
            {
                case.seed: regression.Run(one.loss, one.chosen)
                for case, one in found.items()
                if case.everybody and (case.correlation, case.noise) == which
            }
        )
        for which in CONDITIONS
    }
    seeds = ", ".join(map(str, options.seeds))
    blocks = [f"Seeds {seeds}. {tables.legend()}"]
    blocks += [f"**{tables.condition(*which)}**\n\n{tables.rules(rules, *which)}" for which in CONDITIONS]
    parts = {
        "effects": f"Seeds {seeds}.\n\n{tables.effects(rules)}",
        "regression": f"Seeds 1 to {options.more_seeds}.\n\n{tables.regressions(fits)}",
        "rules": "\n\n".join(blocks),
    }
    for name, text in parts.items():
        print(f"\n{text}")
        if options.write:
            replace_part(DOCUMENT, name, text)
    if options.write:
        figures.rules(rules, CONDITIONS, DOCUMENT.with_name("study-rules.svg"))
        figures.coefficients(fits, DOCUMENT.with_name("study-regression.svg"))
    return 0


TASK = Command(_run, defaults={"seeds": [1, 2, 3, 4, 5], "more_seeds": 10, "processes": None, "write": False})
