"""A driver that is to stop before its first trial: by a signal, by a budget."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from past_sweep import Past, sweep_of
from rich.console import Console

from mlflow_setup.errors import ConfigError, EnsweepError, NothingUsableError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import (
    UNKNOWN_DATA,
    AttemptRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
)
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from search.algorithms.warm_start import WARM_START_FILE
from search.config.sweep_config import Budget
from search.driver.result import SweepResult
from search.driver.sweep import _ray_ahead, resume_sweep, run_sweep
from search.driver.tracking import sync
from search.planning.preflight import known_configs, read_inputs
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config
from trainable.data.inputs import ChangedInputError
from trainable.tune.cluster import Node


@contextmanager
def cluster() -> Iterator[list[Node]]:
    """Nothing is started; as Ray does, it takes SIGTERM for itself."""
    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(15))
    yield [Node({"CPU": 2.0})]
    signal.signal(signal.SIGTERM, before)


def run(
    folder: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    while_preparing: Callable[[], object],
    budget: Budget,
) -> SweepResult:
    def prepare(*given: Any) -> None:
        assert not given[-1]()
        while_preparing()
        assert given[-1]()  # so what is made for the trials is to stop

    monkeypatch.setattr("search.driver.run.cluster", cluster)
    monkeypatch.setattr("search.driver.run.prepare", prepare)
    sweep = sweep_of(folder, config={"data.dir": str(data)})
    sweep, storage = sweep.model_copy(update={"budget": budget}), folder / "runs"
    quiet = Console(quiet=True)
    return run_sweep(sweep, "s", storage, resolve_tracking(storage), console=quiet)


def test_sigterm_while_encoders_are_made_is_a_stop_like_another(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(
        tmp_path,
        tiny_data,
        monkeypatch,
        lambda: os.kill(os.getpid(), signal.SIGTERM),
        Budget(),
    )
    assert result.stop == ("SIGTERM", 75)
    assert result.trials == ()
    assert not (result.folder / "stop").exists()
    (own,) = resolve_tracking(tmp_path / "runs").search({"kind": "sweep", "sweep": "s"})
    assert own.info.status == "KILLED"


def test_a_budget_can_end_while_encoders_are_made(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spend() -> None:
        monkeypatch.setattr("search.driver.budget.CHECK_SECONDS", 0.0)

    result = run(tmp_path, tiny_data, monkeypatch, spend, Budget(max_hours=1e-9))
    assert result.stop == ("budget.max_hours=1e-09 is used up", 75)
    assert result.trials == ()


def test_what_a_process_takes_after_its_trial_has_ended_is_tracked(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler's stop is the trial's end; its process leaves later. The rest is known."""
    start, storage = 1.79e9, tmp_path / "runs"

    def end_two() -> None:
        for name, seconds in (("0001", 30.0), ("0002", 5.0)):
            trial = SweepFolder(storage, "s").trial(name)
            facts = ("s", "b3", Config().flat(), {}, 0, "data", None, start)
            trial.create(TrialRecord(name, *facts))
            attempt = AttemptRecord("host", "local", 1.0, 0.0, 0.0, start, seconds, True)
            write_atomic(trial.path / "attempts" / "0001.json", attempt.to_json())
            trial.write_outcome(OutcomeRecord(Outcome.PRUNED, "rung 0", 0, start + 5))
        os.kill(os.getpid(), signal.SIGTERM)

    run(tmp_path, tiny_data, monkeypatch, end_two, Budget())
    runs = find_trials(resolve_tracking(storage), "s")
    assert {run.trial: run.metrics["used/trial_hours"] for run in runs} == {"0001": 30 / 3600}


REFUSALS = ("surroundings", "cluster", "device", "preparation", "teacher")


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_takes_no_name(
    refusal: str, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is found before a trial has begun, the same command can be given again."""

    @contextmanager
    def no_cluster() -> Iterator[list[Node]]:
        raise ConfigError("nothing answers")
        yield

    def refuse(error: EnsweepError) -> Callable[..., None]:
        def raise_it(*_: object) -> None:
            raise error

        return raise_it

    monkeypatch.setattr("search.driver.run.cluster", cluster)
    monkeypatch.setattr("search.driver.run.prepare", refuse(NothingUsableError("diverged")))
    config = {"data.dir": str(tiny_data)}
    if refusal == "surroundings":
        monkeypatch.setenv("TMPDIR", "/proc/self/task")
        monkeypatch.setattr("tempfile.tempdir", "/proc/self/task")
    if refusal == "cluster":
        monkeypatch.setattr("search.driver.run.cluster", no_cluster)
    if refusal == "device":
        config["train.device"] = "cuda"
    if refusal == "teacher":
        monkeypatch.setattr("search.driver.run.prepare", refuse(ConfigError("no such run")))
    storage, quiet = tmp_path / "runs", Console(quiet=True)
    tracking, sweep = resolve_tracking(storage), sweep_of(tmp_path, config=config)
    for _ in range(2):
        with pytest.raises(EnsweepError):
            run_sweep(sweep, "s", storage, tracking, console=quiet)
        assert not (storage / "s").exists()
        assert tracking.search({"kind": "sweep"}) == []


@pytest.fixture
def held(tmp_path: Path, tiny_data: Path) -> Past:
    """A tracked sweep of which a driver and a trial were lost, one trial decided on, one failed."""
    past = Past(tmp_path, config={"data.dir": str(tiny_data)}, notify={"url": "$HOOK"})
    sweep = past.folder.read()
    past.folder.write_inputs(read_inputs(sweep, known_configs(sweep)))
    for name, outcome, word in (
        ("0001-b2", Outcome.FINISHED, "continue"),
        ("0002", Outcome.FAILED, "continue"),
        ("0003", None, "stop"),
        ("0004", Outcome.STOPPED, "continue"),
        ("0005", None, "continue"),
    ):
        past.trial(name, (0.5,), outcome, (word,), **{"optim.lr": 1e-3})
        trial = past.folder.trial(name)
        record = trial.trial()
        settings = record.config | {"data.dir": str(tiny_data)}
        trial.relocate(replace(record, config=settings, data_fingerprint=UNKNOWN_DATA))
        (trial.checkpoint_dir / "00000001").mkdir(parents=True)
    assert sync(past.folder, resolve_tracking(tmp_path)) == []
    return past


REFUSALS_TO_GO_ON: dict[str, Callable[[Past, pytest.MonkeyPatch], object]] = {
    "another driver": lambda past, patch: patch.setattr(
        "search.driver.sweep.Lease.__enter__", _refuse(ConfigError("is being run"))
    ),
    "tracking": lambda past, patch: patch.setattr(
        "mlflow_setup.tracking.store.Tracking.check", _refuse(ConfigError("401"))
    ),
    "data": lambda past, patch: patch.setattr(
        "search.planning.preflight.refuse_other_inputs", _refuse(ConfigError("changed"))
    ),
    "trial's data": lambda past, patch: patch.setattr(
        "search.planning.preflight.refuse_other_data", _refuse(ConfigError("changed"))
    ),
    "warm start": lambda past, patch: (past.folder.path / WARM_START_FILE).write_text("{"),
    "notify": lambda past, patch: patch.delenv("HOOK"),
    "cluster": lambda past, patch: patch.setattr(
        "search.driver.run.cluster", _refuse(ConfigError("nothing answers"))
    ),
    "device": lambda past, patch: patch.setattr(
        "search.driver.run.require_devices", _refuse(ConfigError("no such device"))
    ),
    "preparation": lambda past, patch: patch.setattr(
        "search.driver.run.prepare", _refuse(ConfigError("no such teacher"))
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS_TO_GO_ON)
def test_what_is_refused_leaves_the_sweep_as_it_was(
    refusal: str, held: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: list[str]
) -> None:
    """`resume --retry-failed`, `extend`: trials, what was asked for, runs; the next driver finds
    what it would have found."""
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/hook")
    monkeypatch.setattr("search.driver.run.cluster", cluster)
    monkeypatch.setattr("search.driver.run.prepare", lambda *_: None)
    REFUSALS_TO_GO_ON[refusal](held, monkeypatch)
    tracking = resolve_tracking(tmp_path)
    before = _record(held.folder), _runs(tracking)
    for asked in ({"retry_failed": True}, {"num_more": 3}):
        with pytest.raises(EnsweepError):
            resume_sweep("s", tmp_path, tracking, console=Console(quiet=True), **asked)
        assert (_record(held.folder), _runs(tracking)) == before


@pytest.mark.parametrize("stops", [False, True])
def test_what_was_asked_for_is_on_record_once_trials_may_begin(
    held: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: list[str], stops: bool
) -> None:
    """Also where the driver is stopped before the first of them: `resume` is to know."""
    found: list[object] = []

    def look(*_: object) -> None:
        outcomes = {trial.path.name: trial.outcome() for trial in held.folder.trial_folders()}
        found.append({name: ended and ended.outcome for name, ended in outcomes.items()})

    def prepare(*_: object) -> None:
        if stops:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/hook")
    monkeypatch.setattr("search.driver.run.cluster", cluster)
    monkeypatch.setattr("search.driver.run.prepare", prepare)
    monkeypatch.setattr("search.driver.run.Drive._tune", look)
    monkeypatch.setattr("search.driver.run.send_result", lambda *_: None)
    quiet = Console(quiet=True)
    resume_sweep(
        "s", tmp_path, resolve_tracking(tmp_path), num_more=3, retry_failed=True, console=quiet
    )
    decided = {"0001-b2": Outcome.FINISHED, "0003": Outcome.PRUNED, "0004": Outcome.STOPPED}
    assert found == ([] if stops else [{"0002": None, "0005": None, **decided}])
    look()  # what the driver has left
    assert found[-1] == {"0002": Outcome.STOPPED, "0005": Outcome.STOPPED, **decided}
    assert held.folder.read().search.num_samples == 6 + 3


def _refuse(error: EnsweepError) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> None:
        raise error

    return refuse


def _record(folder: SweepFolder) -> dict[str, bytes | None]:
    """Every file and folder of the sweep, without what a lease leaves."""
    paths = {path.relative_to(folder.path): path for path in folder.path.rglob("*")}
    return {
        str(name): path.read_bytes() if path.is_file() else None
        for name, path in paths.items()
        if not name.name.startswith("lease.json")
    }


def _runs(tracking: Tracking) -> list[tuple[str, str, dict[str, str], dict[str, str]]]:
    runs = tracking.search({"sweep": "s"})
    return [(run.info.run_id, run.info.status, run.data.params, run.data.tags) for run in runs]


@pytest.mark.parametrize("num_more", [0, 3])
def test_a_sweep_goes_on_with_the_data_that_it_began_with(
    tmp_path: Path, tiny_data: Path, num_more: int, ahead: list[str]
) -> None:
    """Also where every trial so far is over: they are compared with those to come."""
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    past = Past(tmp_path, config={"data.dir": str(data)})
    past.trial("0001-b2", (0.5,), Outcome.FINISHED)
    sweep = past.folder.read()
    past.folder.write_inputs(read_inputs(sweep, known_configs(sweep)))
    file = data / "ids-sst-train.csv"
    file.write_text(file.read_text() + "x\tnew\ta film\t1\n")
    with pytest.raises(ChangedInputError, match=r"changed since the sweep began: .*ids-sst-train"):
        resume_sweep("s", tmp_path, resolve_tracking(tmp_path), num_more=num_more)
    assert ahead == ["started", "ended"]
    assert past.folder.read() == sweep  # what is refused asks for no more trials either


@pytest.mark.parametrize(
    ("num_more", "again", "starts"), [(0, False, False), (1, False, True), (0, True, True)]
)
def test_ray_starts_ahead_where_a_trial_is_left_to_run(
    tmp_path: Path, ahead: list[str], num_more: int, again: bool, starts: bool
) -> None:
    past = Past(tmp_path, search={"num_samples": 1})
    past.trial("0001-b2", (0.5,), Outcome.FAILED)
    with _ray_ahead(past.folder, past.folder.read(), num_more, again=again):
        assert ahead == (["started"] if starts else [])


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is noted of a Ray that starts ahead; there is none."""
    noted: list[str] = []

    @contextmanager
    def starting_ahead() -> Iterator[None]:
        noted.append("started")
        try:
            yield
        finally:
            noted.append("ended")

    monkeypatch.setattr("search.driver.sweep.starting_ahead", starting_ahead)
    return noted


def test_what_goes_on_is_known_before_mlflow_is_loaded() -> None:
    """Ray starts in the seconds that MLflow takes."""
    code = "import search.driver.sweep, sys; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
