"""Removes candidates that would mislead the choice: near-duplicates, near-constant ones, and those
that seem to have been trained on dev (a leak). Removed candidates are reported with the reason.

Checks that use labels are made on each half's own rows, and on all of dev for the final choice, so
that held-out rows are not used here either. The first two checks use outputs only.

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
"""Minimum Pearson's r of two candidates' predictions at which they are duplicates."""
_NUM_COMPARED = 2000
"""Number of evenly spaced rows on which candidates are compared to find duplicates."""
CONSTANT = 1e-3
"""Minimum range of a candidate's predictions, relative to the median candidate's."""
_TAIL_PERCENT = 0.5
"""Per cent of the rows at either end that are excluded from a range."""
MIN_OTHERS = 3
"""Minimum number of other runs needed to find the hard rows."""
MIN_ROWS = 20
"""Minimum number of hard rows."""
MAX_LEAKED_ERROR = 0.05
"""A candidate with at most this share of the other runs' errors on the hard rows has a leak."""
HARDEST = 0.1
"""Share of the rows that are hard: those with the largest residuals of the other runs' scores."""
MAX_ERROR_OF_OTHERS = 0.75
"""Maximum error of the other runs relative to a constant prediction's: if theirs is larger, their
errors do not show which rows are hard."""


def screened(pool: Pool) -> Pool:
    """Return the pool without misleading candidates; they are in `rejected`.

    A candidate is removed from a task where it is nearly constant or has a leak, and from the pool
    where another candidate is its duplicate in all of its remaining tasks.
    """
    tasks, rejected = {}, list(pool.rejected)
    is_same: dict[str, Mask] = {}
    for name, task in pool.tasks.items():
        predictions = np.stack([to_predictions(task.task, outputs) for outputs in task.outputs])
        choosable, reasons = _screen_task(task, predictions)
        tasks[name] = dataclasses.replace(task, choosable=choosable)
        rejected += [_rejected(task.candidates[m], f"{name}: {why}") for m, why in reasons.items()]
        is_same[name] = _is_same(predictions)
    duplicates = _remove_duplicates(tasks, is_same)
    labels = labels_of(pool)
    rejected += [_rejected(c, f"a duplicate of {labels[kept]}") for c, kept in duplicates.items()]
    remaining = {
        candidate
        for task in tasks.values()
        for candidate, is_choosable in zip(task.candidates, task.choosable[0], strict=True)
        if is_choosable
    }
    return dataclasses.replace(
        pool,
        tasks=tasks,
        candidates=tuple(candidate for candidate in pool.candidates if candidate in remaining),
        rejected=tuple(sorted(rejected, key=lambda r: (r.trial, r.run_id, r.epoch or 0))),
    )


def _rejected(candidate: Candidate, reason: str) -> Rejected:
    epoch = candidate.epoch or None
    return Rejected(candidate.run_id, candidate.trial, reason, candidate.sweep, epoch)


def _screen_task(task: TaskPool, predictions: Floats) -> tuple[Mask, dict[int, str]]:
    """Return `choosable` without near-constant candidates and those with a leak, and the reasons
    for those removed from the fold that is all of dev."""
    range_ = _range(predictions)
    choosable = task.choosable.copy()
    reasons: dict[int, str] = {}
    for fold, before, after in zip(folds(task.ids), task.choosable, choosable, strict=True):
        constant = before & (range_ < CONSTANT * np.median(range_[before]))
        removed = dict.fromkeys(
            map(int, np.flatnonzero(constant)), "the same for all but a few rows"
        )
        removed |= _leaks(task, predictions, before & ~constant, fold.fit)
        after[list(removed)] = False
        if not fold.judge.any():
            reasons = removed
    return choosable, reasons


def _range(predictions: Floats) -> Floats:
    """Return [M] the range of each candidate's predictions without the tails; for classes, the
    widest range of a class."""
    low, high = np.percentile(predictions, (_TAIL_PERCENT, 100 - _TAIL_PERCENT), axis=1)
    return np.asarray((high - low).reshape(len(predictions), -1).max(axis=1))


def _leaks(task: TaskPool, predictions: Floats, choosable: Mask, rows: Mask) -> dict[int, str]:
    """Return the candidates that seem to have been trained on the rows, and the evidence.

    Models that were not make errors on the same rows: where the other runs' average is wrong, the
    best of many public models for the paper's tasks are right in at most a third of the cases
    (sentiment) and, among weak models, in at most 88 % (paraphrase).
    """
    own: dict[str, list[int]] = {}  # run id -> its candidates
    for m in np.flatnonzero(choosable).tolist():
        own.setdefault(task.candidates[m].run_id, []).append(m)
    if len(own) <= MIN_OTHERS:
        return {}
    own = dict(sorted(own.items()))
    labels, predictions = task.labels[rows], predictions[:, rows]
    if task.task.kind.output is Output.SCORE:
        predictions = np.stack([_standardised(task.task, prediction) for prediction in predictions])
    means = {run: predictions[members].mean(axis=0) for run, members in own.items()}
    total = np.sum(list(means.values()), axis=0)
    leak_test = _score_leak_test if task.task.kind.output is Output.SCORE else _label_leak_test
    leaks: dict[int, str] = {}
    for run, members in own.items():
        others = (total - means[run]) / (len(own) - 1)
        evidence_of = leak_test(task.task.kind, others, labels)
        if evidence_of is None:
            continue
        for m in members:
            evidence = evidence_of(predictions[m])
            if evidence is not None:
                leaks[m] = f"seems to have seen dev: {evidence}"
    return leaks


LeakTest = Callable[[Floats], str | None]
"""Returns the evidence that a candidate with these predictions was trained on the rows, or None."""


def _label_leak_test(kind: Kind, others: Floats, labels: Floats) -> LeakTest | None:
    """Return a test on the rows that the other runs get wrong; None: their errors are too few, or
    too many."""
    is_wrong = predicted_labels(kind, others) != labels
    constant_error = 1 - np.unique(labels, return_counts=True)[1].max() / len(labels)
    if is_wrong.sum() < MIN_ROWS or is_wrong.mean() > MAX_ERROR_OF_OTHERS * constant_error:
        return None
    truth = labels[is_wrong]

    def evidence_of(prediction: Floats) -> str | None:
        accuracy = float((predicted_labels(kind, prediction[is_wrong]) == truth).mean())
        if accuracy < 1 - MAX_LEAKED_ERROR:
            return None
        return (
            f"right on {accuracy:.0%} of the {len(truth)} rows that the average of the other runs "
            "gets wrong"
        )

    return evidence_of


def _score_leak_test(kind: Kind, others: Floats, labels: Floats) -> LeakTest | None:
    """Return a test on the rows with the largest residuals of the other runs; None: those rows are
    too few, or the residuals too large."""
    residuals = _residuals(others, labels)
    count = int(HARDEST * len(labels))
    limit = MAX_ERROR_OF_OTHERS * float(np.var(labels)) * len(labels)
    if count < MIN_ROWS or residuals @ residuals > limit:
        return None
    hardest = np.argsort(-np.abs(residuals), kind="stable")[:count]
    theirs = float(residuals[hardest] @ residuals[hardest])

    def evidence_of(prediction: Floats) -> str | None:
        own = _residuals(prediction, labels)[hardest]
        share = float(own @ own) / theirs
        if not share <= MAX_LEAKED_ERROR:
            return None
        return (
            f"its squared error is {share:.0%} of the other runs' on the {count} rows hardest for "
            "them"
        )

    return evidence_of


def _residuals(scores: Floats, labels: Floats) -> Floats:
    """Return [N] the residuals of a linear regression of the labels on the scores."""
    x, y = scores - scores.mean(), labels - labels.mean()
    return np.asarray(y - x * (x @ y) / max(float(x @ x), 1e-300))


def _standardised(task: Task, prediction: Floats) -> Floats:
    """Return the scores standardised to mean 0 and standard deviation 1."""
    labels = np.array([-1.0, 1.0])  # mean 0, standard deviation 1
    transform = Transform.fit(task, Averaged.STANDARDISED, prediction, labels)
    return transform.apply(task, prediction)


def _is_same(predictions: Floats) -> Mask:
    """Return [M, M] whether two candidates are duplicates for a task."""
    rows = np.unique(np.linspace(0, predictions.shape[1] - 1, _NUM_COMPARED).astype(np.int64))
    x = predictions[:, rows] - predictions[:, rows].mean(axis=1, keepdims=True)
    x = x.reshape(len(x), -1)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    return np.asarray(x @ x.T > DUPLICATE)


def _remove_duplicates(
    tasks: Mapping[str, TaskPool], is_same: Mapping[str, Mask]
) -> dict[Candidate, Candidate]:
    """Remove candidates from `choosable` that are duplicates of a kept one in all of their tasks.

    Returns:
        Each candidate that is removed from the fold that is all of dev, and the one kept instead.
    """
    everyone = sorted({c for t in tasks.values() for c in t.candidates}, key=lambda c: c.order)
    index = {candidate: g for g, candidate in enumerate(everyone)}
    index_of = {name: np.array([index[c] for c in task.candidates]) for name, task in tasks.items()}
    duplicates: dict[Candidate, Candidate] = {}
    folds_of_tasks = zip(*(task.choosable for task in tasks.values()), strict=True)
    for fold, of_fold in enumerate(folds_of_tasks):  # fold 0 is all of dev
        choosable = dict(zip(tasks, of_fold, strict=True))  # task -> [M], changed in place
        is_present = np.zeros(len(everyone), np.bool_)
        can_replace = np.ones((len(everyone), len(everyone)), np.bool_)  # column replaces row
        for name, mask in choosable.items():
            present = index_of[name][mask]
            is_present[present] = True
            in_task = np.zeros_like(can_replace)
            in_task[np.ix_(index_of[name], index_of[name])] = is_same[name] & mask
            can_replace[present] &= in_task[present]
        is_kept = np.zeros(len(everyone), np.bool_)
        for g in np.flatnonzero(is_present):
            replacements = np.flatnonzero(can_replace[g] & is_kept)
            is_kept[g] = not len(replacements)
            if is_kept[g]:
                continue
            for name, mask in choosable.items():
                mask[index_of[name] == g] = False
            if fold == 0:
                duplicates[everyone[g]] = everyone[replacements[0]]
    return duplicates
