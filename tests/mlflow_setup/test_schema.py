"""Which metrics are maximised, and which epoch is the best."""

import re
from pathlib import Path

import pytest

import mlflow_setup
from mlflow_setup.schema import (
    OVERALL,
    EpochRecord,
    best_epoch,
    dev_metrics,
    eligible_epochs,
    is_dev_score,
    update_best,
)


def epoch(number: int, overall: float, dev_train: float) -> EpochRecord:
    scores = {OVERALL: overall, "dev/sentiment/accuracy": 1.0 - overall}
    return EpochRecord(number, scores, {OVERALL: dev_train}, seconds=1.0, wall_time=0.0)


@pytest.mark.parametrize(
    ("name", "is_score"),
    [
        (OVERALL, True),
        ("dev/similarity/pearson", True),
        ("dev/sentiment/loss", False),
        ("train/sentiment/loss", False),
        ("train/sentiment/accuracy", False),
        ("best/dev/overall", False),
        ("", False),
    ],
)
def test_dev_scores_are_the_dev_metrics_that_are_maximised(name: str, is_score: bool) -> None:
    assert is_dev_score(name) is is_score
    assert dev_metrics({name: 0.5}) == ({name: 0.5} if is_score else {})


@pytest.mark.parametrize(
    ("overall", "best"), [((0.5, 0.7, 0.6), 2), ((0.7, 0.7, 0.6), 1), ((-1.0, -0.5, -0.5), 2)]
)
def test_the_best_epoch_has_the_highest_score_and_is_the_earliest_of_equals(
    overall: tuple[float, ...], best: int
) -> None:
    epochs = [epoch(number, value, 0.0) for number, value in enumerate(overall, 1)]
    assert best_epoch(epochs).epoch == best
    assert best_epoch(reversed(epochs)).epoch == best


def test_the_best_epoch_by_another_metric_and_on_dev_train() -> None:
    epochs = [epoch(1, 0.4, 0.1), epoch(2, 0.6, 0.2), epoch(3, 0.5, 0.3)]
    assert best_epoch(epochs).epoch == 2
    assert best_epoch(epochs, "dev/sentiment/accuracy").epoch == 1
    assert best_epoch(epochs, on_dev_train=True).epoch == 3


def test_no_epochs_or_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        best_epoch([])
    with pytest.raises(KeyError, match="dev/nli/accuracy"):
        best_epoch([epoch(1, 0.4, 0.1), epoch(2, 0.4, 0.1)], "dev/nli/accuracy")


def test_no_other_module_repeats_these_functions() -> None:
    root = Path(mlflow_setup.__file__).parent.parent
    packages = ("mlflow_setup", "trainable", "ensemble", "search", "ensweep")
    files = [path for package in packages for path in (root / package).rglob("*.py")]
    assert len(files) > 100
    repeated = re.compile(r"\[OVERALL\], -|startswith\(.dev/.\) and|sha256\(.*\)\.hexdigest\(\)\[:")
    found = {
        path.relative_to(root).as_posix()
        for path in files
        if repeated.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"mlflow_setup/schema.py"}


def test_epochs_before_the_first_weight_average_are_not_eligible() -> None:
    scores = (0.9, 0.5, 0.6, 0.4)
    records = [
        EpochRecord(number, {OVERALL: score}, {}, 1.0, 0.0, starts_average=number == 2)
        for number, score in enumerate(scores, start=1)
    ]
    assert [record.epoch for record in eligible_epochs(reversed(records))] == [2, 3, 4]
    assert best_epoch(records).epoch == 3
    assert best_epoch(records[:1]).epoch == 1
    best: dict[str, float] = {}
    best_so_far = []
    for record in records:
        update_best(best, record)
        best_so_far.append(best[OVERALL])
    assert best_so_far == [0.9, 0.5, 0.6, 0.6]
