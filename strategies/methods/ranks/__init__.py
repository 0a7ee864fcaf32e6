"""Rules for pairs of low-rank factors on devices of unlike ranks, a file each (docs/ranks.md)."""
