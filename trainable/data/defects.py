"""Defects of data files, each with its location, its value and a fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlflow_setup.text import NUM_SHOWN, printable

FIXES = {
    "D01": "name the right folder, or put the file there",
    "D02": "save the file as UTF-8 text without NUL bytes; Excel calls it CSV UTF-8",
    "D03": "close the quotation mark, or double those inside a quoted cell; for a file written "
    "without quoting declare the task with quoting: none",
    "D04": "name the columns in the header line, and the delimiter in the task's declaration",
    "D05": "give the row as many cells as the header has",
    "D06": "give the row an id",
    "D07": "give the row a label, or leave it out with data.on_bad_rows=skip",
    "D08": "correct the label, or leave the row out with data.on_bad_rows=skip",
    "D09": "give the row a sentence, or leave it out with data.on_bad_rows=skip",
    "D10": "give each row an id of its own",
    "D11": "shorten the cell; a quotation mark may be open",
    "D12": 'write each line as a JSON list: ["anchor", "entailed"] or with a third sentence',
    "D13": "put rows below the header",
    "D14": "double or remove the quotation marks; for a file written without quoting declare the "
    "task with quoting: none; if it is one cell, write it in one line",
    "D15": "name the labels in the task's declaration, in the order of the classes: labels: [...]",
    "D16": 'write each line as a JSON object: {"id": "1", "sentence": "...", "label": "..."}',
    "D20": "nothing to do; the column is ignored",
    "D21": "nothing to do; the mark is ignored",
    "D22": "nothing to do; but a spreadsheet may run it as a formula",
    "D23": "remove the rows from one of the splits: scores on them mean little",
    "D24": "nothing to do; these line ends are supported",
    "D25": "nothing to do if the text has line breaks; else look for stray quotation marks",
    "D26": "add rows with other labels: constant labels allow neither training nor evaluation",
    "D27": "add rows to dev, or expect differences between its scores to be chance",
}
"""The fix for each kind of defect. D01 to D16 are errors, D20 and above are warnings."""
_OF_ROWS = (*("D03", "D05", "D06", "D07", "D08", "D09", "D10", "D11", "D12"), "D14", "D16")


Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect of one file. Line 0 is the file as a whole."""

    code: str
    severity: Severity
    file: str
    line: int
    column: str
    value: str
    message: str

    @property
    def fix(self) -> str:
        return FIXES[self.code]

    @property
    def is_of_row(self) -> bool:
        """Whether the rest of the file can be used without the row."""
        return self.code in _OF_ROWS

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return printable(f"{self.severity}[{self.code}] {place}: {self.message}")


def describe(defects: Sequence[Defect]) -> str:
    """The first 20 defects, one per line, the number of others, and the fix for each kind."""
    lines = [str(defect) for defect in defects[:NUM_SHOWN]]
    if len(defects) > NUM_SHOWN:
        lines.append(f"... and {len(defects) - NUM_SHOWN} more")
    for code in sorted({defect.code for defect in defects}):
        lines.append(f"{code}: {FIXES[code]}")
    return "\n  ".join(lines)
