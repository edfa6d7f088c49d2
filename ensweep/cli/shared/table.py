"""A table that fits the terminal: columns by their importance, what is long cut with an ellipsis.

Into a file or a pipe everything goes, a line a row, never cut.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlflow_setup.text import printable

GAP = 2
"""Blanks between two columns."""
SHORTEST, ENOUGH = 12, 30
"""Characters of a column that may be cut: at least, and as many as it has before columns that
matter less are shown."""


@dataclass(frozen=True)
class Column:
    """A column as it is shown."""

    name: str  # what `--columns` calls it
    cells: tuple[str, ...]
    header: str = ""  # where it is not the name
    is_number: bool = False  # to the right, and never cut; its header may be
    is_cut: bool = False  # text of any length, cut to the place that is left
    is_key: bool = False  # shown before any other

    @property
    def title(self) -> str:
        return self.header or self.name

    @property
    def natural(self) -> int:
        """Its width in characters where nothing is cut."""
        return max(len(self.title), *map(len, self.cells), 1)

    @property
    def least(self) -> int:
        """Its width where all is cut that may be."""
        if self.is_number:
            return max(4, *map(len, self.cells))
        return min(self.natural, SHORTEST) if self.is_cut else self.natural

    @property
    def enough(self) -> int:
        """Its width before columns that matter less are shown."""
        return min(self.natural, ENOUGH) if self.is_cut else self.natural


def terminal_width() -> int | None:
    """Width of stdout in characters; COLUMNS overrides it; None: no terminal."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return None
    return shutil.get_terminal_size().columns


def fitting(columns: Sequence[Column], order: Sequence[str], width: int) -> dict[str, int]:
    """The columns that fit, in their own order, with their widths.

    Args:
        order: names, the most important first; those that do not fit are left out.
        width: characters of a line.
    """
    by_name = {column.name: column for column in columns}
    ordered = [by_name[name] for name in dict.fromkeys(order)]
    left, widths = width + GAP, dict[str, int]()

    def grow(column: Column, target: int) -> None:
        nonlocal left
        more = max(0, min(left, target - widths[column.name]))
        widths[column.name] += more
        left -= more

    for is_key in (True, False):
        for column in (each for each in ordered if each.is_key == is_key):
            if column.least + GAP <= left or not widths:
                widths[column.name] = column.least
                left -= column.least + GAP
        for column in (each for each in ordered if each.name in widths):
            grow(column, column.enough)
    for column in (each for each in ordered if each.name in widths):
        grow(column, column.natural)
    return {column.name: widths[column.name] for column in columns if column.name in widths}


def print_columns(
    columns: Sequence[Column], order: Sequence[str], styles: Sequence[str] = ()
) -> list[str]:
    """Print the table on stdout; the names of the columns that did not fit.

    Args:
        order: as `fitting`.
        styles: rich's, of each row.
    """
    width = terminal_width()
    if width is None:
        width = sum(column.natural + GAP for column in columns)
    widths = fitting(columns, order, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    shown = [column for column in columns if column.name in widths]
    for column in shown:
        table.add_column(
            Text(printable(column.title)),
            width=widths[column.name],
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    rows = zip(*(column.cells for column in shown), strict=True)
    for number, row in enumerate(rows):
        style = styles[number] if styles else None
        table.add_row(*(Text(printable(cell)) for cell in row), style=style)
    # rich gives the last column its padding too
    console = Console(file=sys.stdout, width=width + GAP, highlight=False, emoji=False)
    console.print(table, soft_wrap=True)
    return [column.name for column in columns if column.name not in widths]
