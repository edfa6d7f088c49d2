"""The trials of a sweep in MLflow's UI, as a person sees them: best first, compared in detail.

Needs Chromium (Debian's `chromium`); `ENSWEEP_SCREENSHOTS=docs` draws the documentation's picture.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tracked_sweep import SCORES, track_sweep

from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import RunRecord
from mlflow_setup.tracking.store import resolve_tracking
from search.config.load import read_sweep
from search.reports.leaderboard import leaderboard
from search.storage.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NUM_TRIALS, SWEEP = 200, "selective-200"
PATIENCE = 60_000  # milliseconds: other tests run beside this one

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracked sweep of 200 trials."""
    storage = tmp_path_factory.mktemp("runs")
    sweep = read_sweep("selective", ["data.dir=/data", "model.encoder=minilm"], {})
    track_sweep(SweepFolder(storage, SWEEP), sweep, resolve_tracking(storage), NUM_TRIALS)
    return storage


@pytest.fixture(scope="module")
def address(storage: Path) -> Iterator[str]:
    """What `ensweep ui` says to open; its server runs meanwhile."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    call = "from ensweep.cli.app import main; main()"
    command = [sys.executable, "-c", call, "ui", "--storage", str(storage), "--port", str(port)]
    log = storage / "ui.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        found = re.search(r"http://\S+", log.read_text())
        assert found is not None, log.read_text()
        yield found[0]
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page(address: str) -> Iterator["Page"]:
    """The page that `ensweep ui` names, with its list of runs."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        # a container's root has no sandbox to give
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1500})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        _checkboxes(page).nth(3).wait_for()
        page.get_by_role("button", name="Close").first.click()  # of the assistant
        yield page
        browser.close()


def _checkboxes(page: "Page"):  # type: ignore[no-untyped-def]
    return page.get_by_role("checkbox", name=re.compile("Press Space"))


def best_three(storage: Path) -> list[RunRecord]:
    runs = find_trials(resolve_tracking(storage), SWEEP)
    ranked = [row.trial for row in leaderboard(runs)[:3]]
    return sorted(
        (run for run in runs if run.trial in ranked), key=lambda run: ranked.index(run.trial)
    )


def test_the_list_is_the_leaderboard(page: "Page", storage: Path) -> None:
    text = page.locator("body").inner_text()
    positions = [text.index(f"\n{run.trial}\n") for run in best_three(storage)]
    assert positions == sorted(positions)
    header = [cell.get_attribute("col-id") or "" for cell in page.locator(".ag-header-cell").all()]
    assert {f"metrics.`best/{name}`" for name in SCORES} <= set(header)
    assert "params.`batching.batch_size`" in header
    assert f"{best_three(storage)[0].overall:.4f}"[:6] in text


def test_three_runs_are_compared(page: "Page", storage: Path, tmp_path: Path) -> None:
    for number in range(3):
        _checkboxes(page).nth(number).click()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 3 Runs").wait_for()
    for switch in page.get_by_role("switch").all():
        switch.click()  # show what differs
    page.get_by_text("Visualizations").first.click()
    text = page.locator("body").inner_text()
    parameters = text[text.index("\nParameters\n") : text.index("\nMetrics\n")]
    metrics = text[text.index("\nMetrics\n") : text.index("\nArtifacts\n")]
    runs = best_three(storage)
    differing = {key for key in runs[0].params if len({run.params.get(key) for run in runs}) > 1}
    assert len(differing) >= 5
    rows = dict(line.split("\t", 1) for line in parameters.splitlines() if "\t" in line)
    assert rows == {key: "\t".join(run.params[key] for run in runs) for key in differing}
    lines = metrics.splitlines()
    for name in SCORES:
        assert name in lines
        assert f"best/{name}" in lines
    for run in runs:
        assert f"{run.overall:.3f}".rstrip("0") in lines
    folder = Path(os.environ.get("ENSWEEP_SCREENSHOTS") or tmp_path)
    picture = folder / "compare-runs.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 50_000
