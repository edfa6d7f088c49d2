"""The rows of a study and the dev predictions of their trials, each at the best overall epoch of
its last training stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ensemble.selection.combine import combine
from ensemble.statistics.arrays import Floats
from mlflow_setup.errors import IntegrityError
from mlflow_setup.schema import OVERALL, EpochRecord, Outcome, best_epoch
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.tasks import Task
from trainable.distillation.soft_labels import teacher_config
from trainable.evaluation.metrics import task_metric
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder
from trainable.training.stages import stage_at


@dataclass(frozen=True)
class Row:
    """A row of a study: trials, one for each seed, with the same seeds in all rows; or an ensemble
    of other rows."""

    label: str
    recipe: str  # "" for an ensemble
    trials: tuple[Path, ...] = ()  # their folders
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of an ensemble: task -> labels of the rows above that are averaged, seed by seed."""
    bases: tuple[str, ...] = ()
    """Labels of rows above, with the best of which it is compared; empty: with the first row."""
    table: str = ""
    """Name of the included study that the row belongs to; "" if there is none."""


@dataclass(frozen=True, eq=False)
class Result:
    """Dev predictions of a trial at the best overall epoch of its last stage, or of an ensemble."""

    name: str
    seed: int
    epoch: int | None  # None for an ensemble
    records: list[EpochRecord]
    tasks: dict[str, Task]
    fingerprints: dict[str, str]
    ids: dict[str, tuple[str, ...]]  # sorted; outputs and labels are in the same order
    outputs: dict[str, Floats]
    labels: dict[str, Floats]
    teachers: frozenset[str] = frozenset()  # it was distilled from these

    def score(self, name: str) -> float:
        """The task's metric."""
        return task_metric(self.tasks[name], self.outputs[name], self.labels[name])[0]

    def scored_on(self, name: str) -> tuple[object, ...]:
        """Fingerprint, dev ids and metric of a task: scores are comparable if all are equal."""
        return self.fingerprints[name], self.ids[name], self.tasks[name].metric


FINISHED = (Outcome.FINISHED,)
SCORED = (Outcome.FINISHED, Outcome.PRUNED)


def read_result(path: Path, ended: Sequence[Outcome] = FINISHED) -> Result:
    """Read a trial's result from its folder.

    Args:
        ended: the outcomes with which a trial is accepted.

    Raises:
        IntegrityError: the trial has another outcome, or none, or its predictions are damaged.
    """
    trial = TrialFolder(path)
    outcome, records = trial.outcome(), trial.epochs()
    if outcome is None or outcome.outcome not in ended or not records:
        state = "has not ended" if outcome is None else f"{outcome.outcome}: {outcome.reason}"
        raise IntegrityError(f"trial {path.name} {state}")
    record = trial.trial()
    config = from_flat(record.config)
    last_stage = stage_at(config, len(records))  # a study measures the effect of the last stage
    own = records[last_stage.first_epoch - 1 :]
    scored = [epoch for epoch in own if OVERALL in epoch.metrics]
    if not scored:
        raise IntegrityError(f"trial {path.name} has no overall dev score")
    best = best_epoch(scored)
    teachers = _teachers_of(config)
    result = Result(path.name, record.seed, best.epoch, records, {}, {}, {}, {}, {}, teachers)
    file = trial.predictions_path(best.epoch)
    for name, task in config.task_records().items():
        if not task.is_evaluated:
            continue
        predictions = Predictions.read(file, name)
        data = predictions.data_fingerprint  # compared between rows, not here
        predictions.require(file, task_name=name, split="dev", data_fingerprint=data)
        if predictions.labels is None:
            raise IntegrityError(f"{file}: no labels")
        order = sorted(range(len(predictions.ids)), key=predictions.ids.__getitem__)
        result.tasks[name] = task
        result.fingerprints[name] = predictions.data_fingerprint
        result.ids[name] = tuple(predictions.ids[row] for row in order)
        result.outputs[name] = predictions.outputs[order].astype(np.float64)
        result.labels[name] = predictions.labels[order]
    return result


def averaged(label: str, base: Result, members: Mapping[str, Sequence[Result]]) -> Result:
    """Return the ensemble of `members` (task -> results) with equal weights.

    Seed, data and tasks are those of `base`.

    Raises:
        IntegrityError: a member or the base was not trained on the task.
    """
    for name, chosen in members.items():
        for result in (base, *chosen):
            if name not in result.tasks:
                raise IntegrityError(f"{result.name} has no task {name}")
    outputs = {
        name: combine(
            base.tasks[name], [own.outputs[name] for own in chosen], [1 / len(chosen)] * len(chosen)
        )
        for name, chosen in members.items()
    }
    tasks = {name: base.tasks[name] for name in members}
    name = f"{label}, seed {base.seed}"
    teachers = frozenset().union(*(own.teachers for each in members.values() for own in each))
    return replace(
        base,
        name=name,
        epoch=None,
        records=[],
        tasks=tasks,
        outputs=outputs,
        teachers=teachers,
    )


def num_independent(row: Sequence[Result]) -> int:
    """The number of independent seeds of a row: seeds that share a teacher count as one."""
    groups: list[set[str]] = []
    for result in row:
        joined = {f"seed {result.seed}"}.union(result.teachers)
        for group in [group for group in groups if group & joined]:
            groups.remove(group)
            joined |= group
        groups.append(joined)
    return len(groups)


def _teachers_of(config: Config) -> frozenset[str]:
    """Return names of a trial's teachers, equal for two seeds exactly if they share the teacher."""
    distill = config.distill
    if not distill.enabled:
        return frozenset()
    if distill.teacher != "self":
        return frozenset({distill.teacher})
    seeds = [teacher_config(config, number).seed for number in range(distill.num_teachers)]
    return frozenset(f"self, seed {seed}" for seed in seeds)
