"""A report as HTML and as Markdown: texts are escaped, scripts are its own, no network is used."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ensemble.presentation.plot import Bars, Matrix, Panel, Plot, Series
from search.reports.pages.content import Report, Section, Table
from search.reports.pages.render import html, markdown, write_report

PAYLOADS = (
    *("<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "</script><b>", "<!--"),
    *("[x](javascript:alert(1))", "![x](http://x)", "| a | b |", "{{ 7 * 7 }}", "{% raw %}"),
    *("`touch x`", "\x1b[2J", "right\u202eleft", "&lt;", "\u2028"),
)
TAGS = (
    "html head meta link title style body header div h1 p nav a main section h2 figure figcaption "
    "table thead tbody tr th td details summary pre script img h3"
)


def report(text: str) -> Report:
    """A report with the text in each place that takes one."""
    series = Series([1], [1], text, texts=[text])
    bars, cells = Bars([text], [1], text), Matrix([[1]], [text], [text], [[text]])
    panel = Panel([series], text, text, text, ticks=[text], notes=[(0, 0, text)])
    named = Panel([series], y_ticks=[text], y_lines=[(1, text)])
    plot = Plot("plot", [panel, named, Panel([bars]), Panel([cells])], text)
    table = Table([text], [[text]], text)
    folded = Table([text], [[text * 9]], text, is_folded=True)
    shown = Section("one", text, [text], [plot], [table, folded], [text])
    return Report(text, [text, text], text, [shown, Section("two", text, absent=text)])


class Reader(HTMLParser):
    """The elements of a page, its scripts and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.is_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.is_script = tag == "script"
        if self.is_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.is_script = False

    def handle_data(self, data: str) -> None:
        if self.is_script:
            self.scripts[-1] += data
        self.text += data

    @property
    def policy(self) -> str:
        found = (names for tag, names in self.tags if "http-equiv" in names)
        return str(next(found)["content"])


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.mark.parametrize("text", PAYLOADS)
@pytest.mark.parametrize("is_interactive", [False, True])
def test_texts_are_escaped_in_html(
    text: str, is_interactive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.reports.pages.render._library", lambda: "let library;")
    reader = read(html(report(text), {} if is_interactive else {"plot": b"png"}))
    usual = read(html(report("plain"), {} if is_interactive else {"plot": b"png"}))
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in usual.tags]
    assert {tag for tag, _ in reader.tags} <= set(TAGS.split())
    assert not [name for _, names in reader.tags for name in names if name.startswith("on")]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", reader.text)
    if is_interactive:
        drawn = json.dumps(json.loads(reader.scripts[0]))
        assert "<script" not in drawn.replace("&lt;script", "")
        assert "<img" not in drawn


def test_the_content_security_policy_allows_only_the_pages_own_scripts() -> None:
    page = html(report("plain"), {})
    reader = read(page)
    policy = reader.policy
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    scripts = policy.split("script-src ")[1].split(";")[0]
    assert "unsafe-inline" not in scripts
    for script in reader.scripts[1:]:  # the first is data
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in scripts
    assert len(reader.scripts) == 3
    assert 4e6 < len(page.encode()) < 8e6
    places = [names.get(key) for _, names in reader.tags for key in ("src", "href")]
    assert all(place is None or place.startswith(("#", "data:")) for place in places)


def test_a_static_page_has_no_script(tmp_path: Path) -> None:
    written = write_report(report("plain"), tmp_path / "new", "name", is_interactive=False)
    assert written.html.name == "name.html"
    reader = read(written.html.read_text())
    assert reader.scripts == []
    assert "script-src 'none'" in reader.policy
    (picture,) = [names["src"] for tag, names in reader.tags if tag == "img"]
    assert picture is not None
    image = base64.b64decode(picture.partition(",")[2])
    assert image == written.pictures[0].read_bytes()
    assert image.startswith(b"\x89PNG")
    assert written.html.stat().st_size < 5e6
    assert f"![plot](pictures/{written.pictures[0].name})" in written.markdown.read_text()


@pytest.mark.parametrize("text", PAYLOADS)
def test_texts_are_escaped_in_markdown(text: str) -> None:
    found = re.sub("```sh.*?```", "", markdown(report(text)), flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<|(?<!\\)\]\((?!pictures/plot\.png\))", found)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", found)
    assert "{{" not in found
    tables = [line for line in found.splitlines() if line.startswith("|")]
    assert len(tables) == 6
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 2 for line in tables)


def test_markdown_has_every_part_of_the_report() -> None:
    found = markdown(report("word"))
    assert found.startswith("# word\n\n**word**\n\nword\n")
    for line in (
        "## word",
        "*Not here: word*",
        "### word",
        "| word |",
        "|---|",
        "```sh\nword\n```",
    ):
        assert f"\n{line}\n" in found, line
