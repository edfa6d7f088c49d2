"""A row's learning curves: the data of the paper's figures 4 and 5."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_setup.schema import metric_name
from search.ablation.row_results import Result


@dataclass(frozen=True)
class Curve:
    """One task's losses and score by epoch, means over the seeds; NaN where a seed has none."""

    metric: str
    train_loss: tuple[float, ...]
    dev_loss: tuple[float, ...]
    score: tuple[float, ...]

    @property
    def overfits_from(self) -> int | None:
        """The epoch with the best dev score, if the train loss is lower at the end than there.

        None where the last epoch is the best, or where the train loss fell no further.
        """
        best = int(np.argmax(self.score))
        return best + 1 if self.train_loss[-1] < self.train_loss[best] else None


def curves_of(row: Sequence[Result]) -> dict[str, Curve]:
    """Return task -> its learning curve, up to the shortest of the row's trials."""
    num_epochs = min(len(result.records) for result in row)

    def mean(key: str) -> tuple[float, ...]:
        return tuple(
            float(np.mean([r.records[epoch].metrics.get(key, math.nan) for r in row]))
            for epoch in range(num_epochs)
        )

    return {
        name: Curve(
            str(task.metric),
            mean(metric_name("train", name, "loss")),
            mean(metric_name("dev", name, "loss")),
            mean(metric_name("dev", name, str(task.metric))),
        )
        for name, task in row[0].tasks.items()
    }


def scaled(values: Sequence[float], smaller_is_better: bool) -> list[float]:
    """Scale to worst 0, best 1, as in the paper's figures 4 and 5; a constant becomes 1.

    NaN stays NaN.
    """
    signed = np.array(values) * (-1 if smaller_is_better else 1)
    if np.isnan(signed).all():
        return list(signed)
    worst, best = np.nanmin(signed), np.nanmax(signed)
    return list(np.ones(len(signed)) if worst == best else (signed - worst) / (best - worst))
