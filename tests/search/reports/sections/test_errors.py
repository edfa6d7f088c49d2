"""Confusion, calibration and losses: compared with scikit-learn, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss

from search.reports.sections.answers import Answers
from search.reports.sections.errors import calibration, confusion
from trainable.config.tasks import PAPER_TASKS, Kind, Task

MULTILABEL = Task(
    kind=Kind.MULTILABEL, files={"train": "a", "dev": "b"}, labels=("one", "two", "three")
)


def answers(task: Task, labels: list[float], outputs: list[object]) -> Answers:
    ids = tuple(str(number) for number in range(len(labels)))
    values = np.array(outputs, np.float64)
    return Answers("task", task, ids, np.array(labels, np.float64), values, (), "f")


def test_confusion_and_losses_equal_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    outputs = draw.dirichlet(np.ones(5), size=200)
    labels = draw.integers(0, 5, 200)
    found = answers(PAPER_TASKS["sentiment"], labels.tolist(), outputs.tolist())
    expected = confusion_matrix(labels, outputs.argmax(axis=1))
    np.testing.assert_array_equal(confusion(found), expected)
    assert found.losses.mean() == pytest.approx(log_loss(labels, outputs, labels=range(5)))


def test_calibration_by_hand() -> None:
    probabilities = [[0.95, 0.05], [0.85, 0.15], [0.45, 0.55], [0.41, 0.59]]
    logits = [np.log(p[1] / p[0]) for p in probabilities]
    found = answers(PAPER_TASKS["paraphrase"], [0, 1, 1, 0], logits)
    np.testing.assert_allclose(found.probabilities, probabilities)
    means, right, counts, error = calibration(found)
    np.testing.assert_allclose(means, [0.57, 0.85, 0.95])
    np.testing.assert_allclose(right, [0.5, 0, 1])
    np.testing.assert_allclose(counts, [2, 1, 1])
    assert error == pytest.approx((2 * 0.07 + 0.85 + 0.05) / 4)


def test_full_confidence_has_a_bin() -> None:
    found = answers(PAPER_TASKS["sentiment"], [2], [[0, 0, 1, 0, 0]])
    means, right, counts, error = calibration(found)
    assert (means.tolist(), right.tolist(), counts.tolist(), error) == ([1], [1], [1], 0)
    assert found.losses[0] == 0


def test_losses_of_scores_and_of_sets_of_labels() -> None:
    scores = answers(PAPER_TASKS["similarity"], [1.0, 4.0], [3.5, 3.0])
    np.testing.assert_allclose(scores.losses, [2.5, 1.0])
    sets = answers(MULTILABEL, [0b101], [[2.0, -1.0, 0.0]])
    expected = [np.log1p(np.exp(-2)), np.log1p(np.exp(-1)), np.log(2)]
    np.testing.assert_allclose(sets.losses, [np.mean(expected)])
