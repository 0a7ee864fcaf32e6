"""The tables of docs/."""
