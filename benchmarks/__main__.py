"""Every benchmark by one command."""

from benchmarks.bench.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
