"""Server memory while folding: 100 clients of the ResNet shape within 1.75 global states, and no more than for 20.

A process of its own makes the strategy and its state; what it holds then is the baseline. Then it runs rounds through
the strategy's own `run_round`, on a grid that makes every reply when it is asked for and keeps none. As one does whose
SuperLink is another process, it keeps nothing of a request but whom it is for. (A grid that has more replies ready
gives up to `exchange.WINDOW` at a time.)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.bench.resident import held, in_a_process, peak
from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.bench.shapes import RESNET_18, TINY
from benchmarks.document import Say
from flotilla.flwr_compat.messages import give_id
from flotilla.local.grid import LocalGrid
from models.networks.build import initial_state, layout
from models.randomness import torch_generator
from protocol import TRAIN, Hello, Reply, encode, keep_large_buffers
from strategies import FedAvg, FlowerStrategy, HeteroFL, Settings

NAME = "memory"
_METHODS: dict[str, type[FlowerStrategy]] = {"heterofl": HeteroFL, "fedavg": FedAvg}
_WHAT = {"heterofl": "five tiers", "fedavg": "all full"}


def memory(
    say: Say = print,
    shape: str = "resnet-18",
    few: int = 20,
    many: int = 100,
    methods: Sequence[str] = ("heterofl", "fedavg"),
    turns: int = 3,
) -> list[Row]:
    """Measure the growth of the server's resident memory.

    Args:
        say: takes progress.
        shape: "resnet-18" or "tiny".
        few: number of clients.
        many: another number of clients.
        methods: names in `_METHODS`.
        turns: processes of each; what the C library keeps differs from one to the next.
    """
    size = 4 * layout(RESNET_18 if shape == "resnet-18" else TINY).parameters
    rows = []
    for method in methods:
        what = _WHAT[method]
        pairs = []
        for _ in range(turns):
            say(f"memory: {few} and {many} clients, {what}")
            grown = [in_a_process("benchmarks.bench.memory", shape, clients, method) for clients in (few, many)]
            pairs.append((grown[0] / 1e6, grown[1] / 1e6))
        rows.append(
            row_of_turns(
                NAME,
                f"{many} clients, {what}: peak growth / one global state",
                [(large, size / 1e6) for _, large in pairs],
                unit="MB",
                limit=1.75,
                note="growth of the resident peak over the server before its first round",
            )
        )
        rows.append(
            row_of_turns(
                NAME,
                f"{many} clients / {few} clients, {what}: peak growth",
                [(large, max(small, 1e-6)) for small, large in pairs],
                unit="MB",
                limit=1.1,
            )
        )
    return rows


class Replies(LocalGrid):
    """Answers with made-up differences, one at a time, and keeps neither them nor what requests carry.

    Args:
        strategy: whose requests these are.
        clients: how many there are.
    """

    def __init__(self, strategy: FlowerStrategy, clients: int) -> None:
        everyone = {
            i: Context(run_id=1, node_id=i, node_config={}, state=RecordDict(), run_config={})
            for i in range(1, clients + 1)
        }
        super().__init__(ClientApp(), everyone)
        self._strategy = strategy
        # What the clients have, before the baseline: as long for small parts as for large ones, as clipped steps are.
        count = layout(strategy.network).parameters
        self._numbers = torch.randn(count).div_(torch.arange(1, count + 1))

    def accept(self, message: Message) -> None:
        """Keep the message's envelope."""
        said = message.metadata
        kept = Message(RecordDict(), said.dst_node_id, said.message_type, group_id=said.group_id)
        give_id(kept, said.message_id)
        super().accept(kept)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Make the reply to the first of the asked requests."""
        return super().pull_messages(list(message_ids)[:1])

    def _answer(self, request: Message) -> Message:
        if request.metadata.message_type != TRAIN:
            hello = Hello(node=request.metadata.dst_node_id - 1, examples=50, labels=tuple(range(10)))
            return Message(content=hello.to_record(), reply_to=request)
        assignments, address = self._strategy.runner.round.assignments, request.metadata.dst_node_id
        asked = next(one for one in assignments if one.node.address == address)
        reply = Reply(asked.nonce, encode(self._numbers[: asked.part.numel]), {"num-examples": 50.0, "loss": 1.0})
        return Message(content=reply.to_record(), reply_to=request)


def grown(shape: str, clients: int, method: str, rounds: int = 2) -> int:
    """Run rounds in this process and return how far its resident peak exceeds the start."""
    keep_large_buffers()  # as the ServerApp does
    torch.set_num_threads(1)
    spec = RESNET_18 if shape == "resnet-18" else TINY
    strategy = _METHODS[method](spec, Settings(nodes=clients))
    for name, tensor in initial_state(strategy.network, torch_generator(1, 0, "server", "initial state")).items():
        strategy.state[name].copy_(tensor)
    grid = Replies(strategy, clients)
    before = held()
    for number in range(1, rounds + 1):
        if strategy.run_round(grid, number).accepted != clients:
            raise RuntimeError(f"not all replies were accepted: {strategy.report.rejected[:3]}")
    return peak() - before


if __name__ == "__main__":
    print(json.dumps(grown(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
