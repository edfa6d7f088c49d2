"""Candidates that are screened out of a choice, for each half by its own labels alone."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from pools import TASKS, Store, task_pool

from ensemble.candidates.pool import Candidate, Pool
from ensemble.candidates.screening import screened
from ensemble.statistics.dev_splits import NUM_HALVES, folds
from trainable.config.tasks import PAPER_TASKS

NUM_ROWS = 600


def add(store: Store, trial: str, **outputs: np.ndarray) -> None:
    store.add(trial, {1: outputs})


def pool_of(task: str, outputs: dict[str, np.ndarray], labels: np.ndarray) -> Pool:
    """One epoch of each run, of one task."""
    candidates = tuple(Candidate(f"run{trial}", trial, "s", 1, "/none", 0) for trial in outputs)
    of_task = task_pool(task, labels, candidates, np.stack(list(outputs.values())))
    return Pool({task: of_task}, candidates, ())


def labels_of(task: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    if task == "similarity":
        return rng.uniform(0, 5, NUM_ROWS)
    return rng.integers(0, PAPER_TASKS[task].num_classes, NUM_ROWS).astype(np.float64)


def model(task: str, labels: np.ndarray, wrong: np.ndarray, seed: int) -> np.ndarray:
    """Outputs that are right but for noise, except on `wrong` rows, on which all models have the
    same wrong labels."""
    answers = np.where(wrong, np.random.default_rng(4).permutation(labels), labels)
    if task == "sentiment":
        answers = 3 * np.eye(5)[answers.astype(int)]
    elif task == "paraphrase":
        answers = 4 * answers - 2
    return answers + 0.3 * np.random.default_rng(seed).standard_normal(answers.shape)


def pool_with(task: str, right: float, num_others: int = 4) -> Pool:
    """Runs that are wrong on two in five rows, and `e`, which is right on a share of these."""
    labels, rng = labels_of(task), np.random.default_rng(5)
    hard, luck = rng.random(NUM_ROWS) < 0.4, rng.random(NUM_ROWS)
    outputs = {t: model(task, labels, hard, n) for n, t in enumerate("abcd"[:num_others])}
    outputs["e"] = model(task, labels, hard & (luck >= right), 9)
    return pool_of(task, outputs, labels)


def reasons(pool: Pool) -> dict[str, str]:
    return {rejected.label: rejected.reason for rejected in pool.rejected}


def choosable_trials(pool: Pool, task: str, which: int = 0) -> list[str]:
    """The candidates that can be chosen by all of dev, or a half."""
    of_task = pool.tasks[task]
    by = of_task.choosable[which]
    return [c.trial for c, can in zip(of_task.candidates, by, strict=True) if can]


def test_a_pool_with_nothing_to_reject_is_unchanged(store: Store) -> None:
    for seed, trial in enumerate("abcdef"):
        store.add_usual(trial, seed, num_epochs=3)
    pool = store.pool()
    found = screened(pool)
    assert (found.candidates, found.rejected) == (pool.candidates, ())
    for name, task in pool.tasks.items():
        np.testing.assert_array_equal(found.tasks[name].choosable, task.choosable)


def rounded(outputs: np.ndarray) -> np.ndarray:
    """The outputs in another precision, or from a file with few digits."""
    return np.asarray(outputs.round(2), np.float32)


def test_the_first_of_duplicates_is_kept(store: Store) -> None:
    outputs = {task: store.outputs(task, 1) for task in TASKS}
    add(store, "a", **outputs)
    add(store, "b", **{task: store.outputs(task, 2) for task in TASKS})
    add(store, "c", **{task: rounded(found) for task, found in outputs.items()})
    pool = screened(store.pool())
    assert reasons(pool) == {"c@1": "a duplicate of a@1"}
    assert [candidate.trial for candidate in pool.candidates] == ["a", "b"]
    for task in TASKS:
        for which in range(1 + NUM_HALVES):
            assert choosable_trials(pool, task, which) == ["a", "b"]


def test_a_candidate_equal_to_another_in_one_task_only_is_kept(store: Store) -> None:
    outputs = {task: store.outputs(task, 1) for task in TASKS}
    add(store, "a", **outputs)
    add(store, "b", **{**outputs, "sentiment": store.outputs("sentiment", 2)})
    assert screened(store.pool()).rejected == ()
    add(store, "c", similarity=outputs["similarity"])  # its only task
    assert reasons(screened(store.pool())) == {"c@1": "a duplicate of a@1"}


def test_the_larger_of_duplicates_is_rejected(store: Store) -> None:
    outputs = {"similarity": store.outputs("similarity", 1)}
    store.add("a", {1: outputs}, notes={"num_parameters": 30})
    store.add("b", {1: outputs}, notes={"num_parameters": 10})
    assert reasons(screened(store.pool())) == {"a@1": "a duplicate of b@1"}


def test_a_candidate_that_cannot_be_chosen_does_not_replace_its_duplicate() -> None:
    """Like an epoch whose weights were not kept: halves may choose it, all of dev may not."""
    labels = labels_of("similarity")
    pool = pool_of("similarity", {"a": labels, "b": labels}, labels)
    choosable = pool.tasks["similarity"].choosable.copy()
    choosable[0] = [False, True]
    task = dataclasses.replace(pool.tasks["similarity"], choosable=choosable)
    found = screened(dataclasses.replace(pool, tasks={"similarity": task}))
    assert choosable_trials(found, "similarity", 0) == ["b"]
    assert found.rejected == ()
    for half in range(1, 1 + NUM_HALVES):
        assert choosable_trials(found, "similarity", half) == ["a"]


def test_almost_constant_candidates_are_left_out_of_the_task(store: Store) -> None:
    for seed, trial in enumerate("abc"):
        store.add_usual(trial, seed, num_epochs=1)
    flat = np.full(60, 2.5, np.float32)
    flat += 1e-6 * store.outputs("similarity", 8)
    add(store, "d", **{**{t: store.outputs(t, 8) for t in TASKS}, "similarity": flat})
    pool = screened(store.pool())
    assert reasons(pool) == {"d@1": "similarity: the same for all but a few rows"}
    assert choosable_trials(pool, "similarity") == list("abc")
    assert choosable_trials(pool, "sentiment") == list("abcd")
    assert "d" in [candidate.trial for candidate in pool.candidates]


@pytest.mark.parametrize("task", TASKS)
def test_a_candidate_right_on_all_rows_that_others_get_wrong_is_left_out(task: str) -> None:
    pool = screened(pool_with(task, right=1))
    reason = reasons(pool)["e@1"]
    assert reason.startswith(f"{task}: seems to have seen dev: ")
    words = "squared error is " if task == "similarity" else "right on 100% of the"
    assert words in reason
    for which in range(1 + NUM_HALVES):
        assert choosable_trials(pool, task, which) == list("abcd")


def test_a_candidate_that_has_seen_one_task_is_kept_for_the_others() -> None:
    one, two = pool_with("sentiment", right=1), pool_with("similarity", right=0.7)
    pool = screened(dataclasses.replace(one, tasks={**one.tasks, **two.tasks}))
    assert choosable_trials(pool, "sentiment") == list("abcd")
    assert choosable_trials(pool, "similarity") == list("abcde")
    assert [candidate.trial for candidate in pool.candidates] == list("abcde")


@pytest.mark.parametrize("task", TASKS)
def test_a_better_candidate_is_kept(task: str) -> None:
    """Right on seven of ten rows that the others get wrong."""
    assert screened(pool_with(task, right=0.7)).rejected == ()


@pytest.mark.parametrize("task", TASKS)
def test_a_candidate_is_suspected_only_beside_three_others(task: str) -> None:
    assert screened(pool_with(task, right=1, num_others=2)).rejected == ()
    assert reasons(screened(pool_with(task, right=1, num_others=3))).keys() == {"e@1"}


@pytest.mark.parametrize("task", TASKS)
def test_no_candidate_is_suspected_beside_others_at_chance_level(task: str) -> None:
    labels, everywhere = labels_of(task), np.ones(NUM_ROWS, np.bool_)
    outputs = {trial: model(task, labels, everywhere, n) for n, trial in enumerate("abcd")}
    outputs["e"] = model(task, labels, ~everywhere, 9)
    assert screened(pool_of(task, outputs, labels)).rejected == ()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda labels: np.full_like(labels, np.nan), id="nan"),
        pytest.param(lambda labels: labels[::-1], id="shuffled"),
    ],
)
def test_a_half_screens_by_its_own_labels(
    task: str, value: Callable[[np.ndarray], np.ndarray]
) -> None:
    pool = pool_with(task, right=1)
    for half in range(NUM_HALVES):
        given = pool.tasks[task]
        rows = folds(given.ids)[1 + half].fit
        labels = np.where(rows, given.labels, value(given.labels))
        tasks = {task: dataclasses.replace(given, labels=labels)}
        found = screened(dataclasses.replace(pool, tasks=tasks))
        assert choosable_trials(found, task, 1 + half) == list("abcd")
        if not np.isnan(labels).any():  # the labels do matter to the other half
            other = half + 1 if half % 2 == 0 else half - 1
            assert choosable_trials(found, task, 1 + other) == list("abcde")


def test_the_order_of_runs_does_not_matter(store: Store) -> None:
    outputs = {task: store.outputs(task, 1) for task in TASKS}
    for seed, trial in enumerate("abcd"):
        store.add_usual(trial, seed, num_epochs=1)
    add(store, "e", **outputs)
    add(store, "f", **{task: rounded(found) for task, found in outputs.items()})
    one = screened(store.pool())
    store.runs.reverse()
    two = screened(store.pool())
    assert one.rejected == two.rejected != ()
    assert one.candidates == two.candidates
