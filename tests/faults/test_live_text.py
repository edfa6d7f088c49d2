"""S8: text of data is text wherever it comes out: in a terminal, a table, a report, MLflow."""

import csv
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from fault_table import Table
from typer.testing import CliRunner

from ensemble.inference.label_files import FORMULA
from ensweep.cli.app import app
from mlflow_setup.text import for_terminal, printable

PAYLOADS = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x","y")', "=cmd|'/c calc'!A1"),
    *("\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x1b]8;;http://x\x1b\\y", "a\x08b", "right\u202eleft"),
    *("<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "[x](javascript:alert(1))"),
    *("| a | b |", "{{ 7 * 7 }}", "{% raw %}", "$(touch x)", "`touch x`"),
)
STEERS = re.compile("[\x00-\x09\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What no terminal may be given; lines end in LF or CR LF."""


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """Dev rows whose ids and sentences are payloads, and a row that is refused for its label."""
    folder = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    path = folder / "ids-sst-dev.csv"
    rows = [
        ["x", f"{text.strip()}{number}", f"{text} {number}", "1"]
        for number, text in enumerate(PAYLOADS)
        if "\t" not in text
    ]
    rows.append(["x", "bad", "a film", f"{PAYLOADS[7]}7"])
    text = "".join("\t".join(row).replace('"', "''") + "\n" for row in rows)
    path.write_text(path.read_text() + text, encoding="utf-8")
    return folder


def in_a_terminal(*words: str | Path) -> str:
    """What a terminal is given on both streams."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from ensweep.cli.app import main; main()", *map(str, words)]
    env = {
        **os.environ,
        "TERM": "dumb",
    }  # on others the bars move the cursor, which is no text of data
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux says so when the last writer has left
            break
        if not piece:
            break
        shown += piece
    process.wait(60)
    os.close(ours)
    return shown.decode("utf-8")


@pytest.mark.promise(
    "S8",
    "ids and sentences that a terminal, a spreadsheet, a browser or a template would run",
    "none is live in a terminal, an error, a CSV for spreadsheets, a model card or MLflow",
)
def test_s8_no_text_of_data_is_live(
    data: Path, tiny_bundle: Path, tiny_runs: Path, tmp_path: Path, table: Table
) -> None:
    table.played(len(PAYLOADS))
    rows = tmp_path / "in.csv"
    with rows.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["id", "sentence"], *([text, f"{text} film"] for text in PAYLOADS)])
    predict = ["predict", tiny_bundle, rows, "--task", "sentiment"]
    for words in (predict, ["data", "check", data], ["evaluate", tiny_bundle, "--data-dir", data]):
        shown = in_a_terminal(*words)
        assert len(shown) > 100
        assert not STEERS.search(shown), words
    guarded = tmp_path / "guarded.csv"
    CliRunner().invoke(app, [*map(str, predict), "--for-spreadsheet", "-o", str(guarded)])
    found = list(csv.reader(io.StringIO(guarded.read_text(), newline="")))
    assert len(found) == 1 + len(PAYLOADS)
    assert not any(cell.startswith(FORMULA) for row in found for cell in row)
    card = (tiny_bundle / "README.md").read_text()
    from mlflow_setup.tracking.store import resolve_tracking

    tracking = resolve_tracking(tiny_runs)
    assert not any(
        text in card or text in str(run.data.tags)
        for text in PAYLOADS
        for run in tracking.search({"sweep": "tiny"})
    )


@pytest.mark.parametrize("text", PAYLOADS)
def test_what_a_terminal_is_shown(text: str) -> None:
    assert not STEERS.search(for_terminal(f"{text}\n{text}"))
    assert for_terminal("a\nb") == "a\nb"
    assert not any(unicodedata.category(character) == "Cc" for character in printable(text))
