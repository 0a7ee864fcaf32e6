"""The facts of a run's task, decided once: from the server's data, from a file, or from sums that the nodes send.

Where clients divide one data set among themselves, its facts are everybody's. Where devices own their data, the server
may have none: then every node says how many examples it has of which class, and sums of its values, before the first
round, and the facts are those of all examples together. What the run decided is `facts.json` in its folder, which a
resumed run reads and another run may be given (`task-facts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import INFO, WARNING
from pathlib import Path

from flwr.app import Message
from flwr.common import log
from flwr.serverapp import Grid

from data import DataSettings, InputFacts, Summary, facts_from, input_facts, summarise
from data.pooled import CLASSES, SHAPES
from models.errors import SettingError
from protocol import FACTS, DataReply, HelloRequest, WireError, escaped
from server_app.folder.files import replace_text
from strategies.exchange.messaging import exchange
from strategies.exchange.update import said_error, why_unusable
from strategies.nodes.manager import NodeManager
from strategies.settings import Settings

FILE = "facts.json"
_ASK = "ask"
_LONGEST = 2**26  # bytes of a file of facts
_FEW = 20  # classes that a line lists


class NoFacts(RuntimeError):
    """No node said anything that facts can be made of."""


def read_facts(settings: DataSettings) -> InputFacts | None:
    """The facts of the file that a configuration names; None if it names none.

    Raises:
        SettingError: (key task-facts) it cannot be read, or holds something else.
    """
    return None if settings.task_facts in ("", _ASK) else _read(Path(settings.task_facts).expanduser(), "task-facts")


def saved_facts(folder: Path) -> InputFacts | None:
    """The facts that a run which is resumed has decided; None if it has not got that far.

    Raises:
        SettingError: (key resume) they cannot be read.
    """
    return _read(folder / FILE, "resume") if (folder / FILE).is_file() else None


def save_facts(folder: Path, facts: InputFacts) -> None:
    """Write them into a run's folder, whole or not at all."""
    replace_text(folder / FILE, facts.to_json() + "\n")


def decide(data: DataSettings, settings: Settings, grid: Grid) -> InputFacts:
    """The facts of a run that names no file of them.

    Args:
        data: which data, and whether devices own theirs.
        settings: of the run: how many nodes, and how long to wait for them.
        grid: where the nodes are.

    Raises:
        SettingError: (key data-root) the server's data cannot be used; (key task-facts) differential privacy, under
            which nobody is asked.
        NoFacts: no node said anything that facts can be made of.
    """
    if not data.own:
        return input_facts(data)
    if data.known and data.task_facts != _ASK:
        own = summarise(data)
        if own.count(CLASSES):  # the server may have data to test on only
            return facts_from(data, own)
    if settings.guard.dp_noise:
        allowed = "a file: under dp-noise nodes are asked for no sums of their data"
        raise SettingError("task-facts", data.task_facts, allowed)
    pooled, kinds = _ask(settings, grid)
    nodes = sum(map(len, kinds.values()))
    try:
        facts = facts_from(data, pooled)
    except ValueError as error:
        raise NoFacts(f"no task can be made of what {nodes} nodes have: {error}{_unlike(kinds)}") from None
    counts = [f"{escaped(name, 40)} ({pooled.counts[CLASSES][name]})" for name in facts.classes[:_FEW]]
    more = f" and {len(facts.classes) - _FEW} more" if len(facts.classes) > _FEW else ""
    log(INFO, "facts of the task from %d nodes: %d classes, %s%s", nodes, len(facts.classes), ", ".join(counts), more)
    return facts


def _ask(settings: Settings, grid: Grid) -> tuple[Summary, dict[frozenset[str], list[int]]]:
    """The sums of all nodes that are there, and who said theirs, by what they are sums of."""
    NodeManager().wait(grid, settings.nodes, settings.min_nodes, settings.node_wait)
    content = HelloRequest().to_record()
    addresses = sorted(grid.get_node_ids())
    messages = [Message(content=content, message_type=FACTS, dst_node_id=address) for address in addresses]
    pooled, refusals = [Summary()], list[str]()
    said, kinds = set[int | str](), dict[frozenset[str], list[int]]()

    def take(i: int, reply: Message | None) -> None:
        try:
            found = _read_reply(reply)
            if found.node in said:
                raise WireError("another node has said that it is this one")
            told = Summary.from_json(found.summary)
            pooled[0] = pooled[0] + told
            said.add(found.node)
            kinds.setdefault(frozenset([*told.counts, *told.sums, *told.counts.get(SHAPES, ())]), []).append(
                addresses[i]
            )
        except Exception as error:  # the others' will do
            refusals.append(f"node {addresses[i]}: {why_unusable(error)}")
            log(WARNING, "facts of %s", refusals[-1])

    exchange(grid, messages, take, seconds=settings.wait)
    if not said:
        raise NoFacts(f"none of {len(messages)} nodes said what data it has; {'; '.join(refusals[:3])}")
    return pooled[0], kinds


def _unlike(kinds: Mapping[frozenset[str], list[int]]) -> str:
    """Which nodes' data are of another kind than most nodes' are, such as a table with other columns."""
    _, *others = sorted(kinds.values(), key=len, reverse=True)
    odd = sorted(node for nodes in others for node in nodes)
    more = f" and {len(odd) - _FEW} more" if len(odd) > _FEW else ""
    return f"; nodes {', '.join(map(str, odd[:_FEW]))}{more} have others than most" if odd else ""


def _read_reply(reply: Message | None) -> DataReply:
    if reply is None:
        raise WireError("no answer in time")
    if reply.has_error():
        raise WireError(said_error(reply))
    return DataReply.from_record(reply.content)


def _read(file: Path, key: str) -> InputFacts:
    try:
        if file.stat().st_size > _LONGEST:
            raise ValueError(f"more than {_LONGEST} bytes")
        return InputFacts.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(key, str(file), f"a file of facts, as facts.json of a run folder ({reason})") from None
