"""How parts of a state are named, cut and averaged: axes, blocks, plans, ratios of sums."""
