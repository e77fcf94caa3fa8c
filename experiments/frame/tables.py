"""Text tables that fit a terminal: lines break between words, never inside one."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence

from experiments.findings.claims import Claim

GAP = 2  # spaces between columns
NARROW = 16  # characters: a longer cell is not squeezed below this


def longest_word(cells: Sequence[str]) -> int:
    """Characters of the longest word in a column."""
    return max(len(word) for cell in cells for word in (cell.split() or [""]))


def column_widths(columns: Mapping[str, Sequence[str]], width: int) -> list[int] | None:
    """Widths that fit `width` characters in all, or None if there is no room for the columns.

    The widest column that can still be narrower gives way, character by character.
    """
    whole = [(heading, *cells) for heading, cells in columns.items()]
    widths = [max(map(len, column)) for column in whole]
    least = [
        max(longest_word(column), min(now, NARROW))
        for column, now in zip(whole, widths, strict=True)
    ]
    while sum(widths) + GAP * (len(widths) - 1) > width:
        flexible = [i for i, now in enumerate(widths) if now > least[i]]
        if not flexible:
            return None
        widths[max(flexible, key=lambda i: widths[i])] -= 1
    return widths


def wrap(cell: str, width: int) -> list[str]:
    """The lines of a cell; an empty one has one empty line."""
    return textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) or [""]


def layout(columns: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """A table of named columns as lines of at most `width` characters.

    Where the columns have no room side by side, every row becomes a paragraph: its
    first cell, then one indented line for each further cell that is not empty.
    """
    headings = list(columns)
    rows = list(zip(*columns.values(), strict=True))
    widths = column_widths(columns, width)
    if widths is None:
        return [
            line
            for first, *rest in rows
            for line in [
                first,
                *(f"  {h}: {cell}" for h, cell in zip(headings[1:], rest, strict=True) if cell),
            ]
        ]
    lines = []
    for row in [headings, *rows]:
        cells = [wrap(cell, room) for cell, room in zip(row, widths, strict=True)]
        for k in range(max(map(len, cells))):
            texts = (cell[k] if k < len(cell) else "" for cell in cells)
            padded = (text.ljust(room) for text, room in zip(texts, widths, strict=True))
            lines.append((" " * GAP).join(padded).rstrip())
    return lines


def print_claims(claims: Sequence[Claim]) -> None:
    """The table *paper / public replication / here*, as wide as the terminal or 80 columns."""
    marks = {True: "holds", False: "FAILS", None: ""}
    columns = {
        "quantity": [c.quantity for c in claims],
        "paper": [c.paper for c in claims],
        "replication": [c.replication for c in claims],
        "here (95 %)": [c.here for c in claims],
        "runs": [str(c.seeds or "") for c in claims],
        "criterion": [marks[c.holds] for c in claims],
    }
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    print("\n".join(layout(columns, shutil.get_terminal_size().columns)))
