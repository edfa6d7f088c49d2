"""R2: workers join and leave a cluster while submitted sweeps run."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import assert_whole
from fault_table import Table
from real_sweep import wait_for_epochs
from scale import how_often
from submitting import Cluster, started_cluster, submitted, sweep_file

from mlflow_setup.schema import Outcome
from search.storage.sweep_folder import SweepFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare("test_submitted_sweep.py removes a node"),
]

NUM_EPOCHS, NUM_TRIALS = 12, 4
RETRIED = "will be retried"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster that starts with one worker."""
    with started_cluster(1) as cluster:
        yield cluster


@pytest.fixture
def sweep(tmp_path: Path, tiny_encoder: Path, tiny_data: Path) -> Path:
    return sweep_file(tmp_path, tiny_encoder, tiny_data, NUM_EPOCHS, NUM_TRIALS)


@pytest.mark.promise(
    "R2",
    "workers join during the second of two submitted sweeps (tiny BERT)",
    "both whole; no start of a trial is lost",
)
def test_r2_workers_that_join_during_a_second_sweep_run_its_trials(
    cluster: Cluster, sweep: Path, table: Table
) -> None:
    """On a new node Ray creates the environments of all jobs, including those that have ended."""
    for number in (1, 2):
        name = f"s{number}"
        process = submitted(cluster, sweep, "resources.max_concurrent_trials=3", name=name)
        wait_for_epochs(sweep.parent, 1, process, name)
        if number == 2:
            for _ in range(2):
                cluster.tell("add")
        text, _ = process.communicate(timeout=400)
        assert process.returncode == 0, text
        assert RETRIED not in text
        assert_finished(sweep.parent, name)
    table.played(2)


@pytest.mark.promise(
    "R2",
    "a submitted sweep (tiny BERT) with `max_concurrent_trials=auto` begins without a worker; two "
    "join",
    "it prints what it waits for, then runs as many trials at a time as fit; whole",
)
def test_r2_a_sweep_starts_without_workers(sweep: Path, table: Table) -> None:
    with started_cluster(0) as cluster:
        process = submitted(cluster, sweep, "resources.max_concurrent_trials=auto")
        assert process.stdout is not None
        waits = next((line for line in process.stdout if "wait for a node" in line), "")
        assert "1 trial(s) wait for a node with 1 CPU free" in waits
        assert "; 0 run; " in waits
        assert "the autoscaler: starts nothing" in waits
        for _ in range(2):
            cluster.tell("add")
        text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    assert_finished(sweep.parent, "s")
    assert most_at_once(sweep.parent, "s") == 2


@pytest.mark.promise(
    "R2",
    "on one of two workers no process of a submitted sweep (tiny BERT) starts; then on neither",
    "that worker is avoided, no trial is lost; where none starts the sweep stops (exit 75) "
    "with the reason, and is whole on new workers",
)
def test_r2_workers_that_cannot_start_processes_are_avoided(
    cluster: Cluster, sweep: Path, table: Table
) -> None:
    def submit(name: str) -> tuple[int, str]:
        process = submitted(cluster, sweep, "resources.max_concurrent_trials=2", name=name)
        text, _ = process.communicate(timeout=500)
        return process.returncode, text

    for word in ("add", "spoil"):
        cluster.tell(word)
    code, text = submit("one")
    assert code == 0, text
    assert 0 < text.count(RETRIED) < 8, text
    assert_finished(sweep.parent, "one")
    cluster.tell("spoil")
    code, text = submit("none")
    assert code == 75, text
    assert "no trial begins anywhere: " in text
    assert " starts in a row were lost" in text
    for word in ("lose", "remove"):
        cluster.tell(word)
    code, text = submit("none")
    assert code == 0, text
    assert_finished(sweep.parent, "none")
    table.played(2)


@pytest.mark.promise(
    "R2",
    "workers of three submitted sweeps (tiny BERT) come and go: 4 joins and 4 hard removals each",
    "all whole, no trial lost",
)
def test_r2_workers_join_and_leave_during_three_sweeps(
    cluster: Cluster, sweep: Path, table: Table
) -> None:
    num_sweeps = how_often(3, 10)
    for number in range(num_sweeps):
        name = f"s{number}"
        process = submitted(cluster, sweep, "resources.max_concurrent_trials=3", name=name)
        for turn in range(2):
            wait_for_epochs(sweep.parent, 3 + 12 * turn, process, name)
            for word in ("add", "lose", "add"):
                cluster.tell(word)
                time.sleep(2)
            for _ in range(2 * turn):
                cluster.tell("lose")
        text, _ = process.communicate(timeout=500)
        assert process.returncode == 0, text
        assert_finished(sweep.parent, name)
    table.played(num_sweeps * 8)


def most_at_once(folder: Path, name: str) -> int:
    """The maximum number of a sweep's trials that ran at the same time."""
    trials = SweepFolder(folder / "runs", name).trial_folders()
    spans = [
        (each.start_time, each.start_time + each.seconds)
        for trial in trials
        for each in trial.attempts()
    ]
    return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)


def assert_finished(folder: Path, name: str) -> None:
    outcomes = assert_whole(
        folder, NUM_TRIALS, name=name, num_epochs=NUM_EPOCHS, is_pretended=False
    )
    assert set(outcomes.values()) == {Outcome.FINISHED}
