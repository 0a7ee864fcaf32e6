"""`python -m flotilla` is the command `flotilla`."""

from flotilla.cli import main

if __name__ == "__main__":
    main()
