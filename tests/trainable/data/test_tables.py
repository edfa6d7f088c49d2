"""Rows of files: quotation marks and delimiters."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.config.tasks import PAPER_TASKS, Columns, Kind, Task
from trainable.data.readers import read_file
from trainable.data.tables import Fault, delimiter_of, table_rows, text_lines

HEADER = "id\tsentence\tlabel\n"


def rows(text: str, delimiter: str = "\t") -> list[tuple[int, list[str] | Fault]]:
    return list(table_rows(text.splitlines(keepends=True), delimiter, "standard"))[1:]


def test_stray_quotation_marks_around_rows_invalidate_only_the_first_of_them() -> None:
    text = HEADER + 'a\t"fine\t1\nb\tgood\t2\nc\tbad"\t3\nd\tlast\t0\n'
    (line, fault), *rest = rows(text)
    assert line == 2
    assert isinstance(fault, Fault)
    assert (fault.code, fault.message) == (
        "D14",
        "a quotation mark opens here and closes in line 4, with rows between",
    )
    expected = [(3, ["b", "good", "2"]), (4, ["c", 'bad"', "3"]), (5, ["d", "last", "0"])]
    assert rest == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('b\t"open\t2\n', "open to the end of the file"),
        ('b\t"a" film\t2\n', "quoting: "),
        (f"b\t{'x' * 200_000}\t2\n", "a cell of more than"),
    ],
)
def test_an_invalid_row_does_not_affect_other_rows(row: str, message: str) -> None:
    (_, first), (line, fault), (_, last) = rows(f"{HEADER}a\tfine\t1\n{row}c\tlast\t3\n")
    assert (first, last) == (["a", "fine", "1"], ["c", "last", "3"])
    assert line == 3
    assert isinstance(fault, Fault)
    assert message in fault.message


@given(
    table=st.lists(
        st.lists(st.text(st.sampled_from('ab "\n\r'), max_size=6), min_size=3, max_size=3),
        max_size=6,
    )
)
@settings(max_examples=300, deadline=None)
def test_quoted_cells_are_read_back(table: list[list[str]]) -> None:
    """Cells with quotation marks and line breaks, without delimiters."""
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "sentence", "label"], *table])
    lines = text_lines(io.BytesIO(sink.getvalue().encode()))
    assert [row for _, row in table_rows(lines, "\t", "standard")][1:] == table


@given(
    table=st.lists(
        st.lists(
            st.text(st.sampled_from("ab \"'"), min_size=1, max_size=6), min_size=3, max_size=3
        ),
        max_size=6,
    )
)
def test_without_quoting_quotation_marks_are_text(table: list[list[str]]) -> None:
    lines = ["id\tsentence\tlabel\n", *("\t".join(row) + "\n" for row in table)]
    assert [row for _, row in table_rows(lines, "\t", "none")][1:] == table


@pytest.mark.parametrize(
    ("header", "needed", "usual", "expected"),
    [
        ("id,sentence\n", ["sentence"], (), ","),
        ("id;sentence, or not\n", ["id"], (), ";"),
        ("id|sentence\n", ["sentence"], ("|",), "|"),
        ('"id"|"sentence"\n', ["id", "sentence"], (), "|"),
        ("id:sentence\n", ["sentence"], (":",), ":"),
        ("sentence\n", ["sentence"], ("|",), "|"),
        ("a;b;c,d\n", ["sentence"], (), ";"),
        ("", ["sentence"], (), "\t"),
    ],
)
def test_the_delimiter_is_detected_from_the_header(
    header: str, needed: list[str], usual: tuple[str, ...], expected: str
) -> None:
    assert delimiter_of(header, needed, usual) == expected


def test_a_task_may_be_declared_without_quoting(tmp_path: Path) -> None:
    task = Task(
        kind=Kind.CLASSIFICATION,
        files={"train": "a.csv", "dev": "a.csv"},
        columns=Columns(sentences=("sentence",)),
        quoting="none",
        num_classes=3,
    )
    path = tmp_path / "a.csv"
    path.write_text('id\tsentence\tlabel\na\t"fine\t1\nb\t"a" film\t2\nc\tbad"\t0\n')
    examples, defects = read_file("mine", task, "train", path)
    assert examples.sentences == (('"fine', '"a" film', 'bad"'),)
    assert not [defect for defect in defects if defect.severity == "error"]


def test_invalid_rows_are_skipped_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    lines = [f"{n}\tid{n}\tsentence {n}\t{n % 5}" for n in range(20)]
    lines[4] = '4\tid4\t"stray\t1'
    lines[7] = '7\tid7\tstray"\t2'
    lines[9] = '9\tid9\t"a" b\t2'
    path.write_text("\n".join(["\tid\tsentence\tsentiment", *lines]) + "\n")
    examples, defects = read_file("sentiment", PAPER_TASKS["sentiment"], "train", path)
    assert len(examples) == 18
    assert [(d.code, d.line, d.is_of_row) for d in defects] == [("D14", 6, True), ("D03", 11, True)]
