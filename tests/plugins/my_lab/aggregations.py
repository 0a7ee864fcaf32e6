"""An aggregation rule: the more examples, the more a reply counts, but not in proportion."""

from math import sqrt

from flotilla.strategies.aggregation import Aggregation


class BySquareRoot(Aggregation):
    """Weights are square roots of the numbers of examples."""

    def weigh(self, update, norm):
        weight = sqrt(update.number("num-examples", 1, 1e9))
        return weight, weight
