"""Differences between rows: dev rows and seeds in one interval, and stars over the whole table."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from search.ablation.differences import Difference, Pair, differences_of, holm

Floats = NDArray[np.float64]


def of_table(scores: Floats, row_errors: Floats, **independent: int) -> list[Difference]:
    """Each row of [L, S] beside the first; `row_errors` [L - 1, R] are the bootstrap's."""
    labels = [f"row{number}" for number in range(len(scores))]
    by_label = dict(zip(labels, scores, strict=True))
    num_seeds = {label: independent.get(label, scores.shape[1]) for label in labels}
    pairs = []
    for label, errors in zip(labels[1:], row_errors, strict=True):
        by_seed = by_label[label] - by_label["row0"]
        pairs.append(Pair(label, "row0", by_seed[:, None] + np.concatenate([[0.0], errors])))
    return differences_of(by_label, num_seeds, pairs)


def drawn(
    num_rows: int, num_seeds: int, sd: float, random: np.random.Generator
) -> list[Difference]:
    """A table without any effect, as `benchmarks/stars.py` has them, without its dev rows."""
    scores = random.normal(0, 0.02, num_seeds) + random.normal(0, sd, (num_rows, num_seeds))
    return of_table(scores, random.normal(0, 1e-6, (num_rows - 1, 50)))


def test_two_rows_alone_are_a_paired_t_test() -> None:
    """Of the seeds, where the dev rows say nothing."""
    base, row = np.array([0.5, 0.52, 0.49]), np.array([0.53, 0.54, 0.53])
    (found,) = of_table(np.stack([base, row]), np.zeros((1, 20)))
    paired = row - base
    error = paired.std(ddof=1) / np.sqrt(3)
    width = student.ppf(0.975, 2) * error
    assert found.value == pytest.approx(paired.mean())
    assert (found.low, found.high) == pytest.approx((paired.mean() - width, paired.mean() + width))
    assert found.p_value == pytest.approx(2 * student.sf(paired.mean() / error, 2))
    assert found.spread == pytest.approx(paired.std(ddof=1))


def test_what_rows_add_by_each_run_alone_is_not_counted_twice() -> None:
    """It is in the variance over seeds already: mistakes that no other seed makes."""
    random = np.random.default_rng(5)
    by_seed = np.array([0.03, 0.02, 0.04])
    scores = {"row": by_seed, "base": np.zeros(3)}

    def width(common: float, own: float) -> float:
        errors = common * random.normal(size=(1, 20_000)) + own * random.normal(size=(3, 20_000))
        values = np.concatenate([by_seed[:, None], by_seed[:, None] + errors], axis=1)
        (found,) = differences_of(scores, {"row": 3, "base": 3}, [Pair("row", "base", values)])
        return found.high - found.low

    assert width(0.0, 0.02) == pytest.approx(width(0.0, 0.0), rel=0.05)
    assert width(0.02, 0.02) == pytest.approx(width(0.02, 0.0), rel=0.05)
    assert width(0.02, 0.0) > 2 * width(0.0, 0.0)


def test_the_variance_over_dev_rows_is_added_to_that_over_seeds() -> None:
    scores = np.array([[0.5, 0.52, 0.49], [0.53, 0.54, 0.53]])
    errors = np.array([[-0.1, 0.1] * 50])
    (narrow,), (wide,) = of_table(scores, errors * 0), of_table(scores, errors)
    of_seeds, both = ((each.high - each.low) / 2 / student.ppf(0.975, 2) for each in (narrow, wide))
    assert both == pytest.approx(np.hypot(of_seeds, 0.1))


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_nothing_is_clear_below_three_seeds(num_seeds: int) -> None:
    random = np.random.default_rng(0)
    scores = np.array([[0.2], [0.9], [0.9]]) + random.normal(0, 1e-3, (3, num_seeds))
    found = holm(of_table(scores, random.normal(0, 1e-3, (2, 50))))
    assert [each.is_clear for each in found] == [num_seeds == 3] * 2
    assert [each.p_value is None for each in found] == [num_seeds < 3] * 2
    assert all(0.6 < each.low < 0.7 < each.high < 0.8 for each in found)


def test_seeds_that_are_not_independent_count_as_one() -> None:
    """The interval is as wide as that of a single seed, and nothing is clear."""
    random = np.random.default_rng(1)
    scores = np.array([[0.5]] * 5 + [[0.9]]) + random.normal(0, 0.01, (6, 4))
    errors = np.zeros((5, 20))
    plain, shared = (holm(of_table(scores, errors, **given))[-1] for given in ({}, {"row5": 1}))
    assert plain.is_clear
    assert not shared.is_clear
    assert shared.high - shared.low > 1.4 * (plain.high - plain.low)


def test_many_rows_tell_together_what_three_seeds_vary_by() -> None:
    """An effect of five standard errors is found among twenty rows, and not by its seeds alone."""
    random = np.random.default_rng(2)
    found, widths = [], []
    for _ in range(40):
        noise = random.normal(0, 0.01, (20, 3))
        noise[-1] += 0.05
        together = holm(of_table(noise, np.zeros((19, 20))))[-1]
        (alone,) = of_table(noise[[0, -1]], np.zeros((1, 20)))
        found.append(together.is_clear)
        widths.append((together.high - together.low, alone.high - alone.low))
    assert np.mean(found) > 0.5
    together_width, alone_width = np.mean(widths, axis=0)
    assert together_width < 0.8 * alone_width


def test_a_row_that_varies_more_than_the_others_keeps_its_own_variance() -> None:
    random = np.random.default_rng(3)
    scores = random.normal(0, 0.005, (20, 4))
    scores[5] = [0.2, -0.2, 0.2, 0.0]
    found = of_table(scores, np.zeros((19, 20)))
    widths = [each.high - each.low for each in found]
    assert widths[4] > 10 * np.median(widths)


@pytest.mark.parametrize("num_rows", [2, 24])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_without_an_effect_stars_and_intervals_err_as_seldom_as_they_say(
    num_rows: int, num_seeds: int
) -> None:
    """In 300 tables at most 5 % with a star and 5 % of intervals without 0, and two standard errors
    of these shares."""
    random = np.random.default_rng([num_rows, num_seeds])
    tables = [holm(drawn(num_rows, num_seeds, 0.03, random)) for _ in range(300)]
    starred = np.mean([any(each.is_clear for each in table) for table in tables])
    missed = np.mean([each.low > 0 or each.high < 0 for table in tables for each in table])
    error = 2 * np.sqrt(0.05 * 0.95 / 300)
    assert starred < 0.05 + error
    assert missed < 0.05 + error


def test_holm_stops_at_the_first_that_is_not_clear() -> None:
    def given(p_value: float | None) -> Difference:
        return Difference(0.1, 0.0, 0.2, None, 3, p_value)

    found = holm([given(p) for p in (0.02, 0.01, None, 0.0166, 0.04)])
    # of four: .01 <= .05 / 4, .0166 <= .05 / 3, .02 <= .05 / 2, .04 <= .05
    assert [each.is_clear for each in found] == [True, True, False, True, True]
    found = holm([given(p) for p in (0.001, 0.02, 0.03, 0.04)])
    assert [each.is_clear for each in found] == [True, False, False, False]
