"""Reports of a trial to Tune: epochs, early ends, divergence, and errors that end the sweep."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray._private.label_utils import validate_label_selector
from stores import URI, Machines
from tiny_trials import config_of

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.object_store import Version
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord
from trainable.data.inputs import ChangedInputError, Inputs, expected_folder
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train
from trainable.tune.attempt import Attempt, Limits
from trainable.tune.placement import TrialPlacement, resources
from trainable.tune.trainable import make_trainable

Reports = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _restore_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """The reports to Tune."""
    found: Reports = []
    monkeypatch.setattr(tune, "report", found.append)
    return found


def run(place: TrialPlacement, train: Any, settings: Mapping[str, Any] = {}) -> None:
    """Run the trial 0001 as Tune does."""
    given = {"trial": "0001", "recipe": "b3", "settings": settings, "origin": {}, "searched": []}
    make_trainable(place, train)(given)


def run_epochs(
    root: Path,
    outcome: Outcome,
    num_epochs: int,
    num_unreported: int = 0,
    slope: float = 0.1,
    **settings: Any,
) -> None:
    """Run a trial of `num_epochs` epochs, of which the first `num_unreported` are not reported;
    each is better than the one before by `slope`."""

    def train(
        config: object, folder: Path, *, report: Callable[[EpochRecord], None], **given: Any
    ) -> OutcomeRecord:
        assert given["shared"] == root / ".shared"
        for epoch in range(1, num_epochs + 1):
            record = EpochRecord(epoch, {"dev/overall": 0.5 + epoch * slope}, {}, 1.0, time.time())
            TrialFolder(folder).write_epoch(record)
            if epoch > num_unreported:
                report(record)
        return OutcomeRecord(outcome, "", num_epochs, time.time())

    run(TrialPlacement(root, "s", 1), train, settings)


def fail(root: Path, error: Exception) -> None:
    """Run a trial whose training raises the error."""

    def train(*_: object, **__: object) -> OutcomeRecord:
        raise error

    run(TrialPlacement(root, "s", 1), train)


def trial_in(root: Path) -> TrialFolder:
    return TrialFolder(root / "s" / "trials" / "0001")


def test_epochs_are_reported_with_the_number_of_epochs_of_all_stages(
    reports: Reports, tmp_path: Path
) -> None:
    stages = {"train.stages": ["probe", "finetune"], "probe.num_epochs": 1, "train.num_epochs": 2}
    run_epochs(tmp_path, Outcome.FINISHED, 3, **stages)
    assert [(r["epoch"], r["num_epochs"]) for r in reports] == [(1, 3), (2, 3), (3, 3)]
    assert [r["best_overall"] for r in reports] == pytest.approx([0.6, 0.7, 0.8])


def test_the_best_epoch_may_be_of_an_earlier_process(reports: Reports, tmp_path: Path) -> None:
    run_epochs(tmp_path, Outcome.STOPPED, 2, slope=-0.1)
    settings = {"train.num_epochs": 3}
    run_epochs(tmp_path, Outcome.FINISHED, 3, num_unreported=2, slope=-0.1, **settings)
    assert [r["epoch"] for r in reports] == [1, 2, 2, 3]
    assert [r["overall"] for r in reports] == pytest.approx([0.4, 0.3, 0.3, 0.2])
    assert [r["best_overall"] for r in reports] == pytest.approx([0.4] * 4)


def test_a_trial_that_stops_early_is_reported_as_finished(reports: Reports, tmp_path: Path) -> None:
    settings = {"train.num_epochs": 9, "train.early_stopping_epochs": 1}
    run_epochs(tmp_path, Outcome.FINISHED, 2, **settings)
    assert [(r["epoch"], r["num_epochs"]) for r in reports] == [(1, 9), (2, 9), (2, 2)]


def test_divergence_is_reported_and_not_an_error(reports: Reports, tmp_path: Path) -> None:
    run_epochs(tmp_path, Outcome.DIVERGED, 1, **{"train.num_epochs": 4})
    assert reports[-1]["diverged"] == 1
    assert reports[-1]["best_overall"] == 0.0
    assert reports[-1]["done"] is True


def test_the_last_epoch_is_reported_again_after_a_crash(reports: Reports, tmp_path: Path) -> None:
    run_epochs(tmp_path, Outcome.FINISHED, 2, num_unreported=2, **{"train.num_epochs": 2})
    assert [(r["epoch"], r["num_epochs"]) for r in reports] == [(2, 2)]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Io(Os { code: 28, message: No space left on device })"),
        ConfigError("the shared folder: No space left on device"),
    ],
)
def test_a_full_disk_is_reported_as_a_problem_of_the_sweep(
    reports: Reports, tmp_path: Path, error: Exception
) -> None:
    fail(tmp_path, error)
    expected = f"no space is left for {trial_in(tmp_path).path}"
    assert [r["problem"] for r in reports if r["no_room"]] == [expected]
    assert trial_in(tmp_path).outcome() is None  # so it will be resumed


def test_a_disk_without_space_to_start_a_trial_is_reported(
    reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainable.tune.attempt.write_atomic", full)
    run_epochs(tmp_path, Outcome.FINISHED, 2)
    assert reports[0]["problem"].startswith("no space is left for ")
    monkeypatch.undo()
    with Attempt(trial_in(tmp_path).path, Limits(tmp_path / "stop", wait_seconds=0)):
        pass  # the lock is free


def test_changed_data_are_reported_as_a_problem_of_the_sweep(
    reports: Reports, tmp_path: Path
) -> None:
    fail(tmp_path, ChangedInputError("changed since the sweep began: a.csv", fix="put it back"))
    expected = ("changed since the sweep began: a.csv", 0)
    assert [(r["problem"], r["no_room"]) for r in reports] == [expected]
    assert trial_in(tmp_path).outcome() is None  # so it will be resumed


def test_a_trial_expects_the_inputs_of_the_sweep(reports: Reports, tmp_path: Path) -> None:
    inputs = Inputs({}, {"s3://b/d": {"a.csv": Version(1, "x")}})
    seen: list[object] = []

    def train(*_: object, **__: object) -> OutcomeRecord:
        seen.append(expected_folder("s3://b/d"))
        return OutcomeRecord(Outcome.STOPPED, "", 0, time.time())

    run(TrialPlacement(tmp_path, "s", 1, inputs=inputs), train)
    assert seen == [inputs.folders["s3://b/d"]]
    assert expected_folder("s3://b/d") is None


def test_a_trial_that_is_stopped_before_its_record_exists_has_an_outcome(
    reports: Reports, tmp_path: Path
) -> None:
    """For example, while its teacher is trained. Without an outcome it would count as failed."""

    def train(*_: object, **__: object) -> OutcomeRecord:
        return OutcomeRecord(Outcome.STOPPED, "asked to stop", 0, time.time())

    run(TrialPlacement(tmp_path, "s", 1), train)
    trial = trial_in(tmp_path)
    ended = trial.outcome()
    assert ended is not None
    assert (ended.outcome, ended.reason) == (Outcome.STOPPED, "asked to stop")
    assert not (trial.path / "config.json").exists()
    assert [report["problem"] for report in reports] == [""]


def test_other_errors_are_raised(reports: Reports, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not allowed"):
        fail(tmp_path, OSError(errno.EACCES, "not allowed"))
    assert reports == []


def test_a_trial_is_not_placed_on_avoided_nodes() -> None:
    """By a label selector of its placement group, which Ray accepts."""
    needs, exclusive = {"CPU": 1}, {"CPU": 8}
    plain = resources(needs, exclusive, {})
    assert plain.bundles == [{"CPU": 1.0}]
    assert resources(needs, exclusive, {"exclusive": True}).bundles == [{"CPU": 8.0}]
    nodes = ["1f" * 28, "2f" * 28]
    restricted = resources(needs, exclusive, {"avoided": nodes})
    labels = restricted._bound.arguments["bundle_label_selector"]
    assert labels == [{"ray.io/node-id": f"!in({nodes[0]},{nodes[1]})"}]
    assert validate_label_selector(labels[0]) is None
    assert restricted != plain
    assert hash(restricted) == hash(resources(needs, exclusive, {"avoided": nodes}))


def test_a_trial_in_an_object_store_is_resumed_on_another_machine(
    tmp_path: Path, tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results are those of a trial in a local folder that is not interrupted."""
    machines = Machines(monkeypatch, tmp_path)
    settings = config_of(tiny_encoder, tiny_data).flat()
    monkeypatch.setattr(tune, "report", lambda metrics: None)
    run(TrialPlacement(tmp_path / "runs", "s", 1), train, settings)
    local = trial_in(tmp_path / "runs")
    place = TrialPlacement(URI, "s", 1)
    monkeypatch.setattr(tune, "report", disconnect)  # after its first epoch
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "first"))
    with pytest.raises(ConnectionError):
        run(place, train, settings)
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(tune, "report", lambda metrics: None)
    run(place, train, settings)
    trial = trial_in(machines.copy("driver").root)
    trial.refresh()
    ours, theirs = trial.epochs(), local.epochs()
    assert [epoch.metrics for epoch in ours] == [epoch.metrics for epoch in theirs]
    assert trial.trial().config == local.trial().config
    assert len(trial.attempts()) == 2
    assert trial.kept_epochs() == local.kept_epochs()
    for epoch in trial.kept_epochs():
        found, expected = (each.require_weights(epoch) for each in (trial, local))
        assert content(found) == content(expected)
    assert content(trial.encoder_dir) == content(local.encoder_dir)
    for epoch in (1, 2):
        path, expected = (each.predictions_path(epoch) for each in (trial, local))
        assert path.read_bytes() == expected.read_bytes()
    working_copies = tmp_path.glob("*/scratch/*/s/trials/0001/**/*")
    assert not list(working_copies)  # workers delete them after the trial


def disconnect(metrics: dict[str, Any]) -> None:
    raise ConnectionError("the machine is lost")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
