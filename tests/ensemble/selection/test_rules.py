"""Selection rules: properties of all of them, and the definition of each."""

import numpy as np
import pytest
from rule_pool import NUM_ROWS, TASKS, Floats, apply, pool, weights_of

from ensemble.selection.combine import Averaged, average
from ensemble.selection.rules import RULES, capped, skill
from ensemble.selection.sample import (
    FitData,
    Linear,
    deduplicated,
    library,
    weights_and_intercept,
)
from trainable.config.tasks import PAPER_TASKS

LINEAR = ("paper_regression", "stacking")


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("rule", RULES)
class TestEveryRule:
    def test_weights_sum_to_1_or_are_of_a_linear_model(self, rule: str, name: str) -> None:
        predictions, labels = pool(name)
        found = apply(RULES[rule], PAPER_TASKS[name], predictions, labels, range(6))
        assert isinstance(found, Linear) == (rule in LINEAR)
        weights, intercept = weights_and_intercept(found)
        if intercept is not None:
            assert np.isfinite(weights).all()
            assert len(intercept) == (5 if name == "sentiment" else 1)
            return
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1, abs=1e-9)
        average(PAPER_TASKS[name], pool(name)[0], weights.tolist())  # accepts them

    def test_the_order_of_candidates_does_not_matter(self, rule: str, name: str) -> None:
        predictions, labels = pool(name)
        mixed = np.random.default_rng(1).permutation(len(predictions))
        straight = weights_of(rule, name, predictions, labels)
        again = weights_of(rule, name, predictions[mixed], labels, order=mixed.tolist())
        np.testing.assert_array_equal(again, straight[mixed])

    def test_a_candidate_given_twice_counts_once(self, rule: str, name: str) -> None:
        predictions, labels = pool(name)
        twice = np.concatenate([predictions, predictions[:2]])
        weights = weights_of(rule, name, twice, labels)
        np.testing.assert_array_equal(weights[:6], weights_of(rule, name, predictions, labels))
        assert not weights[6:].any()

    def test_a_constant_candidate_has_no_weight(self, rule: str, name: str) -> None:
        predictions, labels = pool(name)
        constant = np.full_like(predictions[:1], 0.2)
        weights = weights_of(rule, name, np.concatenate([constant, predictions]), labels)
        assert weights[0] == 0
        np.testing.assert_array_equal(weights[1:], weights_of(rule, name, predictions, labels))

    def test_weights_are_finite_when_all_candidates_are_noise(self, rule: str, name: str) -> None:
        predictions, labels = pool(name, noise=1e3)
        weights = weights_of(rule, name, predictions, labels)
        assert np.isfinite(weights).all()

    def test_one_candidate_has_all_the_weight(self, rule: str, name: str) -> None:
        predictions, labels = pool(name, num=1)
        (weight,) = weights_of(rule, name, predictions, labels)
        assert weight == 1 or (rule in LINEAR and weight != 0)

    def test_a_cap_limits_the_number_of_members(self, rule: str, name: str) -> None:
        predictions, labels = pool(name)
        _, sample = deduplicated(PAPER_TASKS[name], predictions, labels, range(6))
        weights, intercept = weights_and_intercept(capped(RULES[rule], 2)(sample))
        assert 1 <= np.count_nonzero(weights) <= 2
        assert intercept is not None or weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("rule", ["simple", "top"])
def test_a_cap_keeps_the_best_of_equals(rule: str) -> None:
    """Accuracies are .6, .5, .7, .9 and .8."""
    labels = np.arange(NUM_ROWS) % 2.0
    predictions = np.tile(2 * labels - 1, (5, 1))
    for m, share in enumerate((0.4, 0.5, 0.3, 0.1, 0.2)):
        predictions[m, : round(share * NUM_ROWS)] *= -1
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions, labels, range(5))
    assert np.flatnonzero(capped(RULES[rule], 2)(sample)).tolist() == [3, 4]


@pytest.mark.parametrize("rule", ["greedy", "greedy_of_best", "greedy_by_loss", "greedy_sorted"])
def test_greedy_applies_a_cap_while_it_selects(rule: str) -> None:
    """The heaviest members of an unlimited selection may be worse without the others."""
    predictions, labels = pool("similarity", num=8)
    _, sample = deduplicated(PAPER_TASKS["similarity"], predictions, labels, range(8))
    found = capped(RULES[rule], 2)(sample)
    assert np.count_nonzero(found) == 2
    refit = np.sort(np.argsort(-RULES[rule](sample), kind="stable")[:2])
    again = np.zeros(8)
    again[refit] = RULES[rule](sample.among(refit))
    assert sample.score(found) >= sample.score(again) - 1e-3


def test_greedy_with_a_sorted_start_and_greedy_by_loss() -> None:
    predictions, labels = pool("paraphrase", num=8)
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions, labels, range(8))
    best = set(sample.ranked()[:5].tolist())
    selected = set(np.flatnonzero(RULES["greedy_sorted"](sample)).tolist())
    assert selected <= best or best <= selected  # the best prefix may end in the sorted start

    def loss(weights: Floats) -> float:
        return float(np.logaddexp(0, (1 - 2 * labels) * (weights @ predictions[:8])).mean())

    assert loss(RULES["greedy_by_loss"](sample)) <= loss(RULES["greedy_of_best"](sample))


@pytest.mark.parametrize("name", TASKS)
def test_skill_orders_candidates_by_score_and_simple_weighs_them_equally(name: str) -> None:
    predictions, labels = pool(name, noise=1.0)
    _, sample = deduplicated(PAPER_TASKS[name], predictions, labels, range(6))
    weights, singles = skill(sample), sample.singles
    assert (np.argsort(-weights, kind="stable") == np.argsort(-singles, kind="stable")).all()
    assert weights_of("simple", name, predictions, labels).tolist() == pytest.approx([1 / 6] * 6)


def test_top_weighs_the_five_best_equally() -> None:
    predictions, labels = pool("paraphrase", num=7)
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions, labels, range(7))
    weights = np.zeros(7)
    weights[sample.ranked()[:5]] = 1 / 5
    np.testing.assert_allclose(RULES["top"](sample), weights)


def test_skill_by_hand() -> None:
    """Accuracies .75 and .5 of five classes are log-odds above chance of log 12 and log 4."""
    truth = np.zeros(4)
    answers = np.array([[0, 0, 0, 1], [0, 0, 2, 3]])
    _, sample = deduplicated(PAPER_TASKS["sentiment"], np.eye(5)[answers], truth, range(2))
    raw = np.log([12, 4]) ** 4
    np.testing.assert_allclose(skill(sample), raw / raw.sum(), atol=1e-8)


def test_simple_and_skill_use_only_the_given_candidates() -> None:
    predictions, labels = pool("paraphrase")
    in_simple = [True, False, True, False, False, False]
    for rule in ("simple", "skill"):
        weights = weights_of(rule, "paraphrase", predictions, labels, in_simple=in_simple)
        assert (weights > 0).tolist() == in_simple


def test_regression_finds_the_best_convex_weights() -> None:
    """The objective of each kind is no better at any of 200 random weights nearby."""
    draw = np.random.default_rng(3)
    for name in TASKS:
        predictions, labels = pool(name, noise=1.0)
        found = weights_of("regression", name, predictions, labels)

        def score(weights: Floats, name: str = name) -> float:
            mean = np.tensordot(weights, pool(name, noise=1.0)[0], 1)
            labels = pool(name, noise=1.0)[1]
            if name == "similarity":
                return float(np.corrcoef(mean, labels)[0, 1])
            if name == "paraphrase":  # at the best scale of logits
                z = np.outer(np.linspace(0.2, 8, 60), mean * (2 * labels - 1))
                return float(-np.logaddexp(0, -z).mean(axis=1).min())
            likelihood = np.log(mean[np.arange(len(labels)), labels.astype(int)]).mean()
            return float(likelihood + np.log(np.maximum(weights, 1e-9)).mean())  # with its prior

        for _ in range(200):
            other = np.maximum(1e-6, found + draw.normal(0, 0.3, 6))
            assert score(found) >= score(other / other.sum()) - 2e-2


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("averaged", Averaged)
@pytest.mark.parametrize("rule", ["regression", "greedy_by_loss", "stacking"])
def test_a_fitted_rule_beats_the_worst_candidate_whatever_is_averaged(
    rule: str, averaged: Averaged, name: str
) -> None:
    task = PAPER_TASKS[name]
    predictions, labels = pool(name, averaged=averaged)
    _, sample = deduplicated(task, predictions, labels, range(6), averaged=averaged)
    found = RULES[rule](sample)
    assert sample.score(found) > sample.singles.min() + 0.02
    if not isinstance(found, Linear):
        assert found.sum() == pytest.approx(1)


def test_stacking_finds_the_model_that_labels_were_drawn_from() -> None:
    """One of two candidates has a negative weight, and the intercept is not 0."""
    draw = np.random.default_rng(0)
    z = np.rint(draw.normal(0, 2, (2, 4000)) * 2**20) / 2**20
    labels = (draw.random(4000) < 1 / (1 + np.exp(-(1.5 * z[0] - 0.8 * z[1] + 1)))).astype(float)
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], z, labels, range(2))
    found = RULES["stacking"](sample)
    assert isinstance(found, Linear)
    np.testing.assert_allclose(found.weights, [1.5, -0.8], atol=0.15)
    np.testing.assert_allclose(found.intercept, [1], atol=0.15)
    of_paper = RULES["paper_regression"](sample)
    assert isinstance(of_paper, Linear)
    assert of_paper.intercept.tolist() == [0]
    assert sample.score(found) > sample.score(of_paper)


def test_stacking_of_scores_is_ridge_regression() -> None:
    draw = np.random.default_rng(0)
    predictions = draw.normal(3, 1, (2, 500))
    labels = 2 * predictions[0] - predictions[1] + 1.5 + draw.normal(0, 0.1, 500)
    _, sample = deduplicated(PAPER_TASKS["similarity"], predictions, labels, range(2))
    found = RULES["stacking"](sample)
    assert isinstance(found, Linear)
    np.testing.assert_allclose(found.weights, [2, -1], atol=0.02)
    np.testing.assert_allclose(found.intercept, [1.5], atol=0.1)


def test_the_library_has_candidates_with_half_of_the_best_ones_skill() -> None:
    task, labels = PAPER_TASKS["paraphrase"], np.repeat([0.0, 1.0], [60, 40])
    scores = np.array([0.9, 0.5, 0.74, 0.76, 0.6, 0.8])
    assert library(task, scores, labels).tolist() == [0, 3, 5]
    many = np.linspace(0.8, 0.9, 100)
    assert library(task, many, labels).tolist() == list(range(60, 100))
    assert library(PAPER_TASKS["similarity"], scores - 0.2, labels).tolist() == [0, 2, 3, 4, 5]
    assert library(task, np.array([0.3, 0.2]), labels).tolist() == [0]  # all at or below chance


def test_a_bag_has_half_of_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()

    def bag_of(bag: FitData, **_: object) -> Floats:
        sizes.add(len(bag.predictions))
        return np.ones(len(bag.predictions))

    monkeypatch.setattr("ensemble.selection.rules._greedy", bag_of)
    predictions, labels = pool("paraphrase")
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions, labels, range(6))
    assert RULES["bagged"](sample).sum() == pytest.approx(1)
    assert sizes == {3}


def test_a_cap_keeps_the_heaviest_members_of_a_linear_model() -> None:
    """The second best candidate is a noisy copy of the best and adds nothing."""
    predictions, labels = pool("similarity", num=5, noise=2.0)
    twin = predictions[0] + np.random.default_rng(1).normal(0, 1e-3, predictions[0].shape)
    _, sample = deduplicated(
        PAPER_TASKS["similarity"], np.stack([*predictions, twin]), labels, range(6)
    )
    weights = weights_and_intercept(RULES["stacking"](sample))[0]
    heaviest = set(np.argsort(-np.abs(weights))[:2].tolist())
    assert heaviest != set(sample.ranked()[:2].tolist())
    kept = weights_and_intercept(capped(RULES["stacking"], 2)(sample))[0]
    assert set(np.flatnonzero(kept).tolist()) == heaviest
