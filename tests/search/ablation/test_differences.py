"""Differences between rows: intervals over dev rows and seeds, and Holm's correction."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from search.ablation.differences import Difference, Pair, differences_of, holm

Floats = NDArray[np.float64]


def differences_in(scores: Floats, row_errors: Floats, **independent: int) -> list[Difference]:
    """Differences of the other rows of scores [L, S] to the first.

    Args:
        row_errors: bootstrap errors of each difference [L - 1, R], equal for all seeds.
        independent: row -> number of its independent seeds, if not all are.
    """
    labels = [f"row{number}" for number in range(len(scores))]
    by_label = dict(zip(labels, scores, strict=True))
    num_seeds = {label: independent.get(label, scores.shape[1]) for label in labels}
    pairs = []
    for label, errors in zip(labels[1:], row_errors, strict=True):
        by_seed = by_label[label] - by_label["row0"]
        pairs.append(Pair(label, "row0", by_seed[:, None] + np.concatenate([[0.0], errors])))
    return differences_of(by_label, num_seeds, pairs)


def null_differences(
    num_rows: int, num_seeds: int, sd: float, random: np.random.Generator
) -> list[Difference]:
    """Differences of a table without effects, with hardly any variance over dev rows."""
    scores = random.normal(0, 0.02, num_seeds) + random.normal(0, sd, (num_rows, num_seeds))
    return differences_in(scores, random.normal(0, 1e-6, (num_rows - 1, 50)))


def test_with_two_rows_the_test_is_a_paired_t_test_over_seeds() -> None:
    base, row = np.array([0.5, 0.52, 0.49]), np.array([0.53, 0.54, 0.53])
    (found,) = differences_in(np.stack([base, row]), np.zeros((1, 20)))
    paired = row - base
    error = paired.std(ddof=1) / np.sqrt(3)
    width = student.ppf(0.975, 2) * error
    assert found.value == pytest.approx(paired.mean())
    assert (found.low, found.high) == pytest.approx((paired.mean() - width, paired.mean() + width))
    assert found.p_value == pytest.approx(2 * student.sf(paired.mean() / error, 2))
    assert found.spread == pytest.approx(paired.std(ddof=1))


def test_bootstrap_errors_of_single_runs_are_not_counted_twice() -> None:
    """They are part of the variance over seeds already, unlike errors common to all seeds."""
    random = np.random.default_rng(5)
    by_seed = np.array([0.03, 0.02, 0.04])
    scores = {"row": by_seed, "base": np.zeros(3)}

    def width(common: float, single: float) -> float:
        errors = common * random.normal(size=(1, 20_000))
        errors = errors + single * random.normal(size=(3, 20_000))
        values = np.concatenate([by_seed[:, None], by_seed[:, None] + errors], axis=1)
        (found,) = differences_of(scores, {"row": 3, "base": 3}, [Pair("row", "base", values)])
        return found.high - found.low

    assert width(0.0, 0.02) == pytest.approx(width(0.0, 0.0), rel=0.05)
    assert width(0.02, 0.02) == pytest.approx(width(0.02, 0.0), rel=0.05)
    assert width(0.02, 0.0) > 2 * width(0.0, 0.0)


def test_the_variance_over_dev_rows_is_added_to_that_over_seeds() -> None:
    scores = np.array([[0.5, 0.52, 0.49], [0.53, 0.54, 0.53]])
    errors = np.array([[-0.1, 0.1] * 50])
    (narrow,), (wide,) = differences_in(scores, errors * 0), differences_in(scores, errors)
    of_seeds, both = ((each.high - each.low) / 2 / student.ppf(0.975, 2) for each in (narrow, wide))
    assert both == pytest.approx(np.hypot(of_seeds, 0.1))


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_nothing_is_clear_below_three_seeds(num_seeds: int) -> None:
    random = np.random.default_rng(0)
    scores = np.array([[0.2], [0.9], [0.9]]) + random.normal(0, 1e-3, (3, num_seeds))
    found = holm(differences_in(scores, random.normal(0, 1e-3, (2, 50))))
    assert [each.is_clear for each in found] == [num_seeds == 3] * 2
    assert [each.p_value is None for each in found] == [num_seeds < 3] * 2
    assert all(0.6 < each.low < 0.7 < each.high < 0.8 for each in found)


def test_seeds_that_are_not_independent_count_as_one() -> None:
    """The interval is about as wide as that of a single seed, and nothing is clear."""
    random = np.random.default_rng(1)
    scores = np.array([[0.5]] * 5 + [[0.9]]) + random.normal(0, 0.01, (6, 4))
    errors = np.zeros((5, 20))
    plain = holm(differences_in(scores, errors))[-1]
    shared = holm(differences_in(scores, errors, row5=1))[-1]
    assert plain.is_clear
    assert not shared.is_clear
    assert shared.high - shared.low > 1.4 * (plain.high - plain.low)


def test_variances_of_many_rows_are_pooled() -> None:
    """Among 20 rows an effect of 5 standard deviations is usually found, and its interval is
    narrower than that from its own seeds."""
    random = np.random.default_rng(2)
    found, widths = [], []
    for _ in range(40):
        noise = random.normal(0, 0.01, (20, 3))
        noise[-1] += 0.05
        together = holm(differences_in(noise, np.zeros((19, 20))))[-1]
        (alone,) = differences_in(noise[[0, -1]], np.zeros((1, 20)))
        found.append(together.is_clear)
        widths.append((together.high - together.low, alone.high - alone.low))
    assert np.mean(found) > 0.5
    together_width, alone_width = np.mean(widths, axis=0)
    assert together_width < 0.8 * alone_width


def test_a_row_of_larger_variance_keeps_its_own() -> None:
    random = np.random.default_rng(3)
    scores = random.normal(0, 0.005, (20, 4))
    scores[5] = [0.2, -0.2, 0.2, 0.0]
    found = differences_in(scores, np.zeros((19, 20)))
    widths = [each.high - each.low for each in found]
    assert widths[4] > 10 * np.median(widths)


@pytest.mark.parametrize("num_rows", [2, 24])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_without_effects_error_rate_and_coverage_are_as_stated(
    num_rows: int, num_seeds: int
) -> None:
    """At most 5 % of 300 tables have a star, and at most 5 % of intervals exclude 0, each plus two
    standard errors."""
    random = np.random.default_rng([num_rows, num_seeds])
    tables = [holm(null_differences(num_rows, num_seeds, 0.03, random)) for _ in range(300)]
    starred = np.mean([any(each.is_clear for each in table) for table in tables])
    missed = np.mean([each.low > 0 or each.high < 0 for table in tables for each in table])
    error = 2 * np.sqrt(0.05 * 0.95 / 300)
    assert starred < 0.05 + error
    assert missed < 0.05 + error


def test_holms_procedure_stops_at_the_first_p_value_that_is_too_large() -> None:
    def given(p_value: float | None) -> Difference:
        return Difference(0.1, 0.0, 0.2, None, 3, p_value)

    found = holm([given(p) for p in (0.02, 0.01, None, 0.0166, 0.04)])
    # of four: .01 <= .05 / 4, .0166 <= .05 / 3, .02 <= .05 / 2, .04 <= .05
    assert [each.is_clear for each in found] == [True, True, False, True, True]
    found = holm([given(p) for p in (0.001, 0.02, 0.03, 0.04)])
    assert [each.is_clear for each in found] == [True, False, False, False]
