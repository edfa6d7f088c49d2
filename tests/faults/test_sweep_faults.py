"""Sweeps that are broken on purpose: whatever dies, the record ends as an undisturbed one's.

Real processes and a real Ray; the trials only pretend to train. `ENSWEEP_FAULTS_SCALE` multiplies
how often each fault is played.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from drivers import Driver, assert_whole, title
from fake_sweep import make_train, sweep_of

from mlflow_setup.runs import find_trials
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking import resolve_tracking
from search.cluster import cluster
from search.history import SweepFolder, read_history
from search.sweep import resume_sweep, run_sweep

pytestmark = pytest.mark.slow

SCALE = int(os.environ.get("ENSWEEP_FAULTS_SCALE", "1"))
NUM_KILLS = 20 if SCALE > 1 else 4


def settings(folder: Path) -> dict[str, float]:
    found = read_history(SweepFolder(folder / "runs", "s").trial_folders())
    return {past.name: past.record.config["optim.lr"] for past in found}


def test_r1_killed_workers(tmp_path: Path, tiny_data: Path) -> None:
    """R1: SIGKILLs of trials' processes at random moments of one sweep."""
    draw, kills = random.Random(1), 0
    sweep_of(tmp_path, tiny_data)
    num_trials = 8 if SCALE > 1 else 4
    samples = f"search.num_samples={num_trials}"
    more = ("scheduler.name=none", samples, "resources.max_failures=100")
    driver = Driver("run", tmp_path, *more, SECONDS_AN_EPOCH="2")
    while kills < NUM_KILLS and driver.process.poll() is None:
        workers = driver.workers()
        if workers:
            try:
                draw.choice(workers).kill()
                kills += 1
            except psutil.Error:
                continue
        time.sleep(draw.uniform(1, 5))
    code, text = driver.end(300)
    assert code == 0, text
    print(f"R1: {kills} kills")
    assert kills >= NUM_KILLS / 2
    assert set(assert_whole(tmp_path, num_trials).values()) == {Outcome.FINISHED}


@pytest.mark.skipif(SCALE == 1, reason="test_identity.py kills a driver as well: `make faults`")
@pytest.mark.parametrize("number", range(100 if SCALE >= 100 else 5))
def test_r3_a_killed_driver(tmp_path: Path, tiny_data: Path, number: int) -> None:
    """R3: SIGKILL the driver at a random moment, then resume; what ran on keeps its settings."""
    draw = random.Random(number)
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, SECONDS_AN_EPOCH="0.4")
    driver.wait_for_epochs(draw.randint(1, 10))
    time.sleep(draw.uniform(0, 1))
    driver.kill()
    before = settings(tmp_path)
    attempts = set(tmp_path.glob("runs/s/trials/*/attempts/*.json"))
    started = time.monotonic()
    driver = Driver("resume", tmp_path, SECONDS_AN_EPOCH="0.05")
    driver.wait_for(lambda: set(tmp_path.glob("runs/s/trials/*/attempts/*.json")) - attempts)
    print(f"R3: a trial runs {time.monotonic() - started:.1f} s after resume")
    code, text = driver.end()
    assert code == 0, text
    assert_whole(tmp_path, 7)
    after = settings(tmp_path)
    assert {name: after[name] for name in before} == before


def test_r4_everything_killed_and_two_resumes_at_once(tmp_path: Path, tiny_data: Path) -> None:
    """R4: all processes at once, at scale during `resume` too; a second resume is refused."""
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, SECONDS_AN_EPOCH="0.5")
    driver.wait_for_epochs(2)
    _kill_all(driver)
    if SCALE > 1:
        driver = Driver("resume", tmp_path, SECONDS_AN_EPOCH="0.5")
        driver.wait_for_epochs(3)
        _kill_all(driver)
    first = Driver("resume", tmp_path, SECONDS_AN_EPOCH="2")
    first.wait_for_epochs(4)
    code, text = Driver("resume", tmp_path).end()
    assert code == 1
    assert f"sweep s is being run by process {first.process.pid} on " in text
    code, text = first.end()
    assert code == 0, text
    assert_whole(tmp_path, 7)


def _kill_all(driver: Driver) -> None:
    processes = psutil.Process(driver.process.pid).children(recursive=True)
    driver.process.kill()
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    driver.process.communicate()


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        pytest.param(signal.SIGINT, 130, id="int"),
        pytest.param(
            signal.SIGTERM,
            75,
            id="term",
            marks=pytest.mark.skipif(
                SCALE == 1, reason="test_submitted_sweep.py sends one as well: `make faults`"
            ),
        ),
    ],
)
def test_r7_r8_a_signal_stops_cleanly(
    tmp_path: Path, tiny_data: Path, number: signal.Signals, exit_code: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, SECONDS_AN_EPOCH="30")
    driver.wait_for(lambda: driver.workers() and list(tmp_path.glob("runs/s/trials/*/config.json")))
    time.sleep(1)
    started = time.monotonic()
    driver.process.send_signal(number)
    code, text = driver.end()
    print(f"R7/R8: stopped after {time.monotonic() - started:.1f} s")
    assert code == exit_code, text
    assert "trials end at their next step" in text
    runs = find_trials(resolve_tracking(tmp_path / "runs"), "s")
    assert {(run.outcome, run.status) for run in runs} == {(Outcome.STOPPED, "KILLED")}
    code, text = Driver("resume", tmp_path, SECONDS_AN_EPOCH="0").end()
    assert code == 0, text
    assert_whole(tmp_path, 7)


def test_r8_ctrl_c_twice_ends_at_once_and_leaves_no_process(
    tmp_path: Path, tiny_data: Path
) -> None:
    sweep_of(tmp_path, tiny_data)
    # 0001 hangs in its second epoch, so that it cannot stop by itself
    driver = Driver("run", tmp_path, MISDEED='{"0001-baseline": "hangs"}')
    driver.wait_for_epochs(1)
    time.sleep(2)
    processes = psutil.Process(driver.process.pid).children(recursive=True)
    driver.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert driver.process.poll() is None
    started = time.monotonic()
    driver.process.send_signal(signal.SIGINT)
    code, text = driver.end()
    assert code == 130, text
    assert "again: s" in text
    assert time.monotonic() - started < 5
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert [title(process) for process in alive] == []


def test_r7_sigterm_to_a_trial_has_it_go_on_in_another_process(
    tmp_path: Path, tiny_data: Path
) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, "scheduler.name=none", SECONDS_AN_EPOCH="0.4")
    driver.wait_for_epochs(1)
    for _ in range(5 if SCALE > 1 else 1):
        driver.wait_for(driver.workers)
        driver.workers()[0].terminate()
        time.sleep(1.5)
    code, text = driver.end()
    assert code == 0, text
    assert "stopped, asked to stop in epoch" in text
    assert set(assert_whole(tmp_path, 7).values()) == {Outcome.FINISHED}


@pytest.mark.skipif(SCALE == 1, reason="test_full_disks.py fills a real one: `make faults`")
def test_r13_a_full_disk_stops_the_sweep_and_resume_goes_on(
    tmp_path: Path, tiny_data: Path
) -> None:
    sweep_of(tmp_path, tiny_data)
    misdeed = json.dumps({f"{n:04d}": "full" for n in range(3, 8)})
    code, text = Driver("run", tmp_path, MISDEED=misdeed).end()
    assert code == 75, text
    assert "stopping: no space is left for" in text
    (tmp_path / "runs" / "s" / "freed").touch()
    code, text = Driver("resume", tmp_path, MISDEED=misdeed).end()
    assert code == 0, text
    assert_whole(tmp_path, 7)


def test_r20_r21_a_trial_that_hangs_and_one_that_always_dies(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R20: ended for its silence, tried again, then failed. R21: poison; the others go on."""
    misdeeds = {"0003": "hangs", "0005": "dies"}
    monkeypatch.setenv("MISDEED", json.dumps(misdeeds))
    overrides = ["resources.max_silence_minutes=0.05", "resources.max_failures=1"]
    sweep = sweep_of(tmp_path, tiny_data, "scheduler.name=none", *overrides)
    storage = tmp_path / "runs"
    run_sweep(sweep, "s", storage, resolve_tracking(storage), train=make_train())
    outcomes = assert_whole(tmp_path, 7)
    failed = {name for name, outcome in outcomes.items() if outcome is Outcome.FAILED}
    assert failed == set(misdeeds)
    folder = SweepFolder(storage, "s").trial("0003")
    ended = folder.outcome()
    assert ended is not None
    assert ended.reason.startswith("took no step for too long; what it was at: ")
    assert len(folder.attempts()) == 2
    assert "time.sleep" not in ended.reason
    assert "train" in Path(ended.reason.rpartition(": ")[2]).read_text(encoding="utf-8")


def test_extend_goes_on_where_the_sweep_ended(tmp_path: Path, tiny_data: Path) -> None:
    sweep = sweep_of(tmp_path, tiny_data)
    storage = tmp_path / "runs"
    tracking = resolve_tracking(storage)
    with cluster():  # one for the three drivers
        first = run_sweep(sweep, "s", storage, tracking, train=make_train())
        before = settings(tmp_path)
        nothing = resume_sweep("s", storage, tracking, train=make_train())
        for earlier, later in zip(first.rungs, nothing.rungs, strict=True):
            assert later.arrivals == earlier.arrivals
            assert sorted(later.stops) == sorted(earlier.stops)
        extended = resume_sweep("s", storage, tracking, num_more=5, train=make_train())
        assert_whole(tmp_path, 12)
        after = settings(tmp_path)
        assert {name: after[name] for name in before} == before
        assert len(set(after.values())) == 12  # the sampler does not repeat itself
    arrived = len(first.rungs[0].arrivals)
    assert len(extended.rungs[0].arrivals) == arrived + 5


def test_s7_no_secret_of_the_environment_is_written_anywhere(
    tmp_path: Path, tiny_data: Path
) -> None:
    """Twelve planted secrets, a sweep with failures, every byte of its folder and of its output."""
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
             "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
             "MLFLOW_TRACKING_TOKEN", "MLFLOW_S3_ENDPOINT_URL", "PGPASSWORD", "DATABASE_URL",
             "GOOGLE_APPLICATION_CREDENTIALS")  # fmt: skip
    secrets = {name: f"canary-{number}-{name.lower()}" for number, name in enumerate(names)}
    sweep_of(tmp_path, tiny_data)
    misdeeds = '{"0003": "raises", "0004": "dies", "0005": "diverges", "0006": "hangs"}'
    more = ("resources.max_failures=1", "resources.max_silence_minutes=0.05")
    code, text = Driver("run", tmp_path, *more, MISDEED=misdeeds, **secrets).end()
    assert code == 0, text
    assert len(assert_whole(tmp_path, 7)) == 7
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 50
    for value in secrets.values():
        assert value not in text
        found = [path for path in written if value.encode() in path.read_bytes()]
        assert found == []
