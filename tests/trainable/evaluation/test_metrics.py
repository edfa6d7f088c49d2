"""Metrics equal those of scikit-learn and SciPy; undefined values are 0 and flagged."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score

from trainable.config.tasks import PAPER_TASKS, Kind, Task
from trainable.evaluation.metrics import (
    overall,
    pearson,
    predicted_labels,
    task_metric,
    task_metrics,
    why_undefined,
)

SENTIMENT, PARAPHRASE, SIMILARITY, NLI = PAPER_TASKS.values()
SEEDS = range(20)


def _with(task, metric: str):  # type: ignore[no-untyped-def]
    return task.model_copy(update={"metric": metric})


@pytest.mark.parametrize("num_rows", [1, 7, 200])
@pytest.mark.parametrize("seed", SEEDS)
def test_metrics_of_classes_equal_scikit_learns(seed: int, num_rows: int) -> None:
    """With few rows some classes are missing, in the labels or in the predictions."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal((num_rows, 5)).astype(np.float32)
    labels = random.integers(5, size=num_rows).astype(np.float64)
    predicted = logits.argmax(axis=1)
    found = task_metric(SENTIMENT, logits, labels)
    assert found == (pytest.approx(accuracy_score(labels, predicted), rel=1e-12), True)
    found = task_metric(_with(SENTIMENT, "macro_f1"), logits, labels)
    expected = f1_score(labels, predicted, average="macro")
    assert found == (pytest.approx(expected, rel=1e-12), True)


@pytest.mark.parametrize("num_rows", [1, 7, 200])
@pytest.mark.parametrize("seed", SEEDS)
def test_metrics_of_paraphrases_equal_scikit_learns(seed: int, num_rows: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal(num_rows).astype(np.float32)
    labels = random.integers(2, size=num_rows).astype(np.float64)
    predicted = (1 / (1 + np.exp(-logits.astype(np.float64))) > 0.5).astype(int)
    found = task_metric(PARAPHRASE, logits, labels)
    assert found == (pytest.approx(accuracy_score(labels, predicted), rel=1e-12), True)
    found = task_metric(_with(PARAPHRASE, "macro_f1"), logits, labels)
    assert found == (pytest.approx(f1_score(labels, predicted, average="macro"), rel=1e-12), True)


@pytest.mark.parametrize("num_rows", [2, 7, 200])
@pytest.mark.parametrize("seed", SEEDS)
def test_correlations_equal_scipys(seed: int, num_rows: int) -> None:
    """The labels are from 0 to 5 as in STS, so that many ranks are tied."""
    random = np.random.default_rng(seed)
    labels = np.append(random.integers(0, 6, num_rows - 1), 6.0)
    scores = (labels + 2 * random.standard_normal(num_rows)).round(1).astype(np.float32)
    scores[0] += 0.05
    expected = pearsonr(scores.astype(np.float64), labels).statistic
    assert task_metric(SIMILARITY, scores, labels) == (pytest.approx(expected, abs=1e-9), True)
    expected = spearmanr(scores, labels).statistic
    found = task_metric(_with(SIMILARITY, "spearman"), scores, labels)
    assert found == (pytest.approx(expected, abs=1e-9), True)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_correlation_of_a_line_is_1_and_never_above(sign: int) -> None:
    x = np.random.default_rng(0).standard_normal(1000) * 1e-3
    found, is_defined = pearson(x, sign * 7 * x + 3)
    assert is_defined
    assert abs(found) <= 1
    assert found == pytest.approx(sign, rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]),
        ([1.0], [2.0]),
        ([], []),
        ([0.0, 1e-200], [1.0, 2.0]),  # the square of 1e-200 is 0
    ],
)
def test_a_correlation_with_a_constant_is_0_and_flagged(x: list[float], y: list[float]) -> None:
    assert pearson(np.array(x), np.array(y)) == (0.0, False)
    if x:
        assert task_metric(SIMILARITY, np.array(x), np.array(y)) == (0.0, False)


def test_correlations_are_computed_in_float64() -> None:
    labels = np.arange(50.0)
    scores = (1000 + labels / 64).astype(np.float32)
    assert task_metric(SIMILARITY, scores, labels)[0] == pytest.approx(1, rel=1e-12)


def test_predicted_labels_of_each_kind() -> None:
    logits = np.array([[0.1, 0.9, 0.9], [2.0, 1.0, 0.0]])
    assert predicted_labels(Kind.CLASSIFICATION, logits).tolist() == [1.0, 0.0]
    logit = np.array([-0.1, 0.0, 0.1])
    assert predicted_labels(Kind.PARAPHRASE, logit).tolist() == [0.0, 0.0, 1.0]
    score = np.array([-0.5, 4.5], np.float32)
    found = predicted_labels(Kind.SIMILARITY, score)
    assert (found.tolist(), found.dtype) == ([-0.5, 4.5], np.float64)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        task_metric(PARAPHRASE, np.array([1.0, value]), np.array([1.0, 0.0]))


def test_entailment_has_no_metric() -> None:
    with pytest.raises(ValueError, match="entailment task has no metric"):
        task_metric(NLI, np.zeros(2), np.zeros(2))


def test_the_overall_score_is_the_papers_mean() -> None:
    """The paper's best ensemble has an overall test score of 0.771."""
    scores = {"sentiment": 0.531, "paraphrase": 0.854, "similarity": 0.855}
    found = overall(scores, PAPER_TASKS)
    assert found == pytest.approx((0.531 + 0.854 + 0.9275) / 3)
    assert round(found, 3) == 0.771
    assert overall(scores | {"nli": 0.0}, PAPER_TASKS) == found
    assert overall({"similarity": -1.0}, PAPER_TASKS) == 0
    assert overall({"sentiment": 0.25}, PAPER_TASKS) == 0.25
    with pytest.raises(ValueError, match="none of the tasks has a metric"):
        overall({"nli": 0.5}, PAPER_TASKS)


def test_the_reason_for_an_undefined_score_names_the_constant_side() -> None:
    assert why_undefined(np.full(3, 2.0)) == "the labels are constant"
    assert why_undefined(np.array([1.0, 2.0, 3.0])) == "the predictions are constant"


@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity", "topics", "f1"])
def test_metrics_of_several_outputs_equal_those_of_each_alone(name: str) -> None:
    """Exactly, so that ties do not depend on the number of candidates."""
    draw = np.random.default_rng(len(name))
    topics = Task(kind=Kind.MULTILABEL, files={"train": "t", "dev": "d"}, num_classes=5)
    others = {"topics": topics, "f1": _with(SENTIMENT, "macro_f1")}
    task = (PAPER_TASKS | others)[name]
    shape = (7, 83) if name in ("paraphrase", "similarity") else (7, 83, 5)
    outputs = draw.normal(size=shape).astype(np.float32)
    outputs[2] = 1.5
    labels = draw.integers(0, 5 if outputs.ndim == 3 else 2, 83).astype(np.float64)
    if name == "similarity":
        outputs[3] += 1e4  # far from zero
    alone = [task_metric(task, each, labels)[0] for each in outputs]
    assert task_metrics(task, outputs, labels).tolist() == alone
    with pytest.raises(ValueError, match="not finite"):
        task_metrics(task, np.where(outputs == 1.5, np.nan, outputs), labels)
