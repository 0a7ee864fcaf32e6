"""One script a library, run by its own environment's Python: nothing here imports what the others need."""
