"""Other people's libraries beside ours, in one run: the same rounds, in turns, each in an environment of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from benchmarks.document import DOCS, Say, replace_part
from benchmarks.machine import machine
from benchmarks.peers.contender import Contender, Failed, contender
from benchmarks.peers.environments import Installed, NotInstalled
from benchmarks.peers.job import JOBS, Job
from benchmarks.peers.peer import OURS, PEERS, Peer
from benchmarks.peers.pictures import write_pictures
from benchmarks.peers.result import Result, result_of, text_of
from benchmarks.task import Command, Options

DOCUMENT = DOCS / "peers.md"


def measured(
    job: Job, peers: Sequence[Peer], say: Say, turns: int = 0, *, installed: Installed | None = None
) -> list[Result]:
    """Let everybody do a job's rounds in turns.

    All are started and have warmed up before the first turn. What cannot be installed, does not start, trains another
    network, takes another number of steps or ends is left out from there on, ended, and named with the reason.

    Args:
        job: what is done.
        peers: who does it.
        say: takes progress.
        turns: rounds that count; 0 is what the job says.
        installed: the environments of this run; None makes them where they are not there.
    """
    turns, installed = turns or job.turns, installed or Installed(say)
    results: dict[tuple[str, int], Result] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pictures-")))
        data = write_pictures(folder / job.name, job)
        there = dict[Contender, ExitStack]()  # each with what ends it

        def leave_out(peer: Peer, reason: object) -> None:
            say(f"peers: {job.name}: {peer.name}: {reason}")
            results[peer.name, 0] = Result(job=job.name, name=peer.name, reason=str(reason))

        for peer in peers:
            if peer.without.get(job.name):
                leave_out(peer, peer.without[job.name])
                continue
            for processes in peer.processes:
                own = stack.enter_context(ExitStack())
                try:
                    made = own.enter_context(
                        contender(
                            peer,
                            processes or job.per_round,
                            job,
                            python=installed.python_of(peer),
                            data=data,
                            rounds=job.warm_up + turns,
                        )
                    )
                    for _ in range(job.warm_up):
                        made.warm_up()
                except (NotInstalled, Failed) as error:
                    own.close()  # else it might compute in the turns of others
                    leave_out(peer, error)
                    break
                there[made] = own
                say(f"peers: {job.name}: {peer.name}, {made.processes}: ready")
        for turn in range(turns):
            began = perf_counter()
            for one in list(there):
                try:
                    one.turn()
                except Failed as error:
                    there.pop(one).close()
                    leave_out(one.peer, error)
            say(f"peers: {job.name}: turn {turn + 1} of {turns}: {perf_counter() - began:.0f} s")
        for one in there:
            try:
                results[one.peer.name, one.processes] = result_of(one, _beside(one, list(there)), one.finish())
            except Failed as error:
                leave_out(one.peer, error)
    order = [peer.name for peer in peers]
    return sorted(results.values(), key=lambda result: (order.index(result.name), result.processes))


def _beside(one: Contender, there: Sequence[Contender]) -> Contender | None:
    """Ours in as many processes, or in the most that it was measured in; None for that itself."""
    name = one.peer.beside or OURS
    if one.peer.name == name:
        return None
    ours = [other for other in there if other.peer.name == name]
    same = [other for other in ours if other.processes <= one.processes]
    return max(same or ours, key=lambda other: other.processes, default=None)


def chosen(words: Sequence[str]) -> list[Peer]:
    """The libraries whose name has one of the words, and ours that they are compared with; all without words."""
    wanted = [peer for peer in PEERS if any(word.lower() in peer.name.lower() for word in words)]
    beside = {peer.beside or OURS for peer in wanted}
    return [peer for peer in PEERS if not words or peer in wanted or peer.name in beside]


def _run(options: Options) -> int:
    """Measure, or read what was measured; print the tables."""
    if options.rows:
        found = json.loads(options.rows.read_text(encoding="utf-8"))
        made_on, results = found["machine"], [Result(**values) for values in found["results"]]
    else:
        peers, installed = chosen(options.only), Installed(_say)
        for peer in peers:  # before anything is measured
            try:
                installed.python_of(peer)
            except NotInstalled as error:
                _say(f"peers: {error}")
        made_on, results = machine(), []
        for name in options.parts:
            began = perf_counter()
            results += measured(JOBS[name], peers, _say, options.turns, installed=installed)
            _say(f"peers: {name}: {perf_counter() - began:.0f} s")
    if options.json:
        written = {"machine": made_on, "results": [result.to_json() for result in results]}
        options.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    if options.write:
        replace_part(DOCUMENT, "peers", f"{made_on}.\n\n{text_of(results, markdown=True)}")
    print(f"\n{made_on}\n\n{text_of(results)}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


TASK = Command(_run, parts=tuple(JOBS), defaults={"only": (), "turns": 0, "json": None, "rows": None, "write": False})
