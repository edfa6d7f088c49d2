"""The epochs of a trial whose weights are kept."""

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
    """The epochs whose weights are kept: the best overall and the best for each task, both by the
    scores on all of dev and by those on the dev-train half; and the best overall of the current
    stage, from which the next stage may start.

    The scores on dev-train allow an ensemble to choose epochs without the held-out half of dev. In
    a tie the earliest epoch wins.

    Args:
        stage_start: first epoch of the current stage.
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
