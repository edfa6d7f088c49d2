"""Driver side of a sweep: decisions and outcomes into the trials' folders, folders onto MLflow.

The trial's process writes what the trial itself knows; the driver adds what only it knows: the
scheduler's decisions, and the outcome of a trial that was stopped or failed.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from mlflow_setup.errors import StorageError
from mlflow_setup.filesystem.atomic import is_full
from mlflow_setup.runs.background_mirror import BackgroundMirror
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    CONTINUE,
    PAUSE,
    STOP,
    UNKNOWN_DATA,
    Outcome,
    OutcomeRecord,
    TrialRecord,
)
from mlflow_setup.text import brief
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.tune_scheduler import TuneScheduler
from search.cluster.waiting import Waiting
from search.driver.budget import Meter
from search.driver.failures import Failures, Places, first_line_of_error
from search.driver.notify import Notifier
from search.driver.progress import Progress
from search.driver.stop_switch import StopSwitch
from search.storage.garbage import PrunedWeights
from search.storage.history import PastTrial
from search.storage.sweep_folder import SweepFolder, shortage
from trainable.config.parse import from_flat
from trainable.training.stages import num_frozen_epochs, total_epochs
from trainable.tune.attempt import charge, last_stacks
from trainable.tune.keys import DIVERGED, EPOCH, NO_ROOM, PROBLEM

_logger = logging.getLogger(__name__)


@dataclass
class TrialState:
    """What the driver knows of a trial beside what is in its folder."""

    attempts: int = 0  # when it last began
    began: float = 0.0  # when it last began, by this process's clock
    epoch: int = 0  # the last one seen


class SweepCallback(tune.Callback):  # type: ignore[misc]  # ray is untyped
    """Called by Tune in the driver, one call at a time. An exception here would end the sweep.

    Args:
        meter: says when a budget is used up.
        alive: the nodes that trials fit on, by id.
        notifier: sends the first trial that fails.
        waiting: says what trials wait for.
        sync_later: has files put on disk while the driver goes on; None: it waits for the disk.
    """

    def __init__(
        self,
        folder: SweepFolder,
        mirror: BackgroundMirror,
        scheduler: TuneScheduler,
        progress: Progress,
        switch: StopSwitch,
        meter: Meter,
        searcher: OptunaSearcher,
        keep_pruned_top: int,
        max_failures: int,
        alive: Callable[[], set[str]] = set,
        notifier: Notifier | None = None,
        waiting: Waiting | None = None,
        sync_later: Callable[[Path], None] | None = None,
    ) -> None:
        self.sync_later = sync_later
        self.searcher, self.notifier, self.waiting = searcher, notifier, waiting
        self.folder, self.mirror, self.scheduler = folder, mirror, scheduler
        self.progress, self.switch, self.meter = progress, switch, meter
        self.pruned, self.places = PrunedWeights(folder, keep_pruned_top, mirror.mark), Places()
        self.failures = Failures(max_failures, alive, self._has_begun)
        self.running: set[str] = set()  # trials that have a process
        self.trials: defaultdict[str, TrialState] = defaultdict(TrialState)

    def restore(self, history: Iterable[PastTrial]) -> None:
        """Know the trials of earlier drivers, and bring MLflow up to them."""
        for past in history:
            for record in past.epochs:
                self.pruned.compare(past.name, record)
            config = from_flat(past.record.config)
            lengths = total_epochs(config), num_frozen_epochs(config)
            self.progress.past(past.name, *lengths, past.epochs, past.outcome)
            if past.ended is Outcome.PRUNED:
                self.pruned.there.add(past.name)
            self.mirror.mark(past.name)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune goes round."""
        self.meter.enforce(self.switch)
        if self.scheduler.controller is not None:
            self.places.look(self.scheduler.controller)
        if self.waiting is not None:
            self.waiting.check(lambda: [str(trial.status) for trial in trials])

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial begins, or goes on."""
        settings = trial.config["settings"]
        searched = (f"{key}={brief(settings[key])}" for key in trial.config["searched"])
        config = from_flat(settings)
        lengths = total_epochs(config), num_frozen_epochs(config)
        name = trial.config["trial"]
        state = self.trials[name]
        self.running.add(name)
        state.attempts, state.began = len(self.folder.trial(name).attempts()), time.monotonic()
        self.progress.started(name, *lengths, " ".join(searched))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """A trial has finished an epoch, or diverged; the scheduler has decided already."""
        name, epoch = trial.config["trial"], result[EPOCH]
        if result[PROBLEM]:
            stop = self._ask_for_room if result.get(NO_ROOM) else self.switch.ask
            stop(result[PROBLEM])
        if result[DIVERGED] or result[PROBLEM] or epoch <= self.trials[name].epoch:
            return  # an epoch that was run again after a crash
        self.trials[name].epoch = epoch
        self.failures.begun(self.places.node(name))
        with self._guarded(name):
            self.folder.trial(name).refresh()
            self._note_epoch(name, epoch)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial has ended by itself or by the scheduler's decision."""
        self.running.discard(trial.config["trial"])
        if trial.last_result.get(PROBLEM):
            return  # it is to go on when the sweep can
        decision = self.scheduler.decision(trial.config["trial"])
        if decision is not None and decision.action == STOP:
            self._end(trial.config, Outcome.PRUNED, decision.reason)
        elif decision is not None and decision.action == PAUSE:
            self.progress.paused(trial.config["trial"], decision.reason)
        else:
            self._end(trial.config, None, "ended without an outcome")

    def end_paused(self, config: Mapping[str, Any]) -> None:
        """The sweep is over, and the trial was not promoted; it keeps its checkpoint."""
        decision = self.scheduler.decision(config["trial"])
        reason = "" if decision is None else f", {decision.reason}"
        self._end(config, Outcome.PRUNED, f"paused to the end{reason}", keeps_checkpoint=True)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A process was lost, or a trial has raised an error: it is tried again, or has failed."""
        name = trial.config["trial"]
        reason, state = self._why(trial), self.trials[name]
        has_tried = self._has_tried(name)
        if has_tried:
            with self._guarded(name):
                charge(self.folder.trial(name).path, time.monotonic() - state.began)
        self.running.discard(name)
        state.attempts = len(self.folder.trial(name).attempts())  # the next may never start
        node = self.places.node(name)
        verdict = self.failures.judge(name, reason, node, has_tried=has_tried)
        problem = self.failures.why_stop(reason)
        if problem is not None:
            self.switch.ask(problem)
        if self.switch.is_on:  # what fails while all stop may run on later
            self.searcher.fail(name)
        elif verdict.is_over:
            self.searcher.fail(name)
            self._end(trial.config, Outcome.FAILED, verdict.reason)
        else:
            self.progress.lost(name, verdict.reason)
            after, exclusive = verdict.after_seconds, verdict.exclusive
            self.searcher.retry(name, after_seconds=after, exclusive=exclusive)

    def _has_tried(self, name: str) -> bool:
        """Whether the trial's process has begun with it."""
        with suppress(StorageError):
            self.folder.trial(name).refresh()
        return len(self.folder.trial(name).attempts()) > self.trials[name].attempts

    def _has_begun(self) -> bool:
        return any(map(self._has_tried, self.running))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks, and nothing reads them back

    def _why(self, trial: Trial) -> str:
        stacks = last_stacks(self.folder.trial(trial.config["trial"]).path)
        if stacks is not None:
            return f"took no step for too long; what it was at: {stacks}"
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        return first_line_of_error(text)

    def _note_epoch(self, name: str, epoch: int) -> None:
        folder = self.folder.trial(name)
        decision = self.scheduler.decision(name)
        if decision is not None:  # that a trial goes on is decided anew where it was lost
            goes_on = decision.action == CONTINUE
            folder.write_decision(decision, self.sync_later if goes_on else None)
        record = folder.epoch(epoch)
        if record is None:
            _logger.warning("trial %s: the record of epoch %d cannot be read", name, epoch)
            return
        self.pruned.compare(name, record)
        self.progress.epoch(name, record)
        self.mirror.mark(name)

    def _end(
        self,
        config: Mapping[str, Any],
        outcome: Outcome | None,
        reason: str,
        *,
        keeps_checkpoint: bool = False,
    ) -> None:
        """Write the outcome of a trial that has none of its own, and tidy its folder.

        `outcome` None: the trial was to write it; without one it has failed.
        """
        name = config["trial"]
        with self._guarded(name):
            folder = self.folder.trial(name)
            folder.refresh()
            if not (folder.path / CONFIG_ARTIFACT).exists():
                folder.create(_record_of(config, self.folder.name))
            ended = folder.outcome()
            if ended is None or (outcome is not None and not ended.outcome.is_terminal):
                epoch = len(folder.epochs())
                ended = OutcomeRecord(outcome or Outcome.FAILED, reason, epoch, time.time())
                folder.write_outcome(ended)
            is_spent = ended.outcome in (Outcome.FINISHED, Outcome.PRUNED, Outcome.DIVERGED)
            if is_spent and not keeps_checkpoint:
                folder.drop_checkpoint()
            if ended.outcome is Outcome.PRUNED:
                self.pruned.there.add(name)
            self.pruned.drop()
            self.progress.ended(name, ended.outcome, ended.reason)
            if ended.outcome is Outcome.FAILED and self.notifier is not None:
                self.notifier.tell("failure", f"trial {name} failed: {ended.reason}", trial=name)
            self.mirror.mark(name)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """A folder that cannot be written to stops the sweep in order; it does not break it."""
        try:
            yield
        except OSError as error:
            _logger.warning("trial %s: %s", name, error)
            problem = f"the folder of trial {name} cannot be written to: {error}"
            if is_full(error):
                self._ask_for_room(problem)
            else:
                self.switch.ask(problem)

    def _ask_for_room(self, problem: str) -> None:
        self.switch.ask(f"{problem}; {shortage(self.folder, self.searcher.num_left)}")


def _record_of(config: Mapping[str, Any], sweep: str) -> TrialRecord:
    """The record of a trial that failed before it could write its own."""
    return TrialRecord(
        trial=config["trial"],
        sweep=sweep,
        recipe=config["recipe"],
        config=dict(config["settings"]),
        origin=dict(config["origin"]),
        seed=config["settings"].get("seed", 0),
        data_fingerprint=UNKNOWN_DATA,
        git_revision=None,
        start_time=time.time(),
        searched=tuple(config["searched"]),
    )
