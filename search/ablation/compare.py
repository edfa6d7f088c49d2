"""What each row of a study is worth beside the first: scores, differences, and how sure they are.

Two sources of doubt are told apart: the dev rows, by a paired bootstrap over them, and the seeds,
by the spread of the differences from seed to seed.

Legend: N dev rows, R replicates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.statistics.bootstrap import Difference, Draws, difference_of
from ensemble.statistics.effort import SHIPPED
from mlflow_setup.errors import EnsweepError, IntegrityError, NothingUsableError
from mlflow_setup.schema import OVERALL, metric_name
from mlflow_setup.text import first_line
from search.ablation.row_results import Floats, Result, Row, averaged, read_result
from trainable.config.tasks import Output
from trainable.evaluation.metrics import overall


@dataclass(frozen=True)
class Run:
    """One trial of a row at its best overall epoch, or the average of several."""

    trial: str
    seed: int
    epoch: int | None
    scores: dict[str, float]  # task -> its metric; "overall"


@dataclass(frozen=True)
class Line:
    """A row of the table. Without numbers where one of its trials has none: `problem` says why."""

    label: str
    recipe: str
    runs: tuple[Run, ...] = ()
    differences: dict[str, Difference] | None = None  # task or "overall"; None for the base
    problem: str | None = None

    def mean(self, name: str) -> float | None:
        """Mean of a task's metric or of "overall" over the seeds; None where it has none."""
        values = [run.scores[name] for run in self.runs if name in run.scores]
        return float(np.mean(values)) if values else None

    def spread(self, name: str) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        values = [run.scores[name] for run in self.runs if name in run.scores]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


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


@dataclass(frozen=True)
class AblationTable:
    """All that the tables and pictures show."""

    lines: tuple[Line, ...]  # the base first
    names: tuple[str, ...]  # tasks, then "overall"
    curves: dict[str, Curve]  # task -> that of the row `curves_of`
    curves_of: str

    def to_json(self) -> dict[str, Any]:
        """JSON values: the lines with means, spreads and differences; null for what is unknown."""
        lines = [
            {
                **asdict(line),
                "scores": {name: line.mean(name) for name in self.names},
                "spreads": {name: line.spread(name) for name in self.names},
            }
            for line in self.lines
        ]
        curves = {
            name: {key: _or_null(value) for key, value in asdict(curve).items()}
            for name, curve in self.curves.items()
        }
        return {"lines": lines, "curves": curves, "curves_of": self.curves_of}


def evaluate(
    rows: Sequence[Row], num_replicates: int = SHIPPED.num_replicates, curves_of: str | None = None
) -> AblationTable:
    """Compare every row with the first.

    Args:
        curves_of: label of the row whose curves are drawn; the first where it has no numbers.

    Raises:
        NothingUsableError: the first row has no numbers.
        IntegrityError: predictions of other data or seeds than the first row's.
    """
    trials: dict[Path, Result] = {}
    results: dict[str, list[Result]] = {}  # label -> a result for each seed
    lines: list[Line] = []
    base: list[Result] = []
    draws = Draws(num_replicates)
    for number, row in enumerate(rows):
        try:
            own = _results(row, trials, results, base)
        except (EnsweepError, OSError, ValueError) as error:
            if number == 0:
                raise NothingUsableError(
                    f"the base row {row.label!r} has no numbers: {error}",
                    fix="run the study again; every other row is compared with this one",
                ) from None
            lines.append(Line(row.label, row.recipe, problem=first_line(error)))
            continue
        base = base or own
        _require_pairs(row, own, base)
        results[row.label] = own
        runs = tuple(_run(result, set(base[0].tasks)) for result in own)
        differences = None if number == 0 else _differences(own, base, draws)
        lines.append(Line(row.label, row.recipe, runs, differences))
    drawn = curves_of if curves_of in results else rows[0].label
    return AblationTable(tuple(lines), (*base[0].tasks, OVERALL), _curves(results[drawn]), drawn)


def _results(
    row: Row, trials: dict[Path, Result], results: Mapping[str, list[Result]], base: list[Result]
) -> list[Result]:
    """A row's results; `trials` keeps those read, which rows may share."""
    if not row.members:
        for path in row.trials:
            if path not in trials:
                trials[path] = read_result(path)
        return [trials[path] for path in row.trials]
    labels = {label for chosen in row.members.values() for label in chosen}
    missing = sorted(labels - set(results))
    if missing:
        raise IntegrityError(f"no numbers of {', '.join(missing)}")
    return [
        averaged(
            row.label,
            first,
            {name: [results[label][n] for label in chosen] for name, chosen in row.members.items()},
        )
        for n, first in enumerate(base)
    ]


def _run(result: Result, base_tasks: set[str]) -> Run:
    """Overall only where the tasks are the base's: it is not to be compared otherwise."""
    scores = {name: result.score(name) for name in result.tasks}
    if set(result.tasks) == base_tasks:
        scores[OVERALL] = overall(scores, result.tasks)
    return Run(result.name, result.seed, result.epoch, scores)


def _require_pairs(row: Row, own: Sequence[Result], base: Sequence[Result]) -> None:
    """Differences are taken seed by seed and row by row: prove that these are the same."""
    seeds, expected = [result.seed for result in own], [result.seed for result in base]
    if seeds != expected:
        raise IntegrityError(
            f"row {row.label!r} has the seeds {seeds}, the base row {expected}",
            fix="run every row over the same seeds",
        )
    for result in own:
        for name in [name for name in base[0].tasks if name in result.tasks]:
            if result.scored_on(name) != base[0].scored_on(name):
                raise IntegrityError(
                    f"trial {result.name}: {name} is scored on other data than the base "
                    "row, or by another metric",
                    fix="run the whole study on one data folder and one declaration of its tasks",
                )


def _differences(
    own: Sequence[Result], base: Sequence[Result], draws: Draws
) -> dict[str, Difference]:
    names = [name for name in base[0].tasks if name in own[0].tasks]
    pairs = list(zip(own, base, strict=True))
    by_task = {
        name: np.stack([_drawn(draws, one, name) - _drawn(draws, two, name) for one, two in pairs])
        for name in names
    }  # [seeds, 1 + R], the first of the rows as they are
    if set(own[0].tasks) == set(base[0].tasks):
        halves = [
            values / 2 if own[0].tasks[name].kind.output is Output.SCORE else values
            for name, values in by_task.items()
        ]
        by_task[OVERALL] = np.mean(halves, axis=0)
    return {name: difference_of(values) for name, values in by_task.items()}


def _drawn(draws: Draws, result: Result, name: str) -> Floats:
    key = (result.name, name)
    return draws.scores(key, result.tasks[name], result.outputs[name], result.labels[name])


def _curves(row: Sequence[Result]) -> dict[str, Curve]:
    num_epochs = min(len(result.records) for result in row)

    def mean(key: str) -> tuple[float, ...]:
        """By epoch; NaN where a seed has no such value."""
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


def _or_null(value: str | tuple[float, ...]) -> str | list[float | None]:
    """JSON has no NaN."""
    if isinstance(value, str):
        return value
    return [None if math.isnan(number) else number for number in value]
