"""`python -m server_app.config`: whether what is written from the settings is up to date; `--write` makes it so."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from server_app.config.document import current, write

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Say which files are stale, or write them; 1 where some are."""
    parser = argparse.ArgumentParser(prog="python -m server_app.config", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write them")
    if parser.parse_args().write:
        for path in write(ROOT):
            print(f"wrote {path.relative_to(ROOT)}")
        return 0
    stale = [path for path, text in current(ROOT).items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what the settings say: make keys writes it")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
