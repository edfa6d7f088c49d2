"""What the shipped choice, or the best trial, answers on dev, and what its rows say.

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
"""Probability below which a loss is not told apart."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What is put out for the dev rows of a task, sorted by id."""

    task_name: str
    task: Task
    ids: tuple[str, ...]  # [N]
    labels: Floats  # [N]
    outputs: Floats  # probabilities [N, C], a logit [N] or a score [N]
    members: tuple[NDArray[Any], ...]  # [K] raw outputs of each, [N] or [N, C]
    fingerprint: str  # of the dev examples

    @property
    def probabilities(self) -> Floats:
        """[N, C] of each class; of a paraphrase two; of a set each label's own."""
        if self.task.kind.output is Output.CLASSES:
            return self.outputs
        positive = 1 / (1 + np.exp(-np.clip(self.outputs, -50, 50)))
        if self.task.kind.output is Output.LABELS:
            return np.asarray(positive)
        return np.stack([1 - positive, positive], axis=1)

    @property
    def losses(self) -> Floats:
        """[N] log-loss of each row, of a set the mean over its labels; of scores the error without
        its sign."""
        if self.task.kind.output is Output.SCORE:
            return np.abs(self.outputs - self.labels)
        if self.task.kind.output is Output.LABELS:
            truth = label_sets(self.labels, self.outputs.shape[1])
            right = np.where(truth, self.probabilities, 1 - self.probabilities)
            return np.asarray(-np.log(np.maximum(right, _LEAST)).mean(axis=1))
        chosen = self.probabilities[np.arange(len(self.ids)), self.labels.astype(int)]
        return np.asarray(-np.log(np.maximum(chosen, _LEAST)))


def answers_of(facts: Facts) -> tuple[str, dict[str, Answers], dict[str, str]]:
    """Whose answers they are, the answers by task, and by task why there are none."""
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
        return "what ships", by_task, problems
    best = facts.best
    if best is None:
        return "nobody", {}, {}
    return f"trial {best.name}, the best overall", *_of_trial(facts)


def _of_trial(facts: Facts) -> tuple[dict[str, Answers], dict[str, str]]:
    best = facts.best
    assert best is not None  # asked before
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
    """Predictions from the trial's folder where it lies here, else from MLflow."""
    one = member.candidate
    if one.is_added:
        raise IntegrityError(f"{one.label} is a file of predictions, which is not kept")
    is_ours = one.sweep == facts.folder.name  # whose storage folder may have been renamed since
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
    """Id -> the sentences of its row, and why there are none where there are none.

    Nothing is fetched: data elsewhere than in a folder are not read.
    """
    place = data_folder(facts)
    if place is None:
        return {}, "the data are not in a folder of this machine"
    try:
        examples, _ = read_split(answers.task_name, answers.task, "dev", place)
    except (EnsweepError, OSError) as error:
        return {}, f"the data cannot be read: {error}"
    if examples.fingerprint != answers.fingerprint:
        return {}, f"the data in {place} are not those of the sweep any more"
    rows = zip(*examples.sentences, strict=True)
    return dict(zip(examples.ids, rows, strict=True)), ""


def data_folder(facts: Facts) -> Path | None:
    """Where the sweep's data lie, if that is a folder of this machine."""
    place = next((past.record.config.get("data.dir") for past in facts.history), None)
    return Path(place) if isinstance(place, str) and place and Path(place).is_dir() else None
