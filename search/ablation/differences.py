"""How sure a difference between two rows of a study is: dev rows and seeds in one interval.

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
"""Independent seeds below which nothing is called clear, however far from 0 it is."""

ERROR_RATE = 0.05
"""Greatest share of tables in which any difference is called clear where there is none."""

_FAR = 2.0
"""A row whose variance is so many times that of all rows has only its own seeds to tell it by. By
simulation (`docs/experiments.md`): at 1 half of the effects are lost, at infinity a wild row in a
table of 24 brings a false star in 8 to 12 % of them, in place of 4 to 6."""

_TINY = 1e-12
"""In place of a variance of 0, which has no logarithm."""


@dataclass(frozen=True)
class Difference:
    """A row's difference to its base: the mean over seeds of the paired differences."""

    value: float
    low: float  # 95 % interval: t, by the variance over dev rows and over seeds together
    high: float
    spread: float | None  # standard deviation over seeds of the paired differences
    num_seeds: int  # independent ones of the row or of its base, whichever has fewer
    p_value: float | None = None  # two-sided, of no difference; None with too few seeds
    is_clear: bool = False  # by Holm's procedure over all differences of the table


@dataclass(frozen=True, eq=False)
class Pair:
    """A row and its base in one task or in overall."""

    row: str
    base: str
    values: Floats  # paired differences [S, 1 + R], those of the dev rows as they are first


def differences_of(
    scores: Mapping[str, Floats], num_independent: Mapping[str, int], pairs: Sequence[Pair]
) -> list[Difference]:
    """Each pair's difference, of one task or of overall, before the table's other ones are known.

    A mixed model: score = row + seed + the run's own part, the seed's part being common to all rows
    and gone in a paired difference. The variance of the own part is each row's, drawn towards that
    of all rows and never below it (`_own_variances`). To it comes the variance over dev rows, by a
    paired bootstrap of the mean over seeds.

    Args:
        scores: label -> [S] of every row that has such a score, the pairs' among them.
        num_independent: label -> its seeds that share no teacher; a row's variance is divided by
            it, and rows with fewer than S have no part in the common variance.
    """
    num_seeds = len(next(iter(scores.values())))
    pooled = [label for label in scores if num_independent[label] == num_seeds]
    own = _own_variances({label: scores[label] for label in pooled or scores})
    return [_difference(pair, own, num_independent) for pair in pairs]


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same with those called clear that are, at `ERROR_RATE` for all of them together."""
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
    """Variances of a run's own part."""

    by_row: dict[str, tuple[float, float]]  # label -> variance, degrees of freedom
    rest: tuple[float, float]  # of a row that is not among them
    all_degrees: float


def _own_variances(scores: Mapping[str, Floats]) -> _Variances:
    """What is left of the scores [L][S] without rows' and seeds' means, as variances.

    Three seeds tell a variance badly. Where all rows vary alike, all of them tell it together; how
    far a row's is drawn to that is estimated (Smyth 2004, empirical Bayes). A row that varies more
    than that keeps its own variance, and its few degrees of freedom where it is far more.
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
        label: (float(max(mine, drawn)), float(degrees if mine > _FAR * drawn else shared))
        for label, mine, drawn in zip(scores, own, moderated, strict=True)
    }
    return _Variances(by_row, (max(v for v, _ in by_row.values()), degrees), all_degrees)


def _prior(variances: Floats, degrees: int) -> tuple[float, float]:
    """The variance that rows have in common and its degrees of freedom, infinite if all vary alike.

    Fits log s^2 by its mean and variance: Smyth (2004), section 6.2.
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


def _difference(pair: Pair, own: _Variances, num_independent: Mapping[str, int]) -> Difference:
    by_seed, num_seeds = pair.values[:, 0], len(pair.values)
    value = float(by_seed.mean())
    independent = min(num_independent[pair.row], num_independent[pair.base])
    spread = float(np.std(by_seed, ddof=1)) if num_seeds > 1 else None
    if not pair.values.any():  # the same predictions: nothing that could vary
        return Difference(value, value, value, spread, independent)
    of_seeds, weights = 0.0, 0.0
    for label in (pair.row, pair.base):
        variance, degrees = own.by_row.get(label, own.rest)
        part = variance / num_independent[label]
        of_seeds, weights = of_seeds + part, weights + part**2 / degrees
    degrees = min(of_seeds**2 / weights, own.all_degrees) if weights > 0 else np.inf
    error = float(np.sqrt(of_seeds + _variance_over_rows(pair.values[:, 1:])))
    width = float(student.ppf(0.975, degrees)) * error
    p_value = None
    if independent >= MIN_SEEDS:
        p_value = float(2 * student.sf(abs(value) / max(error, _TINY), degrees))
    return Difference(value, value - width, value + width, spread, independent, p_value)


def _variance_over_rows(replicates: Floats) -> float:
    """Variance of the mean over seeds, by replicates [S, R]: the part that all seeds have in
    common.

    What a run gets right by chance, row by row, is its own and already in the variance over seeds.
    Of a + w / S for the mean and a + w for a single seed, this is a.
    """
    num_seeds = len(replicates)
    of_mean = float(np.var(replicates.mean(axis=0)))
    if num_seeds == 1:
        return of_mean
    of_one = float(np.var(replicates, axis=1).mean())
    return max(0.0, (num_seeds * of_mean - of_one) / (num_seeds - 1))
