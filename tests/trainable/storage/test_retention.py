"""Which epochs' weights are kept."""

import pytest

from mlflow_setup.schema import OVERALL, EpochRecord
from trainable.config.tasks import PAPER_TASKS, Task
from trainable.storage.retention import epochs_to_keep

TASKS: dict[str, Task] = {name: PAPER_TASKS[name] for name in ("sentiment", "similarity", "nli")}


def scored(epoch: int, full: tuple[float, ...], half: tuple[float, ...]) -> EpochRecord:
    """A record with overall, sentiment and similarity scores on all and on half of dev."""
    names = (OVERALL, "dev/sentiment/accuracy", "dev/similarity/pearson")
    metrics, dev_train = dict(zip(names, full, strict=True)), dict(zip(names, half, strict=True))
    return EpochRecord(epoch, metrics, dev_train, 1.0, 1.0)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([], set()),
        ([((0, 0, 0), (0, 0, 0))], {1}),
        ([((1, 1, 1), (1, 1, 1))] * 3, {1}),  # the earliest wins a tie
        ([((1, 0, 0), (0, 0, 0)), ((2, 0, 0), (0, 0, 0))], {1, 2}),
        ([((5, 5, 5), (5, 5, 5)), ((6, 1, 1), (1, 1, 1)), ((1, 1, 6), (1, 1, 1))], {1, 2, 3}),
        ([((5, 5, 5), (5, 5, 5)), ((1, 1, 1), (1, 6, 1)), ((1, 1, 1), (1, 1, 1))], {1, 2}),
        ([((1, 1, 1), (1, 1, 1)), ((2, 2, 2), (2, 2, 2))], {2}),
        ([((1, 1, -0.9), (1, 1, -0.9)), ((1, 1, -0.5), (1, 1, -0.5))], {1, 2}),
    ],
)
def test_the_best_epochs_of_each_score_are_kept(
    scores: list[tuple[tuple[float, ...], ...]], kept: set[int]
) -> None:
    records = [scored(number + 1, full, half) for number, (full, half) in enumerate(scores)]
    assert epochs_to_keep(records, TASKS) == kept


def test_the_best_epoch_of_the_current_stage_is_kept_too() -> None:
    """The next stage may start from it."""
    scores = [((9, 9, 9), (9, 9, 9)), ((1, 1, 1), (1, 1, 1)), ((2, 0, 0), (0, 0, 0))]
    records = [scored(number, *pair) for number, pair in enumerate(scores, start=1)]
    assert epochs_to_keep(records, TASKS) == {1}
    assert epochs_to_keep(records, TASKS, stage_start=2) == {1, 3}
