"""R7, R8: signals to a driver and to trials stop them cleanly, or at once; nothing is lost."""

import signal
import time
from pathlib import Path

import psutil
import pytest
from drivers import Driver, assert_whole, title
from fake_sweep import sweep_of
from fault_table import Table
from patience import PATIENCE
from scale import how_often

from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import Outcome, RunKind, Tag
from mlflow_setup.tracking.store import resolve_tracking

pytestmark = pytest.mark.slow

AS_CTRL_C = pytest.mark.rare("Ctrl-C takes the same way")

CTRL_C = pytest.mark.promise(
    "R8", "Ctrl-C", "a clean stop, exit 130, the command to go on; whole after `resume`"
)
SIGTERM = pytest.mark.promise(
    "R7", "SIGTERM to the driver", "stopped within 25 s, exit 75, whole after `resume`"
)


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [pytest.param(signal.SIGINT, 130, id=f"int {n}", marks=CTRL_C) for n in range(how_often(1, 5))]
    + [
        pytest.param(signal.SIGTERM, 75, id=f"term {n}", marks=(SIGTERM, AS_CTRL_C))
        for n in range(how_often(5, 25))
    ],
)
def test_r7_r8_a_signal_stops_cleanly(
    tmp_path: Path, tiny_data: Path, table: Table, number: signal.Signals, exit_code: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, SECONDS_AN_EPOCH="30")
    driver.wait_for(lambda: driver.workers() and list(tmp_path.glob("runs/s/trials/*/config.json")))
    time.sleep(1)
    started = time.monotonic()
    driver.process.send_signal(number)
    code, text = driver.end()
    table.measured("stopped after", [time.monotonic() - started], within=25)
    assert code == exit_code, text
    assert "trials end at their next step" in text
    tracking = resolve_tracking(tmp_path / "runs")
    runs = find_trials(tracking, "s")
    assert {(run.outcome, run.status) for run in runs} == {(Outcome.STOPPED, "KILLED")}
    (parent,) = tracking.search({Tag.KIND: RunKind.SWEEP, Tag.SWEEP: "s"})
    assert parent.info.status == "KILLED"
    code, text = Driver("resume", tmp_path, SECONDS_AN_EPOCH="0").end()
    assert code == 0, text
    assert_whole(tmp_path, 7)


AT_ONCE = "ended at once, and no process stays"
CTRL_C_TWICE = pytest.mark.promise("R8", "Ctrl-C twice", AT_ONCE)
SIGTERM_TWICE = pytest.mark.promise("R7", "SIGTERM to the driver twice", AT_ONCE)


@pytest.mark.rare("test_stop_switch.py has a second signal end a process")
@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        pytest.param(signal.SIGINT, 130, id=f"int {n}", marks=CTRL_C_TWICE)
        for n in range(how_often(1, 5))
    ]
    + [
        pytest.param(signal.SIGTERM, 75, id=f"term {n}", marks=SIGTERM_TWICE)
        for n in range(how_often(1, 5))
    ],
)
def test_r7_r8_a_second_signal_ends_at_once_and_leaves_no_process(
    tmp_path: Path, tiny_data: Path, table: Table, number: signal.Signals, exit_code: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    # 0001 hangs in its second epoch, so that it cannot stop by itself
    driver = Driver("run", tmp_path, MISDEED='{"0001-baseline": "hangs"}')
    driver.wait_for_epochs(1)
    time.sleep(2)
    processes = psutil.Process(driver.process.pid).children(recursive=True)
    driver.process.send_signal(number)
    time.sleep(1)
    assert driver.process.poll() is None
    started = time.monotonic()
    driver.process.send_signal(number)
    code, text = driver.end()
    table.measured("ended after", [time.monotonic() - started], within=1)
    assert code == exit_code, text
    assert "again: s" in text
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert [title(process) for process in alive] == []


@pytest.mark.promise(
    "R7", "SIGTERM to trials' processes", "the trial goes on in another process; whole"
)
@pytest.mark.rare("test_attempt.py sends one to a trial's process")
@pytest.mark.parametrize("number", range(how_often(1, 5)))
def test_r7_sigterm_to_a_trial_has_it_go_on_in_another_process(
    tmp_path: Path, tiny_data: Path, table: Table, number: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, "scheduler.name=none", SECONDS_AN_EPOCH="0.4")
    driver.wait_for_epochs(1)
    num_signals = 5
    for _ in range(num_signals):
        driver.wait_for(driver.workers)
        driver.workers()[0].terminate()
        time.sleep(1.5)
    code, text = driver.end()
    assert code == 0, text
    assert "stopped, asked to stop in epoch" in text
    assert set(assert_whole(tmp_path, 7).values()) == {Outcome.FINISHED}
    table.played(num_signals)
