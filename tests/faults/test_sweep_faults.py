"""Sweeps that are broken on purpose: whatever dies, the record ends as an undisturbed one's.

Real processes and a real Ray; the trials only pretend to train.
"""

import functools
import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from drivers import Driver, assert_whole
from fake_sweep import make_train, sweep_of
from fault_table import Table
from recovery import AGAIN, RECOVERED, Blow, blow_to, blows_to_all, num_epochs_again
from scale import how_often
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import PartialError
from mlflow_setup.filesystem.lease import LEASE_FILE, read_lease
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import resolve_tracking
from search.driver import sweep as sweeps
from search.driver.sweep import resume_sweep, run_sweep
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder

pytestmark = pytest.mark.slow

NUM_KILLS = 20


def settings(folder: Path) -> dict[str, float]:
    found = read_history(SweepFolder(folder / "runs", "s").trial_folders())
    return {past.name: past.record.config["optim.lr"] for past in found}


@pytest.mark.promise(
    "R1",
    "SIGKILL of trials' processes at random moments of a sweep",
    "whole; runs again within 15 s, from the last epoch",
)
@pytest.mark.rare("test_identity.py kills a worker")
@pytest.mark.parametrize("number", range(how_often(1, 10)))
def test_r1_killed_workers(tmp_path: Path, tiny_data: Path, table: Table, number: int) -> None:
    """Every other one hits a trial, which then is waited for; the others hit what they may."""
    draw, blows = random.Random(number), list[Blow]()
    sweep_of(tmp_path, tiny_data)
    num_trials = 12
    samples = f"search.num_samples={num_trials}"
    more = ("scheduler.name=none", samples, "resources.max_failures=100")
    driver = Driver("run", tmp_path, *more, SECONDS_AN_EPOCH="4")
    for kill in range(NUM_KILLS):
        blow = strike(driver, draw, at_a_trial=kill % 2 == 0)
        if blow is not None and kill % 2 == 0:
            blows.append(blow)
            driver.wait_for(functools.partial(Blow.is_over, blow))
        time.sleep(draw.uniform(0, 2))
    code, text = driver.end(600)
    assert code == 0, text
    assert set(assert_whole(tmp_path, num_trials).values()) == {Outcome.FINISHED}
    table.played(NUM_KILLS)
    blows = [blow for blow in blows if blow.has_hit()]
    assert blows
    table.measured(RECOVERED, [blow.seconds_to_recover() for blow in blows], within=15)
    table.measured(AGAIN, num_epochs_again(blows), unit="epochs", within=1)


def strike(driver: Driver, draw: random.Random, *, at_a_trial: bool) -> Blow | None:
    """SIGKILL to one of its workers, at once, or as soon as a trial runs in it."""
    while True:
        driver.wait_for(driver.workers)
        with suppress(psutil.Error, IndexError):  # it has ended
            worker = draw.choice(driver.workers())
            blow = blow_to(worker)
            if blow is not None or not at_a_trial:
                worker.kill()
                return blow
        time.sleep(0.05)


@pytest.mark.promise(
    "R3", "SIGKILL of the driver, `resume`", "whole; every trial runs again within 15 s"
)
@pytest.mark.rare("test_identity.py kills a driver")
@pytest.mark.parametrize("number", range(how_often(5, 100)))
def test_r3_a_killed_driver(tmp_path: Path, tiny_data: Path, table: Table, number: int) -> None:
    """At a random moment; what runs on keeps its settings."""
    draw = random.Random(number)
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, SECONDS_AN_EPOCH="0.4")
    driver.wait_for_epochs(draw.randint(1, 10))
    time.sleep(draw.uniform(0, 1))
    driver.kill()
    blows, before, since = blows_to_all(tmp_path), settings(tmp_path), time.time()
    code, text = Driver("resume", tmp_path, SECONDS_AN_EPOCH="0.05").end()
    assert code == 0, text
    assert_whole(tmp_path, 7)
    after = settings(tmp_path)
    assert {name: after[name] for name in before} == before
    table.measured(
        RECOVERED, [b.seconds_to_recover(since) for b in blows if b.has_hit()], within=15
    )
    table.measured(AGAIN, num_epochs_again(blows), unit="epochs", within=1)


@pytest.mark.promise(
    "R3",
    "SIGKILL of the driver of a sweep that promotes paused trials, `resume`, `extend`",
    "whole; a paused trial continues from its last epoch when it is promoted, under either driver",
)
@pytest.mark.rare("paused trials of a past sweep are suggested again")
def test_r3_a_killed_driver_of_trials_that_pause(tmp_path: Path, tiny_data: Path) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, "scheduler.name=asha", SECONDS_AN_EPOCH="0.4")
    driver.wait_for_epochs(5)
    driver.kill()
    code, text = Driver("resume", tmp_path, SECONDS_AN_EPOCH="0.05").end()
    assert code == 0, text
    outcomes = assert_whole(tmp_path, 7)
    assert set(outcomes.values()) == {Outcome.FINISHED, Outcome.PRUNED}
    code, text = Driver("extend", tmp_path, "3", SECONDS_AN_EPOCH="0.05").end()
    assert code == 0, text
    assert_whole(tmp_path, 10)
    past = read_history(SweepFolder(tmp_path / "runs", "s").trial_folders())
    made = [decision for trial in past for decision in trial.decisions]
    assert any("promoted as number" in decision.reason for decision in made)
    assert not any(decision.action == "stop" for decision in made)
    assert all(trial.is_paused for trial in past if trial.outcome.outcome is Outcome.PRUNED)  # type: ignore[union-attr]


@pytest.mark.promise(
    "R4",
    "SIGKILL of everything at once, also during `resume`; then two `resume` at once",
    "as R3; the second is refused, with process, host and start of the first",
)
@pytest.mark.rare("test_identity.py kills, test_lease.py refuses")
@pytest.mark.parametrize("number", range(how_often(1, 17)))
def test_r4_everything_killed_and_two_resumes_at_once(
    tmp_path: Path, tiny_data: Path, table: Table, number: int
) -> None:
    draw, verb, hit = random.Random(number), "run", list[tuple[Blow, float]]()
    sweep_of(tmp_path, tiny_data)
    num_kills, more = 3, ["scheduler.name=none"]
    for kill in range(num_kills):
        driver = Driver(verb, tmp_path, *more, SECONDS_AN_EPOCH="0.5")
        driver.wait_for_epochs(2 * kill + 2)
        driver.wait_for(lambda: all(blow.has_hit() for blow, _ in hit))
        time.sleep(draw.uniform(0, 0.5))
        kill_all(driver)
        verb, more, since = "resume", [], time.time()
        hit.extend((blow, since) for blow in blows_to_all(tmp_path))
    first = Driver("resume", tmp_path, SECONDS_AN_EPOCH="2")
    first.wait_for_epochs(2 * num_kills + 2)
    code, text = Driver("resume", tmp_path).end()
    assert code == 1
    assert f"sweep s is being run by {holder(tmp_path, first)}" in text
    code, text = first.end()
    assert code == 0, text
    assert_whole(tmp_path, 7)
    table.played(num_kills)
    table.measured(RECOVERED, [blow.seconds_to_recover(since) for blow, since in hit], within=15)
    table.measured(AGAIN, num_epochs_again(blow for blow, _ in hit), unit="epochs", within=1)


def kill_all(driver: Driver) -> None:
    processes = psutil.Process(driver.process.pid).children(recursive=True)
    driver.process.kill()
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    driver.process.communicate()


def holder(folder: Path, driver: Driver) -> str:
    """The words for the driver in what refuses another: process, host, since when."""
    found = read_lease(folder / "runs" / driver.name / LEASE_FILE)
    assert found is not None
    assert (found.pid, found.host) == (driver.process.pid, socket.gethostname())
    assert time.time() - time.mktime(time.strptime(found.since, "%Y-%m-%d %H:%M:%S")) < 600
    return f"process {found.pid} on {found.host}, since {found.since}"


@pytest.mark.promise(
    "R13",
    "no space is left for any trial (an injected error)",
    "the sweep stops in order, exit 75; whole after `resume`",
)
@pytest.mark.rare("test_callback.py has no space left stop a sweep")
def test_r13_a_full_disk_stops_the_sweep_and_resume_goes_on(
    tmp_path: Path, tiny_data: Path, one_ray: None
) -> None:
    sweep, storage = sweep_of(tmp_path, tiny_data), tmp_path / "runs"
    tracking = resolve_tracking(storage)
    train = make_train({f"{n:04d}": "full" for n in range(3, 8)})
    stopped = run_sweep(sweep, "s", storage, tracking, train=train)
    assert stopped.stop is not None
    reason, code = stopped.stop
    assert reason.startswith("no space is left for")
    assert code == 75
    (storage / "s" / "freed").touch()
    ended = resume_sweep("s", storage, tracking, train=train)
    assert ended.stop is None
    assert_whole(tmp_path, 7)


@pytest.mark.promise(
    "R15",
    "another driver on a sweep that runs: `sweep` of its name, and `resume`",
    "refused, with process, host and start of the first; the sweep is whole",
)
@pytest.mark.rare("test_lease.py has a second driver refused")
@pytest.mark.parametrize("number", range(how_often(1, 10)))
def test_r15_two_drivers_of_one_sweep(
    tmp_path: Path, tiny_data: Path, table: Table, number: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    first = Driver("run", tmp_path, "scheduler.name=none", SECONDS_AN_EPOCH="4")
    first.wait_for_epochs(random.Random(number).randint(1, 6))
    for other in [Driver(verb, tmp_path) for verb in ("run", "resume")]:
        code, text = other.end()
        assert code == 1
        assert holder(tmp_path, first) in text
        assert "Traceback" not in text
    code, text = first.end()
    assert code == 0, text
    assert_whole(tmp_path, 7)
    table.played(2)


@pytest.mark.promise("R15", "two sweeps at once, of two names, on one SQLite file", "both whole")
@pytest.mark.rare("eight writers are played in test_tracking_faults.py")
@pytest.mark.parametrize("number", range(how_often(1, 10)))
def test_r15_two_sweeps_on_one_database(tmp_path: Path, tiny_data: Path, number: int) -> None:
    sweep_of(tmp_path, tiny_data)
    drivers = [Driver("run", tmp_path, name=name, SECONDS_AN_EPOCH="0.2") for name in "ab"]
    for driver in drivers:
        code, text = driver.end()
        assert code == 0, text
    for driver in drivers:
        assert_whole(tmp_path, 7, name=driver.name)


def test_extend_goes_on_where_the_sweep_ended(
    tmp_path: Path, tiny_data: Path, one_ray: None
) -> None:
    sweep = sweep_of(tmp_path, tiny_data)
    storage = tmp_path / "runs"
    tracking = resolve_tracking(storage)
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


@pytest.fixture
def two_cpus() -> Iterator[None]:
    """A Ray on which two trials run at a time."""
    ray.shutdown()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.promise(
    "R20",
    "a trial hangs",
    "ended for its silence, tried again, then failed with what it was doing; the others whole",
)
@pytest.mark.promise(
    "R21",
    "a trial kills its process each time",
    "failed after its retries; the others whole; `ensweep sweep` exits 4",
)
@pytest.mark.promise(
    "R17",
    "a machine's memory does not hold two trials (raised)",
    "each is tried once more with the machine to itself: one is whole, the other has failed",
)
@pytest.mark.parametrize("number", range(how_often(1, 5)))
def test_r17_r20_r21_trials_that_hang_die_or_do_not_fit(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, two_cpus: None, number: int
) -> None:
    train = make_train(
        {"0003": "hangs", "0004": "fits alone", "0005": "dies", "0006": "never fits"}
    )
    monkeypatch.setattr(sweeps, "run_sweep", functools.partial(run_sweep, train=train))
    sweep_of(tmp_path, tiny_data)
    storage = tmp_path / "runs"
    words = ["sweep", str(tmp_path / "mine.yaml"), "--name", "s", "--storage", str(storage)]
    words += ["scheduler.name=none", "resources.max_silence_minutes=0.05"]
    ended = CliRunner().invoke(app, [*words, "resources.max_failures=1"])
    assert isinstance(ended.exception, PartialError), ended.output
    assert ended.exception.exit_code == 4
    assert "3 of 7 trials failed: 0003, 0005, 0006" in str(ended.exception)
    outcomes = assert_whole(tmp_path, 7)
    failed = {name for name, outcome in outcomes.items() if outcome is Outcome.FAILED}
    assert failed == {"0003", "0005", "0006"}
    trials = SweepFolder(storage, "s").trial
    assert [len(trials(name).attempts()) for name in ("0004", "0006")] == [2, 2]
    assert str(trials("0006").outcome()).count("alone on a node as well: MemoryError: as if") == 1
    folder = trials("0003")
    outcome = folder.outcome()
    assert outcome is not None
    assert outcome.reason.startswith("took no step for too long; its stack traces: ")
    assert len(folder.attempts()) == 2
    assert "time.sleep" not in outcome.reason
    assert "train" in Path(outcome.reason.rpartition(": ")[2]).read_text(encoding="utf-8")
