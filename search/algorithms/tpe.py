"""Optuna's univariate TPE, made faster: the past trials are split once for each new trial.

`optuna.samplers.TPESampler` splits the trials into good and bad ones, and reads a parameter from
each of them, again for every parameter of a new trial: with 1,000 trials of 15 parameters that is
most of the time of `ask`. Here the trials are split once for each new trial, and a trial's values
are read once, after it has ended. Densities are the same sums in fewer steps. The draws equal
Optuna's bit for bit, unless two candidates agree to fifteen digits:
`tests/search/algorithms/test_tpe.py` compares them.

The overridden methods are private ones of Optuna; these tests fail if a new version changes them.

Legend: N trials, S samples.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe._truncnorm import _log_gauss_mass
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.probability_distributions import (
    _BatchedTruncLogNormDistributions,
    _BatchedTruncNormDistributions,
)
from optuna.samplers._tpe.sampler import _split_trials, default_gamma, default_gamma_multiobjective
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

Numbers = NDArray[np.int64]
"""Numbers of trials in their study."""
Floats = NDArray[np.float64]

_FAR = 8.5
"""Standard deviations beyond which the tail of a normal distribution is 0 in float64."""

_UNKNOWN, _ABSENT, _PRESENT = range(3)


class _Trials(list[FrozenTrial]):
    """The good or the bad trials: those that have ended (by number) and those that are running."""

    def __init__(self, ended: Numbers, running: Sequence[FrozenTrial], trials: list[FrozenTrial]):
        super().__init__(running)
        self.ended, self.running, self.by_number = ended, running, trials


class _Column:
    """One parameter's values in the trials that have ended, in Optuna's internal representation."""

    def __init__(self, name: str, distribution: BaseDistribution) -> None:
        self.name, self.distribution = name, distribution
        self.values: Floats = np.zeros(0)  # by the trial's number
        self.state: NDArray[np.int8] = np.zeros(0, np.int8)

    def values_of(self, trials: _Trials) -> Floats:
        """Return the values [N] of the trials that have the parameter, in the order of their
        numbers, on which TPE's weights depend."""
        self._grow(len(trials.by_number))
        for number in trials.ended[self.state[trials.ended] == _UNKNOWN].tolist():
            params = trials.by_number[number].params
            self.state[number] = _PRESENT if self.name in params else _ABSENT
            if self.name in params:
                self.values[number] = self.distribution.to_internal_repr(params[self.name])
        ended = trials.ended[self.state[trials.ended] == _PRESENT]
        running = [trial for trial in trials.running if self.name in trial.params]
        convert = self.distribution.to_internal_repr
        return np.insert(
            self.values[ended],
            np.searchsorted(ended, [trial.number for trial in running]),
            [convert(trial.params[self.name]) for trial in running],
        )

    def _grow(self, size: int) -> None:
        missing = size - len(self.values)
        if missing > 0:
            missing += len(self.values)
            self.values = np.concatenate([self.values, np.zeros(missing)])
            self.state = np.concatenate([self.state, np.full(missing, _UNKNOWN, np.int8)])


class _Mixture(_ParzenEstimator):
    """The density of one parameter in the good or the bad trials: a mixture, one kernel a trial."""

    def log_pdf(self, samples_dict: dict[str, Floats]) -> Floats:
        """Return the log densities [S] of samples of the parameter."""
        ((name, samples),) = samples_dict.items()
        (kernels,) = self._mixture_distribution.distributions
        if not isinstance(
            kernels, _BatchedTruncNormDistributions | _BatchedTruncLogNormDistributions
        ):
            values, places = np.unique(samples, return_inverse=True)
            return np.asarray(super().log_pdf({name: values})[places])
        mean, deviation = kernels.mu, kernels.sigma
        low = (kernels.adapted_low - mean) / deviation
        high = (kernels.adapted_high - mean) / deviation
        log_mass = np.zeros(len(mean))  # of each kernel, within the parameter's range
        cut = (low > -_FAR) | (high < _FAR)
        log_mass[cut] = _log_gauss_mass(low[cut], high[cut])
        height = np.log(self._mixture_distribution.weights) - log_mass - np.log(deviation)
        terms = (np.log(samples) if kernels.is_log else samples)[:, np.newaxis] - mean  # [S, N]
        terms /= deviation
        terms *= terms
        terms *= -0.5
        terms += height - 0.5 * math.log(2 * math.pi)
        # No log-sum-exp: one kernel is as wide as the range, so that the sum does not underflow.
        return np.asarray(np.log(np.exp(terms, out=terms).sum(axis=1)))


class TPE(TPESampler):
    """`TPESampler(multivariate=False, constant_liar=True)` that splits the trials once.

    Args:
        seed: seed of the draws.
        num_startup_trials: number of first trials, which are drawn at random.
    """

    def __init__(self, seed: int, num_startup_trials: int) -> None:
        super().__init__(
            seed=seed,
            n_startup_trials=num_startup_trials,
            multivariate=False,  # Optuna's default draws jointly for a single objective
            constant_liar=True,  # trials run in parallel: do not draw close to running ones
        )
        self._parzen_estimator_cls = _Mixture
        self._split_for = -1  # number of the trial for which the others were split; -1: none
        self._good, self._bad = (_Trials(np.zeros(0, np.int64), (), []) for _ in range(2))
        self._columns: dict[str, _Column] = {}
        self._running: list[int] = []  # numbers of the trials that had not ended at the last update
        self._num_seen = 0
        self._ended: Numbers = np.zeros(0, np.int64)  # increasing
        self._ranks: Floats = np.zeros((0, 3))  # of the trials in `_ended`

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter of the new trial."""
        if len(self._ended) >= self._n_startup_trials:  # the number never decreases
            return self._sample(study, trial, {param_name: param_distribution})[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        """Discard the split after a trial has ended."""
        self._split_for = -1
        super().after_trial(*args, **kwargs)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._split_for != trial.number:
            self._split(study, trial)
        good = self._build_parzen_estimator(study, search_space, self._good, handle_below=True)
        bad = self._build_parzen_estimator(study, search_space, self._bad, handle_below=False)
        drawn = good.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(drawn, self._compute_acquisition_func(drawn, good, bad))
        return {name: space.to_external_repr(best[name]) for name, space in search_space.items()}

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, Floats]:
        assert isinstance(trials, _Trials)
        columns = {}
        for name, distribution in search_space.items():
            column = self._columns.get(name)
            if column is None or column.distribution != distribution:
                column = self._columns[name] = _Column(name, distribution)
            columns[name] = column.values_of(trials)
        return columns

    def _split(self, study: Study, new: FrozenTrial) -> None:
        """Split the trials: good are the best tenth, at most 25 with a single objective; bad are
        the others and the running ones."""
        all_trials = study.get_trials(deepcopy=False)
        self._update(study, all_trials)
        not_ended = (all_trials[number] for number in self._running if number != new.number)
        running = [trial for trial in not_ended if trial.state is TrialState.RUNNING]
        ended = self._ended
        if len(study.directions) == 1:
            best = np.lexsort(self._ranks.T[::-1])[: default_gamma(len(ended))]
            good, bad = np.sort(ended[best]), np.delete(ended, best)
        else:
            gamma = default_gamma_multiobjective(len(ended))
            trials = [all_trials[number] for number in ended.tolist()]
            good, bad = map(_numbers, _split_trials(study, trials, gamma))
        self._good = _Trials(good, (), all_trials)
        self._bad = _Trials(bad, running, all_trials)
        self._split_for = new.number

    def _update(self, study: Study, all_trials: list[FrozenTrial]) -> None:
        """Take in the trials that have ended since the last update, without the failed ones."""
        unknown = [*self._running, *range(self._num_seen, len(all_trials))]
        self._running, self._num_seen = [], len(all_trials)
        ended = []
        for number in unknown:
            state = all_trials[number].state
            if not state.is_finished():
                self._running.append(number)
            elif state is not TrialState.FAIL:
                ended.append(number)
        if ended:
            places = np.searchsorted(self._ended, ended)
            ranks = [_rank(study, all_trials[number]) for number in ended]
            self._ended = np.insert(self._ended, places, ended)
            self._ranks = np.insert(self._ranks, places, ranks, axis=0)


def _rank(study: Study, trial: FrozenTrial) -> tuple[float, float, float]:
    """Return the sort key of a trial that has ended, the best first: complete trials by value, then
    pruned ones by their last step, later first, and their value there."""
    if len(study.directions) > 1:
        return 0.0, 0.0, 0.0
    sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
    if trial.state is TrialState.COMPLETE:
        assert trial.value is not None
        return 0.0, sign * trial.value, 0.0
    if trial.intermediate_values:
        step, value = max(trial.intermediate_values.items())
        return 1.0, -step, sign * value
    return 1.0, 1.0, 0.0


def _numbers(trials: Sequence[FrozenTrial]) -> Numbers:
    return np.array([trial.number for trial in trials], np.int64)
