"""What NVFlare runs for every client: get the model, train, return it."""

from __future__ import annotations

import nvflare.client as flare
import torch

from benchmarks.peers.scripts import plain, seat
from benchmarks.peers.scripts.nvidia_flare import JobNetwork


def main() -> None:
    """Serve until the job ends."""
    seat.one_thread()
    job, data = seat.job(), plain.Data(seat.data_folder())
    network = JobNetwork()
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2]) - 1
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        network.load_state_dict({name: torch.as_tensor(value) for name, value in received.params.items()})
        plain.train(network, *data.client(number, job.examples), job)
        state = {name: value.cpu() for name, value in network.state_dict().items()}
        size = sum(value.nbytes for value in state.values())
        seat.counter().add(down=size, up=size)
        steps = job.steps // job.per_round
        flare.send(flare.FLModel(params=state, meta={"NUM_STEPS_CURRENT_ROUND": steps}))


main()
