"""Optuna's TPE under Tune: a `Searcher` on the public `study.ask` and `study.tell`.

First the trials that an earlier driver left unfinished, then the baselines, the known
configurations, and what the sampler draws. The study is told a trial that ran to its end with
its best overall, a stopped one as pruned with its values by epoch, and a diverged or failed one as
failed; those of earlier drivers and of older sweeps alike. A value that is not finite is never
told, nor is a baseline's.

A trial that the scheduler pauses is told as stopped, and once more should it run to its end: it is
suggested again when it is promoted, before new ones.

The first `search.num_probes` trials draw what matters for heads and end with their probe. Of the
trials after them every second takes up the best probe's settings, the others are drawn whole.
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
from search.algorithms.suggestion import as_it_was, first_trial_name, is_usable, suggestion
from search.algorithms.warm_start import WarmTrial
from search.config.baselines import BASELINES, baselines
from search.config.space import Space, suggest
from search.config.sweep_config import SweepConfig, TrialSettings
from search.storage.history import PastTrial
from trainable.tune.keys import AVOIDED, BEST_VALUE, EPOCH, EXCLUSIVE, NUM_EPOCHS


class OptunaSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Suggests the trials of a sweep, named `0001`, `0002-b2` (a first trial) and so on.

    Args:
        history: the sweep's trials so far; the unfinished ones are suggested again, as they were.
        warm: scored trials of older sweeps.
        is_stopped: whether a trial has ended because its process was asked to: it goes on later.
        read: a trial that has ended, as its folder tells it; needed for `search.objective=tasks`.
        is_stopping: whether nothing more is to be started.
        is_holding: whether nothing is to be started for a moment.
        to_avoid: nodes on which nothing is to be started, by id.
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
        """The paused trial that goes on now; True: nothing else is left to run."""
        self.read, self.metrics = read, objectives(sweep)
        self.base = sweep.base()  # reads recipes, which takes as long as drawing
        self.study = create_study(sweep, len(history), len(self.metrics))
        self.running: dict[str, str] = {}  # Tune's trial id -> name
        self.asked: dict[str, optuna.Trial | None] = {}  # name -> Optuna's, until it is told
        self.suggested: dict[str, dict[str, Any]] = {}  # name -> what was suggested
        for other in warm:
            self.study.add_trial(frozen_warm_trial(sweep, other))
        self.probes = Probes(sweep)
        self.paused: dict[str, dict[str, Any]] = {}  # name -> its suggestion
        self.told: dict[str, int] = {}  # name of a paused trial -> its number in the study
        taken = {past.number for past in history}
        self.numbers = deque(n for n in range(sweep.search.num_samples) if n not in taken)
        for past in history:
            if past.is_paused and (self.numbers or not past.is_over):
                self.paused[past.name] = as_it_was(past)
                self.told[past.name] = len(self.study.get_trials(deepcopy=False))
                stopped = OutcomeRecord(Outcome.PRUNED, "paused", len(past.epochs), 0.0)
                past = replace(past, outcome=stopped)
            if past.is_over and past.record.recipe not in BASELINES:
                self.study.add_trial(frozen_past_trial(sweep, past))
                self.probes.restore(past)
        unfinished = (p for p in history if not p.is_over and p.name not in self.paused)
        self.waiting = deque(map(self._past, unfinished))
        self.resting: list[tuple[float, dict[str, Any]]] = []  # when it may be tried again
        begun = {past.name for past in history}
        self.baselines = deque(item for item in baselines(sweep).items() if item[0] not in begun)

    @property
    def num_to_come(self) -> int:
        """Trials that are still to be suggested."""
        held_back = len(self.waiting) + len(self.resting) + len(self.paused)
        return held_back + len(self.baselines) + len(self.numbers)

    @property
    def num_left(self) -> int:
        """Those, and the trials that are under way."""
        return self.num_to_come + len(self.asked)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial: its name, recipe, settings, their origin, and the keys searched.

        None: not now; "FINISHED": never again.
        """
        if self.is_stopping():
            return str(Searcher.FINISHED)
        if self.is_holding():
            return None
        self._wake()
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
        elif self.running or self.resting:  # one that runs may yet have to go on elsewhere
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
        self.asked[name] = None  # it was told when it paused
        return self.paused.pop(name)

    def _wake(self) -> None:
        """What has rested for long enough may be tried again."""
        now = time.monotonic()
        self.waiting.extend(each for ready, each in self.resting if ready <= now)
        self.resting = [(ready, each) for ready, each in self.resting if ready > now]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch that the trial went on from."""
        if trial_id in self.running:
            self._report(self.asked[self.running[trial_id]], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The end of a trial. A trial that is not known here, or ended already, is ignored.

        After an error `again` or `failed` is to be called.
        """
        name = self.running.pop(trial_id, None)
        if name is None or error:
            return
        if self.is_stopped(name):
            self.again(name)
            return
        if not result or not is_usable(result):
            self.failed(name)
            return
        if self.is_paused(name):
            self.paused[name] = self.suggested[name]
        trial = self.asked.pop(name)
        if trial is None:
            self._tell_again(name, result)
            return
        self._report(trial, result)
        self.probes.ended(self.suggested[name], result)
        if result[EPOCH] < result[NUM_EPOCHS]:
            self.told[name] = trial.number
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        values = self._values(name, result)
        self.study.tell(trial, values or None, state=None if values else TrialState.FAIL)

    def _values(self, name: str, result: dict[str, Any]) -> list[float]:
        """The value of each objective."""
        if self.read is not None and self.metrics != [OVERALL]:
            return values_of(self.read(name), self.metrics)
        return [float(result[BEST_VALUE])]

    def _tell_again(self, name: str, result: dict[str, Any]) -> None:
        """A promoted trial that has run to its end, which the study knows as a stopped one."""
        values = self._values(name, result) if name in self.told else []
        if values and result[EPOCH] >= result[NUM_EPOCHS]:
            told = self.study.get_trials(deepcopy=False)[self.told[name]]
            params, distributions = told.params, told.distributions
            whole = create_trial(values=values, params=params, distributions=distributions)
            self.study.add_trial(whole)

    def again(self, name: str, *, after_seconds: float = 0.0, exclusive: bool = False) -> None:
        """Suggest a trial once more, as it was; `exclusive`: on a machine of its own."""
        suggested = {**self.suggested[name], **({EXCLUSIVE: True} if exclusive else {})}
        self.resting.append((time.monotonic() + after_seconds, suggested))

    def failed(self, name: str) -> None:
        """The trial has failed, or will not run on under this driver."""
        trial = self.asked.pop(name)
        if trial is not None:
            self.study.tell(trial, state=TrialState.FAIL)

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Metric, direction and space are the sweep's: nothing of Tune's is taken."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's folder remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's folder remembers."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher, and nothing reads it back

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
            given, space = self.probes.alone(given), self.probes.space
            point = point and {key: point[key] for key in point if key in space}
        elif not is_first and self.probes.is_next_taken_up(number):
            taken_up = self.probes.take_up()
            if taken_up is not None:
                point, chosen_by = taken_up, "search, from a probe"
        return suggestion(name, given, self._ask(name, given, point, space), chosen_by)

    def _past(self, past: PastTrial) -> dict[str, Any]:
        """An unfinished trial of an earlier driver's, as it was."""
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
        return as_it_was(past)

    def _report(self, trial: optuna.Trial | None, result: dict[str, Any]) -> None:
        """The best overall by epoch; a replayed epoch keeps its first value. A study of several
        objectives takes no values before the end."""
        if trial is not None and len(self.metrics) == 1 and is_usable(result):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "already reported"
                trial.report(float(result[BEST_VALUE]), int(result[EPOCH]))

    def _ask(
        self, name: str, given: TrialSettings, point: Mapping[str, Any] | None, space: Space
    ) -> dict[str, Any]:
        """A trial of the study's: what `point` says, the rest as the sampler wants it."""
        if point is not None:
            self.study.enqueue_trial(dict(point))
        self.asked[name] = trial = self.study.ask()
        return suggest(space, trial, given.with_defaults)
