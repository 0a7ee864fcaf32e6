"""Our strategies in somebody else's Flower app: `from strategies import HeteroFL`, and nothing else of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy

from client_app.app import app
from flotilla.local.grid import LocalGrid, contexts
from models.networks.build import build, initial_state
from protocol import Hello
from strategies import METHODS, FlowerStrategy, HeteroFL, NetworkSpec, Settings, parse_tiers
from strategies.flower_adapter import NothingLearnt
from strategies.nodes.manager import NobodyAnswered
from tests.support import OF_ALL, TINY, context_of

ROOT = Path(__file__).parents[2]
NETWORK = NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8))
TIERS = parse_tiers("a:1, b:1/2")


def grid() -> LocalGrid:
    return LocalGrid(app, contexts({**TINY, "num-clients": 4}, 4))


def arrays(strategy: FlowerStrategy) -> ArrayRecord:
    """As any Flower app makes them: the state dict of a plain PyTorch module, if the network is no more than that."""
    network = strategy.network
    if network.private or network.bases:  # copies of some tensors, or nets side by side
        return ArrayRecord(initial_state(network, torch.Generator().manual_seed(0)))
    torch_module = build(network)
    with torch.no_grad():
        for i, parameter in enumerate(torch_module.parameters()):
            parameter.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(i))
    return ArrayRecord(torch_module.state_dict())


def numbers(record: ArrayRecord) -> dict[str, Any]:
    return {name: array.numpy().tolist() for name, array in record.items()}


def strategy(**settings: Any) -> HeteroFL:
    return HeteroFL(NETWORK, Settings(tiers=TIERS, nodes=4, node_wait=0.0, **settings))


def test_start_with_nothing_but_a_network() -> None:
    """All settings at their defaults; more nodes than the default expects."""
    method = HeteroFL(NetworkSpec("mlp", (1, 8, 8), 10))
    before = arrays(method)
    result = method.start(grid(), before, num_rounds=2)
    assert set(result.train_metrics_clientapp) == {1, 2}
    assert result.arrays.keys() == before.keys()
    assert numbers(result.arrays) != numbers(before)
    build(method.network).load_state_dict(result.arrays.to_torch_state_dict())


def test_start_inside_a_server_app() -> None:
    server, results = ServerApp(), list[Result]()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        method = strategy()
        results.append(
            method.start(
                grid=grid, initial_arrays=arrays(method), num_rounds=2, timeout=600, train_config=ConfigRecord()
            )
        )

    server(grid(), context_of())
    assert set(results[0].train_metrics_clientapp) == {1, 2}


@pytest.mark.parametrize("name", OF_ALL)
def test_flowers_own_loop_gives_the_same_state(name: str) -> None:
    """`configure_train`, `aggregate_train` and their evaluation twins, as Flower's `Strategy.start` calls them."""

    def make() -> FlowerStrategy:
        network = NetworkSpec(
            "mlp",
            (1, 8, 8),
            10,
            widths=(16, 8),
            norm=METHODS[name].PREFERENCES.norm,
            rates=tuple(sorted(tier.rate for tier in TIERS)),
        )
        return METHODS[name](network, Settings(tiers=TIERS, nodes=4, node_wait=0.0, fraction_evaluate=1.0))

    ours, flowers = make(), make()
    a = ours.start(grid(), arrays(ours), num_rounds=2)
    b = Strategy.start(flowers, grid(), arrays(flowers), num_rounds=2)
    assert numbers(a.arrays) == numbers(b.arrays)
    assert a.train_metrics_clientapp == b.train_metrics_clientapp
    assert a.evaluate_metrics_clientapp == b.evaluate_metrics_clientapp
    assert set(b.evaluate_metrics_clientapp) == {1, 2}


def test_flowers_own_loop_with_an_evaluate_function_and_settings() -> None:
    seen: list[tuple[int, int]] = []

    def evaluate(round_number: int, state: ArrayRecord) -> MetricRecord:
        seen.append((round_number, len(state)))
        return MetricRecord({"parameters": sum(array.numpy().size for array in state.values())})

    for start in (HeteroFL.start, Strategy.start):
        seen.clear()
        method = strategy()
        config = ConfigRecord({"mine": 1.0})
        result = start(method, grid(), arrays(method), 2, train_config=config, evaluate_fn=evaluate)
        assert [number for number, _ in seen] == [0, 1, 2]
        assert len({metrics["parameters"] for metrics in result.evaluate_metrics_serverapp.values()}) == 1


def test_without_a_node_that_answers_hello_it_is_said_why() -> None:
    """In our loop and in Flower's; what a foreign ClientApp must answer is said where its nodes know no hello."""
    broken = LocalGrid(app, contexts({**TINY, "num-clients": 4, "dataset": "nothing"}, 4))
    strange = LocalGrid(ClientApp(), contexts({}, 4))
    for where, reason, page in ((broken, "dataset = 'nothing': allowed is", False), (strange, "hello", True)):
        for start in (HeteroFL.start, Strategy.start):
            method = strategy()
            before = arrays(method)
            with pytest.raises(NobodyAnswered, match="none of 4 nodes answered hello; 4 said: ") as caught:
                start(method, where, before, 1)
            assert reason in str(caught.value)
            assert ("docs/clients.md" in str(caught.value)) is page
            assert {name: tensor.tolist() for name, tensor in method.state.items()} == numbers(before)


def test_a_run_that_learnt_nothing_is_an_error() -> None:
    """Nodes that say hello and never train: as a run of a foreign app that must not exit 0."""
    client = ClientApp()

    @client.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return Message(Hello(node=context.node_id, examples=3).to_record(), reply_to=message)

    method = strategy()
    with pytest.raises(NothingLearnt, match="No train function registered with name 'part'"):
        method.start(LocalGrid(client, contexts({}, 4)), arrays(method), num_rounds=2)


def test_aggregate_train_takes_any_order_and_names_what_is_odd() -> None:
    finals = []
    for order in (1, -1):
        method, where = strategy(), grid()
        before = arrays(method)
        requests = list(method.configure_train(1, before, ConfigRecord(), where))
        replies = list(where.send_and_receive(requests))
        extra = [replies[0]] if order == -1 else []
        state, _ = method.aggregate_train(1, [*replies[::order], *extra])
        assert state is not None
        assert [r.reason for r in method.report.rejected] == ["duplicate"] * len(extra)
        finals.append(numbers(state))
    assert finals[0] == finals[1]


def test_arrays_that_do_not_fit_are_refused() -> None:
    method = strategy()
    wrong = arrays(method)
    wrong.pop(next(iter(wrong)))
    with pytest.raises(ValueError, match="do not fit the network"):
        method.start(grid(), wrong, num_rounds=1)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="label-rows"):
        HeteroFL(NETWORK, Settings(tiers=TIERS), speed=3)


ALONE = '''
import sys

class Blocked:
    """Nothing else of ours can be imported."""
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"client_app", "server_app", "data", "flotilla", "benchmarks", "tests"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())

from strategies import HeteroFL, NetworkSpec
import torch
from flwr.app import ArrayRecord, Message
from flwr.supercore.task_identity import TaskIdentity
from models.networks.build import build, layout
from protocol import HELLO, TRAIN, Hello, Reply, TrainRequest, encode, read_request
from models.networks.build import submodel

TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


class Devices:
    """Three devices of somebody else's make, that add 1 to whatever they hold."""
    def __init__(self): self.open = {}
    def get_node_ids(self): return [11, 12, 13]
    def push_messages(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.open)}"
            self.open[message.metadata.message_id] = message
        return [m.metadata.message_id for m in messages]
    def pull_messages(self, ids):
        return [self.answer(self.open[i]) for i in ids]
    def answer(self, message):
        if message.metadata.message_type == HELLO:
            said = Hello(node=f"device-{message.metadata.dst_node_id}", examples=10)
            return Message(said.to_record(), reply_to=message)
        assert message.metadata.message_type == TRAIN
        request, state = read_request(TrainRequest, message.content)
        part = submodel(request.network, request.plan)
        reply = Reply(request.nonce, encode(torch.ones(part.numel)), {"num-examples": 10.0})
        return Message(reply.to_record(), reply_to=message)


method = HeteroFL(NetworkSpec("cnn", (1, 28, 28), 10, widths=(4, 8, 8, 8)), **{"label-rows": False})
before = ArrayRecord(build(method.network).state_dict())
result = method.start(Devices(), before, num_rounds=2)
assert set(result.train_metrics_clientapp) == {1, 2}
moved = {name: (array.numpy() - before[name].numpy()) for name, array in result.arrays.items()}
assert all(abs(m[abs(m) > 0.5] - 2).max() < 1e-5 for m in moved.values())
assert not {"client_app", "server_app", "data", "flotilla"} & set(sys.modules)
print("ALONE", method.report.accepted)
'''


def test_without_the_rest_of_this_project(tmp_path: Path) -> None:
    script = tmp_path / "their_app.py"
    script.write_text(ALONE)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ALONE 3" in done.stdout
