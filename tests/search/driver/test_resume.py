"""Resuming and extending sweeps."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from past_sweep import Past
from rich.console import Console

from mlflow_setup.errors import ConfigError, EnsweepError
from mlflow_setup.schema import UNKNOWN_DATA, Outcome
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from search.algorithms.warm_start import WARM_START_FILE
from search.driver.sweep import _ray_ahead, resume_sweep
from search.driver.tracking import sync
from search.planning.preflight import known_configs, read_inputs
from search.storage.sweep_folder import SweepFolder
from trainable.data.inputs import ChangedInputError


@pytest.fixture
def early_starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Events of a fake context that starts Ray early."""
    events: list[str] = []

    @contextmanager
    def starting_ahead() -> Iterator[None]:
        events.append("started")
        try:
            yield
        finally:
            events.append("ended")

    monkeypatch.setattr("search.driver.sweep.starting_ahead", starting_ahead)
    return events


@pytest.fixture
def interrupted(tmp_path: Path, tiny_data: Path) -> Past:
    """A tracked sweep whose driver was lost: with ended, failed, stopped and unfinished trials."""
    past = Past(tmp_path, config={"data.dir": str(tiny_data)}, notify={"url": "$HOOK"})
    sweep = past.folder.read()
    past.folder.write_inputs(read_inputs(sweep, known_configs(sweep)))
    for name, outcome, action in (
        ("0001-b2", Outcome.FINISHED, "continue"),
        ("0002", Outcome.FAILED, "continue"),
        ("0003", None, "stop"),
        ("0004", Outcome.STOPPED, "continue"),
        ("0005", None, "continue"),
    ):
        past.trial(name, (0.5,), outcome, (action,), **{"optim.lr": 1e-3})
        trial = past.folder.trial(name)
        record = trial.trial()
        settings = record.config | {"data.dir": str(tiny_data)}
        trial.relocate(replace(record, config=settings, data_fingerprint=UNKNOWN_DATA))
        (trial.checkpoint_dir / "00000001").mkdir(parents=True)
    assert sync(past.folder, resolve_tracking(tmp_path)) == []
    return past


REFUSED_BY = {
    "another driver": "search.driver.sweep.Lease.__enter__",
    "tracking": "mlflow_setup.tracking.store.Tracking.check",
    "data": "search.planning.preflight.refuse_other_inputs",
    "a trial's data": "search.planning.preflight.refuse_other_data",
    "cluster": "search.driver.run.cluster",
    "device": "search.driver.run.require_devices",
    "preparation": "search.driver.run.prepare",
}
"""Check -> the function that raises its error."""


@pytest.mark.usefixtures("fake_cluster", "early_starts")
@pytest.mark.parametrize("refusal", [*REFUSED_BY, "warm start", "notification"])
def test_a_refused_resume_or_extension_changes_nothing(
    refusal: str, interrupted: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the files of the sweep nor its runs in MLflow."""
    message = "refused"
    monkeypatch.setattr("search.driver.run.prepare", lambda *_: None)
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/hook")
    if refusal == "warm start":
        (interrupted.folder.path / WARM_START_FILE).write_text("{")
        message = f"{WARM_START_FILE}: cannot be read"
    elif refusal == "notification":
        monkeypatch.delenv("HOOK")
        message = "notify.url=.HOOK: .* is not set"
    else:
        monkeypatch.setattr(REFUSED_BY[refusal], Mock(side_effect=ConfigError("refused")))
    tracking = resolve_tracking(tmp_path)
    before = _files(interrupted.folder), _tracked_runs(tracking)
    for request in ({"retry_failed": True}, {"num_more": 3}):
        with pytest.raises(EnsweepError, match=message):
            resume_sweep("s", tmp_path, tracking, console=Console(quiet=True), **request)
        assert (_files(interrupted.folder), _tracked_runs(tracking)) == before


@pytest.mark.usefixtures("fake_cluster", "early_starts")
@pytest.mark.parametrize("stops", [False, True])
def test_retries_and_extensions_are_stored_before_trials_start(
    interrupted: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """Also if the driver is stopped before the first of them."""
    found: list[object] = []

    def record_outcomes(*_: object) -> None:
        outcomes = {
            trial.path.name: trial.outcome() for trial in interrupted.folder.trial_folders()
        }
        found.append({name: ended and ended.outcome for name, ended in outcomes.items()})

    def prepare(*_: object) -> None:
        if stops:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/hook")
    monkeypatch.setattr("search.driver.run.prepare", prepare)
    monkeypatch.setattr("search.driver.run.Drive._tune", record_outcomes)
    monkeypatch.setattr("search.driver.run.send_result", lambda *_: None)
    quiet = Console(quiet=True)
    resume_sweep(
        "s", tmp_path, resolve_tracking(tmp_path), num_more=3, retry_failed=True, console=quiet
    )
    decided = {"0001-b2": Outcome.FINISHED, "0003": Outcome.PRUNED, "0004": Outcome.STOPPED}
    assert found == ([] if stops else [{"0002": None, "0005": None, **decided}])
    record_outcomes()  # after the driver has ended
    assert found[-1] == {"0002": Outcome.STOPPED, "0005": Outcome.STOPPED, **decided}
    assert interrupted.folder.read().search.num_samples == 6 + 3


def _files(folder: SweepFolder) -> dict[str, bytes | None]:
    """Every file and folder of the sweep, without those of its lease."""
    paths = {path.relative_to(folder.path): path for path in folder.path.rglob("*")}
    return {
        str(name): path.read_bytes() if path.is_file() else None
        for name, path in paths.items()
        if not name.name.startswith("lease.json")
    }


def _tracked_runs(tracking: Tracking) -> list[tuple[str, str, dict[str, str], dict[str, str]]]:
    runs = tracking.search({"sweep": "s"})
    return [(run.info.run_id, run.info.status, run.data.params, run.data.tags) for run in runs]


@pytest.mark.parametrize("num_more", [0, 3])
def test_changed_data_are_refused(
    tmp_path: Path, tiny_data: Path, num_more: int, early_starts: list[str]
) -> None:
    """Also if all trials so far have ended: later ones are compared with them."""
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    past = Past(tmp_path, config={"data.dir": str(data)})
    past.trial("0001-b2", (0.5,), Outcome.FINISHED)
    sweep = past.folder.read()
    past.folder.write_inputs(read_inputs(sweep, known_configs(sweep)))
    file = data / "ids-sst-train.csv"
    file.write_text(file.read_text() + "x\tnew\ta film\t1\n")
    with pytest.raises(ChangedInputError, match=r"changed since the sweep began: .*ids-sst-train"):
        resume_sweep("s", tmp_path, resolve_tracking(tmp_path), num_more=num_more)
    assert early_starts == ["started", "ended"]
    assert past.folder.read() == sweep  # without an extension either


@pytest.mark.parametrize(
    ("num_more", "again", "starts"), [(0, False, False), (1, False, True), (0, True, True)]
)
def test_ray_starts_early_only_if_a_trial_is_left_to_run(
    tmp_path: Path, early_starts: list[str], num_more: int, again: bool, starts: bool
) -> None:
    past = Past(tmp_path, search={"num_samples": 1})
    past.trial("0001-b2", (0.5,), Outcome.FAILED)
    with _ray_ahead(past.folder, past.folder.read(), num_more, again=again):
        assert early_starts == (["started"] if starts else [])


def test_the_sweep_module_does_not_import_mlflow() -> None:
    """Ray starts while MLflow is imported."""
    code = "import search.driver.sweep, sys; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
