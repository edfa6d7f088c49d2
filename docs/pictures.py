"""The documentation's pictures, drawn anew from a sweep that was run, in Chromium.

In a terminal, in the folder of README's tutorial:

    script --quiet --flush --command "stty cols 100; ensweep sweep mine/sweep.yaml --name mine" sweep.tty
    python docs/pictures.py mine sweep.tty --output docs

writes sweep.png (the live table), leaderboard.png (80 columns) and three screens of the report.
Those of MLflow's pages: `ENSWEEP_SCREENSHOTS=docs pytest tests/browser`.
"""  # noqa: E501

import argparse
import io
import re
import shutil
import subprocess
from pathlib import Path

from playwright.sync_api import FloatRect, Page, sync_playwright
from rich.console import Console
from rich.text import Text

SCREENS = {"report": "header", "report-settings": "#settings", "report-errors": "#errors"}
"""Picture -> the part of the report that it begins with."""
WIDTH, HEIGHT = 1240, 1000
"""Of a screen, in pixels."""
REDRAWN = re.compile(r"(?:\x1b\[\d*[A-K])+\x1b\[\d*[A-K]")
"""Where a live table goes back to its first line."""


def busiest(recorded: str) -> str:
    """The last of a live table's frames that show the most trials under way."""
    frames = [frame.strip("\r\n") for frame in REDRAWN.split(recorded) if " left" in frame]
    return max(reversed(frames), key=lambda frame: len(re.findall(r"running +\d", frame)))


def in_a_terminal(command: str, width: int) -> str:
    """What a command prints in a terminal so wide."""
    asked = ["script", "--quiet", "--flush", "--command", f"stty cols {width}; {command}"]
    done = subprocess.run([*asked, "/dev/null"], capture_output=True, text=True, check=True)
    return done.stdout


def draw_terminal(page: Page, text: str, title: str, width: int, path: Path) -> None:
    """A terminal with that text, as a picture."""
    console = Console(record=True, width=width, file=io.StringIO())
    for line in text.replace("\r", "").splitlines():
        console.print(Text.from_ansi(line))
    svg = console.export_svg(title=title)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S)  # of a network
    page.set_content(f"<body style='margin:0;display:inline-block;width:1000px'>{svg}</body>")
    page.locator("svg").screenshot(path=path, omit_background=True)


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep")
    parser.add_argument("recorded", type=Path, help="what `script` recorded of the sweep")
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=Path("docs"))
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(180_000)
        recorded = given.recorded.read_text(encoding="utf-8")
        command = f"ensweep sweep mine/sweep.yaml --name {given.sweep}"
        draw_terminal(page, busiest(recorded), command, 100, given.output / "sweep.png")
        command = f"ensweep leaderboard {given.sweep}"
        board = in_a_terminal(f"{command} --storage {given.storage}", 80)
        draw_terminal(page, board, command, 80, given.output / "leaderboard.png")
        report = given.storage / given.sweep / "report" / f"{given.sweep}.html"
        page.goto(report.resolve().as_uri())
        page.wait_for_load_state("networkidle")
        page.locator("#errors details").first.evaluate("worst => { worst.open = true }")
        for name, place in SCREENS.items():
            box = page.locator(place).first.bounding_box()
            assert box is not None
            top, height = max(0, box["y"] - 12), HEIGHT
            if place.startswith("#"):
                height = min(HEIGHT, box["height"] + 24)
            clip = FloatRect(x=0, y=top, width=WIDTH, height=height)
            page.screenshot(path=given.output / f"{name}.png", clip=clip, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
