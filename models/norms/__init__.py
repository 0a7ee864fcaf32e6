"""Normalisation layers and the statistics that they need."""
