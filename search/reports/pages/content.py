"""A report as plain data: sections of sentences, tables and plots; the templates lay them out."""

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.presentation.plot import Plot


@dataclass(frozen=True)
class Table:
    """Cells of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    numbers: frozenset[int] = frozenset()  # columns that stand to the right
    strong: frozenset[int] = frozenset()  # rows to be seen first
    is_folded: bool = False  # long: shown on a click


@dataclass(frozen=True)
class Section:
    """One question and its answer."""

    key: str  # its anchor
    title: str
    lines: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[str] = ()
    absent: str | None = None  # why there is nothing to show, in one line


@dataclass(frozen=True)
class Report:
    """What one file holds."""

    title: str
    verdict: Sequence[str]  # the first is what to remember
    made: str  # when, and by what
    sections: Sequence[Section]

    @property
    def plots(self) -> list[Plot]:
        return [plot for section in self.sections for plot in section.plots]
