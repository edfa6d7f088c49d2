"""Choosing the rule of a task by cross-validation."""

import numpy as np
import pytest
from rule_pool import NUM_ROWS, Floats, pool

from ensemble.selection.rule_selection import choose_rule, inner_folds
from ensemble.selection.rules import OFFERED, RULES, skill
from ensemble.selection.sample import FitData, deduplicated
from ensemble.statistics.effort import SHIPPED
from trainable.config.tasks import PAPER_TASKS


def by_row(sample: FitData) -> list[str]:
    return [f"row-{n}" for n in range(len(sample.labels))]


def test_the_rule_that_explains_the_most_of_held_out_labels_is_chosen() -> None:
    """One of six candidates is almost perfect, so averages with others are worse."""
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


def test_of_rules_that_explain_equally_much_the_cheapest_is_chosen() -> None:
    """Two candidates whose outputs differ only in scale."""
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


def test_one_row_gives_the_default_rule() -> None:
    predictions, labels = pool("paraphrase")
    _, sample = deduplicated(PAPER_TASKS["paraphrase"], predictions[:, :1], labels[:1], range(6))
    choice, fits = choose_rule(sample, ["row"])
    assert (choice.rule, choice.scores, fits) == (next(iter(OFFERED)), (), [])


def test_a_rule_that_fits_noise_is_not_chosen() -> None:
    """Of candidates at chance level, averages are better than the best single one."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 5, NUM_ROWS).astype(np.float64)
    predictions = np.eye(5)[draw.integers(0, 5, (60, NUM_ROWS))]
    _, sample = deduplicated(PAPER_TASKS["sentiment"], predictions, labels, range(60))
    choice, _ = choose_rule(sample, by_row(sample))
    scores = {row.rule: row for row in choice.scores}
    assert scores["single"].explained < scores[choice.rule].explained - 1
    assert scores[choice.rule].num_members > 10


def test_the_order_of_rows_does_not_matter_and_a_rule_is_fitted_once_a_fold() -> None:
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
