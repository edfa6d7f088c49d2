"""Which of a trial's epochs keep their weights."""

from collections.abc import Mapping, Sequence

from mlflow_setup.schema import (
    OVERALL,
    EpochRecord,
    best_epoch,
    metric_name,
)
from trainable.config.tasks import Task


def epochs_to_keep(
    records: Sequence[EpochRecord], tasks: Mapping[str, Task], stage_start: int = 1
) -> set[int]:
    """The epochs whose weights are kept: the best overall, and the best for each task.

    And the best overall of those from `stage_start` on, the first of the stage under way: it is
    the stage's score, and what the next one may go on from.

    By the scores on all of dev, and again on the dev-train half alone, so that an ensemble can
    choose among epochs without the held-out half having had a say. The earliest epoch wins a tie.
    """
    names = [OVERALL] + [
        metric_name("dev", name, task.metric) for name, task in tasks.items() if task.metric
    ]
    own = [record for record in records if record.epoch >= stage_start]
    kept = {best_epoch(own).epoch} if own else set()
    return kept | {
        best_epoch(records, name, on_dev_train=on_dev_train).epoch
        for name in names
        for on_dev_train in (False, True)
        if records
    }
