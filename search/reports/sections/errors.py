"""Errors of the predictions: confusion, calibration, residuals, and the worst rows.

Legend: N rows, C classes.
"""

import numpy as np

from ensemble.presentation.plot import BLUE, GREY, RED, Matrix, Panel, Plot, Series
from ensemble.statistics.arrays import Floats
from search.reports.pages.content import Section, Table
from search.reports.sections.answers import Answers, answers_of, sentences_of
from search.reports.sections.facts import Facts
from trainable.config.tasks import Output
from trainable.data.labels import label_sets
from trainable.evaluation.metrics import predicted_labels

NUM_WORST = 50
NUM_BINS = 10
"""Bins of confidence, of equal width."""
MAX_CLASSES = 20
"""Largest number of classes for which a confusion matrix is drawn."""
_LONGEST = 300
"""Characters of a sentence that are shown."""


def error_section(facts: Facts) -> tuple[Section, dict[str, Answers]]:
    """Return the section, and the predictions that it shows."""
    title = "Errors"
    whose, answers, problems = answers_of(facts)
    problem_lines = [f"{name}: no predictions: {why}" for name, why in problems.items()]
    if not answers:
        why = "; ".join(problem_lines) or "no trial has completed an epoch yet"
        return Section("errors", title, absent=why), {}
    lines = [
        f"Predictions of {whose} for the dev rows, by which it was chosen: expect more errors on "
        "new data.",
        *problem_lines,
    ]
    panels = [panel for one in answers.values() for panel in _panels(one)]
    plots = [Plot("errors", panels, height=3.6)]
    tables = []
    for one in answers.values():
        table, why = _worst(facts, one)
        tables.append(table)
        if why:
            lines.append(f"{one.task_name}: rows are shown without sentences: {why}")
    return Section("errors", title, lines, plots, tables), answers


def _panels(answers: Answers) -> list[Panel]:
    if answers.task.kind.output is Output.SCORE:
        return [_predicted_panel(answers), _residual_panel(answers)]
    if answers.task.kind.output is Output.LABELS:
        return [_labels_panel(answers)]
    panels = [_calibration_panel(answers)]
    if answers.probabilities.shape[1] <= MAX_CLASSES:
        panels.insert(0, _confusion_panel(answers))
    return panels


def _labels_panel(answers: Answers) -> Panel:
    """Return, for each label of label sets, how often it is true, predicted, and both."""
    names = answers.task.label_names
    truth = label_sets(answers.labels, len(names))
    given = answers.outputs > 0
    counts = np.stack([truth.sum(0), given.sum(0), (truth & given).sum(0)], axis=1)
    shares = counts / max(1, len(answers.ids))
    texts = [[str(int(count)) for count in row] for row in counts]
    matrix = Matrix(shares.tolist(), names, ("true", "predicted", "both"), texts)
    return Panel([matrix], f"{answers.task_name}: rows with each label")


def confusion(answers: Answers) -> Floats:
    """Return the confusion matrix [C, C]: counts by label (first axis) and prediction."""
    count = answers.probabilities.shape[1]
    given = predicted_labels(answers.task.kind, answers.outputs).astype(int)
    table = np.zeros((count, count))
    np.add.at(table, (answers.labels.astype(int), given), 1)
    return table


def _confusion_panel(answers: Answers) -> Panel:
    table = confusion(answers)
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    names = answers.task.label_names
    texts = [[f"{int(count)}" for count in row] for row in table]
    matrix = Matrix(shares.tolist(), names, names, texts)
    return Panel([matrix], f"{answers.task_name}: confusion", "prediction", "label")


def calibration(answers: Answers) -> tuple[Floats, Floats, Floats, float]:
    """Return mean confidence, accuracy and number of rows of each non-empty bin, and the expected
    calibration error, in [0, 1]."""
    probabilities = answers.probabilities
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == answers.labels.astype(int)
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS).astype(float)
    non_empty = counts > 0
    means = np.bincount(bins, confidence, NUM_BINS)[non_empty] / counts[non_empty]
    accuracy = np.bincount(bins, is_right.astype(float), NUM_BINS)[non_empty] / counts[non_empty]
    error = float(np.sum(counts[non_empty] * np.abs(means - accuracy)) / counts.sum())
    return means, accuracy, counts[non_empty], error


def _calibration_panel(answers: Answers) -> Panel:
    means, accuracy, counts, error = calibration(answers)
    half = 1.96 * np.sqrt(np.maximum(accuracy * (1 - accuracy), 0.25 / counts) / counts)
    texts = [f"{int(count)} rows" for count in counts]
    marks = [
        Series([0, 1], [0, 1], style="dashed", colour=GREY),
        Series(
            *(means.tolist(), accuracy.tolist(), "", "both", BLUE),
            low=np.maximum(accuracy - half, 0).tolist(),
            high=np.minimum(accuracy + half, 1).tolist(),
            texts=texts,
        ),
    ]
    title = f"{answers.task_name}: calibration, error {error:.3f}"
    return Panel(marks, title, "confidence", "accuracy")


def _predicted_panel(answers: Answers) -> Panel:
    low, high = answers.task.min_score, answers.task.max_score
    marks = [
        Series([low, high], [low, high], style="dashed", colour=GREY),
        _points(answers, answers.outputs),
    ]
    return Panel(marks, f"{answers.task_name}: predictions over labels", "label", "prediction")


def _residual_panel(answers: Answers) -> Panel:
    """Return the residuals over labels, and their mean by bins of the label."""
    residuals = answers.outputs - answers.labels
    edges = np.linspace(answers.labels.min(), answers.labels.max() + 1e-9, 7)
    bins = np.clip(np.digitize(answers.labels, edges) - 1, 0, 5)
    non_empty = [b for b in range(6) if (bins == b).any()]
    mean_labels = [float(answers.labels[bins == b].mean()) for b in non_empty]
    means = [float(residuals[bins == b].mean()) for b in non_empty]
    marks = [
        _points(answers, residuals),
        Series(mean_labels, means, "", "both", RED, 2),
    ]
    title = f"{answers.task_name}: residuals and their mean"
    return Panel(marks, title, "label", "prediction - label", y_lines=((0.0, ""),))


def _points(answers: Answers, values: Floats) -> Series:
    """Return the values [N] over the labels, a point for each row."""
    return Series(answers.labels.tolist(), values.tolist(), style="points", texts=answers.ids)


def _worst(facts: Facts, answers: Answers) -> tuple[Table, str]:
    """Return the rows with the largest losses, and the reason if they have no sentences."""
    sentences, why = sentences_of(facts, answers)
    losses = answers.losses
    order = np.argsort(-losses, kind="stable")[:NUM_WORST]
    given = predicted_labels(answers.task.kind, answers.outputs)
    is_score = answers.task.kind.output is Output.SCORE
    task = answers.task
    rows = []
    for row in order:
        label, answer = answers.labels[row], given[row]
        shown = [str(task.show(label)), str(task.show(answer))]
        if is_score:
            shown = [f"{label:g}", f"{answer:.2f}"]
        text = [each[:_LONGEST] for each in sentences.get(answers.ids[row], ())]
        rows.append([answers.ids[row], *shown, f"{losses[row]:.3f}", " | ".join(text)])
    header = ["id", "label", "prediction", "error" if is_score else "log-loss", "text"]
    title = f"{answers.task_name}: the {len(rows)} worst of {len(answers.ids)} rows"
    numbers = frozenset((1, 2, 3) if is_score else (3,))
    return Table(header, rows, title, numbers, is_folded=True), why
