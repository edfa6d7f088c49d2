"""S8: texts in data are never interpreted by a terminal, spreadsheet, browser or template."""

import contextlib
import csv
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fault_table import Table
from markdown_it import MarkdownIt
from scored_sweep import scored_sweep
from typer.testing import CliRunner

from ensemble.inference.label_files import FORMULA
from ensweep.cli.app import app
from mlflow_setup.schema import Outcome, OutcomeRecord
from mlflow_setup.text import for_terminal, printable
from mlflow_setup.tracking.store import resolve_tracking
from search.reports.pages.content import Report
from search.reports.pages.render import PICTURES, html, markdown, write_report
from search.reports.report import sweep_report

PAYLOADS = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x","y")', "=cmd|'/c calc'!A1"),
    *("\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x1b]8;;http://x\x1b\\y", "a\x08b", "right\u202eleft"),
    *("<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "[x](javascript:alert(1))"),
    *("| a | b |", "{{ 7 * 7 }}", "{% raw %}", "$(touch x)", "`touch x`"),
)
CONTROLS = re.compile("[\x00-\x09\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters that change what a terminal shows; LF and CR are permitted."""


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """Dev rows with payloads as ids and sentences, and a row with an invalid label."""
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


def terminal_output(*words: str | Path) -> str:
    """What a command writes into a terminal, on both streams."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from ensweep.cli.app import main; main()", *map(str, words)]
    env = {**os.environ, "TERM": "dumb"}  # else progress bars move the cursor
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # raised on Linux when the process has closed its end
        while piece := os.read(ours, 1 << 16):
            shown += piece
    process.wait(60)
    os.close(ours)
    return shown.decode("utf-8")


@pytest.mark.promise(
    "S8",
    "ids and sentences that a terminal, a spreadsheet, a browser or a template would run",
    "none takes effect in a terminal, an error, a CSV for spreadsheets, a model card or MLflow",
)
def test_s8_no_output_of_a_command_interprets_data(
    data: Path, tiny_bundle: Path, tiny_runs: Path, tmp_path: Path, table: Table
) -> None:
    table.played(len(PAYLOADS))
    rows = tmp_path / "in.csv"
    with rows.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["id", "sentence"], *([text, f"{text} film"] for text in PAYLOADS)])
    predict = ["predict", tiny_bundle, rows, "--task", "sentiment"]
    for words in (predict, ["data", "check", data], ["evaluate", tiny_bundle, "--data-dir", data]):
        shown = terminal_output(*words)
        assert len(shown) > 100
        assert not CONTROLS.search(shown), words
    guarded = tmp_path / "guarded.csv"
    CliRunner().invoke(app, [*map(str, predict), "--for-spreadsheet", "-o", str(guarded)])
    found = list(csv.reader(io.StringIO(guarded.read_text(), newline="")))
    assert len(found) == 1 + len(PAYLOADS)
    assert not any(cell.startswith(FORMULA) for row in found for cell in row)
    card = (tiny_bundle / "README.md").read_text()
    tracking = resolve_tracking(tiny_runs)
    assert not any(
        text in card or text in str(run.data.tags).replace(str(tiny_runs), "")
        for text in PAYLOADS
        if len(text) > 2  # paths and dates also contain "-1"
        for run in tracking.search({"sweep": "tiny"})
    )


class _Page(HTMLParser):
    """A page's text, and the elements and attributes that a browser would run or load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.live: list[str] = []
        self.scripts, self.text = 0, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.scripts += tag == "script"
        self.live += [f"{tag} {key}" for key in given if key.startswith("on")]
        places = [given.get("href", "#"), given.get("src", "data:")]
        self.live += [f"{tag} {p[:40]}" for p in places if not p.startswith(("#", "data:"))]
        self.live += [tag] if tag in ("iframe", "object", "embed", "base", "form") else []

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def report(data: Path, tmp_path: Path) -> Report:
    """The report of a sweep whose worst rows and failures contain payloads."""
    path = data / "ids-sst-dev.csv"
    valid = path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]
    path.write_text("".join(valid), encoding="utf-8")
    folder = scored_sweep(tmp_path / "runs", data, tasks=("sentiment",))
    for number, text in enumerate(PAYLOADS[12:15]):
        trial = folder.trial(f"{number + 4:04d}")
        trial.write_outcome(OutcomeRecord(Outcome.FAILED, text, 1, time.time()))
    return sweep_report(folder, resolve_tracking(tmp_path / "runs"), tmp_path / "cache")


REPORT = pytest.mark.promise(
    "S8",
    "the same as ids and sentences of the rows that a report shows, and as reasons of failures",
    "none takes effect in the page, drawn by plotly or as pictures, or in its Markdown",
)


@REPORT
def test_s8_no_page_of_a_report_interprets_data(
    report: Report, tmp_path: Path, table: Table
) -> None:
    shown = [text.strip().replace('"', "''") for text in PAYLOADS if "\t" not in text]
    table.played(len(shown))
    drawn = [html(report, {}), html(report, {plot.name: b"png" for plot in report.plots})]
    source = markdown(report)
    drawn.append(MarkdownIt("commonmark", {"html": True}).enable("table").render(source))
    pages = [_Page(text) for text in drawn]
    pictures = {f"img {PICTURES}/{plot.name}.png"[:44] for plot in report.plots}
    assert [set(page.live) - pictures for page in pages] == [set()] * 3
    assert [page.scripts for page in pages] == [3, 0, 0]  # JSON of the plots, plotly, the call
    assert not any(CONTROLS.search(page.text.replace("\t", "")) for page in pages[1:])
    for text in shown:
        if not CONTROLS.search(text):
            assert all(f"{text} " in page.text for page in pages), text


@pytest.mark.rare("tests/browser/test_report.py opens a page in a browser")
@REPORT
def test_s8_a_browser_runs_no_script_of_a_report(
    report: Report, tmp_path: Path, table: Table
) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: apt install chromium")
    page_file = write_report(report, tmp_path / "report", "s", is_interactive=True).html
    table.played(len(PAYLOADS))
    messages, requests = list[str](), list[str]()
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("dialog", lambda dialog: messages.append(f"dialog {dialog.message}"))
        page.on("console", lambda message: messages.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        page.locator(".plot .main-svg").nth(len(report.plots) - 1).wait_for(state="attached")
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for place in page.locator(".plot").all():
            place.hover()  # shows the text of a point
        browser.close()
    external = [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    assert (messages, external) == ([], [])


@pytest.mark.parametrize("text", PAYLOADS)
def test_terminal_text_has_no_control_characters(text: str) -> None:
    assert not CONTROLS.search(for_terminal(f"{text}\n{text}"))
    assert for_terminal("a\nb") == "a\nb"
    assert not any(unicodedata.category(character) == "Cc" for character in printable(text))
