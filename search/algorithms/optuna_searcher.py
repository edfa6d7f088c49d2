"""Optuna's TPE under Tune: a `Searcher` on the public `study.ask` and `study.tell`.

Suggests the trials that an earlier driver left unfinished, then the baselines, the first trials of
the sweep, and configurations that the sampler draws. The study gets a finished trial as complete
with its best overall, a stopped one as pruned with its values by epoch, and a diverged or failed
one as failed; likewise the trials of earlier drivers and of older sweeps. Values that are not
finite and baselines are left out.

A paused trial is reported as pruned. When it is promoted it is suggested again, before new trials,
and if it then finishes, it is added to the study as complete.

The first `search.num_probes` trials draw only the settings that matter for heads and end with their
probe. Every second one of the trials after them takes over the settings of the best probe; the
others draw all settings.
"""

import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher

from mlflow_setup.schema import OVERALL, Outcome, OutcomeRecord
from search.algorithms.probes import Probes
from search.algorithms.study import (
    create_study,
    frozen_past_trial,
    frozen_warm_trial,
    objectives,
    values_of,
)
from search.algorithms.suggestion import first_trial_name, is_usable, past_suggestion, suggestion
from search.algorithms.warm_start import WarmTrial
from search.config.baselines import BASELINES, baselines
from search.config.space import Space, suggest
from search.config.sweep_config import SweepConfig, TrialSettings
from search.storage.history import PastTrial
from trainable.tune.keys import AVOIDED, BEST_VALUE, EPOCH, EXCLUSIVE, NUM_EPOCHS


class OptunaSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Suggests the trials of a sweep, named `0001`, `0002-b2` (a first trial) and so on.

    Args:
        history: the sweep's trials so far; unfinished ones are suggested again, unchanged.
        warm: scored trials of older sweeps.
        is_stopped: whether a trial ended because it was asked to stop: it is continued later.
        read: reads a trial that has ended from its folder; needed for `search.objective=tasks`.
        is_stopping: whether the sweep is ending, so that no trial is started any more.
        is_holding: whether no trial is to be started at the moment.
        to_avoid: ids of the nodes on which no trial is to be started.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        history: Sequence[PastTrial] = (),
        warm: Iterable[WarmTrial] = (),
        is_stopped: Callable[[str], bool] = lambda name: False,
        read: Callable[[str], PastTrial] | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
        is_holding: Callable[[], bool] = lambda: False,
        to_avoid: Callable[[], list[str]] = list,
    ) -> None:
        super().__init__(metric=BEST_VALUE, mode="max")
        self.sweep, self.is_stopped, self.is_stopping = sweep, is_stopped, is_stopping
        self.is_holding, self.to_avoid = is_holding, to_avoid
        self.is_paused: Callable[[str], bool] = lambda name: False
        self.promote: Callable[[Collection[str], bool], str | None] = lambda paused, is_end: None
        """Promotes a paused trial, if one is due; `is_end`: nothing else is left to run."""
        self.read, self.metrics = read, objectives(sweep)
        self.base = sweep.base()  # reads recipes, which takes as long as drawing
        self.study = create_study(sweep, len(history), len(self.metrics))
        self.running: dict[str, str] = {}  # Tune's trial id -> name
        self.asked: dict[str, optuna.Trial | None] = {}
        """Name -> Optuna's trial, until it is reported; None: not in the study, or added before."""
        self.suggested: dict[str, dict[str, Any]] = {}  # name -> its suggestion
        for other in warm:
            self.study.add_trial(frozen_warm_trial(sweep, other))
        self.probes = Probes(sweep)
        self.paused: dict[str, dict[str, Any]] = {}  # name -> its suggestion
        self.study_numbers: dict[str, int] = {}  # name of a paused trial -> its number in the study
        taken = {past.number for past in history}
        self.numbers = deque(n for n in range(sweep.search.num_samples) if n not in taken)
        for past in history:
            if past.is_paused and (self.numbers or not past.is_over):
                self.paused[past.name] = past_suggestion(past)
                self.study_numbers[past.name] = len(self.study.get_trials(deepcopy=False))
                stopped = OutcomeRecord(Outcome.PRUNED, "paused", len(past.epochs), 0.0)
                past = replace(past, outcome=stopped)
            if past.is_over and past.record.recipe not in BASELINES:
                self.study.add_trial(frozen_past_trial(sweep, past))
                self.probes.restore(past)
        unfinished = (p for p in history if not p.is_over and p.name not in self.paused)
        self.waiting = deque(map(self._past, unfinished))
        self.delayed: list[tuple[float, dict[str, Any]]] = []  # (earliest time, suggestion)
        begun = {past.name for past in history}
        self.baselines = deque(item for item in baselines(sweep).items() if item[0] not in begun)

    @property
    def num_to_come(self) -> int:
        """Number of trials that are still to be suggested."""
        held_back = len(self.waiting) + len(self.delayed) + len(self.paused)
        return held_back + len(self.baselines) + len(self.numbers)

    @property
    def num_left(self) -> int:
        """Number of trials that are still to be suggested or are running."""
        return self.num_to_come + len(self.asked)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial: its name, recipe, settings, their origin, and the keys searched.

        None: no trial now; "FINISHED": no more trials.
        """
        if self.is_stopping():
            return str(Searcher.FINISHED)
        if self.is_holding():
            return None
        self._requeue_delayed()
        if self.waiting:
            suggested = self.waiting.popleft()
        elif self.baselines:
            name, given = self.baselines.popleft()
            self.asked[name] = None
            suggested = suggestion(name, given, {}, "")
        elif (promoted := self._promoted()) is not None:
            suggested = promoted
        elif self.numbers:
            suggested = self._new(self.numbers.popleft())
        elif self.running or self.delayed:  # a running trial may still have to be restarted
            return None
        elif (promoted := self._promoted(is_end=True)) is not None:
            suggested = promoted
        else:
            return str(Searcher.FINISHED)
        name = suggested["trial"]
        self.running[trial_id], self.suggested[name] = name, suggested
        avoided = self.to_avoid()
        return {**suggested, AVOIDED: avoided} if avoided else suggested

    def _promoted(self, *, is_end: bool = False) -> dict[str, Any] | None:
        name = self.promote(self.paused.keys(), is_end)
        if name is None:
            return None
        self.asked[name] = None  # it was reported when it paused
        return self.paused.pop(name)

    def _requeue_delayed(self) -> None:
        """Move the trials whose delay is over to the waiting ones."""
        now = time.monotonic()
        self.waiting.extend(each for ready, each in self.delayed if ready <= now)
        self.delayed = [(ready, each) for ready, each in self.delayed if ready > now]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an epoch after which the trial is continued."""
        if trial_id in self.running:
            self._report(self.asked[self.running[trial_id]], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the end of a trial. Unknown trials and those that have ended already are ignored.

        After an error the caller calls `retry` or `fail`.
        """
        name = self.running.pop(trial_id, None)
        if name is None or error:
            return
        if self.is_stopped(name):
            self.retry(name)
            return
        if not result or not is_usable(result):
            self.fail(name)
            return
        if self.is_paused(name):
            self.paused[name] = self.suggested[name]
        trial = self.asked.pop(name)
        if trial is None:
            self._complete_promoted(name, result)
            return
        self._report(trial, result)
        self.probes.ended(self.suggested[name], result)
        if result[EPOCH] < result[NUM_EPOCHS]:
            self.study_numbers[name] = trial.number
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        values = self._values(name, result)
        self.study.tell(trial, values or None, state=None if values else TrialState.FAIL)

    def _values(self, name: str, result: dict[str, Any]) -> list[float]:
        """Return the value of each objective; none if the trial lacks one."""
        if self.read is not None and self.metrics != [OVERALL]:
            return values_of(self.read(name), self.metrics)
        return [float(result[BEST_VALUE])]

    def _complete_promoted(self, name: str, result: dict[str, Any]) -> None:
        """Add a promoted trial that has finished; the study has it as pruned so far."""
        values = self._values(name, result) if name in self.study_numbers else []
        if values and result[EPOCH] >= result[NUM_EPOCHS]:
            pruned = self.study.get_trials(deepcopy=False)[self.study_numbers[name]]
            params, distributions = pruned.params, pruned.distributions
            finished = create_trial(values=values, params=params, distributions=distributions)
            self.study.add_trial(finished)

    def retry(self, name: str, *, after_seconds: float = 0.0, exclusive: bool = False) -> None:
        """Suggest a trial once more, unchanged; `exclusive`: without other trials on its node."""
        suggested = {**self.suggested[name], **({EXCLUSIVE: True} if exclusive else {})}
        self.delayed.append((time.monotonic() + after_seconds, suggested))

    def fail(self, name: str) -> None:
        """Report a trial that has failed, or that this driver will not continue."""
        trial = self.asked.pop(name)
        if trial is not None:
            self.study.tell(trial, state=TrialState.FAIL)

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Accept and ignore Tune's metric, mode and space: the sweep has its own."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the state is in the sweep's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the state is in the sweep's folder."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher, but nothing reads the pickle

    def _new(self, number: int) -> dict[str, Any]:
        is_first = number < len(self.sweep.first_trials)
        if is_first:
            given, point = self.sweep.first(number)
            name, chosen_by = first_trial_name(number, given.recipe), f"first trial {number + 1}"
        else:
            given, point = self.base, None
            name, chosen_by = f"{number + 1:04d}", "search"
        space: Space = self.sweep.space
        if number < self.sweep.search.num_probes:
            given, space = self.probes.probe_only(given), self.probes.space
            point = point and {key: point[key] for key in point if key in space}
        elif not is_first and self.probes.is_continuation(number):
            best_probe = self.probes.take_best()
            if best_probe is not None:
                point, chosen_by = best_probe, "search, from a probe"
        return suggestion(name, given, self._ask(name, given, point, space), chosen_by)

    def _past(self, past: PastTrial) -> dict[str, Any]:
        """Return the suggestion of an earlier driver's unfinished trial, unchanged."""
        record = past.record
        rest = {key: value for key, value in record.config.items() if key not in record.searched}
        given = TrialSettings(record.recipe, rest, record.origin)
        point = {key: record.config[key] for key in record.searched}
        if record.recipe in BASELINES:
            self.asked[past.name] = None
        else:
            self._ask(past.name, given, point, {key: self.sweep.space[key] for key in point})
        for epoch, value in enumerate(past.best_values, start=1):
            self._report(self.asked[past.name], {EPOCH: epoch, BEST_VALUE: value})
        return past_suggestion(past)

    def _report(self, trial: optuna.Trial | None, result: dict[str, Any]) -> None:
        """Report the best overall so far after an epoch; a repeated epoch keeps its first value.

        A study of several objectives takes no intermediate values.
        """
        if trial is not None and len(self.metrics) == 1 and is_usable(result):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "already reported"
                trial.report(float(result[BEST_VALUE]), int(result[EPOCH]))

    def _ask(
        self, name: str, given: TrialSettings, point: Mapping[str, Any] | None, space: Space
    ) -> dict[str, Any]:
        """Create a trial in the study and return its point: the values that `point` gives, the rest
        drawn by the sampler."""
        if point is not None:
            self.study.enqueue_trial(dict(point))
        self.asked[name] = trial = self.study.ask()
        return suggest(space, trial, given.with_defaults)
