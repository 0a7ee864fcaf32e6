"""Flower: its own `FedAvg` in its simulation, whose workers are Ray's.

By `run_simulation`, which has no SuperLink between server and clients, and so less to do than `flwr run`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from benchmarks.peers.scripts import plain, seat

client, server = ClientApp(), ServerApp()


@cache
def _network() -> nn.Module:
    """One for each worker."""
    return plain.network_of(seat.job())


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train on the examples of one client."""
    seat.one_thread()
    job, data, network = seat.job(), plain.Data(seat.data_folder()), _network()
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    network.load_state_dict(arrays.to_torch_state_dict())
    number = int(context.node_config["partition-id"])
    plain.train(network, *data.client(number, job.examples), job)
    reply = ArrayRecord(network.state_dict())
    seat.counter().add(down=arrays.count_bytes(), up=reply.count_bytes())
    content = RecordDict({"arrays": reply, "metrics": MetricRecord({"num-examples": job.examples})})
    return Message(content=content, reply_to=message)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Run the job, with a pause where Flower would evaluate."""
    del context
    job, data = seat.job(), plain.Data(seat.data_folder())
    network = plain.network_of(job)
    taken = seat.Seat()
    taken.ready(plain.parameters_of(network), "flwr", "ray", "torch", note="`run_simulation`: no SuperLink")

    def pause(number: int, _: ArrayRecord) -> None:
        if number:
            taken.ended()

    strategy = FedAvg(
        fraction_train=job.per_round / job.clients,
        fraction_evaluate=0.0,
        min_train_nodes=job.per_round,
        min_available_nodes=job.clients,
    )
    ended = strategy.start(grid, ArrayRecord(network.state_dict()), num_rounds=seat.rounds(), evaluate_fn=pause)
    network.load_state_dict(ended.arrays.to_torch_state_dict())
    taken.done(plain.accuracy(network, data))


def main() -> None:
    """Start the simulation with one worker a process."""
    processes = seat.processes()
    run_simulation(
        server,
        client,
        num_supernodes=seat.job().clients,
        backend_config={
            "init_args": {"num_cpus": processes},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    import_module("benchmarks.peers.scripts.flower").main()  # by its name, by which Ray's workers find the app
