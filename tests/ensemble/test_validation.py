import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ensemble.candidates import Pool
from ensemble.combine import combine
from ensemble.validation import EnsembleChoice, Method, choose
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.schema import Outcome
from trainable.metrics import overall, task_metric
from trainable.predictions import dev_train_mask

TASKS = ("sentiment", "paraphrase", "similarity")
Store = Any  # tests/ensemble/conftest.py


def decisions(choice: EnsembleChoice) -> dict[str, Any]:
    """Everything that was chosen, and what it was chosen by."""
    single = choice.one_for_all
    found: dict[str, Any] = {"one for all": single and (single.candidate, single.scores.dev_train)}
    for name, task in choice.tasks.items():
        for method, chosen in task.methods.items():
            found[f"{name} {method}"] = (
                chosen.members,
                chosen.trajectory,
                chosen.scores.dev_train,
            )
    return found


def fill(store: Store) -> None:
    for seed, trial in enumerate("abcdef"):
        store.add_usual(trial, seed, num_epochs=3)


def change_judged_labels(pool: Pool, value: Callable[[np.ndarray], np.ndarray]) -> Pool:
    tasks = {}
    for name, task in pool.tasks.items():
        labels = np.where(dev_train_mask(task.ids), task.labels, value(task.labels))
        tasks[name] = dataclasses.replace(task, labels=labels)
    return dataclasses.replace(pool, tasks=tasks)


def test_scores_are_those_of_the_members_combined(store: Store) -> None:
    fill(store)
    pool = store.pool()
    choice = choose(pool)
    assert list(choice.tasks) == list(TASKS)
    for name, task in choice.tasks.items():
        given = pool.tasks[name]
        rows = dev_train_mask(given.ids)
        assert (task.num_dev_train, task.num_dev_dev) == (rows.sum(), (~rows).sum())
        for method, chosen in task.methods.items():
            weights = [member.weight for member in chosen.members]
            assert sum(weights) == pytest.approx(1)
            assert weights == sorted(weights, reverse=True)
            outputs = [given.outputs[given.candidates.index(m.candidate)] for m in chosen.members]
            combined = combine(given.task, outputs, weights)
            for half, score in (
                (rows, chosen.scores.dev_train),
                (~rows, chosen.scores.dev_dev),
            ):
                expected, _ = task_metric(given.task, combined[half], given.labels[half])
                assert score == pytest.approx(expected), (name, method)
        assert task.selective.scores.dev_train >= task.best_single.scores.dev_train
        assert len(task.best_single.members) == 1


def test_overall_is_the_mean_over_tasks(store: Store) -> None:
    fill(store)
    pool = store.pool()
    choice = choose(pool)
    tasks = {name: task.task for name, task in pool.tasks.items()}
    for method in Method:
        scores = {n: task.methods[method].scores.dev_dev for n, task in choice.tasks.items()}
        assert choice.overall[method].dev_dev == pytest.approx(overall(scores, tasks))
    single = choice.one_for_all
    assert single is not None
    assert single.scores.dev_train <= choice.overall[Method.BEST_SINGLE].dev_train + 1e-12


def test_simple_is_the_best_epoch_of_every_run(store: Store) -> None:
    fill(store)
    pool = store.pool()
    choice = choose(pool)
    assert len(pool.candidates) > 6
    members = choice.tasks["sentiment"].simple.members
    assert [member.candidate.trial for member in members] == list("abcdef")
    assert {member.weight for member in members} == {1 / 6}
    for name in TASKS:
        assert choice.tasks[name].simple.members == members
    for member in members:
        best = {}
        for candidate in pool.candidates:
            if candidate.run_id == member.candidate.run_id:
                scores = {}
                for name, task in pool.tasks.items():
                    rows = dev_train_mask(task.ids)
                    outputs = task.outputs[task.candidates.index(candidate)]
                    scores[name], _ = task_metric(task.task, outputs[rows], task.labels[rows])
                best[candidate] = overall(scores, {n: t.task for n, t in pool.tasks.items()})
        assert member.candidate == max(best, key=best.__getitem__)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda labels: np.full_like(labels, np.nan), id="nan"),
        pytest.param(lambda labels: labels[::-1], id="shuffled"),
        pytest.param(lambda labels: 1 - np.minimum(labels, 1), id="wrong"),
    ],
)
def test_judged_labels_change_no_choice(
    store: Store, value: Callable[[np.ndarray], np.ndarray]
) -> None:
    fill(store)
    pool = store.pool()
    before, after = choose(pool), choose(change_judged_labels(pool, value))
    assert decisions(after) == decisions(before)
    assert after.overall != before.overall
    assert {m: s.dev_train for m, s in after.overall.items()} == {
        m: s.dev_train for m, s in before.overall.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_judged_labels_change_no_choice_from_the_files_on(
    make_store: Callable[[str], Store], seed: int
) -> None:
    """The same outputs of every epoch, the judged rows' labels drawn anew: the same epochs too."""
    choices = []
    for name in ("before", "after"):
        store = make_store(name)
        outputs = {
            (trial, epoch, task): store.outputs(task, 100 * number + epoch)
            for number, trial in enumerate("abcd")
            for epoch in (1, 2, 3, 4)
            for task in TASKS
        }
        if name == "after":
            rng = np.random.default_rng(seed)
            for task in TASKS:
                rows, labels = dev_train_mask(store.ids(task)), store.labels[task]
                store.labels[task] = np.where(rows, labels, rng.permutation(labels))
        for trial in "abcd":
            epochs = {e: {t: outputs[trial, e, t] for t in TASKS} for e in (1, 2, 3, 4)}
            store.add(trial, epochs)
        choices.append((store.pool().candidates, decisions(choose(store.pool()))))
    assert choices[0] == choices[1]


def test_dev_train_labels_do_change_choices(store: Store) -> None:
    """What the tests above hold still can move at all."""
    fill(store)
    pool = store.pool()
    tasks = {
        name: dataclasses.replace(
            task, labels=np.where(dev_train_mask(task.ids), task.labels[::-1], task.labels)
        )
        for name, task in pool.tasks.items()
    }
    changed = dataclasses.replace(pool, tasks=tasks)
    assert decisions(choose(changed)) != decisions(choose(pool))


def test_the_order_of_runs_does_not_matter(store: Store) -> None:
    fill(store)
    expected = choose(store.pool())
    store.runs.reverse()
    assert choose(store.pool()) == expected


def test_encoders_are_counted_once_over_all_tasks(store: Store) -> None:
    fill(store)
    choice = choose(store.pool())
    for method in Method:
        members = [m for task in choice.tasks.values() for m in task.methods[method].members]
        found = choice.candidates(method)
        assert set(found) == {member.candidate for member in members}
        assert len(found) == len(set(found))
    assert len(choice.candidates(Method.SIMPLE)) == 6


def test_a_note_where_selective_does_not_win(store: Store) -> None:
    """Two runs, one of them perfect: nothing to gain."""
    labels = store.labels["paraphrase"]
    perfect = (2 * labels - 1).astype(np.float32)
    store.add("good", {1: {"paraphrase": perfect}})
    store.add("bad", {1: {"paraphrase": -perfect}})
    task = choose(store.pool()).tasks["paraphrase"]
    assert [member.candidate.trial for member in task.selective.members] == ["good"]
    assert task.note == "selective (1.0000) is not above best single (1.0000) on dev-dev"


def test_no_note_where_selective_wins(store: Store) -> None:
    """Three runs, each unsure and wrong on its own third of the rows: two are right everywhere."""
    right = (2 * store.labels["paraphrase"] - 1).astype(np.float32)
    for third, trial in enumerate("abc"):
        wrong = np.arange(60) % 3 == third
        store.add(trial, {1: {"paraphrase": np.where(wrong, -0.4 * right, right)}})
    task = choose(store.pool(), "greedy").tasks["paraphrase"]
    assert [member.weight for member in task.selective.members] == [0.5, 0.5]
    assert task.selective.scores.dev_dev == 1
    assert task.best_single.scores.dev_dev < 1
    assert task.note is None


def test_runs_of_different_tasks(store: Store) -> None:
    store.add("a", {1: {"sentiment": store.outputs("sentiment", 1)}})
    store.add("b", {1: {"paraphrase": store.outputs("paraphrase", 2)}})
    choice = choose(store.pool())
    chosen = {n: task.selective.members[0].candidate.trial for n, task in choice.tasks.items()}
    assert chosen == {"sentiment": "a", "paraphrase": "b"}
    assert choice.one_for_all is None
    assert choice.to_json()["one_for_all"] is None


def test_json(store: Store) -> None:
    fill(store)
    choice = choose(store.pool())
    content = json.loads(json.dumps(choice.to_json(), allow_nan=False))
    assert list(content["tasks"]) == list(TASKS)
    task = content["tasks"]["sentiment"]
    assert list(task["methods"]) == ["best_single", "simple", "selective"]
    assert task["methods"]["selective"]["scores"]["dev_dev"] == pytest.approx(
        choice.tasks["sentiment"].selective.scores.dev_dev
    )
    member = task["methods"]["simple"]["members"][0]
    assert (member["trial"], member["weight"]) == ("a", pytest.approx(1 / 6))
    assert content["num_encoders"]["simple"] == 6
    assert content["one_for_all"]["overall"]["dev_dev"] > 0
    # a score that is no number has no JSON
    unknown = dataclasses.replace(choice.overall[Method.SIMPLE], dev_dev=float("nan"))
    assert unknown.to_json()["dev_dev"] is None


def test_nothing_to_choose_from(store: Store) -> None:
    store.add_usual("a", 1, outcome=Outcome.FAILED, tags={"outcome_reason": "killed"})
    store.add_usual("b", 2, outcome=None)
    with pytest.raises(
        NothingUsableError,
        match="no run can be a member of an ensemble\n  a: failed: killed\n  b: has not ended\nfix",
    ):
        choose(store.pool())
