"""The facts of a run's task, decided once: from the server's data, from a file, or from sums that the nodes send.

Where clients divide one data set among themselves, its facts are everybody's. Where devices own their data, the server
may have none: then every node says how many examples it has of which class, and sums of its values, before the first
round, and the facts are those of all examples together. What the run decided is `facts.json` in its folder, which a
resumed run reads and another run may be given (`task-facts`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from logging import INFO, WARNING
from pathlib import Path

from flwr.app import Message
from flwr.common import log
from flwr.serverapp import Grid

from data import DataSettings, InputFacts, Summary, agreed, facts_from, input_facts, summarise
from data.pooled import CLASSES, SHAPES
from models.errors import SettingError
from protocol import FACTS, MOST_OF_A_REASON, DataReply, HelloRequest, NodeId, WireError, escaped
from server_app.folder.files import replace_text
from strategies.exchange.messaging import exchange
from strategies.exchange.node import in_order
from strategies.exchange.update import MOST_EXAMPLES, said_error, why_unusable
from strategies.nodes.claims import Claims
from strategies.nodes.manager import NodeManager
from strategies.nodes.registration import Registrations
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
    said, nodes = _ask(settings, grid)
    try:
        facts, left_out = _agreed(data, settings, said)
    except ValueError as error:
        raise NoFacts(
            f"no task can be made of what {len(nodes)} nodes have: {escaped(str(error))}{_unlike(said, nodes)}"
        ) from None
    for i, why in left_out.items():
        log(WARNING, "facts of node %s are left out: %s", nodes[i], escaped(why))
    names = Counter[str]()
    for i, one in enumerate(said):
        names.update({} if i in left_out else one.counts.get(CLASSES, {}))
    counts = [f"{escaped(name, 40)} ({names[name]})" for name in facts.classes[:_FEW]]
    more = f" and {len(facts.classes) - _FEW} more" if len(facts.classes) > _FEW else ""
    count = len(nodes) - len(left_out)
    log(INFO, "facts of the task from %d nodes: %d classes, %s%s", count, len(facts.classes), ", ".join(counts), more)
    return facts


def _agreed(data: DataSettings, settings: Settings, said: list[Summary]) -> tuple[InputFacts, dict[int, str]]:
    """Facts of what nodes said, and who is left out of them and why; all count without the guard."""
    if settings.guard.guard:
        return agreed(said, partial(facts_from, data))
    return facts_from(data, sum(said, start=Summary())), {}


def _ask(settings: Settings, grid: Grid) -> tuple[list[Summary], list[NodeId]]:
    """What each node says of its data, and their ids, ascending: one for each id, of who owns it, as with a hello."""
    NodeManager().wait(grid, settings.nodes, settings.min_nodes, settings.node_wait)
    content, online = HelloRequest().to_record(), Registrations().online(grid)
    addresses, claims = sorted(online), Claims(settings.nodes)
    messages = [Message(content=content, message_type=FACTS, dst_node_id=address) for address in addresses]
    said, refusals = dict[int, Summary](), list[str]()

    def refuse(address: int, reason: str) -> None:
        refusals.append(escaped(f"node {address}: {reason}", MOST_OF_A_REASON))
        log(WARNING, "facts of %s", refusals[-1])

    def take(i: int, reply: Message | None) -> None:
        try:
            found = _read_reply(reply)
            summary = Summary.from_json(found.summary)
            if any(max(names.values(), default=0) > MOST_EXAMPLES for names in summary.counts.values()):
                raise WireError(f"counts: allowed are {MOST_EXAMPLES}")
            claims.claim(found.node, addresses[i], online[addresses[i]])
            said[addresses[i]] = summary
        except Exception as error:  # the others' will do
            refuse(addresses[i], why_unusable(error))

    exchange(grid, messages, take, seconds=settings.wait)
    held, refused = claims.holders(said)
    for one in refused:
        refuse(one.address, one.reason)
    if not held:
        raise NoFacts(f"none of {len(messages)} nodes said what data it has; {'; '.join(refusals[:3])}")
    nodes = sorted(held, key=in_order)
    return [said[held[node]] for node in nodes], nodes


def _unlike(said: Sequence[Summary], nodes: Sequence[NodeId]) -> str:
    """Which nodes' data are of another kind than most nodes' are, such as a table with other columns."""
    kinds = dict[frozenset[str], list[NodeId]]()
    for node, one in zip(nodes, said, strict=True):
        kinds.setdefault(frozenset([*one.counts, *one.sums, *one.counts.get(SHAPES, ())]), []).append(node)
    _, *others = sorted(kinds.values(), key=len, reverse=True)
    odd = sorted((node for kind in others for node in kind), key=in_order)
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
