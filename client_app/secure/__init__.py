"""A device's half of secure aggregation: keys, shares of them for the others, a masked difference, what opens it."""
