"""All methods like for like, under measured limits and with natural clients. The tables of docs/evidence.md."""
