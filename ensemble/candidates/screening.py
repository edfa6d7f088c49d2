"""Candidates that would mislead the choice: near-duplicates, near-constant ones, and those that
seem to have seen dev. Each that is left out is named with its reason.

What looks at labels is asked of each half by its own rows, and of all of dev for the final choice,
so that held-out rows take no part here either. The first two look at outputs alone.

Legend: M candidates, N rows, C classes, H halves.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from ensemble.candidates.pool import Candidate, Pool, Rejected, TaskPool, labels_of
from ensemble.selection.combine import Averaged, Transform, to_predictions
from ensemble.statistics.arrays import Floats, Mask
from ensemble.statistics.dev_splits import folds
from trainable.config.tasks import Kind, Output, Task
from trainable.evaluation.metrics import predicted_labels

DUPLICATE = 0.9999
"""Pearson's r of two candidates' predictions from which on they are one."""
_SAMPLE = 2000
"""Rows, evenly spaced, on which candidates are compared to find duplicates."""
CONSTANT = 1e-3
"""Of the median candidate's range of predictions, at least."""
_ENDS = 0.5
"""Per cent of the rows at either end that a range leaves out."""
MIN_OTHERS = 3
"""Other runs that it takes to tell what is hard."""
MIN_ROWS = 20
"""Rows that the others get wrong, likewise."""
SEEN = 0.05
"""A candidate with fewer than this share of the others' errors, on rows that are hard for them,
has been trained on the rows."""
HARDEST = 0.1
"""Of the rows, by how far the others' scores are off."""
SKILL = 0.75
"""Of a constant answer's errors, at most: others that make more do not know what is hard."""


def screened(pool: Pool) -> Pool:
    """The pool without such candidates; they are in `rejected`.

    A candidate is left out for a task where it is all but constant or has seen the rows, and
    altogether where another one is the same in every task that it is left in.
    """
    tasks, rejected = {}, list(pool.rejected)
    same: dict[str, Mask] = {}
    for name, task in pool.tasks.items():
        predictions = np.stack([to_predictions(task.task, outputs) for outputs in task.outputs])
        choosable, reasons = _screen_task(task, predictions)
        tasks[name] = dataclasses.replace(task, choosable=choosable)
        rejected += [_rejected(task.candidates[m], f"{name}: {why}") for m, why in reasons.items()]
        same[name] = _is_same(predictions)
    twins = _leave_out_twins(tasks, same)
    labels = labels_of(pool)
    rejected += [_rejected(one, f"a duplicate of {labels[twin]}") for one, twin in twins.items()]
    left = {
        candidate
        for task in tasks.values()
        for candidate, by in zip(task.candidates, task.choosable[0], strict=True)
        if by
    }
    return dataclasses.replace(
        pool,
        tasks=tasks,
        candidates=tuple(candidate for candidate in pool.candidates if candidate in left),
        rejected=tuple(sorted(rejected, key=lambda r: (r.trial, r.run_id, r.epoch or 0))),
    )


def _rejected(candidate: Candidate, reason: str) -> Rejected:
    epoch = candidate.epoch or None
    return Rejected(candidate.run_id, candidate.trial, reason, candidate.sweep, epoch)


def _screen_task(task: TaskPool, predictions: Floats) -> tuple[Mask, dict[int, str]]:
    """`choosable` without the constant and the told, and why all of dev does without each."""
    width = _range(predictions)
    choosable = task.choosable.copy()
    reasons: dict[int, str] = {}
    for fold, given, left in zip(folds(task.ids), task.choosable, choosable, strict=True):
        constant = given & (width < CONSTANT * np.median(width[given]))
        left_out = dict.fromkeys(
            map(int, np.flatnonzero(constant)), "the same for all but a few rows"
        )
        left_out |= _seen(task, predictions, given & ~constant, fold.fit)
        left[list(left_out)] = False
        reasons = reasons if fold.judge.any() else left_out
    return choosable, reasons


def _range(predictions: Floats) -> Floats:
    """[M] the range of each candidate's predictions, the widest of its classes, without the few
    at either end."""
    low, high = np.percentile(predictions, (_ENDS, 100 - _ENDS), axis=1)
    return np.asarray((high - low).reshape(len(predictions), -1).max(axis=1))


def _seen(task: TaskPool, predictions: Floats, given: Mask, rows: Mask) -> dict[int, str]:
    """Candidates that are right where all that have not seen the rows are wrong, and how often.

    Honest models err on the same rows: where the other runs together are wrong, the best of many
    public models for the paper's tasks are right at most every third time (sentiment) to, beside
    weak ones, 88 times in a hundred (paraphrases).
    """
    own: dict[str, list[int]] = {}
    for m in np.flatnonzero(given).tolist():
        own.setdefault(task.candidates[m].run_id, []).append(m)
    if len(own) <= MIN_OTHERS:
        return {}
    own = dict(sorted(own.items()))
    labels, predictions = task.labels[rows], predictions[:, rows]
    if task.task.kind.output is Output.SCORE:
        predictions = np.stack([_standardised(task.task, prediction) for prediction in predictions])
    means = {run: predictions[members].mean(axis=0) for run, members in own.items()}
    total = np.sum(list(means.values()), axis=0)
    hard_for = _hard_scores if task.task.kind.output is Output.SCORE else _hard_labels
    told: dict[int, str] = {}
    for run, members in own.items():
        others = (total - means[run]) / (len(own) - 1)
        judge = hard_for(task.task.kind, others, labels)
        whys = {} if judge is None else {m: judge(predictions[m]) for m in members}
        told |= {m: f"seems to have seen dev: {why}" for m, why in whys.items() if why is not None}
    return told


Judge = Callable[[Floats], str | None]
"""A candidate's predictions -> why it seems to have seen the rows."""


def _hard_labels(kind: Kind, others: Floats, labels: Floats) -> Judge | None:
    """Judges by the rows that the others get wrong; None: they cannot tell."""
    wrong = predicted_labels(kind, others) != labels
    guessed = 1 - np.unique(labels, return_counts=True)[1].max() / len(labels)
    if wrong.sum() < MIN_ROWS or wrong.mean() > SKILL * guessed:
        return None
    truth = labels[wrong]

    def judge(prediction: Floats) -> str | None:
        right = float((predicted_labels(kind, prediction[wrong]) == truth).mean())
        if right < 1 - SEEN:
            return None
        return (
            f"right on {right:.0%} of the {len(truth)} rows that the other runs together get wrong"
        )

    return judge


def _hard_scores(kind: Kind, others: Floats, labels: Floats) -> Judge | None:
    """Judges by the rows on which the others are off the most; None: they cannot tell."""
    error = _residuals(others, labels)
    count = int(HARDEST * len(labels))
    if count < MIN_ROWS or error @ error > SKILL * float(np.var(labels)) * len(labels):
        return None
    hardest = np.argsort(-np.abs(error), kind="stable")[:count]
    theirs = float(error[hardest] @ error[hardest])

    def judge(prediction: Floats) -> str | None:
        own = _residuals(prediction, labels)[hardest]
        share = float(own @ own) / theirs
        if not share <= SEEN:
            return None
        where = f"on the {count} rows hardest for them"
        return f"{share:.0%} of the squared error of the other runs {where}"

    return judge


def _residuals(scores: Floats, labels: Floats) -> Floats:
    """Residuals of the labels on a straight line through the scores."""
    x, y = scores - scores.mean(), labels - labels.mean()
    return np.asarray(y - x * (x @ y) / max(float(x @ x), 1e-300))


def _standardised(task: Task, prediction: Floats) -> Floats:
    """Values scaled to mean 0 and standard deviation 1."""
    to = np.array([-1.0, 1.0])
    return Transform.fit(task, Averaged.STANDARDISED, prediction, to).apply(task, prediction)


def _is_same(predictions: Floats) -> Mask:
    """[M, M] which candidates are so much alike that a second one adds nothing."""
    rows = np.unique(np.linspace(0, predictions.shape[1] - 1, _SAMPLE).astype(np.int64))
    x = predictions[:, rows] - predictions[:, rows].mean(axis=1, keepdims=True)
    x = x.reshape(len(x), -1)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    return np.asarray(x @ x.T > DUPLICATE)


def _leave_out_twins(
    tasks: Mapping[str, TaskPool], same: Mapping[str, Mask]
) -> dict[Candidate, Candidate]:
    """Take from `choosable` whom another can stand for.

    Returns:
        Those that all of dev does without, and who stands for each.
    """
    everyone = sorted({c for t in tasks.values() for c in t.candidates}, key=lambda c: c.order)
    place = {candidate: g for g, candidate in enumerate(everyone)}
    where = {name: np.array([place[c] for c in task.candidates]) for name, task in tasks.items()}
    stand_ins: dict[Candidate, Candidate] = {}
    is_whole = True  # the first fold is all of dev
    for choosable in zip(*(task.choosable for task in tasks.values()), strict=True):  # by each fold
        active_in = dict(zip(tasks, choosable, strict=True))
        is_there = np.zeros(len(everyone), np.bool_)
        covers = np.ones((len(everyone), len(everyone)), np.bool_)  # the second for the first
        for name, active in active_in.items():
            is_there[where[name][active]] = True
            stands = np.zeros_like(covers)
            stands[np.ix_(where[name], where[name])] = same[name] & active
            covers[where[name][active]] &= stands[where[name][active]]
        kept = np.zeros(len(everyone), np.bool_)
        for g in np.flatnonzero(is_there):
            twins = np.flatnonzero(covers[g] & kept)
            kept[g] = not len(twins)
            if kept[g]:
                continue
            for name, active in active_in.items():
                active[where[name] == g] = False
            if is_whole:
                stand_ins[everyone[g]] = everyone[twins[0]]
        is_whole = False
    return stand_ins
