"""What is measured: `bench` (speed and memory, with limits), `experiments` (docs/ tables), `probes` (what runs do).

`python -m benchmarks` lists everything and runs it.
"""
