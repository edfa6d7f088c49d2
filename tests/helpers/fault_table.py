"""The table of promises in docs/reliability.md: the faults that `tests/faults` tested, with
results.

A test names the promises that it checks by the marker `promise(row, fault, must_hold)`, and reports
by the fixture `table` how often, and what it measured. A failed test counts once for each.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scale import MANY

START, END = "<!-- written by make faults -->", "<!-- end of the table -->"
"""The lines around the table in the document."""
SLACK = 5 if MANY else 20
"""The factor by which a measurement may exceed its limit before a test fails, since machines are
slow and shared. The table says whenever a limit was exceeded."""
HEADER = (*("row", "fault", "must hold", "in `make test`", "cases", "failed", "measured", "kept"),)


class Table:
    """Records what a test reports about its promise."""

    def __init__(self, row: str, report: Callable[[str, object], None]) -> None:
        self.row, self.report = row, report

    def played(self, count: int) -> None:
        """Record the number of cases; the default is one."""
        self.report("played", {"row": self.row, "count": count})

    def measured(
        self,
        what: str,
        values: Sequence[float],
        *,
        unit: str = "s",
        within: float | None = None,
    ) -> None:
        """Record measured values and their promised limit, which they may exceed by `SLACK`."""
        figure = {"row": self.row, "what": what, "unit": unit, "within": within}
        if values:
            self.report("measured", {**figure, "values": [float(value) for value in values]})
            assert within is None or max(values) <= SLACK * within


@dataclass
class Row:
    """A promise under one fault."""

    name: str
    fault: str
    must_hold: str
    is_in_make_test: bool = False  # else only in `make faults`
    num_cases: int = 0
    num_failed: int = 0
    figures: dict[str, "Figure"] = field(default_factory=dict)

    def cells(self) -> list[str]:
        figures = "; ".join(f"{what} {figure}" for what, figure in sorted(self.figures.items()))
        counts = [f"{self.num_cases:,}", str(self.num_failed)]
        where = "yes" if self.is_in_make_test else "no"
        return [self.name, self.fault, self.must_hold, where, *counts, figures, self.kept()]

    def kept(self) -> str:
        missed = [f"{self.num_failed} failed"] if self.num_failed else []
        missed += [
            f"{what} {_number(max(figure.values))} {figure.unit}, not {figure.within:g}"
            for what, figure in sorted(self.figures.items())
            if figure.within is not None and max(figure.values) > figure.within
        ]
        return f"**no**: {'; '.join(missed)}" if missed else "yes"

    def order(self) -> tuple[bool, str, int, str, str]:
        """The sort key: R1, R2, ..., R25, then other letters."""
        letters = self.name.rstrip("0123456789")
        number = int(self.name.removeprefix(letters) or 0)
        return letters != "R", letters, number, self.fault, self.must_hold


@dataclass
class Figure:
    """Measured values, and their promised limit."""

    unit: str
    within: float | None
    values: list[float]

    def __str__(self) -> str:
        low, high = _number(min(self.values)), _number(max(self.values))
        return f"{low} {self.unit}" if low == high else f"{low} to {high} {self.unit}"


def _number(value: float) -> str:
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def rows_of(plays: Iterable[tuple[Sequence[tuple[str, Any]], bool]]) -> list[Row]:
    """The rows of the table, from each test's properties and whether it failed."""
    rows: dict[tuple[str, ...], Row] = {}
    for properties, has_failed in plays:
        own: dict[str, Row] = {}  # of the test's promises, by name
        counts: dict[str, int] = {}
        for words in (value for key, value in properties if key == "promise"):
            row = rows.setdefault(tuple(words), Row(*words))
            own[row.name], counts[row.name] = row, 1
        for key, value in properties:
            if key == "played":
                counts[value["row"]] = value["count"]
            if key == "measured":
                new = Figure(value["unit"], value["within"], [])
                figure = own[value["row"]].figures.setdefault(value["what"], new)
                figure.values += value["values"]
        for name, row in own.items():
            row.num_cases += counts[name]
            row.num_failed += has_failed
            row.is_in_make_test |= ("rare", True) not in properties
    return sorted(rows.values(), key=Row.order)


def markdown(rows: Iterable[Row]) -> str:
    lines = [HEADER, ("---",) * len(HEADER), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def put_into(document: Path, text: str) -> None:
    """Replace the text between the two marks in a document."""
    content = document.read_text(encoding="utf-8")
    before, _, rest = content.partition(START)
    _, mark, after = rest.partition(END)
    assert mark, f"{document} lacks {START} or {END}"
    document.write_text(f"{before}{START}\n\n{text}\n{END}{after}", encoding="utf-8")
