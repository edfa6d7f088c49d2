"""A driver that is to stop before its first trial: by a signal, by a budget."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from past_sweep import Past, sweep_of
from rich.console import Console

from mlflow_setup.errors import ConfigError, EnsweepError, NothingUsableError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import AttemptRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.tracking.store import resolve_tracking
from search.config.sweep_config import Budget
from search.driver.result import SweepResult
from search.driver.sweep import _ray_ahead, resume_sweep, run_sweep
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
