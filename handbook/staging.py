"""The folder that MkDocs builds from: every page at its place in the repository, and what pages link to.

Pages keep their places, so a link that works on GitHub works in the site. The pages of methods are made here and not
checked in: they are what the registry, the settings, the docstrings and the tables say, also of plug-ins that are
installed, and a copy of them would be stale with every setting that changes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any

from handbook.dialect import for_mkdocs, links
from handbook.navigation import PAGES, Entry, files, navigation

PAGES_FOLDER = "pages"
LOOK = "look"  # the site's own style, and what its search needs in pages that were opened from a folder
CONFIGURATION = "mkdocs.yml"


class LinkError(ValueError):
    """A page links to what is not there, or to a folder, which a site has no page of."""


def stage(root: Path, folder: Path, methods: Mapping[str, Mapping[str, str]], *, listed: Sequence[str]) -> None:
    """Write a folder for MkDocs; what it had is replaced.

    Args:
        root: the repository.
        folder: to write; `mkdocs.yml` stands in it.
        methods: content of files of the pages of methods, by the path of the page's folder and the file's name.
        listed: names of methods, in the order of the navigation.

    Raises:
        LinkError: a link that goes nowhere.
        FileExistsError: the folder has something in it and was not made here.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIGURATION).is_file():
        raise FileExistsError(f"{folder} is no staged site: allowed is a new folder, or one that this has made")
    shutil.rmtree(folder, ignore_errors=True)
    told = json.dumps(configuration(navigation(listed)), indent=1, ensure_ascii=False)
    _write(folder / CONFIGURATION, told + "\n")  # JSON is YAML
    pages = folder / PAGES_FOLDER
    shutil.copytree(Path(__file__).parent / LOOK, pages / LOOK)
    made = {f"{place}/{name}" for place, some in methods.items() for name in some}
    for page in files(PAGES):
        text = (root / page).read_text(encoding="utf-8")
        _write(pages / page, for_mkdocs(text))
        for target in links(text):
            _bring(root, pages, page, target, made)
    for place, some in methods.items():
        for name, text in some.items():
            _write(pages / place / name, text)
            for target in links(text) if name.endswith(".md") else ():
                _bring(root, pages, f"{place}/{name}", target, made)


def _bring(root: Path, pages: Path, page: str, target: str, made: set[str]) -> None:
    """What a page links to beside other pages: pictures, examples, the licence."""
    path = normpath(f"{page.rpartition('/')[0]}/{target}".lstrip("/"))
    if path in made or path in set(files(PAGES)):
        return
    source = root / path
    if not source.resolve().is_relative_to(root.resolve()) or not source.is_file():
        raise LinkError(f"{page} links to {target}: allowed are files of the repository")
    if source.suffix == ".md":
        raise LinkError(f"{page} links to {target}, which has no place in handbook/navigation.py")
    place = pages / path
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


def configuration(entries: Sequence[Entry]) -> dict[str, Any]:
    """What MkDocs is told.

    Nothing is fetched from elsewhere, when it is built or when it is read: no fonts, no scripts, no repository's stars.
    """
    return {
        "site_name": "Flotilla",
        "docs_dir": PAGES_FOLDER,
        "site_url": "",
        "site_dir": "../site",
        "use_directory_urls": False,  # so that pages open from a folder
        "theme": {
            "name": "material",
            "font": False,
            "features": [
                "navigation.tabs",
                "navigation.indexes",
                "navigation.footer",
                "toc.integrate",  # tables and lines of code have the width of two columns
                "content.code.copy",
                "search.highlight",
            ],
            "palette": [
                {
                    "media": f"(prefers-color-scheme: {look})",
                    "scheme": scheme,
                    "primary": "blue grey",
                    "toggle": {"icon": "material/theme-light-dark", "name": f"Show it {other}"},
                }
                for look, scheme, other in (("light", "default", "dark"), ("dark", "slate", "light"))
            ],
        },
        "plugins": ["search", "offline"],
        "extra": {"polyfills": [f"{LOOK}/iframe-worker.js"]},  # else the plugin has a server's
        "extra_css": [f"{LOOK}/site.css"],
        "markdown_extensions": [
            "attr_list",
            "md_in_html",
            "tables",
            "admonition",
            "pymdownx.superfences",
            {"pymdownx.highlight": {"use_pygments": True}},
            {"toc": {"permalink": True}},
        ],
        "validation": {
            "nav": {"omitted_files": "warn", "not_found": "warn", "absolute_links": "warn"},
            "links": {"not_found": "warn", "absolute_links": "warn", "unrecognized_links": "warn", "anchors": "warn"},
        },
        "nav": _nav(entries),
    }


def _nav(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [{title: below if isinstance(below, str) else _nav(below)} for title, below in entries]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
