"""Snapshots of trials, for tests of their MLflow runs."""

from pathlib import Path

from mlflow_setup.schema import (
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
    TrialSnapshot,
    prediction_path,
)
from mlflow_setup.tracking.store import Tracking

START = 1_700_000_000.0
SCORES = (0.5, 0.7, 0.6)  # dev/overall by epoch


def snapshot(
    sweep: str, folder: Path, num_epochs: int = 3, outcome: Outcome | None = None, trial: str = "t1"
) -> TrialSnapshot:
    """The snapshot of a trial after `num_epochs` epochs."""
    record = TrialRecord(
        trial=trial,
        sweep=sweep,
        recipe="b3",
        config={"optim.lr": 1e-05, "data.tasks": ["sentiment"], "pretrain.enabled": True},
        origin={},
        seed=7,
        data_fingerprint="f00d",
        git_revision="abc123",
        start_time=START,
        notes={"D07": 2},
    )
    predictions = {}
    for number in range(1, num_epochs + 1):
        path = folder / prediction_path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"epoch {number}")
        predictions[prediction_path(number)] = path
    ended = None
    if outcome is not None:
        ended = OutcomeRecord(outcome, f"why {outcome}", num_epochs, START + 100)
    return TrialSnapshot(
        record=record,
        epochs=tuple(epoch(number) for number in range(1, num_epochs + 1)),
        outcome=ended,
        predictions=predictions,
        weights_uri=f"{folder}/weights",
        kept_epochs=(1, 2)[:num_epochs],
    )


def epoch(number: int, wall_time: float | None = None) -> EpochRecord:
    score = SCORES[number - 1]
    metrics = {
        "dev/overall": score,
        "dev/sentiment/accuracy": 1 - score,
        "dev/sentiment/loss": 9.0 + number,
        "train/sentiment/loss": 1.0 / number,
    }
    return EpochRecord(number, metrics, {}, 12.5, wall_time or START + 10.125 * number)


def points(tracking: Tracking, run_id: str, key: str) -> list[tuple[int, int, float]]:
    history = tracking.client.get_metric_history(run_id, key)
    return [(point.step, point.timestamp, point.value) for point in history]


def all_points(tracking: Tracking, run_id: str) -> dict[str, list[tuple[int, int, float]]]:
    keys = tracking.client.get_run(run_id).data.metrics
    return {key: points(tracking, run_id, key) for key in keys}


def artifacts(tracking: Tracking, run_id: str) -> dict[str, str]:
    found = {}
    root = Path(tracking.client.download_artifacts(run_id, ""))
    for path in sorted(root.rglob("*")):
        if path.is_file():
            found[path.relative_to(root).as_posix()] = path.read_text()
    return found
