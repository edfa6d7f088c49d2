"""Greedy selection: ties, caps, sorted starts, and pools larger than a tile."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from greedy_pool import TASKS, every_metric, make_pool, naive

from ensemble.selection.combine import average, to_predictions
from ensemble.selection.greedy import Selection, best_single, greedy
from ensemble.selection.scorers import Objective
from trainable.config.tasks import PAPER_TASKS, Kind, Task
from trainable.evaluation.metrics import task_metric

POOL = Path(__file__).resolve().parents[4] / "shared/data/pool/pool.npz"


SURE, UNSURE = np.array([4.0, -4.0, 4.0, -4.0]), np.array([1.0, -1.0, 1.0, -1.0])


@pytest.mark.parametrize(
    ("predictions", "order", "expected"),
    [
        pytest.param([UNSURE, SURE], [(0, "a"), (0, "b")], 1, id="lower loss"),
        pytest.param([SURE, SURE], [(9, "a"), (5, "b")], 1, id="fewer parameters"),
        pytest.param([SURE, SURE], [(5, "b"), (5, "a")], 1, id="name"),
        pytest.param([-SURE, UNSURE], [(0, "a"), (9, "b")], 1, id="metric before loss"),
    ],
)
def test_order_of_preference_in_ties(
    predictions: list[np.ndarray], order: list[Any], expected: int
) -> None:
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    found = best_single(TASKS["binary accuracy"], np.stack(predictions), labels, order)
    assert found.weights[expected] == 1


def test_a_selected_member_wins_a_tie_against_a_lower_loss() -> None:
    """`a` is the best; adding `a` or `b` does not change the score, and `b` has the lower loss."""
    labels = np.array([1.0, 1.0, 0.0, 0.0])
    a = np.array([3.0, 3.0, -3.0, 0.5])  # 3 of 4
    b = np.array([2.9, 4.0, 0.1, 0.3])  # 2 of 4
    task = TASKS["binary accuracy"]
    found = greedy(task, np.stack([a, b]), labels, [0, 1], num_rounds=2)
    assert found.trajectory == (0.75, 0.75)
    assert found.weights == (1.0, 0.0)


def test_the_shortest_of_the_best_prefixes_is_returned() -> None:
    """The second round reaches the best score, and later ones only keep it."""
    labels = np.array([1.0, 1.0, 1.0, 0.0])
    a, b = np.array([2.0, 2.0, -1.0, -2.0]), np.array([1.0, -1.0, 2.0, -1.0])
    found = greedy(TASKS["binary accuracy"], np.stack([a, b]), labels, [0, 1], num_rounds=6)
    assert found.trajectory[:2] == (0.75, 1.0)
    assert found == Selection((0.5, 0.5), found.trajectory, 1.0)


@every_metric
@pytest.mark.parametrize(("num_candidates", "num_rows", "rounds"), [(12, 1000, 6), (300, 40, 3)])
def test_pools_larger_than_a_tile(
    task: Task, num_candidates: int, num_rows: int, rounds: int
) -> None:
    """The last tiles of rows, of candidates and of factors are smaller."""
    predictions, labels = make_pool(task, num_candidates, num_rows, 9)
    order = list(range(num_candidates))
    for objective in Objective:
        found = greedy(task, predictions, labels, order, rounds, objective=objective)
        weights, trajectory = naive(task, predictions, labels, order, rounds, objective)
        np.testing.assert_allclose(found.trajectory, trajectory, atol=1e-9)
        assert found.weights == pytest.approx(weights)


def test_logits_too_large_for_32_bits() -> None:
    task = TASKS["binary accuracy"]
    predictions, labels = make_pool(task, 4, 300, 10)
    predictions[2] *= 5000
    found = greedy(task, predictions, labels, [0, 1, 2, 3], 8)
    weights, trajectory = naive(task, predictions, labels, [0, 1, 2, 3], 8)
    assert np.abs(predictions).max() > 2**11
    np.testing.assert_allclose(found.trajectory, trajectory)
    assert found.weights == pytest.approx(weights)


@every_metric
def test_a_sorted_start(task: Task) -> None:
    """The best candidates are added first, the others greedily."""
    predictions, labels = make_pool(task, 8, 60, 11)
    best = np.argsort(
        [-task_metric(task, prediction, labels)[0] for prediction in predictions], kind="stable"
    )[:4]
    found = greedy(task, predictions, labels, list(range(8)), 4, num_sorted=4)
    averages = [predictions[best[:count]].mean(axis=0) for count in range(1, 5)]
    expected = [task_metric(task, mean, labels)[0] for mean in averages]
    np.testing.assert_allclose(found.trajectory, expected, atol=1e-9)
    longer = greedy(task, predictions, labels, list(range(8)), 20, num_sorted=4)
    assert longer.trajectory[:4] == found.trajectory
    assert longer.score >= found.score


@every_metric
@pytest.mark.parametrize("objective", Objective)
def test_a_cap_on_distinct_members(task: Task, objective: Objective) -> None:
    predictions, labels = make_pool(task, 8, 60, 17)
    order = list(range(8))
    free = greedy(task, predictions, labels, order, 20, objective=objective)
    assert sum(weight > 0 for weight in free.weights) > 2
    for cap in (1, 2):
        found = greedy(task, predictions, labels, order, 20, objective=objective, max_members=cap)
        assert sum(weight > 0 for weight in found.weights) <= cap
        assert found.trajectory[:cap] == free.trajectory[:cap]
    assert found.score <= free.score


@pytest.mark.skipif(not POOL.is_file(), reason="the shared prediction pool is not here")
@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_public_models(name: str) -> None:
    """Hard labels and scores of all scales, near-constant members and near-duplicates."""
    with np.load(POOL) as content:
        raw, labels = content[f"{name}_predictions"], content[f"{name}_labels"].astype(float)
    task = PAPER_TASKS[name]
    raw, labels = raw[:, :1000], labels[:1000]
    if task.kind is Kind.CLASSIFICATION:
        predictions = np.stack([to_predictions(task, 9 * np.eye(5)[row]) for row in raw])
    else:
        predictions = np.stack(
            [to_predictions(task, 2 * row - 1.0 if name == "paraphrase" else row) for row in raw]
        )
    order = list(range(len(predictions)))
    single = best_single(task, predictions, labels, order)
    chosen = greedy(task, predictions, labels, order)
    combined = average(task, predictions, chosen.weights)
    assert chosen.score == pytest.approx(task_metric(task, combined, labels)[0], abs=1e-9)
    assert chosen.score >= single.score > 0
    columns = np.random.default_rng(0).permutation(len(predictions))
    again = greedy(task, predictions[columns], labels, columns.tolist())
    assert again.weights == tuple(chosen.weights[m] for m in columns)
