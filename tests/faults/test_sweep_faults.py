"""R13, R15, R17, R20, R21: full disks, second drivers, and trials that hang, die or need memory.

Processes and Ray are real, training is simulated.
"""

import functools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from drivers import Driver, assert_whole, holder, learning_rates
from fake_sweep import make_train, sweep_of
from fault_table import Table
from scale import how_often
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import PartialError
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import resolve_tracking
from search.driver import sweep as sweeps
from search.driver.sweep import resume_sweep, run_sweep
from search.storage.sweep_folder import SweepFolder

pytestmark = pytest.mark.slow


@pytest.mark.promise(
    "R13",
    "no space is left for any trial (an injected error)",
    "the sweep stops in order, exit 75; whole after `resume`",
)
@pytest.mark.rare("test_callback.py stops a sweep because no space is left")
def test_r13_a_full_disk_stops_the_sweep_until_it_is_resumed(
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
    resumed = resume_sweep("s", storage, tracking, train=train)
    assert resumed.stop is None
    assert_whole(tmp_path, 7)


@pytest.mark.promise(
    "R15",
    "another driver on a sweep that runs: `sweep` of its name, and `resume`",
    "refused, with process, host and start of the first; the sweep is whole",
)
@pytest.mark.rare("test_lease.py refuses a second driver")
@pytest.mark.parametrize("number", range(how_often(1, 10)))
def test_r15_a_second_driver_is_refused(
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
    first.finish()
    assert_whole(tmp_path, 7)
    table.played(2)


@pytest.mark.promise("R15", "two sweeps at once, of two names, on one SQLite file", "both whole")
@pytest.mark.rare("test_tracking_faults.py has eight writers")
@pytest.mark.parametrize("number", range(how_often(1, 10)))
def test_r15_two_sweeps_on_one_database(tmp_path: Path, tiny_data: Path, number: int) -> None:
    sweep_of(tmp_path, tiny_data)
    drivers = [Driver("run", tmp_path, name=name, SECONDS_AN_EPOCH="0.2") for name in "ab"]
    for driver in drivers:
        driver.finish()
    for driver in drivers:
        assert_whole(tmp_path, 7, name=driver.name)


def test_extend_continues_a_finished_sweep(tmp_path: Path, tiny_data: Path, one_ray: None) -> None:
    sweep = sweep_of(tmp_path, tiny_data)
    storage = tmp_path / "runs"
    tracking = resolve_tracking(storage)
    first = run_sweep(sweep, "s", storage, tracking, train=make_train())
    before = learning_rates(tmp_path)
    unchanged = resume_sweep("s", storage, tracking, train=make_train())
    for earlier, later in zip(first.rungs, unchanged.rungs, strict=True):
        assert later.arrivals == earlier.arrivals
        assert sorted(later.stops) == sorted(earlier.stops)
    extended = resume_sweep("s", storage, tracking, num_more=5, train=make_train())
    assert_whole(tmp_path, 12)
    after = learning_rates(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == 12  # the sampler suggests new settings
    assert len(extended.rungs[0].arrivals) == len(first.rungs[0].arrivals) + 5


@pytest.fixture
def two_cpus() -> Iterator[None]:
    """Ray with two CPUs, so that two trials run at a time."""
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
    done = CliRunner().invoke(app, [*words, "resources.max_failures=1"])
    assert isinstance(done.exception, PartialError), done.output
    assert done.exception.exit_code == 4
    assert "3 of 7 trials failed: 0003, 0005, 0006" in str(done.exception)
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
