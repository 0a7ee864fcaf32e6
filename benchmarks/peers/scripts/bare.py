"""No library: every client's steps in a bare loop, and the mean of what they arrive at."""

from __future__ import annotations

import torch

from benchmarks.peers.scripts import plain, seat


def main() -> None:
    """Run the job."""
    seat.one_thread()
    job, data = seat.job(), plain.Data(seat.data_folder())
    network = plain.network_of(job)
    taken = seat.Seat()
    taken.ready(plain.parameters_of(network), "torch")
    state = {name: value.clone() for name, value in network.state_dict().items()}
    while taken.left:
        sums = {name: torch.zeros_like(value) for name, value in state.items()}
        chosen = torch.randperm(job.clients)[: job.per_round].tolist()
        for client in chosen:
            network.load_state_dict(state)
            plain.train(network, *data.client(client, job.examples), job)
            for name, value in network.state_dict().items():
                sums[name] += value
        state = {name: value / len(chosen) for name, value in sums.items()}
        taken.ended()
    network.load_state_dict(state)
    taken.done(plain.accuracy(network, data))


if __name__ == "__main__":
    main()
