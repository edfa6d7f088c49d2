"""A sweep's report in a browser: it is drawn without console messages and without a network.

Needs Chromium (Debian's `chromium`).
"""

import shutil
from pathlib import Path

import pytest
from scored_sweep import log_choice, scored_sweep

from mlflow_setup.tracking.store import resolve_tracking
from search.reports.pages.render import write_report
from search.reports.report import sweep_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 120_000  # milliseconds: other tests run beside this one

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
]


def test_the_page_is_drawn_without_console_messages_and_network(
    tiny_data: Path, tmp_path: Path
) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    folder = scored_sweep(tmp_path, tiny_data, num_trials=12)
    log_choice(tmp_path)
    report = sweep_report(folder, resolve_tracking(tmp_path), tmp_path / ".cache")
    page_file = write_report(report, tmp_path / "report", "demo", is_interactive=True).html
    messages, urls = list[str](), list[str]()
    with api.sync_playwright() as playwright:
        # root in a container has no sandbox
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 1000})
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: urls.append(request.url))
        page.goto(page_file.as_uri())
        page.locator(".plot .main-svg").nth(len(report.plots) - 1).wait_for(state="attached")
        drawn = page.locator(".plot").evaluate_all(
            "plots => plots.filter(plot => plot.querySelector('.main-svg .cartesianlayer')).length"
        )
        text = page.locator("body").inner_text()
        width = page.evaluate("document.documentElement.scrollWidth")
        picture = tmp_path / "report.png"
        page.screenshot(path=picture)
        browser.close()
    outside = [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]
    assert (messages, outside) == ([], [])
    assert drawn == len(report.plots) > 10
    assert text.index("Ship ") < text.index("Leaderboard\n")
    assert "OSError: <b>no</b> space" in text  # escaped
    assert width == 1240  # nothing is wider than the window
    assert picture.stat().st_size > 50_000
