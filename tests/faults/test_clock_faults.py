"""R18: records do not depend on clocks that jump, differ between processes or repeat an hour."""

import contextlib
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from drivers import Driver, assert_whole
from fake_sweep import sweep_of
from scale import how_often

from mlflow_setup.runs.query import find_trials
from mlflow_setup.tracking.store import resolve_tracking
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder

pytestmark = pytest.mark.slow

HOUR, DAY = 3600, 24 * 3600


def shift_to(*when: int) -> float:
    """The shift in seconds by which a clock shows this time, UTC."""
    return datetime(*when, tzinfo=UTC).timestamp() - time.time()


Shifts = Callable[[], tuple[tuple[float, ...], float]]
"""Returns the shifts of the first driver's processes, and that of the second driver."""

JUMPS: dict[str, Shifts] = {
    "a day back": lambda: ((0, HOUR, -HOUR), -DAY),
    "an hour back": lambda: ((0, HOUR, -HOUR), -HOUR),
    "an hour forward": lambda: ((0, HOUR, -HOUR), HOUR),
    "a day forward": lambda: ((0, HOUR, -HOUR), DAY),
    "summer time ends": lambda: ((shift_to(2026, 10, 25, 0, 50),), shift_to(2026, 10, 25, 1, 10)),
    "summer time begins": lambda: ((shift_to(2027, 3, 28, 0, 50),), shift_to(2027, 3, 28, 1, 10)),
}


@pytest.mark.promise(
    "R18",
    "the next driver's clock is an hour or a day off, either way; summer time begins, ends; "
    "workers' clocks differ",
    "whole; no negative duration, order by epochs and attempts",
)
@pytest.mark.rare("tests/mlflow_setup and tests/trainable/storage shift clocks")
@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("number", range(how_often(1, 4)))
def test_r18_a_sweep_is_resumed_with_a_shifted_clock(
    tmp_path: Path, tiny_data: Path, jump: str, number: int
) -> None:
    """A worker, then the driver is killed before `resume`."""
    draw = random.Random(f"{jump} {number}")
    first, second = JUMPS[jump]()
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, **clock(*first), SECONDS_AN_EPOCH="0.5")
    driver.wait_for_epochs(1)
    driver.wait_for(driver.workers)
    with contextlib.suppress(psutil.Error):
        draw.choice(driver.workers()).kill()
    driver.wait_for_epochs(draw.randint(3, 7))
    driver.kill()
    Driver("resume", tmp_path, **clock(second)).finish()
    assert_consistent(tmp_path)


def clock(*shifts: float) -> dict[str, str]:
    """The environment of a driver whose processes' clocks are shifted by these seconds, in turn."""
    helpers = Path(__file__).resolve().parents[1] / "helpers"
    paths = [helpers / "clock", helpers, helpers.parents[1]]
    return {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "CLOCK_SHIFTS": ",".join(map(str, shifts)),
        "TZ": "Europe/Berlin",
    }


def assert_consistent(folder: Path) -> None:
    """The sweep is whole, each metric's last value is that of the last epoch, and no duration is
    negative."""
    assert_whole(folder, 7)
    sweep = SweepFolder(folder / "runs", "s")
    past = {trial.name: trial for trial in read_history(sweep.trial_folders())}
    tracking = resolve_tracking(folder / "runs")
    for run in find_trials(tracking, "s"):
        assert run.metrics["dev/overall"] == past[run.trial].epochs[-1].metrics["dev/overall"]
        assert run.metrics["used/trial_hours"] >= 0
    for run in tracking.search({}):
        assert run.info.end_time >= run.info.start_time
    for trial in sweep.trial_folders():
        assert all(attempt.seconds >= 0 for attempt in trial.attempts())
        assert all(epoch.seconds >= 0 for epoch in trial.epochs())
