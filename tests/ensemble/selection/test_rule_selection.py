"""How a rule is chosen, and what a gain is worth."""

import numpy as np
import pytest
from rule_pool import NUM_ROWS, TASKS, Floats, pool, weights_of
from scipy.special import softmax

from ensemble.selection.combine import average, to_predictions
from ensemble.selection.rule_selection import choose_rule, inner_folds
from ensemble.selection.rules import OFFERED, RULES, skill
from ensemble.selection.sample import (
    FitData,
    deduplicated,
)
from ensemble.statistics.bootstrap import Gain, gain_of_halves
from ensemble.statistics.effort import SHIPPED
from trainable.config.tasks import PAPER_TASKS, Task
from trainable.evaluation.metrics import task_metric


def by_row(sample: FitData) -> list[str]:
    return [f"row-{n}" for n in range(len(sample.labels))]


def test_the_rule_is_taken_that_explains_the_most_of_what_it_was_not_fitted_on() -> None:
    """One candidate knows, five do not: what averages more than that one is worse."""
    predictions, labels = pool("similarity", noise=8.0)
    predictions[3] = labels + np.random.default_rng(0).normal(0, 0.01, NUM_ROWS)
    _, sample = deduplicated(PAPER_TASKS["similarity"], predictions, labels, range(6))
    choice, fits = choose_rule(sample, by_row(sample), RULES)
    scores = {row.rule: row for row in choice.scores}
    assert list(scores) == list(RULES)
    assert scores[choice.rule].explained == max(row.explained for row in choice.scores)
    assert scores["single"].explained == pytest.approx(1, abs=1e-4)
    assert scores["simple"].explained < scores["single"].explained - 0.01
    masks = inner_folds(by_row(sample), SHIPPED)
    assert len(fits) == len(masks)
    for fitted, held_out in zip(fits, masks, strict=True):
        np.testing.assert_array_equal(fitted, RULES[choice.rule](sample.take(~held_out)))


def test_of_rules_that_explain_as_much_the_cheapest_is_taken() -> None:
    """Two candidates that put out the same on another scale: the one large, the other small."""
    draw = np.random.default_rng(0)
    labels = draw.uniform(0, 5, NUM_ROWS)
    first = labels + draw.normal(0, 1, NUM_ROWS)
    predictions = np.stack([first, 2 * first])
    _, sample = deduplicated(PAPER_TASKS["similarity"], predictions, labels, range(2))
    rules = {"one": lambda s: np.array([1.0, 0.0]), "other": lambda s: np.array([0.0, 1.0])}
    for costs in ([9.0, 5.0], [5.0, 9.0]):
        choice, _ = choose_rule(sample, by_row(sample), rules, lambda some, of=costs: of[some[0]])
        assert choice.rule == ("one" if costs[0] < costs[1] else "other")
        assert [row.cost for row in choice.scores] == costs


def test_one_row_cannot_compare_rules() -> None:
    predictions, labels = pool("paraphrase")
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions[:, :1], labels[:1], range(6))
    choice, fits = choose_rule(sample, ["row"])
    assert (choice.rule, choice.scores, fits) == (next(iter(OFFERED)), (), [])


def test_a_rule_that_fits_noise_is_not_taken() -> None:
    """Greedy selection among many noisy candidates, of answers that nobody knows."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 5, NUM_ROWS).astype(np.float64)
    predictions = np.eye(5)[draw.integers(0, 5, (60, NUM_ROWS))]
    _, sample = deduplicated(PAPER_TASKS["sentiment"], predictions, labels, range(60))
    choice, _ = choose_rule(sample, by_row(sample))
    scores = {row.rule: row for row in choice.scores}
    assert scores["single"].explained < scores[choice.rule].explained - 1
    assert scores[choice.rule].num_members > 10


def test_rows_may_come_in_any_order_and_only_a_rules_own_folds_judge_it() -> None:
    predictions, labels = pool("sentiment")
    task = PAPER_TASKS["sentiment"]
    _, sample = deduplicated(task, predictions, labels, range(6))
    ids = by_row(sample)
    mixed = np.random.default_rng(5).permutation(NUM_ROWS)
    _, shuffled = deduplicated(task, predictions[:, mixed], labels[mixed], range(6))
    some = {name: OFFERED[name] for name in ("skill", "top", "greedy_of_best")}
    straight, _ = choose_rule(sample, ids, some)
    again, _ = choose_rule(shuffled, [ids[row] for row in mixed], some)
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
