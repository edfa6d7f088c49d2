"""Resampled scores, differences and gains against rows that are drawn one by one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.statistics.bootstrap import (
    Draws,
    Gain,
    gain_of,
    gain_of_halves,
    overall_of,
    resampled_means,
    resampled_scores,
)
from trainable.config.tasks import PAPER_TASKS, Kind, Task
from trainable.evaluation.metrics import task_metric

Floats = NDArray[np.float64]


def task_with(metric: str) -> Task:
    name = "similarity" if metric in ("pearson", "spearman") else "sentiment"
    return PAPER_TASKS[name].model_copy(update={"metric": metric})


@pytest.mark.parametrize("metric", ["accuracy", "pearson", "macro_f1", "spearman"])
def test_scores_on_counted_rows_are_those_on_explicitly_resampled_rows(metric: str) -> None:
    task, random = task_with(metric), np.random.default_rng(3)
    if task.kind is Kind.SIMILARITY:
        labels = random.uniform(0, 5, 40).round(1)
        outputs = labels + random.normal(0, 1, 40)
    else:
        labels = random.integers(0, 5, 40).astype(float)
        outputs = np.eye(5)[labels.astype(int)] + random.normal(0, 0.7, (40, 5))
    rows = random.integers(0, 40, (25, 40))
    counts = np.stack([np.bincount(drawn, minlength=40) for drawn in rows]).astype(float)
    explicit = [task_metric(task, outputs[drawn], labels[drawn])[0] for drawn in rows]
    np.testing.assert_allclose(
        resampled_scores(task, outputs, labels, counts), explicit, rtol=0, atol=1e-12
    )


def test_accuracy_of_a_paraphrase_logit_is_counted_the_same() -> None:
    task, random = PAPER_TASKS["paraphrase"], np.random.default_rng(4)
    labels, outputs = random.integers(0, 2, 30).astype(float), random.normal(0, 1, 30)
    rows = random.integers(0, 30, (10, 30))
    counts = np.stack([np.bincount(drawn, minlength=30) for drawn in rows]).astype(float)
    explicit = [task_metric(task, outputs[drawn], labels[drawn])[0] for drawn in rows]
    np.testing.assert_allclose(resampled_scores(task, outputs, labels, counts), explicit)


@pytest.mark.parametrize("value", [0.1, 2.3, 4.99])
def test_constant_scores_count_as_0_in_every_replicate(value: float) -> None:
    labels = np.random.default_rng(0).uniform(0, 5, 200)
    outputs = np.full(200, np.float32(value)).astype(np.float64)
    scores = Draws(50).scores(("run", "t"), task_with("pearson"), outputs, labels)
    assert not scores.any()


def test_all_runs_share_the_drawn_rows_and_tasks_do_not() -> None:
    draws, labels = Draws(200), np.tile([0.0, 1.0], 50)
    outputs = np.random.default_rng(0).normal(0, 1, 100)
    paraphrase = PAPER_TASKS["paraphrase"]
    first = draws.scores(("a", "one"), paraphrase, outputs, labels)
    np.testing.assert_array_equal(first, draws.scores(("b", "one"), paraphrase, outputs, labels))
    other = draws.scores(("a", "two"), paraphrase, outputs, labels)
    assert first[0] == other[0]
    assert abs(np.corrcoef(first[1:], other[1:])[0, 1]) < 0.3


@pytest.mark.parametrize("num_replicates", [1, 99, 100, 101, 250])
def test_each_replicate_draws_as_many_rows_as_there_are(num_replicates: int) -> None:
    counts = Draws(num_replicates).counts_of("task", 40)
    assert counts.shape == (1 + num_replicates, 40)
    assert (counts[0] == 1).all()  # the rows as they are
    assert (counts.sum(axis=1) == 40).all()
    assert num_replicates == 1 or counts[1:].min() == 0
    assert counts[1:].max() > 1
    again = Draws(num_replicates).counts_of("other", 40)
    np.testing.assert_array_equal(counts, again)  # by the place of the task, not its name


def test_a_run_is_scored_once() -> None:
    draws, labels = Draws(5), np.array([0.0, 1.0, 1.0])
    outputs = np.array([-1.0, 1.0, -1.0])
    first = draws.scores(("a", "t"), PAPER_TASKS["paraphrase"], outputs, labels)
    assert first[0] == pytest.approx(2 / 3)
    assert draws.scores(("a", "t"), PAPER_TASKS["paraphrase"], -outputs, labels) is first


def _explicit(task: Task, outputs: Floats, labels: Floats, counts: NDArray[np.uint8]) -> Floats:
    """The metric on the rows as often as they are counted."""
    drawn = [np.repeat(np.arange(len(labels)), times.astype(int)) for times in counts]
    return np.array([task_metric(task, outputs[rows], labels[rows])[0] for rows in drawn])


@pytest.mark.parametrize("num_replicates", [60, 130])
@pytest.mark.parametrize("name", ["paraphrase", "similarity"])
def test_a_gain_is_the_mean_of_the_parts_differences_on_the_same_rows(
    name: str, num_replicates: int
) -> None:
    task, random = PAPER_TASKS[name], np.random.default_rng(5)
    labels = random.integers(0, 2, 80).astype(float)
    ways = [labels - 0.5 + random.normal(0, noise, 80) for noise in (0.4, 0.9, 3.0)]
    parts = [np.arange(80) % 3 == 0, np.arange(80) % 3 > 0]
    counts = Draws(num_replicates).counts_of("task", 80)
    scores = [
        np.mean([_explicit(task, way[p], labels[p], counts[:, p]) for p in parts], axis=0)
        for way in ways
    ]
    ours, *others = ([way[part] for part in parts] for way in ways)
    found = gain_of_halves(task, ours, others, labels, parts, num_replicates)
    assert len(found) == 2
    for gain, theirs in zip(found, scores[1:], strict=True):
        differences = scores[0] - theirs
        low, high = np.quantile(differences[1:], [0.025, 0.975])
        assert (gain.value, gain.low, gain.high) == pytest.approx((differences[0], low, high))


def test_a_gain_is_clear_above_0_and_says_its_interval() -> None:
    gain = Gain(0.012, 0.0031, 0.0214)
    assert gain.is_clear
    assert not Gain(0.012, 0.0, 0.02).is_clear
    assert gain.describe() == "+0.0120 [+0.0031, +0.0214]"
    assert Gain(-0.1, -0.2, 0.0).describe() == "-0.1000 [-0.2000, +0.0000]"


def test_several_ways_are_resampled_alike() -> None:
    """Each as if it were by itself; of another seed other rows."""
    random = np.random.default_rng(0)
    parts = [np.arange(120) % 3 == 0, np.arange(120) % 3 > 0]
    for name in ("paraphrase", "similarity"):
        labels = random.integers(0, 2, 120).astype(float)
        ways = [[labels[p] - 0.5 + random.normal(0, 1, p.sum()) for p in parts] for _ in range(3)]
        found = resampled_means(PAPER_TASKS[name], ways, labels, parts, 50)
        assert found.shape == (3, 51)
        for way, scores in zip(ways, found, strict=True):
            (own,) = resampled_means(PAPER_TASKS[name], [way], labels, parts, 50)
            np.testing.assert_allclose(scores, own, rtol=1e-10)
        other = resampled_means(PAPER_TASKS[name], ways, labels, parts, 50, seed=1)
        assert (other[:, 1:] != found[:, 1:]).any()


def test_the_gain_of_overall_has_the_interval_of_a_sum() -> None:
    """Half of a correlation's gain counts, as in overall; the tasks' rows have nothing in common,
    so that it is as wide as that of independent draws."""
    random = np.random.default_rng(0)
    draws = {
        "sentiment": np.r_[0.02, random.normal(0.02, 0.04 / 1.96, 200_000)],
        "similarity": np.r_[0.04, random.normal(0.04, 0.03 / 1.96, 200_000)],
    }
    scores = {name: np.stack([values, np.zeros_like(values)]) for name, values in draws.items()}
    ours, theirs = overall_of(scores, PAPER_TASKS)
    gain = gain_of(ours, theirs)
    assert gain.value == pytest.approx((0.02 + 0.04 / 2) / 2)
    width = 1.96 * np.hypot(0.04 / 1.96, 0.015 / 1.96) / 2
    assert (gain.low, gain.high) == pytest.approx((0.02 - width, 0.02 + width), abs=3e-4)


def test_overall_is_the_mean_in_which_a_correlation_counts_from_0_to_1() -> None:
    scores = {"sentiment": np.array([0.4, 0.5]), "similarity": np.array([-1.0, 0.6])}
    np.testing.assert_allclose(overall_of(scores, PAPER_TASKS), [0.2, 0.65], rtol=1e-12)


@pytest.mark.parametrize("counts", [np.zeros((1, 3)), np.array([[5.0, 0.0, 0.0]])])
def test_a_replicate_without_rows_or_with_one_has_a_score(counts: Floats) -> None:
    labels, outputs = np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, -1.0])
    expected = float(counts.any())
    assert resampled_scores(PAPER_TASKS["paraphrase"], outputs, labels, counts) == [expected]
    assert resampled_scores(PAPER_TASKS["similarity"], outputs, labels, counts) == [0.0]


@pytest.mark.parametrize("metric", ["macro_f1", "spearman"])
def test_a_replicate_without_a_row_stands_for_all_of_them(metric: str) -> None:
    task, labels = task_with(metric), np.array([0.0, 1.0, 2.0])
    outputs = np.eye(5)[[0, 1, 1]] if metric == "macro_f1" else np.array([0.1, 0.5, 0.4])
    whole, none = resampled_scores(task, outputs, labels, np.array([[1.0, 1, 1], [0.0, 0, 0]]))
    assert none == whole == task_metric(task, outputs, labels)[0]
