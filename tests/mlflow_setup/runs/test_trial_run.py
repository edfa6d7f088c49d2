"""The MLflow run of a trial: a projection of its folder, and idempotent."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from projected import START, all_points, artifacts, epoch, points, snapshot

from mlflow_setup.errors import IntegrityError
from mlflow_setup.runs.projection import EPOCH_SECONDS, MAX_METRICS, MS_PER_SENTENCE
from mlflow_setup.runs.query import download
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.runs.usage import SystemSample
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import Tracking


def test_a_trial_is_a_run(tracking: Tracking, sweep: str, tmp_path: Path) -> None:
    mirror = Mirror(tracking, sweep)
    parent_id = mirror.start({"sampler": "tpe"}, {"num_samples": 4})
    run_id = mirror.project(snapshot(sweep, tmp_path))
    run = tracking.client.get_run(run_id)
    assert run.info.run_name == "t1 b3"
    assert run.info.status == "RUNNING"
    assert run.info.start_time == 1_700_000_000_000
    assert run.data.params == {
        "optim.lr": "1e-05",
        "data.tasks": '["sentiment"]',
        "pretrain.enabled": "true",
    }
    expected = {
        "kind": "trial",
        "sweep": sweep,
        "trial": "t1",
        "mlflow.parentRunId": parent_id,
        "mlflow.runName": "t1 b3",
        "recipe": "b3",
        "seed": "7",
        "data_fingerprint": "f00d",
        "git_revision": "abc123",
        "pretrain": "mlm",
        "notes": '{"D07": 2}',
        "weights_uri": f"{tmp_path}/weights",
        "kept_epochs": "1,2",
    }
    assert expected.items() == run.data.tags.items()
    stamps = [START * 1000 + 10125 * number for number in (1, 2, 3)]
    assert points(tracking, run_id, "dev/overall") == [
        (1, stamps[0], 0.5),
        (2, stamps[1], 0.7),
        (3, stamps[2], 0.6),
    ]
    best = [(1, stamps[0], 0.5), (2, stamps[1], 0.7), (3, stamps[2], 0.7)]
    assert points(tracking, run_id, "best/dev/overall") == best
    assert [value for *_, value in points(tracking, run_id, "best/dev/sentiment/accuracy")] == [
        0.5
    ] * 3
    assert "best/dev/sentiment/loss" not in run.data.metrics
    assert run.data.metrics[EPOCH_SECONDS] == 12.5


def test_milliseconds_per_sentence_are_the_least_so_far(
    tracking: Tracking, sweep: str, tmp_path: Path
) -> None:
    trial = snapshot(sweep, tmp_path)
    times = (None, 3.0, 5.0)
    epochs = [replace(e, ms_per_sentence=ms) for e, ms in zip(trial.epochs, times, strict=True)]
    run_id = Mirror(tracking, sweep).project(replace(trial, epochs=tuple(epochs)))
    found = points(tracking, run_id, MS_PER_SENTENCE)
    assert [(step, value) for step, _, value in found] == [(2, 3.0), (3, 3.0)]


def test_a_run_has_a_dataset_and_is_named_by_what_was_searched(
    tracking: Tracking, sweep: str, tmp_path: Path
) -> None:
    trial = snapshot(sweep, tmp_path)
    config = {**trial.record.config, "data.dir": "/home/me/reviews"}
    record = replace(trial.record, config=config, searched=("optim.lr",))
    run = tracking.client.get_run(Mirror(tracking, sweep).project(replace(trial, record=record)))
    assert run.info.run_name == "t1 lr=1e-05"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("reviews", "f00d")


@pytest.mark.parametrize("is_new_process", [False, True])
def test_system_samples_are_logged_once(
    tracking: Tracking, sweep: str, tmp_path: Path, is_new_process: bool
) -> None:
    trial = snapshot(sweep, tmp_path)
    samples = tuple(
        SystemSample(START + n, {"system/a": float(n), "system/b": 1.0}) for n in range(1, 601)
    )
    mirror = Mirror(tracking, sweep)
    for count in (0, 1, 600, 600):
        mirror = Mirror(tracking, sweep) if is_new_process else mirror
        run_id = mirror.project(replace(trial, system=samples[:count]))
    found = points(tracking, run_id, "system/a")
    assert found == [(n, round((START + n) * 1000), float(n)) for n in range(1, 601)]
    assert len(points(tracking, run_id, "system/b")) == 600


def test_predictions_and_configuration_are_artifacts(
    tracking: Tracking, sweep: str, tmp_path: Path
) -> None:
    trial = snapshot(sweep, tmp_path)
    run_id = Mirror(tracking, sweep).project(trial)
    assert artifacts(tracking, run_id) == {
        "config.json": trial.record.to_json(),
        "predictions/0001.parquet": "epoch 1",
        "predictions/0002.parquet": "epoch 2",
        "predictions/0003.parquet": "epoch 3",
    }


@pytest.mark.parametrize("is_new_process", [False, True])
def test_projecting_again_changes_nothing(
    tracking: Tracking, sweep: str, tmp_path: Path, is_new_process: bool
) -> None:
    mirror = Mirror(tracking, sweep)
    trial = snapshot(sweep, tmp_path, outcome=Outcome.FINISHED)
    run_id = mirror.project(trial)
    before = tracking.client.get_run(run_id).to_dictionary(), all_points(tracking, run_id)
    mirror = Mirror(tracking, sweep) if is_new_process else mirror
    assert mirror.project(trial) == run_id
    assert before == (
        tracking.client.get_run(run_id).to_dictionary(),
        all_points(tracking, run_id),
    )
    assert all([step for step, *_ in found] == [1, 2, 3] for found in before[1].values())


@pytest.mark.parametrize("is_new_process", [False, True])
def test_epoch_by_epoch_gives_the_same_points_as_all_at_once(
    tracking: Tracking, sweep: str, tmp_path: Path, is_new_process: bool
) -> None:
    mirror = Mirror(tracking, sweep)
    for num_epochs in (0, 1, 2, 3):
        mirror = Mirror(tracking, sweep) if is_new_process else mirror
        run_id = mirror.project(snapshot(sweep, tmp_path, num_epochs))
    at_once = mirror.project(snapshot(sweep, tmp_path, trial="t2"))
    assert at_once != run_id
    assert all_points(tracking, run_id) == all_points(tracking, at_once)
    assert artifacts(tracking, run_id).keys() == artifacts(tracking, at_once).keys()


def test_an_epoch_is_sent_in_one_request(
    tracking: Tracking, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(tracking, sweep)
    mirror.project(snapshot(sweep, tmp_path, 1))
    calls = []
    client = tracking.client
    for name in ("log_batch", "search_runs", "get_run", "list_artifacts", "get_metric_history"):
        original = getattr(client, name)

        def counted(*args: Any, _name: str = name, _call: Any = original, **kwargs: Any) -> Any:
            calls.append(_name)
            return _call(*args, **kwargs)

        monkeypatch.setattr(client, name, counted)
    mirror.project(snapshot(sweep, tmp_path, 2))
    assert calls == ["log_batch"]  # the epoch's metrics, and kept_epochs, which has changed
    mirror.project(snapshot(sweep, tmp_path, 3))
    assert calls == ["log_batch"] * 2


def test_all_epochs_of_a_missed_trial_are_sent_in_one_request(
    tracking: Tracking, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request to a server with a login takes half a second."""
    mirror = Mirror(tracking, sweep)
    mirror.start({}, {})
    sent, log_batch = [], tracking.client.log_batch

    def counted(run_id: str, **given: Any) -> None:
        sent.append({key: len(value) for key, value in given.items()})
        log_batch(run_id, **given)

    monkeypatch.setattr(tracking.client, "log_batch", counted)
    mirror.project(snapshot(sweep, tmp_path, 3))
    assert sent == [{"metrics": 3 * 7, "params": 3, "tags": 2}]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.FINISHED, "FINISHED"),
        (Outcome.PRUNED, "FINISHED"),
        (Outcome.DIVERGED, "FAILED"),
        (Outcome.FAILED, "FAILED"),
        (Outcome.STOPPED, "KILLED"),
    ],
)
def test_the_status_of_each_outcome(
    tracking: Tracking, sweep: str, tmp_path: Path, outcome: Outcome, status: str
) -> None:
    run_id = Mirror(tracking, sweep).project(snapshot(sweep, tmp_path, 2, outcome))
    run = tracking.client.get_run(run_id)
    assert run.info.status == status
    assert run.info.end_time == (START + 100) * 1000
    assert run.data.tags["outcome"] == outcome
    assert run.data.tags["outcome_reason"] == f"why {outcome}"


@pytest.mark.parametrize("is_new_process", [False, True])
def test_a_stopped_trial_that_runs_again_is_reopened(
    tracking: Tracking, sweep: str, tmp_path: Path, is_new_process: bool
) -> None:
    mirror = Mirror(tracking, sweep)
    run_id = mirror.project(snapshot(sweep, tmp_path, 1, Outcome.STOPPED))
    mirror = Mirror(tracking, sweep) if is_new_process else mirror
    assert mirror.project(snapshot(sweep, tmp_path, 2)) == run_id
    run = tracking.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert not {"outcome", "outcome_reason"} & set(run.data.tags)
    assert mirror.project(snapshot(sweep, tmp_path, 3, Outcome.FINISHED)) == run_id
    run = tracking.client.get_run(run_id)
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
    assert [step for step, *_ in points(tracking, run_id, "dev/overall")] == [1, 2, 3]


@pytest.mark.parametrize("artifact", ["predictions/0002.parquet", "config.json"])
def test_a_truncated_artifact_is_written_again(
    tracking: Tracking, sweep: str, tmp_path: Path, artifact: str
) -> None:
    run_id = Mirror(tracking, sweep).project(snapshot(sweep, tmp_path))
    stored = download(tracking, run_id, artifact, tmp_path / "cache")
    content = stored.read_text()
    stored.write_text(content[:3])
    Mirror(tracking, sweep).project(snapshot(sweep, tmp_path))
    assert stored.read_text() == content


@pytest.mark.parametrize("is_new_process", [False, True])
def test_a_repeated_epoch_keeps_its_points_and_replaces_its_predictions(
    tracking: Tracking, sweep: str, tmp_path: Path, is_new_process: bool
) -> None:
    mirror = Mirror(tracking, sweep)
    first = snapshot(sweep, tmp_path, 2)
    run_id = mirror.project(first)
    before = points(tracking, run_id, "dev/overall")
    again = replace(first, epochs=(first.epochs[0], epoch(2, wall_time=START + 50)))
    again.predictions["0002.parquet"].write_text("EPOCH 2")
    mirror = Mirror(tracking, sweep) if is_new_process else mirror
    mirror.project(again)
    assert points(tracking, run_id, "dev/overall") == before
    assert artifacts(tracking, run_id)["predictions/0002.parquet"] == "EPOCH 2"
    assert artifacts(tracking, run_id)["predictions/0001.parquet"] == "epoch 1"


def test_at_most_forty_metrics_are_tracked(
    tracking: Tracking, sweep: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = snapshot(sweep, tmp_path, 1)
    extra = {f"train/task{number}/loss": 0.0 for number in range(60)}
    metrics = extra | trial.epochs[0].metrics
    crowded = replace(trial.epochs[0], metrics=metrics, ms_per_sentence=1.5)
    run_id = Mirror(tracking, sweep).project(replace(trial, epochs=(crowded,)))
    kept = tracking.client.get_run(run_id).data.metrics
    assert len(kept) == MAX_METRICS == 40
    assert {"best/dev/overall", "dev/overall", "dev/sentiment/accuracy", EPOCH_SECONDS} <= set(kept)
    assert kept[MS_PER_SENTENCE] == 1.5
    assert "40 of 68 metrics are tracked" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metrics_that_are_not_finite_are_refused(
    tracking: Tracking, sweep: str, tmp_path: Path, value: float
) -> None:
    trial = snapshot(sweep, tmp_path, 1)
    bad = replace(trial, epochs=(replace(trial.epochs[0], metrics={"dev/overall": value}),))
    mirror = Mirror(tracking, sweep)
    with pytest.raises(IntegrityError, match=r"at step 1 is .* not a finite number"):
        mirror.project(bad)
    assert not mirror.try_project(bad)
    assert mirror.dirty == {"t1"}
