"""D1 to D4, D6: defects of data files are reported with their line, and no file causes a crash."""

import csv
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from scale import SCALE, how_often

from trainable.config.tasks import PAPER_TASKS
from trainable.data.dataset import read_directory
from trainable.data.defects import Defect
from trainable.data.examples import Examples
from trainable.data.readers import read_file

VARIANTS = range(20 * SCALE)
SHARED = Path(__file__).resolve().parents[2] / "../shared/data/cs224n"

Rows = list[list[str]]


def _rows(draw: random.Random) -> Rows:
    """A valid sentiment file as cells: index, id, sentence, label."""
    size = draw.randint(3, 30)
    rows = [[str(i), f"id-{i}", f"sentence {i} ü 漢", str(draw.randrange(5))] for i in range(size)]
    return [["", "id", "sentence", "sentiment"], *rows]


def _text(rows: Rows, delimiter: str = "\t") -> str:
    return "".join(delimiter.join(row) + "\n" for row in rows)


Build = Callable[[Rows, random.Random], tuple[bytes, int]]
"""Makes a file with a defect, and returns it with the line of the defect; 0: the whole file."""


def _set_cell(column: int, value: str) -> Build:
    """Set a cell of a random row; `{}` in the value is the old one."""

    def build(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
        line = draw.randint(2, len(rows))
        rows[line - 1][column] = value.format(rows[line - 1][column])
        return _text(rows).encode(), line

    return build


def _encode(encoding: str, line: int = 0) -> Build:
    return lambda rows, draw: (_text(rows).encode(encoding), line)


def _end_lines(end: str, line: int = 0) -> Build:
    return lambda rows, draw: (_text(rows).replace("\n", end).encode(), line)


def _missing_column(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
    column = draw.randint(1, 3)
    return _text([row[:column] + row[column + 1 :] for row in rows]).encode(), 1


def _missing_cell(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
    line = draw.randint(2, len(rows))
    rows[line - 1].pop()
    return _text(rows).encode(), line


def _wrong_delimiter(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
    return _text(rows, draw.choice(",;|")).encode(), 1


def _quotes_around_rows(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
    line = draw.randint(2, len(rows) - 2)
    last = draw.randint(line + 1, len(rows))
    rows[line - 1][2] = '"' + rows[line - 1][2]
    rows[last - 1][2] += '"'
    return _text(rows).encode(), line


def _latin1(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
    line = draw.randint(2, len(rows))
    rows = [[cell.replace(" ü 漢", "") for cell in row] for row in rows]
    rows[line - 1][2] = "caf\xe9 noir"
    return _text(rows).encode("latin-1"), line


def _empty(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
    return b"\n" * draw.randrange(3), 0


def _header(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
    return _text(rows[:1]).encode(), 0


def _duplicate_id(changes_label: bool) -> Build:
    def build(rows: Rows, draw: random.Random) -> tuple[bytes, int]:
        row = list(draw.choice(rows[1:]))
        if changes_label:
            row[3] = str((int(row[3]) + 1) % 5)
        rows.append(row)
        return _text(rows).encode(), len(rows)

    return build


DEFECTS: dict[str, tuple[Build, str, str]] = {
    "missing column": (_missing_column, "D04", "no column"),
    "extra column": (_end_lines("\tnote\n", 1), "D20", "column note is not used"),
    "missing cell": (_missing_cell, "D05", "3 cells, the header has 4"),
    "wrong delimiter": (_wrong_delimiter, "D04", "the delimiter looks like a"),
    "open quote": (_set_cell(2, '"{}'), "D03", "a quotation mark is open to the end of the file"),
    "quotes around rows": (_quotes_around_rows, "D14", r"closes in line \d+, with rows between"),
    "byte-order mark": (_encode("utf-8-sig", 1), "D21", "byte-order mark"),
    "UTF-16": (_encode("utf-16"), "D02", "is UTF-16"),
    "Latin-1": (_latin1, "D02", "byte 0xe9 is not UTF-8"),
    "NUL": (_set_cell(2, "{}\0"), "D02", "NUL byte"),
    "CR only": (_end_lines("\r"), "D24", "lines end in CR alone"),
    "CR LF": (_end_lines("\r\n"), "D24", "lines end in CR LF"),
    "1 MB cell": (_set_cell(2, "x" * 1_000_000), "D11", "a cell of more than"),
    "empty file": (_empty, "D13", "is empty"),
    "header only": (_header, "D13", "a header and no rows"),
    "duplicate id": (_duplicate_id(False), "D10", "occurs twice$"),
    "duplicate id, another label": (
        _duplicate_id(True),
        "D10",
        "occurs twice, with another label",
    ),
    "no id": (_set_cell(1, ""), "D06", "column id is empty"),
    "label out of range": (_set_cell(3, "5"), "D08", "is '5', not a class in 0..4"),
    "label a float": (_set_cell(3, "1.5"), "D08", "is '1.5', not a class"),
    "label text": (_set_cell(3, "good"), "D08", "is 'good', not a class"),
    "label infinite": (_set_cell(3, "inf"), "D08", "is 'inf', not a class"),
    "label empty": (_set_cell(3, ""), "D07", "column sentiment is empty"),
    "sentence empty": (_set_cell(2, ""), "D09", "column sentence is empty"),
    "sentence blank": (_set_cell(2, "   "), "D09", "column sentence is empty"),
    "like a formula": (_set_cell(2, "=1+1"), "D22", "starts like a formula"),
}


SENTENCES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


def _read(tmp_path: Path, content: bytes, task: str = "sentiment") -> tuple[Examples, list[Defect]]:
    name = "ids-sst-train.csv" if task == "sentiment" else "AllNLI.jsonl"
    path = tmp_path / name
    path.write_bytes(content)
    return read_file(task, PAPER_TASKS[task], "train", path)


@pytest.mark.promise(
    "D1", "data files with one of 26 defects", "named with its file, line, value and what to do"
)
@pytest.mark.parametrize("defect", DEFECTS)
def test_d1_a_defect_is_reported_with_its_line(defect: str, tmp_path: Path, table: Table) -> None:
    table.played(len(VARIANTS))
    build, code, message = DEFECTS[defect]
    for variant in VARIANTS:
        draw = random.Random(f"{defect}{variant}")
        rows = _rows(draw)
        num_rows = len(rows) - 1
        content, line = build(rows, draw)
        examples, found = _read(tmp_path, content)
        assert [d.code for d in found].count(code) == 1, [str(d) for d in found]
        reported = next(d for d in found if d.code == code)
        assert re.search(message, reported.message), reported.message
        assert reported.line == line
        assert reported.file == "ids-sst-train.csv"
        assert reported.fix
        is_error = reported.severity == "error"
        assert is_error == (code < "D20")
        if not is_error:
            assert len(examples) == num_rows
        elif reported.is_of_row:
            assert len(examples) == (num_rows if code == "D10" else num_rows - 1)


def test_all_defects_of_a_file_are_reported(tmp_path: Path) -> None:
    content = (
        '\tid\tsentence\tsentiment\n0\ta\tfine\t1\n1\t\t\t9\n2\tb\t"two\nlines"\t2\n3\tc\tlast\t\n'
    )
    examples, found = _read(tmp_path, content.encode())
    errors = [(3, "D06"), (3, "D09"), (3, "D08"), (6, "D07")]
    assert [(d.line, d.code) for d in found if d.severity == "error"] == errors
    assert [(d.line, d.code) for d in found if d.severity == "warning"] == [(4, "D25")]
    assert examples.ids == ("a", "b")
    assert examples.sentences == (("fine", "two\nlines"),)


@pytest.mark.promise("D2", "data files with changed bytes", "rows or a named defect; no crash")
def test_d2_changed_bytes_give_rows_or_defects(tmp_path: Path, table: Table) -> None:
    num_files = how_often(5_000, 100_000, 500)
    table.played(num_files)
    draw = random.Random(0)
    for _ in range(num_files):
        content = bytearray(_text(_rows(draw)).encode())
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(len(content))
            action = draw.randrange(3)
            if action == 0:
                content[place] = draw.randrange(256)
            elif action == 1:
                del content[place]
            else:
                content[place:place] = draw.choice([b'"', b"\t", b"\n", b"\r", b"\0", b"\xff"])
        examples, found = _read(tmp_path, bytes(content))
        assert len(examples) or found


@pytest.mark.promise("D3", "written tables", "read back unchanged, in their order")
def test_d3_a_written_table_is_read_unchanged(tmp_path: Path, table: Table) -> None:
    """Readers strip cells, and change nothing else."""
    num_tables = how_often(500, 10_000, 100)
    table.played(num_tables)

    @settings(max_examples=num_tables, deadline=None)
    @given(rows=st.lists(st.tuples(SENTENCES, st.integers(0, 4)), min_size=1, max_size=8))
    def check(rows: list[tuple[str, int]]) -> None:
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["", "id", "sentence", "sentiment"])
        writer.writerows([i, f"i{i}", text, label] for i, (text, label) in enumerate(rows))
        examples, defects = _read(tmp_path, stream.getvalue().encode())
        assert [defect for defect in defects if defect.severity == "error"] == []
        assert examples.ids == tuple(f"i{i}" for i in range(len(rows)))
        assert examples.sentences[0] == tuple(text.strip() for text, _ in rows)
        assert examples.labels is not None
        assert examples.labels.tolist() == [label for _, label in rows]

    check()


ENTRIES = ["one", "two words", "ü 漢", "", "  ", 1, None, True, ["x"], {"a": 1}]


@pytest.mark.promise("D4", "lines of 0 to 5 entries of any type", "read, or named with their line")
def test_d4_lines_of_any_entries(tmp_path: Path, table: Table) -> None:
    num_lines = how_often(200, 5_000, 100)
    table.played(num_lines)
    draw = random.Random(0)
    lines = [draw.choices(ENTRIES, k=draw.randint(0, 5)) for _ in range(num_lines)]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    examples, found = _read(tmp_path, content.encode(), "nli")
    valid = [
        line
        for line in lines
        if len(line) in (2, 3)
        and all(isinstance(entry, str) for entry in line)
        and all(entry.strip() for entry in line[:2])  # the third sentence may be empty
    ]
    wrong = [i for i, line in enumerate(lines, start=1) if line not in valid]
    assert sorted({defect.line for defect in found if defect.severity == "error"}) == wrong
    assert list(zip(*examples.sentences, strict=True)) == [(line[0], line[1]) for line in valid]


@pytest.mark.promise("D4", "lines that are not entailment pairs", "named with their line")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('["one"]', "not a list of 2 or 3"),
        ('["a", "b", "c", "d"]', "not a list of 2 or 3"),
        ('["a", 1]', "an entry that is not text"),
        ('["a", ["b"]]', "an entry that is not text"),
        ('{"a": "b"}', "not a list of 2 or 3"),
        ('["a", "b', "is not JSON"),
        ("[" * 50_000, "is not JSON"),
    ],
)
def test_d4_a_line_that_is_no_entailment_pair(line: str, message: str, tmp_path: Path) -> None:
    valid = '["anchor", "entailed"]\n["anchor", "entailed", "not"]\n'
    examples, found = _read(tmp_path, (valid + line + "\n").encode(), "nli")
    assert examples.contradictions == ("", "not")
    assert [(d.code, d.line) for d in found] == [("D12", 3)]
    assert message in found[0].message


@pytest.mark.skipif(not SHARED.is_dir(), reason="the course's data is not available")
def test_d6_defects_of_the_course_data() -> None:
    found = read_directory(SHARED, PAPER_TASKS)[1]
    errors = Counter((d.code, d.file) for d in found if d.severity == "error")
    assert errors == {("D07", "quora-train.csv"): 2, ("D09", "quora-train.csv"): 1}
    counts = Counter(d.code for d in found if d.severity == "warning")
    assert counts == {"D20": 1, "D22": 17, "D23": 31}
    stray = next(d for d in found if d.code == "D20")
    assert (stray.file, stray.value) == ("ids-sst-test-student.csv", "0")
    overlaps = Counter((d.file, d.message.split()[-1]) for d in found if d.code == "D23")
    assert overlaps == {
        ("sts-dev.csv", "train"): 13,
        ("sts-test-student.csv", "train"): 14,
        ("sts-test-student.csv", "dev"): 2,
        ("ids-sst-test-student.csv", "train"): 2,
    }
