"""Optuna's TPE, which draws each setting by itself, looking through all trials once for a trial.

`optuna.samplers.TPESampler` sorts the trials into good and bad ones, and looks up a setting in each
of them, anew for every setting of a trial: with 1,000 trials of 15 settings that is most of the
time that asking takes, and nothing has changed between one setting and the next. Here the trials
are sorted once for each that is asked for, and what a trial came to is looked up once, when it has
ended. Densities are the same sums in fewer steps. The draws are Optuna's, bit for bit, unless two
candidates are equally good to fifteen digits: `tests/search/algorithms/test_tpe.py` compares them.

What is overridden are Optuna's own methods, which are not public: those tests say when they move.

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
"""Of trials in their study."""
Floats = NDArray[np.float64]

_FAR = 8.5
"""Standard deviations beyond which the mass of a normal distribution is 0 in float64."""

_UNKNOWN, _ABSENT, _PRESENT = range(3)


class _Trials(list[FrozenTrial]):
    """The good or the bad trials, by number: those that have ended, and those under way."""

    def __init__(self, ended: Numbers, running: Sequence[FrozenTrial], trials: list[FrozenTrial]):
        super().__init__(running)
        self.ended, self.running, self.by_number = ended, running, trials


class _Column:
    """A setting of the trials that have ended, as TPE's estimators want it."""

    def __init__(self, name: str, distribution: BaseDistribution) -> None:
        self.name, self.distribution = name, distribution
        self.values: Floats = np.zeros(0)  # by the trial's number
        self.state: NDArray[np.int8] = np.zeros(0, np.int8)

    def of(self, trials: _Trials) -> Floats:
        """[N] of the trials that have the setting, in the order of their numbers, which is what
        their weights follow."""
        self._grow(len(trials.by_number))
        for number in trials.ended[self.state[trials.ended] == _UNKNOWN].tolist():
            params = trials.by_number[number].params
            self.state[number] = _PRESENT if self.name in params else _ABSENT
            if self.name in params:
                self.values[number] = self.distribution.to_internal_repr(params[self.name])
        ended = trials.ended[self.state[trials.ended] == _PRESENT]
        under_way = [trial for trial in trials.running if self.name in trial.params]
        convert = self.distribution.to_internal_repr
        return np.insert(
            self.values[ended],
            np.searchsorted(ended, [trial.number for trial in under_way]),
            [convert(trial.params[self.name]) for trial in under_way],
        )

    def _grow(self, size: int) -> None:
        missing = size - len(self.values)
        if missing > 0:
            missing += len(self.values)
            self.values = np.concatenate([self.values, np.zeros(missing)])
            self.state = np.concatenate([self.state, np.full(missing, _UNKNOWN, np.int8)])


class _Mixture(_ParzenEstimator):
    """The good or the bad trials' values of one setting, as a mixture of a kernel for each."""

    def log_pdf(self, samples_dict: dict[str, Floats]) -> Floats:
        """[S] log densities, of values of the one setting."""
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
        log_mass = np.zeros(len(mean))  # of each kernel, between the ends of its range
        cut = (low > -_FAR) | (high < _FAR)
        log_mass[cut] = _log_gauss_mass(low[cut], high[cut])
        height = np.log(self._mixture_distribution.weights) - log_mass - np.log(deviation)
        terms = (np.log(samples) if kernels.is_log else samples)[:, np.newaxis] - mean  # [S, N]
        terms /= deviation
        terms *= terms
        terms *= -0.5
        terms += height - 0.5 * math.log(2 * math.pi)
        return np.asarray(np.log(np.exp(terms, out=terms).sum(axis=1)))  # one is as wide as all


class TPE(TPESampler):
    """`TPESampler(multivariate=False, constant_liar=True)`, its trials looked through once.

    Args:
        seed: of its draws.
        num_startup_trials: trials that are drawn at random first.
    """

    def __init__(self, seed: int, num_startup_trials: int) -> None:
        super().__init__(
            seed=seed,
            n_startup_trials=num_startup_trials,
            multivariate=False,  # left out, Optuna draws jointly where there is one objective
            constant_liar=True,  # trials run side by side: keep away from those under way
        )
        self._parzen_estimator_cls = _Mixture
        self._asked = -1  # number of the trial that the others were sorted for
        self._good, self._bad = (_Trials(np.zeros(0, np.int64), (), []) for _ in range(2))
        self._columns: dict[str, _Column] = {}
        self._under_way: list[int] = []  # numbers of trials that had not ended when last looked at
        self._num_seen = 0
        self._ended: Numbers = np.zeros(0, np.int64)  # rising
        self._ranks: Floats = np.zeros((0, 3))  # of those

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A setting of the trial that is asked for."""
        if len(self._ended) >= self._n_startup_trials:  # they do not become fewer
            return self._sample(study, trial, {param_name: param_distribution})[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        """A trial has ended: what was sorted is of yesterday."""
        self._asked = -1
        super().after_trial(*args, **kwargs)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._asked != trial.number:
            self._sort(study, trial)
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
            columns[name] = column.of(trials)
        return columns

    def _sort(self, study: Study, asked: FrozenTrial) -> None:
        """Good trials: the best tenth, at most 25 where there is one objective; running ones are
        bad."""
        everything = study.get_trials(deepcopy=False)
        self._look(study, everything)
        under_way = (everything[number] for number in self._under_way if number != asked.number)
        running = [trial for trial in under_way if trial.state is TrialState.RUNNING]
        ended = self._ended
        if len(study.directions) == 1:
            best = np.lexsort(self._ranks.T[::-1])[: default_gamma(len(ended))]
            good, bad = np.sort(ended[best]), np.delete(ended, best)
        else:
            gamma = default_gamma_multiobjective(len(ended))
            trials = [everything[number] for number in ended.tolist()]
            good, bad = map(_numbers, _split_trials(study, trials, gamma))
        self._good = _Trials(good, (), everything)
        self._bad = _Trials(bad, running, everything)
        self._asked = asked.number

    def _look(self, study: Study, everything: list[FrozenTrial]) -> None:
        """Take in the trials that have ended since the last time, but for those that failed."""
        unknown = [*self._under_way, *range(self._num_seen, len(everything))]
        self._under_way, self._num_seen = [], len(everything)
        ended = []
        for number in unknown:
            state = everything[number].state
            if not state.is_finished():
                self._under_way.append(number)
            elif state is not TrialState.FAIL:
                ended.append(number)
        if ended:
            places = np.searchsorted(self._ended, ended)
            ranks = [_rank(study, everything[number]) for number in ended]
            self._ended = np.insert(self._ended, places, ended)
            self._ranks = np.insert(self._ranks, places, ranks, axis=0)


def _rank(study: Study, trial: FrozenTrial) -> tuple[float, float, float]:
    """What orders trials that have ended, the best first: those that ran to their end by value,
    then the others by how far they came and their value there."""
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
