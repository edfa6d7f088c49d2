import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.selection.combine import average, to_predictions
from ensemble.selection.greedy import Selection, best_single, greedy
from ensemble.selection.scorers import Objective
from trainable.config.tasks import PAPER_TASKS, Kind, Task
from trainable.evaluation.metrics import task_metric

TASKS = {
    "accuracy": PAPER_TASKS["sentiment"].model_copy(update={"num_classes": 3}),
    "macro_f1": PAPER_TASKS["sentiment"].model_copy(
        update={"num_classes": 3, "metric": "macro_f1"}
    ),
    "binary accuracy": PAPER_TASKS["paraphrase"],
    "binary macro_f1": PAPER_TASKS["paraphrase"].model_copy(update={"metric": "macro_f1"}),
    "pearson": PAPER_TASKS["similarity"],
    "spearman": PAPER_TASKS["similarity"].model_copy(update={"metric": "spearman"}),
}
POOL = Path(__file__).resolve().parents[4] / "shared/data/pool/pool.npz"

every_metric = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


def make_pool(
    task: Task, num_candidates: int, num_rows: int, seed: int, decimals: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [M, N(, C)] of candidates that are somewhat right, and labels [N]."""
    rng = np.random.default_rng(seed)
    if task.kind is Kind.SIMILARITY:
        labels = rng.uniform(0, 5, num_rows).round(1)
        signal = labels
    elif task.kind is Kind.PARAPHRASE:
        labels = rng.integers(0, 2, num_rows).astype(float)
        signal = 2 * labels - 1
    else:
        labels = rng.integers(0, task.num_classes, num_rows).astype(float)
        signal = 2 * np.eye(task.num_classes)[labels.astype(int)]
    noise = rng.uniform(0.5, 3, num_candidates).reshape(-1, *[1] * signal.ndim)
    outputs = signal + noise * rng.standard_normal((num_candidates, *signal.shape))
    outputs = outputs.round(decimals).astype(np.float32)
    return np.stack([to_predictions(task, o) for o in outputs]), labels


def naive(
    task: Task,
    predictions: np.ndarray,
    labels: np.ndarray,
    order: list[Any],
    num_rounds: int,
    objective: Objective = Objective.METRIC,
) -> tuple[list[float], list[float]]:
    """Weights and trajectory from the definition, one candidate after the other."""
    total, picks, trajectory = np.zeros_like(predictions[0]), [], []
    candidates = [m for m in range(len(predictions)) if np.ptp(predictions[m], axis=0).max() > 1e-6]
    for _ in range(num_rounds):
        entries = []
        for m in candidates or range(len(predictions)):
            mean = (total + predictions[m]) / (len(picks) + 1)
            score, _ = task_metric(task, total + predictions[m], labels)
            if task.metric == "pearson" and np.std(total + predictions[m]) < 1e-6 * np.std(
                predictions[m]
            ):
                score = 0.0  # they cancel: what is left is rounding
            if task.kind is Kind.SIMILARITY:
                loss = float(((mean - labels) ** 2).mean())
            elif task.kind is Kind.PARAPHRASE:
                loss = float(np.logaddexp(0, (1 - 2 * labels) * mean).mean())
            else:
                truth = mean[range(len(labels)), labels.astype(int)]
                loss = float(-np.log(truth.clip(2**-20)).mean())
            score = -loss if objective is Objective.LOSS else score
            entries.append((-round(score, 9), m not in picks, round(loss, 9), order[m], m, score))
        best = min(entries)
        picks.append(best[4])
        trajectory.append(best[5])
        total = total + predictions[best[4]]
    length = 1 + int(np.argmax(np.round(trajectory, 9)))
    return [picks[:length].count(m) / length for m in range(len(predictions))], trajectory


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
def test_equals_the_naive_loop(
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
def test_what_is_promised_of_a_selection(task: Task, seed: int) -> None:
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
        assert min(found.weights[m], found.weights[6]) == 0  # one of the two answers


def _constants(task: Task, num_rows: int) -> np.ndarray:
    """Candidates that put out one value for all rows, the last up to float32's rounding."""
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
    order = list(range(5 + len(constants)))[::-1]  # they would win a tie
    found = greedy(task, np.concatenate([predictions, constants]), labels, order)
    assert np.isfinite(found.trajectory).all()
    assert found.weights[5:] == (0.0,) * len(constants)
    alone = greedy(task, predictions, labels, order[:5])
    assert found.weights[:5] == alone.weights


@every_metric
def test_nothing_but_constants(task: Task) -> None:
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
    predictions[2] *= scale  # one member's own scale: its r is the same
    assert best_single(task, predictions, labels, order).weights == expected_single(
        task, predictions, labels
    )


def expected_single(task: Task, predictions: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    scores = [task_metric(task, prediction, labels)[0] for prediction in predictions]
    return tuple(float(m == int(np.argmax(scores))) for m in range(len(predictions)))


def test_labels_that_are_constant_give_no_nan() -> None:
    predictions, _ = make_pool(TASKS["pearson"], 4, 30, 8)
    found = greedy(TASKS["pearson"], predictions, np.full(30, 2.5), list(range(4)))
    assert found.trajectory == (0.0,) * 50


def test_a_member_of_another_scale_does_not_blur_squared_errors() -> None:
    """Its error is 1e12 times theirs; their differences still count."""
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


def test_the_number_of_threads_does_not_matter_and_numpy_is_enough() -> None:
    found = []
    for threads in ("1", "4"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        command = [sys.executable, "-c", THREADS]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert all(sum(weight > 0 for weight in weights) > 1 for weights in found[0].values())


SURE, UNSURE = np.array([4.0, -4.0, 4.0, -4.0]), np.array([1.0, -1.0, 1.0, -1.0])


@pytest.mark.parametrize(
    ("predictions", "order", "expected"),
    [
        pytest.param([UNSURE, SURE], [(0, "a"), (0, "b")], 1, id="the lower loss first"),
        pytest.param([SURE, SURE], [(9, "a"), (5, "b")], 1, id="then fewer parameters"),
        pytest.param([SURE, SURE], [(5, "b"), (5, "a")], 1, id="then the name"),
        pytest.param([-SURE, UNSURE], [(0, "a"), (9, "b")], 1, id="the metric before all"),
    ],
)
def test_ties(predictions: list[np.ndarray], order: list[Any], expected: int) -> None:
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    found = best_single(TASKS["binary accuracy"], np.stack(predictions), labels, order)
    assert found.weights[expected] == 1


def test_a_member_already_in_wins_a_tie_over_a_lower_loss() -> None:
    """a is best alone; with a, adding b or c leaves the score as it is, and b has a lower loss."""
    labels = np.array([1.0, 1.0, 0.0, 0.0])
    a = np.array([3.0, 3.0, -3.0, 0.5])  # 3 of 4
    b = np.array([2.9, 4.0, 0.1, 0.3])  # 2 of 4
    task = TASKS["binary accuracy"]
    found = greedy(task, np.stack([a, b]), labels, [0, 1], num_rounds=2)
    assert found.trajectory == (0.75, 0.75)
    assert found.weights == (1.0, 0.0)


def test_the_shortest_of_the_best_prefixes() -> None:
    """The second round reaches the best score, and later ones only keep it."""
    labels = np.array([1.0, 1.0, 1.0, 0.0])
    a, b = np.array([2.0, 2.0, -1.0, -2.0]), np.array([1.0, -1.0, 2.0, -1.0])
    found = greedy(TASKS["binary accuracy"], np.stack([a, b]), labels, [0, 1], num_rounds=6)
    assert found.trajectory[:2] == (0.75, 1.0)
    assert found == Selection((0.5, 0.5), found.trajectory, 1.0)


@every_metric
def test_more_rows_than_are_looked_at_together(task: Task) -> None:
    """Blocks of rows and of factors, with the last ones left over."""
    predictions, labels = make_pool(task, 12, 1000, 9)
    for objective in Objective:
        found = greedy(task, predictions, labels, list(range(12)), 6, objective=objective)
        weights, trajectory = naive(task, predictions, labels, list(range(12)), 6, objective)
        np.testing.assert_allclose(found.trajectory, trajectory, atol=1e-9)
        assert found.weights == pytest.approx(weights)


@every_metric
def test_more_candidates_than_are_looked_at_together(task: Task) -> None:
    predictions, labels = make_pool(task, 300, 40, 18)
    for objective in Objective:
        found = greedy(task, predictions, labels, list(range(300)), 3, objective=objective)
        weights, trajectory = naive(task, predictions, labels, list(range(300)), 3, objective)
        np.testing.assert_allclose(found.trajectory, trajectory, atol=1e-9)
        assert found.weights == pytest.approx(weights)


def test_logits_too_large_for_the_grid_in_four_bytes() -> None:
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
    """The best candidates go in first; what follows is greedy again."""
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
