"""`python -m handbook FOLDER`: write what MkDocs builds the site from; `make docs` does both."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from handbook.method_page import method_pages
from handbook.staging import LinkError, stage
from strategies import METHODS

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Write the folder; 1 where a link goes nowhere."""
    parser = argparse.ArgumentParser(prog="python -m handbook", description=__doc__)
    parser.add_argument("folder", type=Path, help="what it had is replaced")
    folder: Path = parser.parse_args().folder
    names = METHODS.names()
    try:
        stage(ROOT, folder, method_pages(ROOT, names), listed=names)
    except (LinkError, FileExistsError) as error:
        print(f"handbook: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: pages of {len(names)} methods, and those of docs/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
