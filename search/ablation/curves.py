"""A row's learning curves: the data of the paper's figures 4 and 5."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_setup.schema import metric_name
from search.ablation.row_results import Result


@dataclass(frozen=True)
class Curve:
    """One task by epoch: mean over the seeds (the data of the paper's figures 4 and 5)."""

    metric: str
    train_loss: tuple[float, ...]
    dev_loss: tuple[float, ...]
    score: tuple[float, ...]

    @property
    def overfits_from(self) -> int | None:
        """The epoch after which the dev score is never better again while the train loss falls.

        None where the last epoch is the best, or where training itself got no further.
        """
        best = int(np.argmax(self.score))
        return best + 1 if self.train_loss[-1] < self.train_loss[best] else None


def curves_of(row: Sequence[Result]) -> dict[str, Curve]:
    """Task -> its curve: means over the row's seeds."""
    num_epochs = min(len(result.records) for result in row)

    def mean(key: str) -> tuple[float, ...]:
        """Mean by epoch; NaN where a seed has no such value."""
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
    """Worst 0, best 1, as in the paper's figures 4 and 5; a constant is 1 throughout.

    An epoch without a value has none (NaN).
    """
    signed = np.array(values) * (-1 if smaller_is_better else 1)
    if np.isnan(signed).all():
        return list(signed)
    worst, best = np.nanmin(signed), np.nanmax(signed)
    return list(np.ones(len(signed)) if worst == best else (signed - worst) / (best - worst))
