"""A sweep in MLflow's UI: its list of trials, charts, a comparison, and the pages of the sweep, a
trial and a registered model.

Needs Chromium (Debian's `chromium`); `ENSWEEP_SCREENSHOTS=docs` draws the documentation's pictures.
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
from ports import free_port
from tracked_sweep import SCORES, track_sweep

from ensemble.export.register import register
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
COLUMNS = (
    *("tags.`outcome`", "metrics.`best/dev/overall`", "params.`batching.batch_size`"),
    "metrics.`best/dev/sentiment/accuracy`",
)
"""Some, from left to right."""
PATIENCE = 60_000  # milliseconds: other tests run beside this one

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
    pytest.mark.rare("test_report.py opens a page; what is logged for these has unit tests"),
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A tracked sweep of 200 trials, and a registered model."""
    storage = tmp_path_factory.mktemp("runs")
    sweep = read_sweep("selective", ["data.dir=/data", "model.encoder=minilm"], {})
    track_sweep(SweepFolder(storage, SWEEP), sweep, resolve_tracking(storage), NUM_TRIALS)
    register(resolve_tracking(storage), tiny_bundle, "reviews")
    return storage


@pytest.fixture(scope="module")
def address(storage: Path) -> Iterator[str]:
    """The address that `ensweep ui` prints; its server runs until the tests end."""
    port = free_port()
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
def tab() -> Iterator["Page"]:
    """An empty tab of a browser."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        # root in a container has no sandbox
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1500, "height": 1500})
        tab.set_default_timeout(PATIENCE)
        yield tab
        browser.close()


@pytest.fixture
def page(tab: "Page", address: str) -> "Page":
    """The page that `ensweep ui` names, with its list of runs."""
    tab.goto(address)
    _checkboxes(tab).nth(3).wait_for()
    _close_assistant(tab)
    return tab


def _close_assistant(tab: "Page") -> None:
    tab.get_by_role("button", name="Close").first.click()


def _screenshot(tab: "Page", name: str, tmp_path: Path) -> None:
    """Take a screenshot, for the documentation with `ENSWEEP_SCREENSHOTS`."""
    picture = Path(os.environ.get("ENSWEEP_SCREENSHOTS") or tmp_path) / name
    tab.screenshot(path=picture)
    assert picture.stat().st_size > 30_000


def _checkboxes(page: "Page"):  # type: ignore[no-untyped-def]
    return page.get_by_role("checkbox", name=re.compile("Press Space"))


def best_three(storage: Path) -> list[RunRecord]:
    runs = find_trials(resolve_tracking(storage), SWEEP)
    ranked = [row.trial for row in leaderboard(runs)[:3]]
    return sorted(
        (run for run in runs if run.trial in ranked), key=lambda run: ranked.index(run.trial)
    )


def test_the_list_is_the_leaderboard(page: "Page", storage: Path, tmp_path: Path) -> None:
    text = page.locator("body").inner_text()
    page.set_viewport_size({"width": 3200, "height": 1000})  # only columns in view are rendered
    page.locator("[col-id='metrics.`best/dev/similarity/pearson`']").first.wait_for()
    positions = [text.index(f"\n{run.trial} ") for run in best_three(storage)]  # and its settings
    assert positions == sorted(positions)
    cells = page.locator(".ag-header-cell").all()
    places = {cell.get_attribute("col-id") or "": cell.bounding_box() for cell in cells}
    assert {f"metrics.`best/{name}`" for name in SCORES} <= set(places)
    assert str(best_three(storage)[0].overall)[:6] in text
    lefts = [box["x"] for name in COLUMNS if (box := places[name]) is not None]
    assert lefts == sorted(lefts)
    assert len(lefts) == len(COLUMNS)
    _screenshot(page, "list-runs.png", tmp_path)


def test_charts_have_the_train_and_dev_loss_of_each_task(page: "Page", tmp_path: Path) -> None:
    page.locator('label:has(input[value="CHART"])').click()
    for task in ("sentiment", "paraphrase", "similarity"):
        page.get_by_text(f"train/{task}/loss vs dev/{task}/loss").first.wait_for()
    page.locator(".js-plotly-plot").nth(3).wait_for()
    _screenshot(page, "chart-runs.png", tmp_path)


def test_the_experiment_opens_on_its_runs(tab: "Page", address: str) -> None:
    """Without `workflowType` MLflow 3.17 opens the view of the switch at its top left."""
    tab.goto(re.sub(r"/runs\?.*", "?workflowType=machine_learning", address))
    _checkboxes(tab).first.wait_for()
    tab.get_by_text("matching runs").wait_for()
    assert SWEEP in tab.locator("body").inner_text()


def test_the_sweeps_page_has_its_result_and_links_the_best_trial(
    tab: "Page", address: str, storage: Path, tmp_path: Path
) -> None:
    tracking = resolve_tracking(storage)
    (run,) = tracking.search({"kind": "sweep", "sweep": SWEEP})
    best = best_three(storage)[0]
    tab.goto(re.sub(r"runs\?.*", f"runs/{run.info.run_id}", address))
    tab.set_viewport_size({"width": 1500, "height": 900})
    tab.get_by_text("Best: ").first.wait_for()
    _close_assistant(tab)
    text = tab.locator("body").inner_text()
    assert f"Best: {best.trial}, overall {best.overall:.4f}" in text
    assert f"{NUM_TRIALS} trials: 133 finished, 67 pruned." in text
    assert "best/dev/overall" in text
    link = tab.get_by_role("link", name=best.trial, exact=True).first
    assert f"/runs/{best.run_id}" in str(link.get_attribute("href"))
    _screenshot(tab, "sweep-run.png", tmp_path)
    tab.goto(f"{tab.url.partition('?')[0].replace(run.info.run_id, best.run_id)}/system-metrics")
    tab.get_by_text("process_cpu_percentage").first.wait_for()
    tab.locator(".js-plotly-plot").first.wait_for()
    _screenshot(tab, "system-metrics.png", tmp_path)


def test_the_registered_model_is_described(tab: "Page", address: str, tmp_path: Path) -> None:
    base = re.sub(r"#/.*", "#/models/reviews", address)
    tab.goto(base)
    tab.get_by_text("Evaluation").first.wait_for()
    _close_assistant(tab)
    assert "champion" in tab.locator("body").inner_text()
    tab.goto(f"{base}/versions/1")
    tab.get_by_text("Evaluation").first.wait_for()
    text = tab.locator("body").inner_text()
    for word in ("selective", "sentiment,paraphrase,similarity", "sentence"):
        assert word in text
    _screenshot(tab, "model-version.png", tmp_path)


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
    _screenshot(page, "compare-runs.png", tmp_path)
