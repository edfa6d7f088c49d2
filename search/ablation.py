"""What each row of a study is worth beside the first: scores, differences, and how sure they are.

Two sources of doubt are told apart: the dev rows, by a paired bootstrap over them, and the seeds,
by the spread of the differences from seed to seed.

Legend: N dev rows, R replicates.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.bootstrap import NUM_REPLICATES, Difference, Draws, difference_of
from mlflow_setup.errors import EnsweepError, IntegrityError, NothingUsableError
from mlflow_setup.schema import OVERALL, EpochRecord, Outcome, metric_name
from trainable.config import from_flat
from trainable.metrics import overall, task_metric
from trainable.predictions import Predictions
from trainable.record import TrialFolder
from trainable.tasks import Kind, Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """A row of the study: its trial folders, one a seed, the seeds in the same order in all."""

    label: str
    recipe: str
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class Run:
    """One trial of a row, at its best overall epoch."""

    trial: str
    seed: int
    epoch: int
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
        """Of a task's metric or "overall" over the seeds; None where it has none."""
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
class Study:
    """All that the tables and pictures show."""

    lines: tuple[Line, ...]  # the base first
    names: tuple[str, ...]  # tasks, then "overall"
    curves: dict[str, Curve]  # task -> the base row's

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
        return {"lines": lines, "curves": curves}


def evaluate(arms: Sequence[Arm], num_replicates: int = NUM_REPLICATES) -> Study:
    """Compare every row with the first.

    Raises:
        NothingUsableError: the first row has no numbers.
        IntegrityError: predictions of other data or seeds than the first row's.
    """
    results: dict[Path, _Result] = {}
    lines: list[Line] = []
    base: list[_Result] = []
    draws = Draws(num_replicates)
    for number, arm in enumerate(arms):
        try:
            for path in arm.folders:
                if path not in results:  # rows may share trials
                    results[path] = _read(path)
        except (EnsweepError, OSError, ValueError) as error:
            if number == 0:
                raise NothingUsableError(
                    f"the base row {arm.label!r} has no numbers: {error}",
                    fix="run the study again; every other row is compared with this one",
                ) from None
            lines.append(Line(arm.label, arm.recipe, problem=str(error).splitlines()[0]))
            continue
        own = [results[path] for path in arm.folders]
        base = base or own
        _require_pairs(arm, own, base)
        runs = tuple(result.run(set(base[0].tasks)) for result in own)
        differences = None if number == 0 else _differences(own, base, draws)
        lines.append(Line(arm.label, arm.recipe, runs, differences))
    return Study(tuple(lines), (*base[0].tasks, OVERALL), _curves(base))


@dataclass(frozen=True, eq=False)
class _Result:
    """What a trial put out for dev at its best overall epoch, rows by id."""

    path: Path
    seed: int
    records: list[EpochRecord]
    epoch: int
    tasks: dict[str, Task]
    fingerprints: dict[str, str]
    ids: dict[str, tuple[str, ...]]  # sorted
    outputs: dict[str, Floats]
    labels: dict[str, Floats]

    def score(self, name: str) -> float:
        return task_metric(self.tasks[name], self.outputs[name], self.labels[name])[0]

    def scored_on(self, name: str) -> tuple[object, ...]:
        """What must be equal for scores to be compared."""
        return self.fingerprints[name], self.ids[name], self.tasks[name].metric

    def run(self, base_tasks: set[str]) -> Run:
        """Overall only where the tasks are the base's: it is not to be compared otherwise."""
        scores = {name: self.score(name) for name in self.tasks}
        if set(self.tasks) == base_tasks:
            scores[OVERALL] = overall(scores, self.tasks)
        return Run(self.path.name, self.seed, self.epoch, scores)


def _read(path: Path) -> _Result:
    trial = TrialFolder(path)
    outcome, records = trial.outcome(), trial.epochs()
    if outcome is None or outcome.outcome is not Outcome.FINISHED or not records:
        state = "has not ended" if outcome is None else f"{outcome.outcome}: {outcome.reason}"
        raise IntegrityError(f"trial {path.name} {state}")
    scored = [record for record in records if OVERALL in record.metrics]
    if not scored:
        raise IntegrityError(f"trial {path.name} has no overall dev score")
    best = max(scored, key=lambda record: (record.metrics[OVERALL], -record.epoch))
    record = trial.trial()
    trained = from_flat(record.config).task_records()
    result = _Result(path, record.seed, records, best.epoch, {}, {}, {}, {}, {})
    for name, task in trained.items():
        if not task.is_evaluated:
            continue
        file = trial.predictions_path(name, best.epoch)
        found = Predictions.read(file)
        data = found.data_fingerprint  # compared between rows, not here
        found.require(file, task_name=name, split="dev", data_fingerprint=data)
        if found.labels is None:
            raise IntegrityError(f"{file}: no labels")
        order = sorted(range(len(found.ids)), key=found.ids.__getitem__)
        result.tasks[name] = task
        result.fingerprints[name] = found.data_fingerprint
        result.ids[name] = tuple(found.ids[row] for row in order)
        result.outputs[name] = found.outputs[order].astype(np.float64)
        result.labels[name] = found.labels[order]
    return result


def _require_pairs(arm: Arm, own: Sequence[_Result], base: Sequence[_Result]) -> None:
    """Differences are taken seed by seed and row by row: prove that these are the same."""
    seeds, expected = [result.seed for result in own], [result.seed for result in base]
    if seeds != expected:
        raise IntegrityError(
            f"row {arm.label!r} has the seeds {seeds}, the base row {expected}",
            fix="run every row over the same seeds",
        )
    for result in own:
        for name in [name for name in base[0].tasks if name in result.tasks]:
            if result.scored_on(name) != base[0].scored_on(name):
                raise IntegrityError(
                    f"trial {result.path.name}: {name} is scored on other data than the base "
                    "row, or by another metric",
                    fix="run the whole study on one data folder and one declaration of its tasks",
                )


def _differences(
    own: Sequence[_Result], base: Sequence[_Result], draws: Draws
) -> dict[str, Difference]:
    names = [name for name in base[0].tasks if name in own[0].tasks]
    pairs = list(zip(own, base, strict=True))
    by_task = {
        name: np.stack([_drawn(draws, one, name) - _drawn(draws, two, name) for one, two in pairs])
        for name in names
    }  # [seeds, 1 + R], the first of the rows as they are
    if set(own[0].tasks) == set(base[0].tasks):
        halves = [
            values / 2 if own[0].tasks[name].kind is Kind.SIMILARITY else values
            for name, values in by_task.items()
        ]
        by_task[OVERALL] = np.mean(halves, axis=0)
    return {name: difference_of(values) for name, values in by_task.items()}


def _drawn(draws: Draws, result: _Result, name: str) -> Floats:
    key = (str(result.path), name)
    return draws.scores(key, result.tasks[name], result.outputs[name], result.labels[name])


def _curves(base: Sequence[_Result]) -> dict[str, Curve]:
    num_epochs = min(len(result.records) for result in base)

    def mean(key: str) -> tuple[float, ...]:
        """By epoch; NaN where a seed has no such value."""
        return tuple(
            float(np.mean([r.records[epoch].metrics.get(key, math.nan) for r in base]))
            for epoch in range(num_epochs)
        )

    return {
        name: Curve(
            str(task.metric),
            mean(metric_name("train", name, "loss")),
            mean(metric_name("dev", name, "loss")),
            mean(metric_name("dev", name, str(task.metric))),
        )
        for name, task in base[0].tasks.items()
    }


def scaled(values: Sequence[float], smaller_is_better: bool) -> list[float]:
    """Worst 0, best 1, as in the paper's figures 4 and 5; a constant is 1 throughout."""
    signed = np.array(values) * (-1 if smaller_is_better else 1)
    span = np.ptp(signed)
    return list(np.ones(len(signed)) if span == 0 else (signed - signed.min()) / span)


def _or_null(value: str | tuple[float, ...]) -> str | list[float | None]:
    """JSON has no NaN."""
    if isinstance(value, str):
        return value
    return [None if math.isnan(number) else number for number in value]
