import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from little_effort import LITTLE

from ensemble.candidates.pool import Pool
from ensemble.choice.cost import Cost
from ensemble.choice.cross_fitting import choose
from ensemble.choice.decide import Chooser, Decision
from ensemble.choice.result import EnsembleChoice, Method
from ensemble.choice.task_view import WHOLE, TaskPredictions
from ensemble.presentation.choice_json import choice_json
from ensemble.selection import stacking
from ensemble.selection.combine import Averaged, Transform, combine
from ensemble.selection.rules import OFFERED, RULES
from ensemble.statistics.dev_splits import NUM_HALVES, halves
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import Outcome
from trainable.evaluation.metrics import overall, task_metric
from trainable.storage.predictions import dev_train_mask

TASKS = ("sentiment", "paraphrase", "similarity")
Store = Any  # tests/ensemble/conftest.py


HALVES = range(1, 1 + NUM_HALVES)


def decided(pool: Pool, half: int) -> dict[str, Any]:
    """Everything that a half chooses, as values."""
    decision = Chooser(pool, OFFERED, None, effort=LITTLE).choose_on(half)
    weights = {
        (method, name): of_task.tolist()
        for method, by_task in decision.weights.items()
        for name, of_task in by_task.items()
    }
    front = [[of_task.tolist() for of_task in step.values()] for step in decision.front]
    return {"weights": weights, "single": decision.single, "rules": decision.rules, "front": front}


def combined(pool: Pool, name: str, decision: Decision, method: Method) -> np.ndarray:
    """What a decision's members put out for all of dev, from their raw outputs."""
    task, weights = pool.tasks[name], decision.weights[method][name]
    members = np.flatnonzero(weights)
    return combine(task.task, [task.outputs[m] for m in members], weights[members].tolist())


def fill(store: Store) -> None:
    for seed, trial in enumerate("abcdef"):
        store.add_usual(trial, seed, num_epochs=3)


@pytest.fixture(scope="module")
def usual(module_store: Store) -> tuple[Pool, EnsembleChoice]:
    """The runs of `fill` and the choice among them, with the effort that users get."""
    fill(module_store)
    pool = module_store.pool()
    return pool, choose(pool)


def test_scores_are_those_of_what_the_halves_choose(store: Store) -> None:
    fill(store)
    pool = store.pool()
    choice = choose(pool, effort=LITTLE)
    chooser = Chooser(pool, OFFERED, None, effort=LITTLE)
    decisions = {half: chooser.choose_on(half) for half in HALVES}
    assert list(choice.tasks) == list(TASKS)
    for name, task in choice.tasks.items():
        given = pool.tasks[name]
        assert task.num_rows == len(given.ids)
        for method, chosen in task.methods.items():
            held_out, in_sample = [], []
            for half in HALVES:
                rows = halves(given.ids)[half - 1]
                outputs = combined(pool, name, decisions[half], method)
                for scores, part in ((in_sample, rows), (held_out, ~rows)):
                    scores.append(task_metric(given.task, outputs[part], given.labels[part])[0])
            assert chosen.scores.held_out == pytest.approx(np.mean(held_out)), (name, method)
            assert chosen.scores.in_sample == pytest.approx(np.mean(in_sample)), (name, method)
        assert task.best_single.scores.optimism > 0
        assert len(task.best_single.members) == 1


def test_members_are_chosen_on_all_of_dev_by_the_rule_of_dev_train(
    usual: tuple[Pool, EnsembleChoice],
) -> None:
    pool, choice = usual
    chooser = Chooser(pool, OFFERED, None)
    suited = {n: found.rule for n, found in chooser.choose_on(1).rules.items()}
    final = chooser.choose_on(WHOLE, suited)
    for name, task in choice.tasks.items():
        assert task.rule.rule == suited[name]
        for method, chosen in task.methods.items():
            weights = [member.weight for member in chosen.members]
            assert sum(weights) == pytest.approx(1)
            assert weights == sorted(weights, reverse=True)
            assert {m.candidate for m in chosen.members} <= set(pool.candidates)
            outputs = combined(pool, name, final, method)
            whole, _ = task_metric(pool.tasks[name].task, outputs, pool.tasks[name].labels)
            assert chosen.trajectory[-1] == pytest.approx(whole)


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
            rows = halves(task.ids)[half - 1]
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
        decision = Chooser(pool, OFFERED, None, effort=LITTLE).choose_on(1)
        chosen = {}
        for (method, task), weights in (
            ((m, t), w) for m, by_task in decision.weights.items() for t, w in by_task.items()
        ):
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


def test_a_note_where_selective_does_not_win(store: Store) -> None:
    """Two runs, one of them perfect: nothing to gain."""
    labels = store.labels["paraphrase"]
    perfect = (2 * labels - 1).astype(np.float32)
    store.add("good", {1: {"paraphrase": perfect}})
    store.add("bad", {1: {"paraphrase": -perfect}})
    task = choose(store.pool(), effort=LITTLE).tasks["paraphrase"]
    assert [member.candidate.trial for member in task.selective.members] == ["good"]
    assert task.note == "selective (1.0000) is not above best single (1.0000)"


def test_what_selective_is_clearly_above_is_not_noted(store: Store) -> None:
    """Three runs, each unsure and wrong on its own third of the rows: two are right everywhere."""
    right = (2 * store.labels["paraphrase"] - 1).astype(np.float32)
    for third, trial in enumerate("abc"):
        wrong = np.arange(60) % 3 == third
        store.add(trial, {1: {"paraphrase": np.where(wrong, -0.4 * right, right)}})
    task = choose(store.pool(), "greedy").tasks["paraphrase"]
    assert [member.weight for member in task.selective.members] == [0.5, 0.5]
    assert task.selective.scores.held_out == 1
    assert task.best_single.scores.held_out < 1
    assert task.note == "selective (1.0000) is not above simple (1.0000)"


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
    assert choice.front[-1].candidates == choice.candidates(Method.SELECTIVE)
    assert choice.front[-1].scores == choice.overall[Method.SELECTIVE]
    for point in choice.front:
        assert point.cost == sum(candidate.num_parameters for candidate in point.candidates)
    for fewer, more in itertools.pairwise(choice.front[:-1]):
        assert fewer.cost < more.cost
        assert fewer.scores.held_out < more.scores.held_out
    capped = choose(pool, "greedy", max_cost=choice.front[1].cost)
    assert capped.candidates(Method.SELECTIVE) == choice.front[1].candidates
    expected = dataclasses.astuple(choice.front[1].scores)
    assert dataclasses.astuple(capped.overall[Method.SELECTIVE]) == pytest.approx(expected)


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


def test_what_costs_more_is_left_out_first(store: Store) -> None:
    """Of two equal runs, either of which is missed as little, the larger goes."""
    for trial, size, seed in (("a", 30, 1), ("b", 10, 2), ("c", 20, 3)):
        store.add_usual(trial, seed, num_epochs=1, notes={"num_parameters": size})
    chooser = Chooser(store.pool(), {"simple": RULES["simple"]}, None)
    chooser.overall = lambda weights, which, on_rest=False: float(  # type: ignore[method-assign]
        len(chooser.encoders(weights))
    )
    front = chooser.choose_on(WHOLE).front
    left = [sorted(c.num_parameters for c in chooser.encoders(weights)) for weights in front]
    assert left == [[10, 20, 30], [10, 20], [10]]


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
    predictions = TaskPredictions(pool, Averaged.STANDARDISED).by(1)
    poisoned = np.where(predictions.rows[1], pool.outputs, np.nan)
    other = TaskPredictions(dataclasses.replace(pool, outputs=poisoned), Averaged.STANDARDISED, 1)
    assert other.transforms == predictions.transforms


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
    assert [len(point.candidates) for point in choice.front] == [
        len(choice.candidates(Method.SELECTIVE))
    ]
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
