"""A SuperLink of its own for one run, and the processes around it."""
