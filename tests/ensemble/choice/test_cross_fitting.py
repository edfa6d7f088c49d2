import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from little_effort import LITTLE

from ensemble.candidates.pool import Pool
from ensemble.choice.cost import Cost
from ensemble.choice.cross_fitting import choose
from ensemble.choice.decide import Decision, Terms, choose_level, decide
from ensemble.choice.result import EnsembleChoice, Method, Prefer
from ensemble.choice.task_view import views_of
from ensemble.presentation.choice_json import choice_json
from ensemble.presentation.words import doubts_by_task
from ensemble.selection import stacking
from ensemble.selection.combine import Averaged, Transform, combine
from ensemble.selection.rules import OFFERED, Rule
from ensemble.statistics.bootstrap import Gain
from ensemble.statistics.dev_splits import folds
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import Outcome
from trainable.evaluation.metrics import overall, task_metric
from trainable.runtime.progress import Work, heard_by
from trainable.storage.predictions import dev_train_mask

TASKS = ("sentiment", "paraphrase", "similarity")
Store = Any  # tests/ensemble/conftest.py


def terms(pool: Pool, rules: Mapping[str, Rule] = OFFERED) -> Terms:
    candidates = {c for task in pool.tasks.values() for c in task.candidates}
    return Terms(rules, rules is OFFERED, Cost.of_pool(candidates), math.inf, LITTLE)


def decided(pool: Pool, half: int) -> dict[str, Any]:
    """Everything that a half chooses, as values; halves are counted from 1."""
    given = terms(pool)
    decision = decide(views_of(pool, Averaged.PAPER)[half], given)
    level = choose_level(decision, given, Prefer.BALANCED)
    options = [*decision.options.every, level]
    weights = [[w.tolist() for w in option.combinations.values()] for option in options]
    simple = [of_task.tolist() for of_task in decision.simple.values()]
    members = [option.members for option in options]
    return {"weights": weights, "simple": simple, "members": members, "rules": decision.rules}


def combined(pool: Pool, name: str, weights: np.ndarray) -> np.ndarray:
    """What members put out for all of dev, from their raw outputs."""
    task, members = pool.tasks[name], np.flatnonzero(weights)
    return combine(task.task, [task.outputs[m] for m in members], weights[members].tolist())


def by_method(decision: Decision, given: Terms) -> dict[Method, Mapping[str, Any]]:
    return {
        Method.BEST_SINGLE: decision.options.singles.combinations,
        Method.SIMPLE: decision.simple,
        Method.SELECTIVE: choose_level(decision, given, Prefer.SCORE).combinations,
    }


def fill(store: Store) -> None:
    for seed, trial in enumerate("abcdef"):
        store.add_usual(trial, seed, num_epochs=3)


@pytest.fixture(scope="module")
def usual(module_store: Store) -> tuple[Pool, EnsembleChoice]:
    """The runs of `fill` and the choice among them, with the effort that users get."""
    fill(module_store)
    pool = module_store.pool()
    told: list[Work] = []
    with heard_by(told.append):
        choice = choose(pool)
    assert [told[0].done, told[-1].done, {work.total for work in told}] == [0, 20, {20}]
    return pool, choice


def test_scores_are_those_of_what_the_halves_choose(store: Store) -> None:
    """The level of cost among them."""
    fill(store)
    pool = store.pool()
    choice = choose(pool, effort=LITTLE, prefer=Prefer.SCORE)
    views, given = views_of(pool, Averaged.PAPER)[1:], terms(pool)
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


def test_members_are_chosen_on_all_of_dev_by_the_rule_of_dev_train(store: Store) -> None:
    fill(store)
    pool = store.pool()
    choice = choose(pool, effort=LITTLE, prefer=Prefer.SCORE)
    whole, dev_train, *_ = views_of(pool, Averaged.PAPER)
    suited = {n: rule.rule for n, rule in decide(dev_train, terms(pool)).rules.items()}
    options = decide(whole, terms(pool), suited).options
    shipped = next(o for o in options.every if o.members == choice.candidates(Method.SELECTIVE))
    for name, task in choice.tasks.items():
        assert task.rule.rule == suited[name]
        weights = shipped.combinations[name]
        assert sorted(m.weight for m in task.selective.members) == sorted(weights[weights > 0])
        for chosen in task.methods.values():
            given = [member.weight for member in chosen.members]
            assert sum(given) == pytest.approx(1)
            assert given == sorted(given, reverse=True)
            assert {m.candidate for m in chosen.members} <= set(pool.candidates)
        outputs = combined(pool, name, weights)
        score, _ = task_metric(pool.tasks[name].task, outputs, pool.tasks[name].labels)
        assert task.selective.trajectory[-1] == pytest.approx(score)


def test_overall_is_the_mean_over_tasks(
    usual: tuple[Pool, EnsembleChoice],
) -> None:
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


def test_simple_is_the_best_epoch_of_every_run(
    usual: tuple[Pool, EnsembleChoice],
) -> None:
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
def test_what_a_half_chooses_has_not_seen_the_other(
    store: Store, value: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Neither its labels, nor, where these are no numbers, what candidates put out there."""
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
        assert decided(changed, half) == decided(pool, half)
        other = half + 1 if half % 2 else half - 1  # the test can see a change at all
        if not np.isnan(tasks["sentiment"].labels).any():
            assert decided(changed, other) != decided(pool, other)


@pytest.mark.parametrize("seed", range(3))
def test_nor_has_it_from_the_files_on(make_store: Callable[[str], Store], seed: int) -> None:
    """The same outputs of every epoch, the other rows' labels drawn anew: the same epochs too."""
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
        decision = decide(views_of(pool, Averaged.PAPER)[1], terms(pool))
        chosen = {}
        for method, by_task in by_method(decision, terms(pool)).items():
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


def test_encoders_are_counted_once_over_all_tasks(usual: tuple[Pool, EnsembleChoice]) -> None:
    _, choice = usual
    for method in Method:
        members = [m for task in choice.tasks.values() for m in task.methods[method].members]
        found = choice.candidates(method)
        assert set(found) == {member.candidate for member in members}
        assert len(found) == len(set(found))
    assert len(choice.candidates(Method.SIMPLE)) == 6


def test_it_is_said_where_selective_does_not_win(store: Store) -> None:
    """Two runs, one of them perfect: nothing to gain."""
    labels = store.labels["paraphrase"]
    perfect = (2 * labels - 1).astype(np.float32)
    store.add("good", {1: {"paraphrase": perfect}})
    store.add("bad", {1: {"paraphrase": -perfect}})
    choice = choose(store.pool(), effort=LITTLE)
    task = choice.tasks["paraphrase"]
    assert [member.candidate.trial for member in task.selective.members] == ["good"]
    said = "selective (1.0000) is not above best single (1.0000)"
    assert doubts_by_task(choice)["paraphrase"].startswith(said)


def test_what_selective_is_clearly_above_is_not_doubted(store: Store) -> None:
    """Three runs, each unsure and wrong on its own third of the rows: two are right everywhere."""
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


def test_a_front_of_score_against_cost(store: Store) -> None:
    for seed, trial in enumerate("abcd"):
        store.add_usual(trial, seed, notes={"num_parameters": 10 + seed})
    pool = store.pool()
    choice = choose(pool, "greedy")
    assert len(choice.front) > 2
    assert choice.whole.candidates == choice.candidates(Method.SELECTIVE)
    assert choice.whole.scores == choice.overall[Method.SELECTIVE]
    assert choice.whole in choice.front
    assert choice.whole.gain == Gain(0, 0, 0)
    for point in choice.front:
        assert point.cost == sum(candidate.num_parameters for candidate in point.candidates)
    for fewer, more in itertools.pairwise(p for p in choice.front if p != choice.whole):
        assert fewer.cost < more.cost
        assert fewer.scores.held_out < more.scores.held_out
    limit = choice.front[1].cost
    capped = choose(pool, "greedy", max_cost=limit)
    assert choice.cost(capped.candidates(Method.SELECTIVE)) <= limit


@pytest.mark.parametrize("max_cost", [9, 0, -1])
def test_nothing_is_so_cheap(store: Store, max_cost: int) -> None:
    for seed, trial in enumerate("ab"):
        notes = {"num_parameters": 10_000_000 + seed}
        store.add_usual(trial, seed, num_epochs=1, notes=notes)
    with pytest.raises(
        ConfigError, match=r"as cheap as .* M parameters\nfix: the cheapest .* 10 M"
    ):
        choose(store.pool(), "top", max_cost=max_cost)


def test_a_cost_that_is_not_recorded_for_all_is_a_number_of_encoders(store: Store) -> None:
    """However few of them are looked at, so that costs can be compared."""
    store.add_usual("a", 1, num_epochs=1, notes={"num_parameters": 10_000_000})
    store.add_usual("b", 2, num_epochs=1)
    choice = choose(store.pool(), "simple")
    content = choice_json(choice)
    assert content["num_parameters"] == content["num_encoders"]
    assert [point.cost for point in choice.front] == [len(p.candidates) for p in choice.front]
    with pytest.raises(ConfigError, match=r"--max-cost: the parameters of b@1 are not recorded"):
        choose(store.pool(), "simple", max_cost=1e9)


def test_probes_of_one_encoder_pay_for_it_once(store: Store) -> None:
    notes = {"num_parameters": 110, "num_encoder_parameters": 100}
    probe = {"probe.num_epochs": 1, "train.num_epochs": 1, "train.stages": ["probe", "finetune"]}
    for seed, trial in enumerate("abc"):
        store.add_usual(trial, seed, notes=notes, config=probe)
    other = {**probe, "model.pooling": "mean"}
    store.add_usual("d", 3, num_epochs=1, notes=notes, config=other)
    store.add_usual("e", 4, num_epochs=1, notes=notes, config=probe, recipe="soup")
    pool = store.pool()
    cost = Cost.of_pool(pool.candidates)
    by_label = {
        candidate.label: candidate for task in pool.tasks.values() for candidate in task.candidates
    }
    assert cost([by_label["a@1"]]) == 110
    assert cost([by_label["a@1"], by_label["a@1"]]) == 110
    assert cost([by_label["a@1"], by_label["b@1"], by_label["c@1"]]) == 130
    assert cost([by_label["a@1"], by_label["d@1"]]) == 220  # used in another way
    assert cost([by_label["a@1"], by_label["e@1"]]) == 220  # of runs that were trained on
    assert cost([by_label["a@1"], by_label["a@2"]]) == 220  # trained since
    added = dataclasses.replace(by_label["a@1"], trial="x.csv", weights_uri="", num_parameters=0)
    assert Cost.of_pool([*pool.candidates, added])([by_label["a@1"], added]) == 110


def test_standardised_by_the_rows_that_choose(store: Store) -> None:
    """One run's scores a million times as large: as good as ever, and exported as seen."""
    for seed, trial in enumerate("abc"):
        outputs = store.outputs("similarity", seed)
        store.add(trial, {1: {"similarity": outputs * (1e6 if trial == "b" else 1)}})
    plain, found = (
        choose(store.pool(), "top", averaged=a) for a in (Averaged.PAPER, Averaged.STANDARDISED)
    )
    task, pool = found.tasks["similarity"], store.pool().tasks["similarity"]
    assert (
        task.selective.scores.held_out > plain.tasks["similarity"].selective.scores.held_out + 0.01
    )
    for member in task.selective.members:
        outputs = pool.outputs[pool.candidates.index(member.candidate)]
        expected = Transform.fit(pool.task, Averaged.STANDARDISED, outputs, pool.labels)
        assert member.transform == expected
    transforms = [member.transform for member in task.selective.members]
    members = [pool.candidates.index(member.candidate) for member in task.selective.members]
    weights = [member.weight for member in task.selective.members]
    served = combine(pool.task, [pool.outputs[m] for m in members], weights, transforms)
    assert task_metric(pool.task, served, pool.labels)[0] == task.selective.trajectory[-1]
    # a half's own rows alone say what is standard to it
    fit = folds(pool.ids)[1].fit
    poisoned = dataclasses.replace(pool, outputs=np.where(fit, pool.outputs, 1e9))
    seen, other = (
        views_of(Pool({"similarity": given}, (), ()), Averaged.STANDARDISED)[1]["similarity"]
        for given in (pool, poisoned)
    )
    assert other.transforms == seen.transforms


def test_linear_models_are_judged_and_served_alike(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacking, "RIDGES", (0.1,))
    for seed, trial in enumerate("abcd"):
        store.add_usual(trial, seed, num_epochs=1)
    pool = store.pool()
    choice = choose(pool, "stacking")
    for name, task in choice.tasks.items():
        given, members = pool.tasks[name], task.selective.members
        assert task.selective.intercept is not None
        outputs = [given.outputs[given.candidates.index(m.candidate)] for m in members]
        served = combine(
            given.task,
            outputs,
            [m.weight for m in members],
            [m.transform for m in members],
            task.selective.intercept,
        )
        score, _ = task_metric(given.task, served, given.labels)
        assert task.selective.trajectory == (pytest.approx(score),)
        assert task.best_single.intercept is None
        assert np.isfinite(
            [task.selective.scores.held_out, *dataclasses.astuple(task.gains[Method.SIMPLE])]
        ).all()
    assert choice.whole.candidates == choice.candidates(Method.SELECTIVE)
    assert choice.front[-1] == choice.whole
    json.dumps(choice_json(choice), allow_nan=False)


def test_a_linear_model_cannot_be_cut_down_to_a_cost(store: Store) -> None:
    outputs = {1: {"similarity": store.outputs("similarity", 1)}}
    store.add("a", outputs, notes={"num_parameters": 10})
    with pytest.raises(ConfigError, match="a linear model cannot be cut down to a cost"):
        choose(store.pool(), "stacking", max_cost=1e9)


def test_json(usual: tuple[Pool, EnsembleChoice]) -> None:
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
    # a score that is no number has no JSON
    unknown = dataclasses.replace(choice.overall[Method.SIMPLE], held_out=float("nan"))
    assert unknown.to_json()["held_out"] is None


def test_nothing_to_choose_from(store: Store) -> None:
    store.add_usual("a", 1, outcome=Outcome.FAILED, tags={"outcome_reason": "killed"})
    store.add_usual("b", 2, outcome=None)
    with pytest.raises(
        NothingUsableError,
        match="no run can be a member of an ensemble\n  a: failed: killed\n  b: has not ended\nfix",
    ):
        choose(store.pool())
