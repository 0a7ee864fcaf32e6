"""The state on its way down and the differences on their way up."""
