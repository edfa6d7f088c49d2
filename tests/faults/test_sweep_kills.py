"""R1, R3, R4: workers, the driver or all processes of a sweep are killed.

Processes and Ray are real, training is simulated.
"""

import functools
import random
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from drivers import Driver, assert_whole, holder, learning_rates
from fake_sweep import sweep_of
from fault_table import Table
from recovery import AGAIN, RECOVERED, Blow, blow_to, blows_to_all, num_epochs_again
from scale import how_often

from mlflow_setup.schema import Outcome
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder

pytestmark = pytest.mark.slow

NUM_KILLS = 20


@pytest.mark.promise(
    "R1",
    "SIGKILL of trials' processes at random moments of a sweep",
    "whole; runs again within 15 s, from the last epoch",
)
@pytest.mark.rare("test_identity.py kills a worker")
@pytest.mark.parametrize("number", range(how_often(1, 10)))
def test_r1_workers_are_killed(tmp_path: Path, tiny_data: Path, table: Table, number: int) -> None:
    """Every second kill hits a trial and waits until it runs again; the others hit any worker."""
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
    driver.finish(600)
    assert set(assert_whole(tmp_path, num_trials).values()) == {Outcome.FINISHED}
    table.played(NUM_KILLS)
    blows = [blow for blow in blows if blow.has_hit()]
    assert blows
    table.measured(RECOVERED, [blow.seconds_to_recover() for blow in blows], within=15)
    table.measured(AGAIN, num_epochs_again(blows), unit="epochs", within=1)


def strike(driver: Driver, draw: random.Random, *, at_a_trial: bool) -> Blow | None:
    """Kill one of the driver's workers, immediately or as soon as it runs a trial."""
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
def test_r3_the_driver_is_killed(
    tmp_path: Path, tiny_data: Path, table: Table, number: int
) -> None:
    """The kill is at a random moment. Trials keep their settings."""
    draw = random.Random(number)
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, SECONDS_AN_EPOCH="0.4")
    driver.wait_for_epochs(draw.randint(1, 10))
    time.sleep(draw.uniform(0, 1))
    driver.kill()
    blows, before, since = blows_to_all(tmp_path), learning_rates(tmp_path), time.time()
    Driver("resume", tmp_path, SECONDS_AN_EPOCH="0.05").finish()
    assert_whole(tmp_path, 7)
    after = learning_rates(tmp_path)
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
@pytest.mark.rare("test_optuna_searcher.py suggests paused trials of a past sweep again")
def test_r3_the_driver_of_paused_trials_is_killed(tmp_path: Path, tiny_data: Path) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, "scheduler.name=asha", SECONDS_AN_EPOCH="0.4")
    driver.wait_for_epochs(5)
    driver.kill()
    Driver("resume", tmp_path, SECONDS_AN_EPOCH="0.05").finish()
    outcomes = assert_whole(tmp_path, 7)
    assert set(outcomes.values()) == {Outcome.FINISHED, Outcome.PRUNED}
    Driver("extend", tmp_path, "3", SECONDS_AN_EPOCH="0.05").finish()
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
def test_r4_all_processes_are_killed_then_two_drivers_resume(
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
    first.finish()
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
