"""Confidence intervals of differences between rows of a study, over dev rows and seeds together.

Legend: L rows of the table, S seeds, R replicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import t as student

from ensemble.statistics.arrays import Floats

MIN_SEEDS = 3
"""Fewest independent seeds with which a difference may be called clear."""

ERROR_RATE = 0.05
"""Familywise error rate: the probability that a table calls any difference clear that is 0."""

_FAR = 2.0
"""A row whose variance is more than this many times the shrunk one gets only its own degrees of
freedom. By simulation (`docs/experiments.md`): at 1, half of the effects are missed; at infinity,
one row of large variance in a table of 24 causes a false star in 8 to 12 % of tables, instead of 4
to 6."""

_TINY = 1e-12
"""Lower bound of variances and standard errors, so that logarithms and ratios are finite."""


@dataclass(frozen=True)
class Difference:
    """A row's difference to its base: the mean over seeds of the paired differences."""

    value: float
    low: float  # 95 % t interval, from the variance over dev rows and over seeds together
    high: float
    spread: float | None  # standard deviation over seeds of the paired differences
    num_seeds: int  # independent ones, of the row or of its base, whichever has fewer
    p_value: float | None = None  # two-sided, H0: no difference; None with too few seeds
    is_clear: bool = False  # significant by Holm's procedure over all differences of the table


@dataclass(frozen=True, eq=False)
class Pair:
    """A row and its base, by one task's metric or by overall."""

    row: str
    base: str
    values: Floats  # paired differences [S, 1 + R], first those on the dev rows as they are


def differences_of(
    scores: Mapping[str, Floats], num_independent: Mapping[str, int], pairs: Sequence[Pair]
) -> list[Difference]:
    """Return each pair's difference, before the correction for multiple comparisons (`holm`).

    A mixed model: score = row effect + seed effect + residual. The seed effect is common to all
    rows and cancels in a paired difference. Each row has a residual variance of its own, shrunk
    towards that of all rows but never reduced (`_residual_variances`). The variance over dev rows,
    from a paired bootstrap of the mean over seeds, is added.

    Args:
        scores: label -> [S] of every row that has such a score, among them those of the pairs.
        num_independent: label -> number of its seeds that share no teacher. A row's variance is
            divided by it; rows with fewer than S are left out of the common variance.
    """
    num_seeds = len(next(iter(scores.values())))
    pooled = [label for label in scores if num_independent[label] == num_seeds]
    variances = _residual_variances({label: scores[label] for label in pooled or scores})
    return [_difference(pair, variances, num_independent) for pair in pairs]


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences with `is_clear` set by Holm's procedure at `ERROR_RATE`."""
    tested = [n for n, each in enumerate(differences) if each.p_value is not None]
    ranked = sorted(tested, key=lambda n: differences[n].p_value or 0.0)
    adjusted = list(differences)
    for place, number in enumerate(ranked):
        p_value = adjusted[number].p_value
        if p_value is None or p_value * (len(ranked) - place) > ERROR_RATE:
            break
        adjusted[number] = replace(adjusted[number], is_clear=True)
    return adjusted


@dataclass(frozen=True, eq=False)
class _Variances:
    """Residual variances."""

    by_row: dict[str, tuple[float, float]]  # label -> variance, degrees of freedom
    default: tuple[float, float]  # of a row that is not in `by_row`
    all_degrees: float  # degrees of freedom of all rows together


def _residual_variances(scores: Mapping[str, Floats]) -> _Variances:
    """Return the variances of the scores [L][S] that remain after row and seed effects.

    Three seeds estimate a variance badly, so each row's is shrunk towards the variance that the
    rows have in common; how far is itself estimated (empirical Bayes, Smyth 2004). A row with a
    larger variance than the shrunk one keeps its own, and if it is much larger (`_FAR`), only its
    own few degrees of freedom.
    """
    table = np.stack(list(scores.values()))
    num_rows, num_seeds = table.shape
    if num_rows < 2 or num_seeds < 2:
        return _Variances({}, (0.0, np.inf), np.inf)
    means = table.mean(axis=1, keepdims=True)
    rest = table - means - (table - means).mean(axis=0)
    degrees = num_seeds - 1
    own = (rest**2).sum(axis=1) / (degrees * (1 - 1 / num_rows))
    all_degrees = degrees * (num_rows - 1)
    prior, prior_degrees = _prior(own, degrees)
    share = degrees / (degrees + prior_degrees)
    moderated = prior + share * (own - prior)
    shared = min(degrees + prior_degrees, all_degrees)
    by_row = {
        label: (float(max(mine, shrunk)), float(degrees if mine > _FAR * shrunk else shared))
        for label, mine, shrunk in zip(scores, own, moderated, strict=True)
    }
    return _Variances(by_row, (max(v for v, _ in by_row.values()), degrees), all_degrees)


def _prior(variances: Floats, degrees: int) -> tuple[float, float]:
    """Return the prior variance and its degrees of freedom, infinite if all rows vary alike.

    Matches the mean and variance of log s^2: Smyth (2004), section 6.2.
    """
    logs = np.log(np.maximum(variances, _TINY)) - digamma(degrees / 2) + np.log(degrees / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, degrees / 2))
    low, high = 1e-3, 1e6
    if excess <= polygamma(1, high):
        return float(variances.mean()), np.inf
    if excess >= polygamma(1, low):
        return float(variances.mean()), 2 * low
    half = float(brentq(lambda x: polygamma(1, x) - excess, low, high))
    return float(np.exp(logs.mean() + digamma(half) - np.log(half))), 2 * half


def _difference(
    pair: Pair, variances: _Variances, num_independent: Mapping[str, int]
) -> Difference:
    by_seed, num_seeds = pair.values[:, 0], len(pair.values)
    value = float(by_seed.mean())
    independent = min(num_independent[pair.row], num_independent[pair.base])
    spread = float(np.std(by_seed, ddof=1)) if num_seeds > 1 else None
    if not pair.values.any():  # the same predictions: nothing varies
        return Difference(value, value, value, spread, independent)
    over_seeds, weights = 0.0, 0.0
    for label in (pair.row, pair.base):  # degrees of freedom: Welch-Satterthwaite
        variance, degrees = variances.by_row.get(label, variances.default)
        part = variance / num_independent[label]
        over_seeds, weights = over_seeds + part, weights + part**2 / degrees
    degrees = min(over_seeds**2 / weights, variances.all_degrees) if weights > 0 else np.inf
    error = float(np.sqrt(over_seeds + _variance_over_rows(pair.values[:, 1:])))
    width = float(student.ppf(0.975, degrees)) * error
    p_value = None
    if independent >= MIN_SEEDS:
        p_value = float(2 * student.sf(abs(value) / max(error, _TINY), degrees))
    return Difference(value, value - width, value + width, spread, independent, p_value)


def _variance_over_rows(replicates: Floats) -> float:
    """Return the variance over replicates [S, R] that all seeds have in common.

    What differs from run to run is already in the variance over seeds. The variance of the mean
    over seeds is a + w / S, that of a single seed a + w; this is a.
    """
    num_seeds = len(replicates)
    of_mean = float(np.var(replicates.mean(axis=0)))
    if num_seeds == 1:
        return of_mean
    of_one = float(np.var(replicates, axis=1).mean())
    return max(0.0, (num_seeds * of_mean - of_one) / (num_seeds - 1))
