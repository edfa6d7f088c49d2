"""The rows of a study and what their trials put out for dev, each at the best overall epoch of its
last stage."""

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
    """A row of a study: its trials, one a seed, the same seeds in all rows; or an ensemble."""

    label: str
    recipe: str  # "" for an ensemble
    trials: tuple[Path, ...] = ()  # their folders
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> labels of the rows above that are averaged, seed by seed, in place of trials."""
    bases: tuple[str, ...] = ()
    """Labels of rows above: it is compared with the best of them; none: with the first row."""
    table: str = ""
    """Of a study that includes others: the one that it is a row of."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a trial put out for dev at the best overall epoch of its last stage, or what members'
    average is."""

    name: str
    seed: int
    epoch: int | None  # None for an average
    records: list[EpochRecord]
    tasks: dict[str, Task]
    fingerprints: dict[str, str]
    ids: dict[str, tuple[str, ...]]  # sorted; the rows below are in their order
    outputs: dict[str, Floats]
    labels: dict[str, Floats]
    teachers: frozenset[str] = frozenset()  # whose answers it learned from

    def score(self, name: str) -> float:
        """A task's metric."""
        return task_metric(self.tasks[name], self.outputs[name], self.labels[name])[0]

    def scored_on(self, name: str) -> tuple[object, ...]:
        """What must be equal for scores to be compared."""
        return self.fingerprints[name], self.ids[name], self.tasks[name].metric


FINISHED = (Outcome.FINISHED,)
SCORED = (Outcome.FINISHED, Outcome.PRUNED)


def read_result(path: Path, ended: Sequence[Outcome] = FINISHED) -> Result:
    """The result of a trial that has ended in one of these ways, from its folder.

    Raises:
        IntegrityError: the trial has not ended so, or predictions are not as they were written.
    """
    trial = TrialFolder(path)
    outcome, records = trial.outcome(), trial.epochs()
    if outcome is None or outcome.outcome not in ended or not records:
        state = "has not ended" if outcome is None else f"{outcome.outcome}: {outcome.reason}"
        raise IntegrityError(f"trial {path.name} {state}")
    record = trial.trial()
    config = from_flat(record.config)
    last_stage = stage_at(config, len(records))  # what it adds is to be seen, not what was before
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
    """An ensemble of trials of `base`'s seed and data: each task's members, all with one weight.

    Raises:
        IntegrityError: a member was not trained on its task, or the base was not.
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
    """How many of a row's seeds are independent: those that share a teacher count as one."""
    groups: list[set[str]] = []
    for result in row:
        joined = {f"seed {result.seed}"}.union(result.teachers)
        for group in [group for group in groups if group & joined]:
            groups.remove(group)
            joined |= group
        groups.append(joined)
    return len(groups)


def _teachers_of(config: Config) -> frozenset[str]:
    """Names that two seeds of a row have in common exactly where they share a teacher."""
    distill = config.distill
    if not distill.enabled:
        return frozenset()
    if distill.teacher != "self":
        return frozenset({distill.teacher})
    seeds = [teacher_config(config, number).seed for number in range(distill.num_teachers)]
    return frozenset(f"self, seed {seed}" for seed in seeds)
