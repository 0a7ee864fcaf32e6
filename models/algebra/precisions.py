"""In how many bits the weights of a base are held; `models.adapters.precision` says what each means."""

from __future__ import annotations

FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"
PRECISIONS = (FLOAT32, BFLOAT16, INT8)
