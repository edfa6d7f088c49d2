"""Dev predictions of the shipped ensemble, or of the best trial, and the sentences of the rows.

Legend: N rows, C classes, K members.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.choice.result import Member
from ensemble.selection.combine import combine
from ensemble.statistics.arrays import Floats
from mlflow_setup.errors import EnsweepError, IntegrityError
from mlflow_setup.runs.query import download
from mlflow_setup.schema import OVERALL, PREDICTIONS_ARTIFACT, best_epoch, prediction_path
from search.reports.sections.facts import Facts
from trainable.config.parse import from_flat
from trainable.config.tasks import Output, Task
from trainable.data.labels import label_sets
from trainable.data.readers import read_split
from trainable.storage.address import trial_at
from trainable.storage.predictions import Predictions

_LEAST = 1e-12
"""Lower bound of probabilities in a log-loss."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The predictions for the dev rows of a task, sorted by id."""

    task_name: str
    task: Task
    ids: tuple[str, ...]  # [N]
    labels: Floats  # [N]
    outputs: Floats  # probabilities [N, C], logits [N] or scores [N]
    members: tuple[NDArray[Any], ...]  # K times the outputs of a member, [N] or [N, C]
    fingerprint: str  # of the dev examples

    @property
    def probabilities(self) -> Floats:
        """Probabilities [N, C] of the classes; two for yes or no; for label sets one a label."""
        if self.task.kind.output is Output.CLASSES:
            return self.outputs
        positive = 1 / (1 + np.exp(-np.clip(self.outputs, -50, 50)))
        if self.task.kind.output is Output.LABELS:
            return np.asarray(positive)
        return np.stack([1 - positive, positive], axis=1)

    @property
    def losses(self) -> Floats:
        """Loss [N] of each row: log-loss, for label sets its mean over the labels; for scores the
        absolute error."""
        if self.task.kind.output is Output.SCORE:
            return np.abs(self.outputs - self.labels)
        if self.task.kind.output is Output.LABELS:
            truth = label_sets(self.labels, self.outputs.shape[1])
            right = np.where(truth, self.probabilities, 1 - self.probabilities)
            return np.asarray(-np.log(np.maximum(right, _LEAST)).mean(axis=1))
        chosen = self.probabilities[np.arange(len(self.ids)), self.labels.astype(int)]
        return np.asarray(-np.log(np.maximum(chosen, _LEAST)))


def answers_of(facts: Facts) -> tuple[str, dict[str, Answers], dict[str, str]]:
    """Return whose predictions they are, the predictions by task, and problems by task."""
    if facts.choice is not None:
        chosen = facts.choice.record.choice.tasks
        by_task, problems = {}, {}
        for name, of_task in chosen.items():
            task, selective = facts.choice.record.tasks[name], of_task.selective
            try:
                by_task[name] = _of_members(
                    facts, name, task, selective.members, selective.intercept
                )
            except EnsweepError as error:
                problems[name] = error.problem
        return "the shipped ensemble", by_task, problems
    best = facts.best
    if best is None:
        return "no trial", {}, {}
    return f"trial {best.name}, the best overall", *_of_trial(facts)


def _of_trial(facts: Facts) -> tuple[dict[str, Answers], dict[str, str]]:
    best = facts.best
    assert best is not None  # the caller has checked it
    epoch = best_epoch(record for record in best.epochs if OVERALL in record.metrics).epoch
    folder = facts.folder.trial(best.name)
    by_task, problems = {}, {}
    for name, task in from_flat(best.record.config).task_records().items():
        if task.is_evaluated:
            try:
                read = Predictions.read(folder.predictions_path(epoch), name)
                by_task[name] = _answers(name, task, [read], [1.0], None, None)
            except EnsweepError as error:
                problems[name] = error.problem
    return by_task, problems


def _of_members(
    facts: Facts,
    name: str,
    task: Task,
    members: tuple[Member, ...],
    intercept: tuple[float, ...] | None,
) -> Answers:
    read = [_predictions(facts, name, member) for member in members]
    transforms = [member.transform for member in members]
    return _answers(name, task, read, [m.weight for m in members], transforms, intercept)


def _predictions(facts: Facts, task: str, member: Member) -> Predictions:
    """Read a member's predictions from the trial's folder if it is here, else from MLflow."""
    one = member.candidate
    if one.is_added:
        raise IntegrityError(f"{one.label} is a file of predictions, which is not stored")
    is_ours = one.sweep == facts.folder.name  # the URI may be of a storage folder renamed since
    folder = facts.folder.trial(one.trial) if is_ours else trial_at(one.weights_uri)
    path = folder.predictions_path(one.epoch)
    if not path.is_file():
        artifact = f"{PREDICTIONS_ARTIFACT}/{prediction_path(one.epoch)}"
        path = download(facts.tracking, one.run_id, artifact, facts.cache)
    return Predictions.read(path, task)


def _answers(
    name: str, task: Task, read: list[Predictions], weights: list[float], transforms: Any,
    intercept: Any,
) -> Answers:  # fmt: skip
    first = read[0]
    order = sorted(range(len(first.ids)), key=first.ids.__getitem__)
    ids = tuple(first.ids[row] for row in order)
    if first.labels is None:
        raise IntegrityError(f"{name}: predictions without labels")
    outputs = []
    for one in read:
        place = {id_: row for row, id_ in enumerate(one.ids)}
        if set(place) != set(ids):
            raise IntegrityError(f"{name}: members predict other rows")
        outputs.append(one.outputs[[place[id_] for id_ in ids]])
    total = combine(task, outputs, weights, transforms, intercept)
    labels = first.labels[order]
    return Answers(name, task, ids, labels, total, tuple(outputs), first.data_fingerprint)


def sentences_of(facts: Facts, answers: Answers) -> tuple[dict[str, tuple[str, ...]], str]:
    """Return id -> the sentences of its row, and the reason if there are none.

    Nothing is downloaded: only data in a local folder are read.
    """
    folder = data_folder(facts)
    if folder is None:
        return {}, "the data are not in a folder on this machine"
    try:
        examples, _ = read_split(answers.task_name, answers.task, "dev", folder)
    except (EnsweepError, OSError) as error:
        return {}, f"the data cannot be read: {error}"
    if examples.fingerprint != answers.fingerprint:
        return {}, f"the data in {folder} have changed since the sweep"
    rows = zip(*examples.sentences, strict=True)
    return dict(zip(examples.ids, rows, strict=True)), ""


def data_folder(facts: Facts) -> Path | None:
    """Return the sweep's data folder, if it exists on this machine."""
    path = next((past.record.config.get("data.dir") for past in facts.history), None)
    return Path(path) if isinstance(path, str) and path and Path(path).is_dir() else None
