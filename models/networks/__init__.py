"""The networks, and how they declare their axes, stages and exits."""
