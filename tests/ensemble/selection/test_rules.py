"""Rules of selection: what holds for each of them, what each is, and how one is chosen."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from ensemble.selection.combine import Averaged, Transform, average, to_predictions
from ensemble.selection.rule_selection import choose_rule
from ensemble.selection.rules import OFFERED, RULES, Rule, capped, skill
from ensemble.selection.sample import (
    Combination,
    FitData,
    Linear,
    deduplicated,
    library,
    spread,
    weights_and_intercept,
)
from ensemble.statistics.bootstrap import Gain, gain_of_halves
from ensemble.statistics.effort import SHIPPED
from trainable.config.tasks import PAPER_TASKS, Task
from trainable.evaluation.metrics import task_metric

Floats = NDArray[np.float64]
TASKS = ("sentiment", "paraphrase", "similarity")
NUM_ROWS = 120


def pool(
    name: str,
    num: int = 6,
    seed: int = 0,
    noise: float = 1.5,
    averaged: Averaged = Averaged.PAPER,
) -> tuple[Floats, Floats]:
    """Predictions of `num` candidates of falling skill, and labels."""
    draw, task = np.random.default_rng(seed), PAPER_TASKS[name]
    if name == "sentiment":
        labels = draw.integers(0, 5, NUM_ROWS).astype(np.float64)
        clean = np.eye(5)[labels.astype(int)] * 2
    elif name == "paraphrase":
        labels = draw.integers(0, 2, NUM_ROWS).astype(np.float64)
        clean = 2 * labels - 1
    else:
        labels = draw.uniform(0, 5, NUM_ROWS).round(1)
        clean = labels
    outputs = [clean + draw.normal(0, noise + 0.2 * m, clean.shape) for m in range(num)]
    transforms = [Transform.fit(task, averaged, given, labels) for given in outputs]
    predictions = [t.apply(task, given) for t, given in zip(transforms, outputs, strict=True)]
    return np.stack(predictions), labels


LINEAR = ("paper_regression", "stacking")


def apply(
    rule: Rule,
    task: Task,
    predictions: Floats,
    labels: Floats,
    order: Sequence[object],
    is_plain: Sequence[bool] | None = None,
) -> Combination:
    """What a rule makes of candidates as they come."""
    kept, sample = deduplicated(task, predictions, labels, order, is_plain)
    return spread(rule(sample), kept, len(predictions))


def weights_of(
    rule: str, name: str, predictions: Floats, labels: Floats, **given: object
) -> Floats:
    order = given.pop("order", list(range(len(predictions))))
    return weights_and_intercept(
        apply(RULES[rule], PAPER_TASKS[name], predictions, labels, order, **given)
    )[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("rule", RULES)
class TestEveryRule:
    def test_weights_are_shares_or_of_a_linear_model(self, rule: str, name: str) -> None:
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
        average(PAPER_TASKS[name], pool(name)[0], weights.tolist())  # takes them

    def test_candidates_may_come_in_any_order(self, rule: str, name: str) -> None:
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

    def test_a_constant_candidate_is_never_taken(self, rule: str, name: str) -> None:
        predictions, labels = pool(name)
        constant = np.full_like(predictions[:1], 0.2)
        weights = weights_of(rule, name, np.concatenate([constant, predictions]), labels)
        assert weights[0] == 0
        np.testing.assert_array_equal(weights[1:], weights_of(rule, name, predictions, labels))

    def test_it_is_no_worse_than_chance_where_all_are_bad(self, rule: str, name: str) -> None:
        predictions, labels = pool(name, noise=1e3)
        weights = weights_of(rule, name, predictions, labels)
        assert np.isfinite(weights).all()

    def test_one_candidate_has_all_the_weight(self, rule: str, name: str) -> None:
        predictions, labels = pool(name, num=1)
        (weight,) = weights_of(rule, name, predictions, labels)
        assert weight == 1 or (rule in LINEAR and weight != 0)

    def test_a_cap_is_kept(self, rule: str, name: str) -> None:
        predictions, labels = pool(name)
        _, sample = deduplicated(PAPER_TASKS[name], predictions, labels, range(6))
        weights, intercept = weights_and_intercept(capped(RULES[rule], 2)(sample))
        assert 1 <= np.count_nonzero(weights) <= 2
        assert intercept is not None or weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("rule", ["simple", "top"])
def test_a_cap_keeps_the_best_of_equals(rule: str) -> None:
    """Accuracies .6, .5, .7, .9, .8, whatever the order in which they come."""
    labels = np.arange(NUM_ROWS) % 2.0
    predictions = np.tile(2 * labels - 1, (5, 1))
    for m, share in enumerate((0.4, 0.5, 0.3, 0.1, 0.2)):
        predictions[m, : round(share * NUM_ROWS)] *= -1
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions, labels, range(5))
    assert np.flatnonzero(capped(RULES[rule], 2)(sample)).tolist() == [3, 4]


@pytest.mark.parametrize("rule", ["greedy", "greedy_of_best", "greedy_by_loss", "greedy_sorted"])
def test_greedy_keeps_to_a_cap_as_it_chooses(rule: str) -> None:
    """Not the heaviest of all that it would take: those may be worth little without the others."""
    predictions, labels = pool("similarity", num=8)
    _, sample = deduplicated(PAPER_TASKS["similarity"], predictions, labels, range(8))
    found = capped(RULES[rule], 2)(sample)
    assert np.count_nonzero(found) == 2
    refit = np.sort(np.argsort(-RULES[rule](sample), kind="stable")[:2])
    again = np.zeros(8)
    again[refit] = RULES[rule](sample.among(refit))
    assert sample.score(found) >= sample.score(again) - 1e-3


def test_rules_that_start_sorted_or_look_at_the_loss() -> None:
    predictions, labels = pool("paraphrase", num=8)
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions, labels, range(8))
    best = set(sample.ranked()[:5].tolist())
    taken = set(np.flatnonzero(RULES["greedy_sorted"](sample)).tolist())
    assert taken <= best or best <= taken  # the shortest best prefix ends in or after the start

    def loss(weights: Floats) -> float:
        return float(np.logaddexp(0, (1 - 2 * labels) * (weights @ predictions[:8])).mean())

    assert loss(RULES["greedy_by_loss"](sample)) <= loss(RULES["greedy_of_best"](sample))


@pytest.mark.parametrize("name", TASKS)
def test_skill_prefers_the_better_and_equal_weights_are_equal(name: str) -> None:
    predictions, labels = pool(name, noise=1.0)
    _, sample = deduplicated(PAPER_TASKS[name], predictions, labels, range(6))
    weights, singles = skill(sample), sample.singles
    assert (np.argsort(-weights, kind="stable") == np.argsort(-singles, kind="stable")).all()
    assert weights_of("simple", name, predictions, labels).tolist() == pytest.approx([1 / 6] * 6)


def test_skill_by_hand() -> None:
    """Accuracies .75 and .5 of five classes: log-odds over chance log(12) and log(4)."""
    truth = np.zeros(4)
    answers = np.array([[0, 0, 0, 1], [0, 0, 2, 3]])
    _, sample = deduplicated(PAPER_TASKS["sentiment"], np.eye(5)[answers], truth, range(2))
    raw = np.log([12, 4]) ** 4
    np.testing.assert_allclose(skill(sample), raw / raw.sum(), atol=1e-8)


def test_equal_weights_are_for_the_plain_ones() -> None:
    predictions, labels = pool("paraphrase")
    plain = [True, False, True, False, False, False]
    for rule in ("simple", "skill"):
        weights = weights_of(rule, "paraphrase", predictions, labels, is_plain=plain)
        assert (weights > 0).tolist() == plain


def test_regression_is_the_best_mixture() -> None:
    """Each kind's objective is no better at any of 200 random weights nearby."""
    draw = np.random.default_rng(3)
    for name in TASKS:
        predictions, labels = pool(name, noise=1.0)
        found = weights_of("regression", name, predictions, labels)

        def score(weights: Floats, name: str = name) -> float:
            mean = np.tensordot(weights, pool(name, noise=1.0)[0], 1)
            labels = pool(name, noise=1.0)[1]
            if name == "similarity":
                return float(np.corrcoef(mean, labels)[0, 1])
            if name == "paraphrase":  # the scale is the rule's to choose
                z = np.outer(np.linspace(0.2, 8, 60), mean * (2 * labels - 1))
                return float(-np.logaddexp(0, -z).mean(axis=1).min())
            likelihood = np.log(mean[np.arange(len(labels)), labels.astype(int)]).mean()
            return float(likelihood + np.log(np.maximum(weights, 1e-9)).mean())  # and its prior

        for _ in range(200):
            other = np.maximum(1e-6, found + draw.normal(0, 0.3, 6))
            assert score(found) >= score(other / other.sum()) - 2e-2


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("averaged", Averaged)
@pytest.mark.parametrize("rule", ["regression", "greedy_by_loss", "stacking"])
def test_whatever_is_averaged_a_fitted_rule_is_better_than_the_worst_candidate(
    rule: str, averaged: Averaged, name: str
) -> None:
    task = PAPER_TASKS[name]
    predictions, labels = pool(name, averaged=averaged)
    _, sample = deduplicated(task, predictions, labels, range(6), averaged=averaged)
    found = RULES[rule](sample)
    assert sample.score(found) > sample.singles.min() + 0.02
    if not isinstance(found, Linear):
        assert found.sum() == pytest.approx(1)


def test_stacking_finds_the_model_that_answers_were_drawn_from() -> None:
    """One of two candidates says the opposite of what it knows, and all answers lean to 1."""
    draw = np.random.default_rng(0)
    z = np.rint(draw.normal(0, 2, (2, 4000)) * 2**20) / 2**20
    labels = (draw.random(4000) < 1 / (1 + np.exp(-(1.5 * z[0] - 0.8 * z[1] + 1)))).astype(float)
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], z, labels, range(2))
    found = RULES["stacking"](sample)
    assert isinstance(found, Linear)
    np.testing.assert_allclose(found.weights, [1.5, -0.8], atol=0.15)
    np.testing.assert_allclose(found.intercept, [1], atol=0.15)
    papers = RULES["paper_regression"](sample)
    assert isinstance(papers, Linear)
    assert papers.intercept.tolist() == [0]
    assert sample.score(found) > sample.score(papers)


def test_stacking_of_scores_is_ridge_regression() -> None:
    draw = np.random.default_rng(0)
    predictions = draw.normal(3, 1, (2, 500))
    labels = 2 * predictions[0] - predictions[1] + 1.5 + draw.normal(0, 0.1, 500)
    _, sample = deduplicated(PAPER_TASKS["similarity"], predictions, labels, range(2))
    found = RULES["stacking"](sample)
    assert isinstance(found, Linear)
    np.testing.assert_allclose(found.weights, [2, -1], atol=0.02)
    np.testing.assert_allclose(found.intercept, [1.5], atol=0.1)


def by_row(sample: FitData) -> list[str]:
    return [f"row-{n}" for n in range(len(sample.labels))]


def test_the_rule_is_taken_that_explains_the_most_of_what_it_was_not_fitted_on() -> None:
    """One candidate knows, five do not: what averages more than that one is worse."""
    predictions, labels = pool("similarity", noise=8.0)
    predictions[3] = labels + np.random.default_rng(0).normal(0, 0.01, NUM_ROWS)
    _, sample = deduplicated(PAPER_TASKS["similarity"], predictions, labels, range(6))
    choice = choose_rule(sample, by_row(sample), RULES)
    scores = {row.rule: row for row in choice.scores}
    assert list(scores) == list(RULES)
    assert scores[choice.rule].explained == max(row.explained for row in choice.scores)
    assert scores["single"].explained == pytest.approx(1, abs=1e-4)
    assert scores["simple"].explained < scores["single"].explained - 0.01


def test_of_rules_that_explain_as_much_the_cheapest_is_taken() -> None:
    """Two candidates that put out the same on another scale: the one large, the other small."""
    draw = np.random.default_rng(0)
    labels = draw.uniform(0, 5, NUM_ROWS)
    first = labels + draw.normal(0, 1, NUM_ROWS)
    predictions = np.stack([first, 2 * first])
    _, sample = deduplicated(PAPER_TASKS["similarity"], predictions, labels, range(2))
    rules = {"one": lambda s: np.array([1.0, 0.0]), "other": lambda s: np.array([0.0, 1.0])}
    for costs in ([9.0, 5.0], [5.0, 9.0]):
        choice = choose_rule(sample, by_row(sample), rules, lambda some, of=costs: of[some[0]])
        assert choice.rule == ("one" if costs[0] < costs[1] else "other")
        assert [row.cost for row in choice.scores] == costs


def test_one_row_cannot_compare_rules() -> None:
    predictions, labels = pool("paraphrase")
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions[:, :1], labels[:1], range(6))
    choice = choose_rule(sample, ["row"])
    assert (choice.rule, choice.scores) == (next(iter(OFFERED)), ())


def test_a_rule_that_fits_noise_is_not_taken() -> None:
    """Greedy selection among many noisy candidates, of answers that nobody knows."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 5, NUM_ROWS).astype(np.float64)
    predictions = np.eye(5)[draw.integers(0, 5, (60, NUM_ROWS))]
    _, sample = deduplicated(PAPER_TASKS["sentiment"], predictions, labels, range(60))
    choice = choose_rule(sample, by_row(sample))
    scores = {row.rule: row for row in choice.scores}
    assert scores["single"].explained < scores[choice.rule].explained - 1
    assert scores[choice.rule].num_members > 10


def test_the_library_is_of_the_best_that_have_half_of_the_best_ones_skill() -> None:
    task, labels = PAPER_TASKS["paraphrase"], np.repeat([0.0, 1.0], [60, 40])
    scores = np.array([0.9, 0.5, 0.74, 0.76, 0.6, 0.8])
    assert library(task, scores, labels).tolist() == [0, 3, 5]
    many = np.linspace(0.8, 0.9, 100)
    assert library(task, many, labels).tolist() == list(range(60, 100))
    assert library(PAPER_TASKS["similarity"], scores - 0.2, labels).tolist() == [0, 2, 3, 4, 5]
    assert library(task, np.array([0.3, 0.2]), labels).tolist() == [0]  # nobody knows anything


def test_rows_may_come_in_any_order_and_only_a_rules_own_folds_judge_it() -> None:
    predictions, labels = pool("sentiment")
    task = PAPER_TASKS["sentiment"]
    _, sample = deduplicated(task, predictions, labels, range(6))
    ids = by_row(sample)
    mixed = np.random.default_rng(5).permutation(NUM_ROWS)
    _, shuffled = deduplicated(task, predictions[:, mixed], labels[mixed], range(6))
    some = {name: OFFERED[name] for name in ("skill", "top", "greedy_of_best")}
    straight = choose_rule(sample, ids, some)
    again = choose_rule(shuffled, [ids[row] for row in mixed], some)
    assert again.rule == straight.rule
    for one, other in zip(straight.scores, again.scores, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-9)
    seen: list[int] = []

    def spy(given: FitData) -> Floats:
        seen.append(len(given.labels))
        return skill(given)

    choose_rule(sample, ids, {"spy": spy})
    assert len(seen) == SHIPPED.num_folds * SHIPPED.num_repeats
    assert all(0.6 * NUM_ROWS < count < NUM_ROWS for count in seen)


def gain(task: Task, outputs: Floats, others: Floats, labels: Floats) -> Gain:
    """Over two parts of the rows."""
    first = np.arange(len(labels)) % 3 == 0
    parts = [first, ~first]
    ours, theirs = ([given[part] for part in parts] for given in (outputs, others))
    return gain_of_halves(task, ours, [theirs], labels, parts)[0]


@pytest.mark.parametrize("name", TASKS)
def test_a_gain_and_its_interval(name: str) -> None:
    task = PAPER_TASKS[name]
    predictions, labels = pool(name, noise=0.8)
    worse, _ = pool(name, noise=6.0)
    found = gain(task, predictions[0], worse[0], labels)
    assert found.low < found.value < found.high
    assert found.is_clear
    nothing = gain(task, predictions[0], predictions[0], labels)
    assert (nothing.low, nothing.value, nothing.high) == (0, 0, 0)
    assert not nothing.is_clear
    halves = [np.arange(NUM_ROWS) % 3 == 0, np.arange(NUM_ROWS) % 3 > 0]
    by_hand = [
        task_metric(task, predictions[0][half], labels[half])[0]
        - task_metric(task, worse[0][half], labels[half])[0]
        for half in halves
    ]
    assert found.value == pytest.approx(np.mean(by_hand))
    back = gain(task, worse[0], predictions[0], labels)
    assert back.value == pytest.approx(-found.value)


def test_what_a_rule_finds_is_what_is_served() -> None:
    """The average of the predictions is the average that `combine` makes of raw outputs."""
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 40, 5))
    predictions = np.stack([to_predictions(PAPER_TASKS["sentiment"], given) for given in logits])
    weights = weights_of("skill", "sentiment", predictions, draw.integers(0, 5, 40).astype(float))
    expected = np.tensordot(weights, softmax(logits, axis=2), 1)
    served = average(PAPER_TASKS["sentiment"], predictions, weights.tolist())
    np.testing.assert_allclose(served, expected, atol=1e-5)
