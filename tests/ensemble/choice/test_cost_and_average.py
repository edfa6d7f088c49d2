"""Choices with cost limits, shared encoders, standardised scores and linear models."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from chosen import Store

from ensemble.candidates.pool import Pool
from ensemble.choice.cost import Cost
from ensemble.choice.cross_fitting import choose
from ensemble.choice.result import EnsembleChoice, Method
from ensemble.choice.task_view import views_of
from ensemble.presentation.choice_json import choice_json
from ensemble.selection import stacking
from ensemble.selection.combine import Averaged, Transform, combine
from ensemble.statistics.bootstrap import Gain
from ensemble.statistics.dev_splits import folds
from mlflow_setup.errors import ConfigError
from trainable.evaluation.metrics import task_metric


def test_encoders_are_counted_once_over_all_tasks(usual: tuple[Pool, EnsembleChoice]) -> None:
    _, choice = usual
    for method in Method:
        members = [m for task in choice.tasks.values() for m in task.methods[method].members]
        found = choice.candidates(method)
        assert set(found) == {member.candidate for member in members}
        assert len(found) == len(set(found))
    assert len(choice.candidates(Method.SIMPLE)) == 6


def test_the_front_of_score_and_cost(store: Store) -> None:
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
def test_a_cost_limit_below_every_candidate_is_refused(store: Store, max_cost: int) -> None:
    for seed, trial in enumerate("ab"):
        notes = {"num_parameters": 10_000_000 + seed}
        store.add_usual(trial, seed, num_epochs=1, notes=notes)
    with pytest.raises(ConfigError, match=r"more than .* M parameters\nfix: allow at least 10 M"):
        choose(store.pool(), "top", max_cost=max_cost)


def test_cost_is_the_number_of_encoders_unless_parameters_are_recorded_for_all(
    store: Store,
) -> None:
    """For any members, so that costs can be compared."""
    store.add_usual("a", 1, num_epochs=1, notes={"num_parameters": 10_000_000})
    store.add_usual("b", 2, num_epochs=1)
    choice = choose(store.pool(), "simple")
    content = choice_json(choice)
    assert content["num_parameters"] == content["num_encoders"]
    assert [point.cost for point in choice.front] == [len(p.candidates) for p in choice.front]
    with pytest.raises(ConfigError, match=r"--max-cost: the parameters of b@1 are not recorded"):
        choose(store.pool(), "simple", max_cost=1e9)


def test_a_frozen_encoder_shared_by_probes_is_counted_once(store: Store) -> None:
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
    assert cost([by_label["a@1"], by_label["d@1"]]) == 220  # another pooling
    assert cost([by_label["a@1"], by_label["e@1"]]) == 220  # the average of trained encoders
    assert cost([by_label["a@1"], by_label["a@2"]]) == 220  # fine-tuned in epoch 2
    added = dataclasses.replace(by_label["a@1"], trial="x.csv", weights_uri="", num_parameters=0)
    assert Cost.of_pool([*pool.candidates, added])([by_label["a@1"], added]) == 110


def test_scores_are_standardised_by_the_rows_that_members_are_selected_on(store: Store) -> None:
    """One run has scores that are a million times larger."""
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
    # only a half's own rows determine its transforms
    fit = folds(pool.ids)[1].fit
    changed = dataclasses.replace(pool, outputs=np.where(fit, pool.outputs, 1e9))
    seen, other = (
        views_of(Pool({"similarity": given}, (), ()), Averaged.STANDARDISED)[1]["similarity"]
        for given in (pool, changed)
    )
    assert other.transforms == seen.transforms


def test_linear_models_are_scored_as_they_are_served(
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


def test_a_cost_limit_for_a_linear_model_is_refused(store: Store) -> None:
    outputs = {1: {"similarity": store.outputs("similarity", 1)}}
    store.add("a", outputs, notes={"num_parameters": 10})
    with pytest.raises(ConfigError, match="a linear model cannot be reduced to a cost"):
        choose(store.pool(), "stacking", max_cost=1e9)
