"""A table that fits the terminal: the most important columns, long text cut with an ellipsis.

In a file or a pipe nothing is left out or cut.
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
"""Spaces between two columns."""
MIN_CUT_WIDTH, GOOD_CUT_WIDTH = 12, 30
"""Widths of a column that may be cut: the smallest, and the one it gets before less important
columns are shown."""


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str  # its name for `--columns`
    cells: tuple[str, ...]
    header: str = ""  # if it differs from the name
    is_number: bool = False  # right-aligned; cells are never cut, the header may be
    is_cut: bool = False  # long text, cut to the space that is left
    is_key: bool = False  # has precedence over all columns that are not key columns

    @property
    def title(self) -> str:
        return self.header or self.name

    @property
    def natural(self) -> int:
        """The width in characters at which nothing is cut."""
        return max(len(self.title), *map(len, self.cells), 1)

    @property
    def least(self) -> int:
        """The smallest width."""
        if self.is_number:
            return max(4, *map(len, self.cells))
        return min(self.natural, MIN_CUT_WIDTH) if self.is_cut else self.natural

    @property
    def enough(self) -> int:
        """The width it gets before less important columns are shown."""
        return min(self.natural, GOOD_CUT_WIDTH) if self.is_cut else self.natural


def terminal_width() -> int | None:
    """The width of stdout in characters, or COLUMNS; None if stdout is not a terminal."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return None
    return shutil.get_terminal_size().columns


def fitting(columns: Sequence[Column], order: Sequence[str], width: int) -> dict[str, int]:
    """The columns that fit, in table order, with their widths.

    Args:
        order: names of columns, the most important first; the last ones are left out first.
        width: characters per line.
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
    """Print the table on stdout, and return the names of the columns that did not fit.

    Args:
        order: as in `fitting`.
        styles: the rich style of each row.
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
    # rich pads the last column too
    console = Console(file=sys.stdout, width=width + GAP, highlight=False, emoji=False)
    console.print(table, soft_wrap=True)
    return [column.name for column in columns if column.name not in widths]
