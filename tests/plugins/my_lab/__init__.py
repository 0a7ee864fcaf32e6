"""A package of somebody else's: one of everything that a run can name."""
