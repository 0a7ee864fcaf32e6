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

    def sent_to(self, node):
        return (int(node) % 2,)

    def target(self, assignment, update):
        return int(assignment.node.id) % 2

    def close(self, accepted, round_number):
        self._met.update({one.assignment.node.id: one.cluster for one in accepted})

    def report(self, accepted):
        return named(main=self.main, sizes=self.sizes())

    def saved_assignments(self):
        return {}, {"met": [[node, number] for node, number in self._met.items()]}

    def restore_assignments(self, tensors, values):
        self._met = dict(map(tuple, values["met"]))
