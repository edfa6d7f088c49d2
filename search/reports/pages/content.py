"""A report as plain data: sections of sentences, tables and plots; the templates lay them out."""

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.presentation.plot import Plot


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    numbers: frozenset[int] = frozenset()  # columns that are aligned right
    strong: frozenset[int] = frozenset()  # rows that are highlighted
    is_folded: bool = False  # collapsed until it is clicked


@dataclass(frozen=True)
class Section:
    """A section of a report."""

    key: str  # anchor in the page
    title: str
    lines: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[str] = ()
    absent: str | None = None  # why there is nothing to show, in one line


@dataclass(frozen=True)
class Report:
    """A report."""

    title: str
    verdict: Sequence[str]  # the most important sentence first
    made: str  # time and version
    sections: Sequence[Section]

    @property
    def plots(self) -> list[Plot]:
        return [plot for section in self.sections for plot in section.plots]
