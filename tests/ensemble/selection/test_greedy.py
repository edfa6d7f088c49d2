import json
import os
import subprocess
import sys

import numpy as np
import pytest
from greedy_pool import TASKS, every_metric, make_pool, naive
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.selection.combine import average, to_predictions
from ensemble.selection.greedy import best_single, greedy
from ensemble.selection.scorers import Objective
from trainable.config.tasks import Kind, Task
from trainable.evaluation.metrics import task_metric


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    metric=st.sampled_from(list(TASKS)),
    num_candidates=st.integers(1, 6),
    num_rows=st.integers(2, 40),
    num_rounds=st.integers(1, 12),
    decimals=st.integers(0, 3),
    objective=st.sampled_from(Objective),
    seed=st.integers(0, 2**32 - 1),
)
def test_greedy_equals_the_naive_loop(
    metric: str,
    num_candidates: int,
    num_rows: int,
    num_rounds: int,
    decimals: int,
    objective: Objective,
    seed: int,
) -> None:
    task = TASKS[metric]
    predictions, labels = make_pool(task, num_candidates, num_rows, seed, decimals)
    order = np.random.default_rng(seed).permutation(num_candidates).tolist()
    found = greedy(task, predictions, labels, order, num_rounds, objective=objective)
    weights, trajectory = naive(task, predictions, labels, order, num_rounds, objective)
    np.testing.assert_allclose(found.trajectory, trajectory, atol=1e-7)
    assert found.weights == pytest.approx(weights)


@every_metric
@pytest.mark.parametrize("seed", range(3))
def test_properties_of_a_selection(task: Task, seed: int) -> None:
    predictions, labels = make_pool(task, 8, 60, seed)
    order = list(range(8))
    single = best_single(task, predictions, labels, order)
    chosen = greedy(task, predictions, labels, order, 20)
    assert sorted(single.weights) == [0.0] * 7 + [1.0]
    assert single.score == pytest.approx(max(task_metric(task, v, labels)[0] for v in predictions))
    assert chosen.trajectory[0] == single.score
    assert chosen.score >= single.score
    assert chosen.score == pytest.approx(max(chosen.trajectory))
    assert sum(chosen.weights) == pytest.approx(1)
    assert min(chosen.weights) >= 0
    for found in (single, chosen):
        combined = average(task, predictions, found.weights)
        assert found.score == pytest.approx(task_metric(task, combined, labels)[0], abs=1e-9)
    shorter = [greedy(task, predictions, labels, order, rounds).score for rounds in range(1, 21)]
    assert shorter == sorted(shorter)


@every_metric
def test_the_order_of_candidates_and_of_rows_does_not_matter(task: Task) -> None:
    predictions, labels = make_pool(task, 8, 60, 4, decimals=1)
    order = [(0, f"c{m}") for m in range(8)]
    expected = greedy(task, predictions, labels, order).weights
    assert sum(weight > 0 for weight in expected) > 1
    for seed in range(5):
        rng = np.random.default_rng(seed)
        columns, rows = rng.permutation(8), rng.permutation(60)
        shuffled = predictions[columns][:, rows]
        found = greedy(task, shuffled, labels[rows], [order[m] for m in columns])
        assert found.weights == tuple(expected[m] for m in columns)


@every_metric
@pytest.mark.parametrize("copy_is_first", [False, True])
def test_a_candidate_given_twice_changes_nothing(task: Task, copy_is_first: bool) -> None:
    predictions, labels = make_pool(task, 6, 60, 5)
    expected = greedy(task, predictions, labels, list(range(6)))
    for m in range(6):
        order = [*range(6), -1 if copy_is_first else 6]
        found = greedy(task, np.concatenate([predictions, predictions[m : m + 1]]), labels, order)
        assert found.trajectory == pytest.approx(expected.trajectory)
        merged = list(found.weights[:6])
        merged[m] += found.weights[6]
        assert merged == pytest.approx(list(expected.weights))
        assert min(found.weights[m], found.weights[6]) == 0  # only one of the two is selected


def _constants(task: Task, num_rows: int) -> np.ndarray:
    """Candidates with one output for all rows, the last one up to rounding in float32."""
    rng = np.random.default_rng(0)
    if task.kind is Kind.CLASSIFICATION:
        exact = np.tile(to_predictions(task, np.array([[5.0, 0.0, -5.0]])), (num_rows, 1))
        return np.stack([exact, np.full((num_rows, 3), 1 / 3)])
    exact = np.full(num_rows, 2.3)
    return np.stack([exact, np.zeros(num_rows), 4.0 + 1e-7 * rng.standard_normal(num_rows)])


@every_metric
def test_a_constant_candidate_is_never_picked(task: Task) -> None:
    predictions, labels = make_pool(task, 5, 60, 6)
    constants = _constants(task, 60)
    order = list(range(5 + len(constants)))[::-1]  # constants would win ties
    found = greedy(task, np.concatenate([predictions, constants]), labels, order)
    assert np.isfinite(found.trajectory).all()
    assert found.weights[5:] == (0.0,) * len(constants)
    alone = greedy(task, predictions, labels, order[:5])
    assert found.weights[:5] == alone.weights


@every_metric
def test_a_pool_of_constants(task: Task) -> None:
    _, labels = make_pool(task, 1, 60, 6)
    constants = _constants(task, 60)
    found = greedy(task, constants, labels, list(range(len(constants))))
    assert np.isfinite(found.trajectory).all()
    assert sum(found.weights) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-7, 1e6])
@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_the_scale_of_scores_does_not_matter(metric: str, scale: float) -> None:
    task = TASKS[metric]
    predictions, labels = make_pool(task, 6, 60, 7)
    order = list(range(6))
    expected = greedy(task, predictions, labels, order)
    found = greedy(task, scale * predictions + 3 * scale, labels, order)
    assert found.weights == expected.weights
    assert found.trajectory == pytest.approx(expected.trajectory)
    predictions[2] *= scale  # the correlation does not depend on a member's scale
    assert best_single(task, predictions, labels, order).weights == expected_single(
        task, predictions, labels
    )


def expected_single(task: Task, predictions: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    scores = [task_metric(task, prediction, labels)[0] for prediction in predictions]
    return tuple(float(m == int(np.argmax(scores))) for m in range(len(predictions)))


def test_constant_labels_give_a_score_of_0() -> None:
    predictions, _ = make_pool(TASKS["pearson"], 4, 30, 8)
    found = greedy(TASKS["pearson"], predictions, np.full(30, 2.5), list(range(4)))
    assert found.trajectory == (0.0,) * 50


def test_a_member_of_another_scale_does_not_reduce_the_precision_of_squared_errors() -> None:
    """Its error is 1e12 times those of the others."""
    task = TASKS["pearson"]
    predictions, labels = make_pool(task, 6, 60, 7)
    expected = greedy(task, predictions, labels, list(range(6)), objective=Objective.LOSS)
    with_other = np.concatenate([predictions, 1e6 * predictions[:1]])
    found = greedy(task, with_other, labels, list(range(7)), objective=Objective.LOSS)
    assert found.weights == (*expected.weights, 0.0)
    assert found.trajectory == pytest.approx(expected.trajectory)


THREADS = """
import json, sys
import numpy as np
from ensemble.selection.greedy import greedy
from trainable.config.tasks import PAPER_TASKS
assert not {"scipy", "sklearn", "torch", "pandas"} & set(sys.modules)
rng = np.random.default_rng(0)
labels = rng.integers(0, 2, 400)
picks = {}
for name, truth in (
    ("sentiment", np.eye(5)[labels]), ("paraphrase", 2 * labels - 1), ("similarity", labels)
):
    predictions = truth + 2 * rng.standard_normal((30, *truth.shape))
    picks[name] = greedy(PAPER_TASKS[name], predictions, labels.astype(float), range(30)).weights
print(json.dumps(picks))
"""


def test_greedy_needs_only_numpy_and_the_number_of_threads_does_not_matter() -> None:
    found = []
    for threads in ("1", "4"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        command = [sys.executable, "-c", THREADS]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert all(sum(weight > 0 for weight in weights) > 1 for weights in found[0].values())
