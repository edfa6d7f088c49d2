"""A report as files: one self-contained HTML page, and Markdown with pictures beside it.

The page needs no network: everything is in it, and its content security policy forbids the rest.
Text from data is always escaped: by jinja2 in the page, and before it is passed to plotly.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import jinja2

from ensemble.presentation.draw import png
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.text import printable
from search.reports.pages.content import Report
from search.reports.pages.interactive import PIXELS, figure_of

PICTURES = "pictures"
"""Name of the folder with the pictures, beside the Markdown file."""
TEMPLATES = Path(__file__).parent / "templates"
START = """
const plots = JSON.parse(document.getElementById("plots").textContent);
const settings = {displaylogo: false, responsive: true, modeBarButtonsToRemove: ["toImage"]};
for (const place of document.querySelectorAll(".plot")) {
  const plot = plots[place.dataset.plot];
  Plotly.newPlot(place, plot.data, plot.layout, settings);
}
"""


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    html: Path
    markdown: Path
    pictures: tuple[Path, ...]

    @property
    def every(self) -> tuple[Path, ...]:
        return self.html, self.markdown, *self.pictures


def has_plotly() -> bool:
    """Whether the extra `plots` is installed."""
    return find_spec("plotly") is not None


def write_report(report: Report, folder: Path, name: str, is_interactive: bool) -> Written:
    """Write `<name>.html`, `<name>.md` and the pictures to `folder`.

    Raises:
        OSError: the folder cannot be written to.
    """
    pictures = {plot.name: png(plot) for plot in report.plots}
    paths = {key: folder / PICTURES / f"{key}.png" for key in pictures}
    page = html(report, {} if is_interactive else pictures)
    written = Written(folder / f"{name}.html", folder / f"{name}.md", tuple(paths.values()))
    for key, path in paths.items():
        write_atomic(path, pictures[key])
    write_atomic(written.markdown, markdown(report))
    write_atomic(written.html, page)
    return written


def html(report: Report, pictures: dict[str, bytes]) -> str:
    """Return the HTML page.

    Args:
        pictures: name of a plot -> its PNG; empty: the plots are drawn by plotly.
    """
    scripts = [] if pictures or not report.plots else [_library(), START]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts) or "'none'"
    return _environment().get_template("report.html.jinja").render(
        report=report,
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {hashes}; base-uri 'none'; form-action 'none'",
        is_interactive=bool(scripts),
        heights={plot.name: round(PIXELS * plot.height * plot.num_rows) for plot in report.plots},
        pictures={
            name: f"data:image/png;base64,{base64.b64encode(image).decode()}"
            for name, image in pictures.items()
        },
        plots={plot.name: figure_of(plot) for plot in report.plots} if scripts else {},
        library=scripts[0] if scripts else "",
        start=START,
    )  # fmt: skip


def markdown(report: Report) -> str:
    """Return the report in Markdown, which refers to the pictures' files."""
    template = _environment().get_template("report.md.jinja")
    return template.render(report=report, folder=PICTURES)


def _library() -> str:
    """Return plotly.js from the plotly package, escaped for a <script> element."""
    text = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name and name.endswith(".html.jinja")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.policies["json.dumps_function"] = _dumps
    environment.filters |= {"plain": _plain, "cell": _cell, "line": printable}
    return environment


def _shown(value: object) -> object:
    """Remove control characters and marks of writing direction from text."""
    return printable(value) if type(value) is str else value


def _dumps(value: object, **given: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _plain(text: str) -> str:
    """Escape text for Markdown."""
    shown = printable(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for mark in "[]*_`{}#|":
        shown = shown.replace(mark, f"\\{mark}")
    return shown


def _cell(text: str) -> str:
    return _plain(text) or " "
