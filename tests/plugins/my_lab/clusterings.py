"""A clustering: two states, for nodes of even and of odd ids."""

from flotilla.strategies.clustering.base import Clustering, by_cluster, initial_purpose, named


class ByParity(Clustering):
    """Who is in which cluster is known from the start."""

    def __init__(self, basis):
        super().__init__(basis)
        self.states[1] = basis.make()
        for number, state in self.states.items():
            for name, tensor in basis.draw(initial_purpose(number)).items():
                state.tensors[name].copy_(tensor)
        self._met = {}

    def members(self):
        return by_cluster(self._met, list(self.states))

    def assigned(self, node):
        return int(node) % 2

    def offered(self, node):
        return (int(node) % 2,)

    def place(self, sent, reply):
        return int(sent.node.id) % 2

    def close(self, learnt, round_number):
        self._met.update({one.sent.node.id: one.cluster for one in learnt})

    def report(self, learnt):
        return named(main=self.main, sizes=self.sizes())

    def checkpoint(self):
        return {}, {"met": [[node, number] for node, number in self._met.items()]}

    def restore(self, tensors, values):
        self._met = dict(map(tuple, values["met"]))
