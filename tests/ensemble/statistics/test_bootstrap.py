"""Resampled scores, differences and gains, compared with metrics on repeated rows."""

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


def _on_repeated_rows(
    task: Task, outputs: Floats, labels: Floats, counts: Floats | NDArray[np.uint8]
) -> Floats:
    """The metric on rows that are repeated as often as they are counted."""
    drawn = [np.repeat(np.arange(len(labels)), times.astype(int)) for times in counts]
    return np.array([task_metric(task, outputs[rows], labels[rows])[0] for rows in drawn])


def _labels_and_signal(task: Task, num_rows: int, random: np.random.Generator) -> list[Floats]:
    """Random labels, and the outputs of a model that is always right."""
    if task.kind is Kind.SIMILARITY:
        labels = random.uniform(0, 5, num_rows).round(1)
        return [labels, labels]
    labels = random.integers(0, 2 if task.kind is Kind.PARAPHRASE else 5, num_rows).astype(float)
    return [labels, labels - 0.5 if task.kind is Kind.PARAPHRASE else np.eye(5)[labels.astype(int)]]


@pytest.mark.parametrize(
    "task",
    [PAPER_TASKS["paraphrase"], *map(task_with, ("accuracy", "pearson", "macro_f1", "spearman"))],
    ids=lambda task: f"{task.kind}-{task.metric}",
)
def test_scores_on_counted_rows_equal_those_on_repeated_rows(task: Task) -> None:
    random = np.random.default_rng(3)
    labels, signal = _labels_and_signal(task, 40, random)
    outputs = signal + random.normal(0, 0.7, signal.shape)
    counts = random.multinomial(40, np.full(40, 1 / 40), 25).astype(float)
    expected = _on_repeated_rows(task, outputs, labels, counts)
    found = resampled_scores(task, outputs, labels, counts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.1, 2.3, 4.99])
def test_constant_scores_count_as_0_in_every_replicate(value: float) -> None:
    labels = np.random.default_rng(0).uniform(0, 5, 200)
    outputs = np.full(200, np.float32(value)).astype(np.float64)
    scores = Draws(50).scores(("run", "t"), task_with("pearson"), outputs, labels)
    assert not scores.any()


def test_replicates_are_shared_by_runs_and_differ_between_tasks() -> None:
    draws, labels = Draws(200), np.tile([0.0, 1.0], 50)
    outputs = np.random.default_rng(0).normal(0, 1, 100)
    paraphrase = PAPER_TASKS["paraphrase"]
    first = draws.scores(("a", "one"), paraphrase, outputs, labels)
    np.testing.assert_array_equal(first, draws.scores(("b", "one"), paraphrase, outputs, labels))
    other = draws.scores(("a", "two"), paraphrase, outputs, labels)
    assert first[0] == other[0]
    assert abs(np.corrcoef(first[1:], other[1:])[0, 1]) < 0.3


@pytest.mark.parametrize("num_replicates", [1, 99, 100, 101, 250])
def test_each_replicate_draws_the_number_of_rows(num_replicates: int) -> None:
    counts = Draws(num_replicates).counts_of("task", 40)
    assert counts.shape == (1 + num_replicates, 40)
    assert (counts[0] == 1).all()  # the rows as they are
    assert (counts.sum(axis=1) == 40).all()
    assert num_replicates == 1 or counts[1:].min() == 0
    assert counts[1:].max() > 1
    again = Draws(num_replicates).counts_of("other", 40)
    np.testing.assert_array_equal(counts, again)  # drawn by the task's number, not by its name


def test_scores_of_a_run_are_cached() -> None:
    draws, labels = Draws(5), np.array([0.0, 1.0, 1.0])
    outputs = np.array([-1.0, 1.0, -1.0])
    first = draws.scores(("a", "t"), PAPER_TASKS["paraphrase"], outputs, labels)
    assert first[0] == pytest.approx(2 / 3)
    assert draws.scores(("a", "t"), PAPER_TASKS["paraphrase"], -outputs, labels) is first


@pytest.mark.parametrize("num_replicates", [60, 130])
@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_a_gain_is_the_mean_difference_over_parts_on_the_same_rows(
    name: str, num_replicates: int
) -> None:
    task, random = PAPER_TASKS[name], np.random.default_rng(5)
    labels, signal = _labels_and_signal(task, 80, random)
    systems = [signal + random.normal(0, noise, signal.shape) for noise in (0.4, 0.9, 3.0)]
    systems.append(systems[0])
    parts = [np.arange(80) % 3 == 0, np.arange(80) % 3 > 0]
    counts = Draws(num_replicates).counts_of("task", 80)
    scores = [
        np.mean([_on_repeated_rows(task, s[p], labels[p], counts[:, p]) for p in parts], axis=0)
        for s in systems
    ]
    ours, *others = ([outputs[part] for part in parts] for outputs in systems)
    found = gain_of_halves(task, ours, others, labels, parts, num_replicates)
    assert len(found) == 3
    assert found[2] == Gain(0, 0, 0)
    for gain, theirs in zip(found, scores[1:], strict=True):
        differences = scores[0] - theirs
        low, high = np.quantile(differences[1:], [0.025, 0.975])
        assert (gain.value, gain.low, gain.high) == pytest.approx((differences[0], low, high))


def test_a_gain_is_clear_when_its_interval_is_above_0() -> None:
    gain = Gain(0.012, 0.0031, 0.0214)
    assert gain.is_clear
    assert not Gain(0.012, 0.0, 0.02).is_clear
    assert gain.describe() == "+0.0120 [+0.0031, +0.0214]"
    assert Gain(-0.1, -0.2, 0.0).describe() == "-0.1000 [-0.2000, +0.0000]"


def test_several_systems_are_resampled_as_each_is_alone() -> None:
    """Another seed draws other rows."""
    random = np.random.default_rng(0)
    parts = [np.arange(120) % 3 == 0, np.arange(120) % 3 > 0]
    for name in ("paraphrase", "similarity"):
        labels = random.integers(0, 2, 120).astype(float)
        systems = [
            [labels[p] - 0.5 + random.normal(0, 1, p.sum()) for p in parts] for _ in range(3)
        ]
        found = resampled_means(PAPER_TASKS[name], systems, labels, parts, 50)
        assert found.shape == (3, 51)
        for outputs, scores in zip(systems, found, strict=True):
            (own,) = resampled_means(PAPER_TASKS[name], [outputs], labels, parts, 50)
            np.testing.assert_allclose(scores, own, rtol=1e-10)
        other = resampled_means(PAPER_TASKS[name], systems, labels, parts, 50, seed=1)
        assert (other[:, 1:] != found[:, 1:]).any()


def test_the_interval_of_the_overall_gain_is_that_of_independent_tasks() -> None:
    """Half of a correlation's gain counts. The tasks share no rows, so their gains are independent
    and variances add."""
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


def test_overall_is_a_mean_with_correlations_mapped_to_0_to_1() -> None:
    scores = {"sentiment": np.array([0.4, 0.5]), "similarity": np.array([-1.0, 0.6])}
    np.testing.assert_allclose(overall_of(scores, PAPER_TASKS), [0.2, 0.65], rtol=1e-12)


@pytest.mark.parametrize("counts", [np.zeros((1, 3)), np.array([[5.0, 0.0, 0.0]])])
def test_a_replicate_of_one_row_or_none_has_a_score(counts: Floats) -> None:
    labels, outputs = np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, -1.0])
    expected = float(counts.any())
    assert resampled_scores(PAPER_TASKS["paraphrase"], outputs, labels, counts) == [expected]
    assert resampled_scores(PAPER_TASKS["similarity"], outputs, labels, counts) == [0.0]


@pytest.mark.parametrize("metric", ["macro_f1", "spearman"])
def test_an_empty_replicate_is_scored_on_all_rows(metric: str) -> None:
    task, labels = task_with(metric), np.array([0.0, 1.0, 2.0])
    outputs = np.eye(5)[[0, 1, 1]] if metric == "macro_f1" else np.array([0.1, 0.5, 0.4])
    on_all_rows, on_none = resampled_scores(
        task, outputs, labels, np.array([[1.0, 1, 1], [0.0, 0, 0]])
    )
    assert on_none == on_all_rows == task_metric(task, outputs, labels)[0]
