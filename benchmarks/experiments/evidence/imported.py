"""What reading and dividing the data imports: two seconds of the processor, once for all runs and not for each."""

from __future__ import annotations

import flwr_datasets.partitioner  # noqa: F401

from data.vision import vision_datasets

vision_datasets()
