"""Where every page stands in the site: a path for newcomers first, what one looks up after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Entry = tuple[str, "str | Sequence[Entry]"]

METHODS = "docs/methods"  # made by `handbook.method_page`

# Title → file, seen from the repository's root, or entries below it.
PAGES: Sequence[Entry] = (
    ("Start", "README.md"),
    (
        "Tutorials",
        (
            ("A first run", "docs/tutorials/first-run.md"),
            ("Your own network", "docs/tutorials/own-network.md"),
            ("Your own data", "docs/data.md"),
            ("Your own method in an hour", "examples/add_a_method.md"),
            ("Compare", "docs/tutorials/compare.md"),
            ("Deploy", "docs/tutorials/deploy.md"),
            ("Ship", "docs/tutorials/ship.md"),
        ),
    ),
    ("Methods", ()),
    (
        "Guides",
        (
            ("Any network", "docs/networks.md"),
            ("The report of a run", "docs/report.md"),
            ("Many runs", "docs/compare.md"),
            ("What a run leaves", "docs/models-out.md"),
            ("Deploying a federation", "docs/deploy.md"),
            ("Low-rank adapters", "docs/adapters.md"),
            ("Devices of unlike ranks", "docs/ranks.md"),
            ("Clusters of clients", "docs/clusters.md"),
            ("Fleets that are simulated", "docs/fleet.md"),
            ("A million clients", "docs/scale.md"),
            ("Small boards", "docs/edge.md"),
            ("Privacy", "docs/privacy.md"),
            ("ClientApps of other people", "docs/clients.md"),
            ("Flower without our command", "docs/flower.md"),
        ),
    ),
    (
        "Reference",
        (
            ("Configuration", "docs/configuration.md"),
            ("Architecture", "docs/architecture.md"),
            ("Parity with released code", "docs/parity.md"),
            ("Faults", "docs/faults.md"),
            ("Lies", "docs/lies.md"),
            ("Dependencies", "docs/dependencies.md"),
            ("Contributing", "CONTRIBUTING.md"),
            ("Changes", "CHANGELOG.md"),
        ),
    ),
    (
        "Results",
        (
            ("Every method", "docs/results.md"),
            ("Three seeds, measured limits", "docs/evidence.md"),
            ("Everything once, through Flower", "docs/runs.md"),
            ("Beside other libraries", "docs/peers.md"),
            ("Settings of papers", "recipes/README.md"),
            ("Claims of papers", "docs/claims.md"),
            ("Is the loss of large clients worth more?", "docs/study.md"),
        ),
    ),
)


def navigation(methods: Sequence[str]) -> list[Entry]:
    """The whole of it, with the pages of methods.

    Args:
        methods: their names, in the order of the list.
    """
    of_methods: list[Entry] = [("All methods", f"{METHODS}/index.md")]
    of_methods += [(name, f"{METHODS}/{file_of(name)}") for name in methods]
    return [(title, of_methods if title == "Methods" else below) for title, below in PAGES]


def file_of(method: str) -> str:
    """Name of a method's page; of an import path, too."""
    return f"{method.replace(':', '.')}.md"


def files(entries: Sequence[Entry] = PAGES) -> Iterator[str]:
    """The files of some entries and of those below them."""
    for _, below in entries:
        if isinstance(below, str):
            yield below
        else:
            yield from files(below)
