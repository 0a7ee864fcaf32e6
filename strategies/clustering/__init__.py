"""Clusters: several global states, and who trains which."""
