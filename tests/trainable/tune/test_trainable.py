"""What Tune is told of a trial: each epoch once, early ends as ends, a divergence as no error."""

import errno
import os
import time
from collections.abc import Callable, Iterator
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


@pytest.fixture(autouse=True)
def _keep_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reports.append)
    return reports


def run(
    root: Path,
    outcome: Outcome,
    num_epochs: int,
    silent: int = 0,
    slope: float = 0.1,
    **settings: Any,
) -> Path:
    """A trial of `num_epochs` epochs, of which the first `silent` are not reported; each is better
    than the one before by `slope`."""
    place = TrialPlacement(root, "s", 1)

    def train(
        config: object, folder: Path, *, report: Callable[[EpochRecord], None], **given: Any
    ) -> OutcomeRecord:
        assert given["shared"] == root / ".shared"
        for epoch in range(1, num_epochs + 1):
            record = EpochRecord(epoch, {"dev/overall": 0.5 + epoch * slope}, {}, 1.0, time.time())
            TrialFolder(folder).write_epoch(record)
            if epoch > silent:
                report(record)
        return OutcomeRecord(outcome, "", num_epochs, time.time())

    tune_config = {"trial": "0001", "recipe": "b3", "settings": settings, "origin": {}}
    make_trainable(place, train)({**tune_config, "searched": []})
    return place.folder("0001")


def test_every_epoch_is_told_with_the_length_of_all_stages(
    told: list[dict[str, Any]], tmp_path: Path
) -> None:
    stages = {"train.stages": ["probe", "finetune"], "probe.num_epochs": 1, "train.num_epochs": 2}
    run(tmp_path, Outcome.FINISHED, 3, **stages)
    assert [(r["epoch"], r["num_epochs"]) for r in told] == [(1, 3), (2, 3), (3, 3)]
    assert [r["best_overall"] for r in told] == pytest.approx([0.6, 0.7, 0.8])


def test_the_best_epoch_may_be_one_of_an_earlier_process(
    told: list[dict[str, Any]], tmp_path: Path
) -> None:
    run(tmp_path, Outcome.STOPPED, 2, slope=-0.1)
    run(tmp_path, Outcome.FINISHED, 3, silent=2, slope=-0.1, **{"train.num_epochs": 3})
    assert [r["epoch"] for r in told] == [1, 2, 2, 3]
    assert [r["overall"] for r in told] == pytest.approx([0.4, 0.3, 0.3, 0.2])
    assert [r["best_overall"] for r in told] == pytest.approx([0.4] * 4)


def test_a_trial_that_stops_early_is_told_as_one_that_ran_to_its_end(
    told: list[dict[str, Any]], tmp_path: Path
) -> None:
    run(tmp_path, Outcome.FINISHED, 2, **{"train.num_epochs": 9, "train.early_stopping_epochs": 1})
    assert [(r["epoch"], r["num_epochs"]) for r in told] == [(1, 9), (2, 9), (2, 2)]


def test_a_divergence_is_a_report_and_no_error(told: list[dict[str, Any]], tmp_path: Path) -> None:
    run(tmp_path, Outcome.DIVERGED, 1, **{"train.num_epochs": 4})
    assert told[-1]["diverged"] == 1
    assert told[-1]["best_overall"] == 0.0
    assert told[-1]["done"] is True


def test_an_end_that_a_crash_kept_from_tune_is_told(
    told: list[dict[str, Any]], tmp_path: Path
) -> None:
    run(tmp_path, Outcome.FINISHED, 2, silent=2, **{"train.num_epochs": 2})
    assert [(r["epoch"], r["num_epochs"]) for r in told] == [(2, 2)]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Io(Os { code: 28, message: No space left on device })"),
        ConfigError("the shared folder: No space left on device"),
    ],
)
def test_a_full_disk_is_told_as_the_sweeps_problem(
    told: list[dict[str, Any]], tmp_path: Path, error: Exception
) -> None:
    fail(tmp_path, error)
    assert [r["problem"] for r in told if r["no_room"]] == [
        f"no space is left for {tmp_path / 's' / 'trials' / '0001'}"
    ]
    assert TrialFolder(tmp_path / "s" / "trials" / "0001").outcome() is None  # it is to run on


def test_so_is_one_that_has_no_room_for_a_trial_to_begin(
    told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainable.tune.attempt.write_atomic", full)
    run(tmp_path, Outcome.FINISHED, 2)
    assert told[0]["problem"].startswith("no space is left for ")
    monkeypatch.undo()
    with Attempt(tmp_path / "s" / "trials" / "0001", Limits(tmp_path / "stop", wait_seconds=0)):
        pass  # its lock was given back


def test_other_data_than_the_sweep_began_with_stop_it(
    told: list[dict[str, Any]], tmp_path: Path
) -> None:
    fail(tmp_path, ChangedInputError("changed since the sweep began: a.csv", fix="put it back"))
    assert [(r["problem"], r["no_room"]) for r in told] == [
        ("changed since the sweep began: a.csv", 0)
    ]
    assert TrialFolder(tmp_path / "s" / "trials" / "0001").outcome() is None  # it is to run on


def test_a_trial_expects_what_the_sweep_began_with(
    told: list[dict[str, Any]], tmp_path: Path
) -> None:
    inputs = Inputs({}, {"s3://b/d": {"a.csv": Version(1, "x")}})
    seen: list[object] = []

    def train(*_: object, **__: object) -> OutcomeRecord:
        seen.append(expected_folder("s3://b/d"))
        return OutcomeRecord(Outcome.STOPPED, "", 0, time.time())

    tune_config = {"trial": "0001", "recipe": "b3", "settings": {}, "origin": {}, "searched": []}
    make_trainable(TrialPlacement(tmp_path, "s", 1, inputs=inputs), train)(tune_config)
    assert seen == [inputs.folders["s3://b/d"]]
    assert expected_folder("s3://b/d") is None


def test_a_trial_that_is_stopped_before_it_has_a_record_has_an_outcome(
    told: list[dict[str, Any]], tmp_path: Path
) -> None:
    """As while its teacher is trained: the driver would take one without for failed."""

    def train(*_: object, **__: object) -> OutcomeRecord:
        return OutcomeRecord(Outcome.STOPPED, "asked to stop", 0, time.time())

    tune_config = {"trial": "0001", "recipe": "b4", "settings": {}, "origin": {}, "searched": []}
    make_trainable(TrialPlacement(tmp_path, "s", 1), train)(tune_config)
    folder = TrialFolder(tmp_path / "s" / "trials" / "0001")
    ended = folder.outcome()
    assert ended is not None
    assert (ended.outcome, ended.reason) == (Outcome.STOPPED, "asked to stop")
    assert not (folder.path / "config.json").exists()
    assert [report["problem"] for report in told] == [""]


def test_other_errors_are_tunes(told: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not allowed"):
        fail(tmp_path, OSError(errno.EACCES, "not allowed"))
    assert told == []


def fail(root: Path, error: Exception) -> None:
    def train(*_: object, **__: object) -> OutcomeRecord:
        raise error

    tune_config = {"trial": "0001", "recipe": "b3", "settings": {}, "origin": {}, "searched": []}
    make_trainable(TrialPlacement(root, "s", 1), train)(tune_config)


def test_a_trial_is_placed_on_none_of_the_nodes_that_are_avoided() -> None:
    """In the words of a placement group's labels, which Ray itself reads."""
    needs, exclusive = {"CPU": 1}, {"CPU": 8}
    plain = resources(needs, exclusive, {})
    assert plain.bundles == [{"CPU": 1.0}]
    assert resources(needs, exclusive, {"exclusive": True}).bundles == [{"CPU": 8.0}]
    nodes = ["1f" * 28, "2f" * 28]
    elsewhere = resources(needs, exclusive, {"avoided": nodes})
    labels = elsewhere._bound.arguments["bundle_label_selector"]
    assert labels == [{"ray.io/node-id": f"!in({nodes[0]},{nodes[1]})"}]
    assert validate_label_selector(labels[0]) is None
    assert elsewhere != plain
    assert hash(elsewhere) == hash(resources(needs, exclusive, {"avoided": nodes}))


def test_a_trial_of_an_object_store_goes_on_on_another_machine(
    tmp_path: Path, tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record and weights are those of one that ran through in a folder."""
    machines = Machines(monkeypatch, tmp_path)
    settings = config_of(tiny_encoder, tiny_data).flat()
    given: dict[str, Any] = {"trial": "0001", "recipe": "b3", "settings": settings, "origin": {}}
    given["searched"] = []
    monkeypatch.setattr(tune, "report", lambda metrics: None)
    make_trainable(TrialPlacement(tmp_path / "runs", "s", 1), train)(given)
    local = TrialFolder(tmp_path / "runs" / "s" / "trials" / "0001")
    place = TrialPlacement(URI, "s", 1)
    monkeypatch.setattr(tune, "report", lost)  # after its first epoch
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "first"))
    with pytest.raises(ConnectionError):
        make_trainable(place, train)(given)
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(tune, "report", lambda metrics: None)
    make_trainable(place, train)(given)
    driver = machines.copy("driver")
    trial = TrialFolder(driver.root / "s" / "trials" / "0001")
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
    left = tmp_path.glob("*/scratch/*/s/trials/0001/**/*")
    assert not list(left)  # a worker's copy is for as long as it is at the trial


def lost(metrics: dict[str, Any]) -> None:
    raise ConnectionError("the machine is taken away")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
