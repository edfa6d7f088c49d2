import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from chosen import Store, fill
from little_effort import LITTLE
from threadpoolctl import threadpool_info, threadpool_limits

from ensemble.candidates.pool import Pool
from ensemble.choice import cross_fitting
from ensemble.choice.cost import Cost
from ensemble.choice.cross_fitting import choose
from ensemble.choice.decide import Decision, Settings, choose_level, decide
from ensemble.choice.result import EnsembleChoice, Method, Prefer
from ensemble.choice.task_view import views_of
from ensemble.presentation.choice_json import choice_json
from ensemble.presentation.words import doubts_by_task
from ensemble.selection.combine import Averaged, combine
from ensemble.selection.rules import OFFERED, Rule
from ensemble.statistics.dev_splits import folds
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.schema import Outcome
from trainable.evaluation.metrics import overall, task_metric
from trainable.storage.predictions import dev_train_mask

TASKS = ("sentiment", "paraphrase", "similarity")


def settings(pool: Pool, rules: Mapping[str, Rule] = OFFERED) -> Settings:
    candidates = {c for task in pool.tasks.values() for c in task.candidates}
    return Settings(rules, rules is OFFERED, Cost.of_pool(candidates), math.inf, LITTLE)


def selection_of_half(pool: Pool, half: int) -> dict[str, Any]:
    """Everything that a half selects, as values that can be compared; halves count from 1."""
    given = settings(pool)
    decision = decide(views_of(pool, Averaged.PAPER)[half], given)
    level = choose_level(decision, given, Prefer.BALANCED)
    options = [*decision.options.by_cost, level]
    weights = [[w.tolist() for w in option.combinations.values()] for option in options]
    simple = [of_task.tolist() for of_task in decision.simple.values()]
    members = [option.members for option in options]
    return {"weights": weights, "simple": simple, "members": members, "rules": decision.rules}


def combined(pool: Pool, name: str, weights: np.ndarray) -> np.ndarray:
    """The members' combined predictions for all of dev, from their raw outputs."""
    task, members = pool.tasks[name], np.flatnonzero(weights)
    return combine(task.task, [task.outputs[m] for m in members], weights[members].tolist())


def by_method(decision: Decision, given: Settings) -> dict[Method, Mapping[str, Any]]:
    return {
        Method.BEST_SINGLE: decision.options.singles.combinations,
        Method.SIMPLE: decision.simple,
        Method.SELECTIVE: choose_level(decision, given, Prefer.SCORE).combinations,
    }


def test_scores_are_means_over_the_members_that_halves_select(store: Store) -> None:
    fill(store)
    pool = store.pool()
    choice = choose(pool, effort=LITTLE, prefer=Prefer.SCORE)
    views, given = views_of(pool, Averaged.PAPER)[1:], settings(pool)
    chosen = [by_method(decide(view, given), given) for view in views]
    assert list(choice.tasks) == list(TASKS)
    for name, task in choice.tasks.items():
        of_task = pool.tasks[name]
        assert task.num_rows == len(of_task.ids)
        for method, found in task.methods.items():
            held_out, in_sample = [], []
            for fold, of_half in zip(folds(of_task.ids)[1:], chosen, strict=True):
                outputs = combined(pool, name, of_half[method][name])
                for scores, rows in ((in_sample, fold.fit), (held_out, fold.judge)):
                    labels = of_task.labels[rows]
                    scores.append(task_metric(of_task.task, outputs[rows], labels)[0])
            assert found.scores.held_out == pytest.approx(np.mean(held_out)), (name, method)
            assert found.scores.in_sample == pytest.approx(np.mean(in_sample)), (name, method)
        assert task.best_single.scores.optimism > 0
        assert len(task.best_single.members) == 1


def test_members_are_selected_on_all_of_dev_by_the_rule_of_dev_train(store: Store) -> None:
    fill(store)
    pool = store.pool()
    choice = choose(pool, effort=LITTLE, prefer=Prefer.SCORE)
    whole, dev_train, *_ = views_of(pool, Averaged.PAPER)
    rules = {n: rule.rule for n, rule in decide(dev_train, settings(pool)).rules.items()}
    options = decide(whole, settings(pool), rules).options
    selected = next(o for o in options.by_cost if o.members == choice.candidates(Method.SELECTIVE))
    for name, task in choice.tasks.items():
        assert task.rule.rule == rules[name]
        weights = selected.combinations[name]
        assert sorted(m.weight for m in task.selective.members) == sorted(weights[weights > 0])
        for chosen in task.methods.values():
            given = [member.weight for member in chosen.members]
            assert sum(given) == pytest.approx(1)
            assert given == sorted(given, reverse=True)
            assert {m.candidate for m in chosen.members} <= set(pool.candidates)
        outputs = combined(pool, name, weights)
        score, _ = task_metric(pool.tasks[name].task, outputs, pool.tasks[name].labels)
        assert task.selective.trajectory[-1] == pytest.approx(score)


def test_overall_is_the_mean_over_tasks(usual: tuple[Pool, EnsembleChoice]) -> None:
    pool, choice = usual
    tasks = {name: task.task for name, task in pool.tasks.items()}
    for method in Method:
        for which in ("held_out", "in_sample"):
            scores = {n: getattr(t.methods[method].scores, which) for n, t in choice.tasks.items()}
            expected = overall(scores, tasks)
            assert getattr(choice.overall[method], which) == pytest.approx(expected)
    single = choice.one_for_all
    assert single is not None
    assert single.scores.in_sample <= choice.overall[Method.BEST_SINGLE].in_sample + 1e-12


def test_simple_is_the_best_epoch_of_every_run(usual: tuple[Pool, EnsembleChoice]) -> None:
    pool, choice = usual
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
                    outputs = task.outputs[task.candidates.index(candidate)]
                    scores[name], _ = task_metric(task.task, outputs, task.labels)
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
def test_a_halfs_selection_does_not_depend_on_the_other_half(
    store: Store, value: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Neither on its labels nor, in the case of NaN, on outputs there."""
    fill(store)
    pool = store.pool()
    for half in (1, 4):
        tasks = {}
        for name, task in pool.tasks.items():
            rows = folds(task.ids)[half].fit
            labels = np.where(rows, task.labels, value(task.labels))
            tasks[name] = dataclasses.replace(task, labels=labels)
            if np.isnan(labels).any():
                outputs = task.outputs.copy()
                outputs[:, ~rows] = np.nan
                tasks[name] = dataclasses.replace(tasks[name], outputs=outputs)
        changed = dataclasses.replace(pool, tasks=tasks)
        assert selection_of_half(changed, half) == selection_of_half(pool, half)
        other = half + 1 if half % 2 else half - 1
        if not np.isnan(tasks["sentiment"].labels).any():  # the labels do matter to the other half
            assert selection_of_half(changed, other) != selection_of_half(pool, other)


@pytest.mark.parametrize("seed", range(3))
def test_a_halfs_selection_from_files_does_not_depend_on_the_other_halfs_labels(
    make_store: Callable[[str], Store], seed: int
) -> None:
    """Nor do the epochs that are candidates: the files have other labels for the other half."""
    found = []
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
        pool = store.pool()
        decision = decide(views_of(pool, Averaged.PAPER)[1], settings(pool))
        chosen = {}
        for method, by_task in by_method(decision, settings(pool)).items():
            for task, weights in by_task.items():
                members = np.flatnonzero(weights)
                labels_of = [pool.tasks[task].candidates[m].label for m in members]
                chosen[method, task] = dict(zip(labels_of, weights[members], strict=True))
        found.append((chosen, decision.rules))
    assert found[0] == found[1]


def test_the_order_of_runs_does_not_matter(store: Store) -> None:
    fill(store)
    expected = choose(store.pool(), effort=LITTLE)
    store.runs.reverse()
    assert choose(store.pool(), effort=LITTLE) == expected


def test_a_selective_ensemble_without_a_gain_is_doubted(store: Store) -> None:
    """One of two runs is perfect."""
    labels = store.labels["paraphrase"]
    perfect = (2 * labels - 1).astype(np.float32)
    store.add("good", {1: {"paraphrase": perfect}})
    store.add("bad", {1: {"paraphrase": -perfect}})
    choice = choose(store.pool(), effort=LITTLE)
    task = choice.tasks["paraphrase"]
    assert [member.candidate.trial for member in task.selective.members] == ["good"]
    doubt = "selective (1.0000) is not above best single (1.0000)"
    assert doubts_by_task(choice)["paraphrase"].startswith(doubt)


def test_only_a_comparison_without_a_clear_gain_is_doubted(store: Store) -> None:
    """Each of three runs is wrong and unsure on another third of the rows: any two are right."""
    right = (2 * store.labels["paraphrase"] - 1).astype(np.float32)
    for third, trial in enumerate("abc"):
        wrong = np.arange(60) % 3 == third
        store.add(trial, {1: {"paraphrase": np.where(wrong, -0.4 * right, right)}})
    choice = choose(store.pool(), "greedy")
    task = choice.tasks["paraphrase"]
    assert [member.weight for member in task.selective.members] == [0.5, 0.5]
    assert task.selective.scores.held_out == 1
    assert task.best_single.scores.held_out < 1
    assert doubts_by_task(choice)["paraphrase"] == "selective (1.0000) is not above simple (1.0000)"


def test_runs_of_different_tasks(store: Store) -> None:
    store.add("a", {1: {"sentiment": store.outputs("sentiment", 1)}})
    store.add("b", {1: {"paraphrase": store.outputs("paraphrase", 2)}})
    choice = choose(store.pool(), effort=LITTLE)
    chosen = {n: task.selective.members[0].candidate.trial for n, task in choice.tasks.items()}
    assert chosen == {"sentiment": "a", "paraphrase": "b"}
    assert choice.one_for_all is None
    assert choice_json(choice)["one_for_all"] is None


def test_choice_json(usual: tuple[Pool, EnsembleChoice]) -> None:
    _, choice = usual
    content = json.loads(json.dumps(choice_json(choice), allow_nan=False))
    assert list(content["tasks"]) == list(TASKS)
    task = content["tasks"]["sentiment"]
    assert list(task["methods"]) == ["best_single", "simple", "selective"]
    assert task["methods"]["selective"]["scores"]["held_out"] == pytest.approx(
        choice.tasks["sentiment"].selective.scores.held_out
    )
    member = task["methods"]["simple"]["members"][0]
    assert (member["trial"], member["weight"]) == ("a", pytest.approx(1 / 6))
    assert content["num_encoders"]["simple"] == 6
    assert content["one_for_all"]["overall"]["held_out"] > 0
    # NaN is not valid JSON
    unknown = dataclasses.replace(choice.overall[Method.SIMPLE], held_out=float("nan"))
    assert unknown.to_json()["held_out"] is None


def test_a_pool_without_usable_runs_is_refused(store: Store) -> None:
    store.add_usual("a", 1, outcome=Outcome.FAILED, tags={"outcome_reason": "killed"})
    store.add_usual("b", 2, outcome=None)
    with pytest.raises(
        NothingUsableError,
        match="no run can be a member of an ensemble\n  a: failed: killed\n  b: has not ended\nfix",
    ):
        choose(store.pool())


def test_matrix_products_of_a_choice_use_one_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads would idle most of the time, and sums would depend on their number."""
    during: list[int] = []

    def views(*given: Any) -> Any:
        during.extend(threads())
        return views_of(*given)

    def threads() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    monkeypatch.setattr(cross_fitting, "views_of", views)
    for trial, seed in (("a", 1), ("b", 2)):
        store.add_usual(trial, seed, num_epochs=1)
    with threadpool_limits(2, "blas"):
        choose(store.pool(), effort=LITTLE)
        assert set(threads()) == {2}  # as before
    assert set(during) == {1}
