"""A table whose cells are coloured by a share, which a pointer reads out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

_WORDS = 14  # columns beyond which cells have no text and only every fifth a head


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Callable[[int, int], float | None],
    said: Callable[[int, int], str],
    written: Callable[[int, int], str],
) -> str:
    """The table.

    Args:
        rows, columns: their names.
        shares: of a row and a column, 0 to 1; None leaves the cell empty.
        said: what a pointer over the cell is told.
        written: what stands in it, where there is room.
    """
    wordy = len(columns) <= _WORDS
    heads = "".join(f"<th>{escape(name) if wordy or n % 5 == 0 else ''}</th>" for n, name in enumerate(columns))
    lines = []
    for i, name in enumerate(rows):
        cells = []
        for j in range(len(columns)):
            share = shares(i, j)
            if share is None:
                cells.append("<td style='--s:0'></td>")
                continue
            text = written(i, j) if wordy else ""
            cells.append(f'<td style="--s:{share:.3g}" title="{escape(said(i, j))}">{escape(text)}</td>')
        lines.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f'<table class="heat{"" if wordy else " thin"}"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
