"""The driver's Tune callback: writes decisions and outcomes into the trials' folders, and marks
trials for the mirror to MLflow.

A trial's process writes its own results; the driver adds what only it knows: the scheduler's
decisions, and the outcome of a trial that was stopped or failed.
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
from mlflow_setup.text import brief, first_line
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.tune_scheduler import TuneScheduler
from search.cluster.waiting import Waiting
from search.driver.budget import Meter
from search.driver.failures import Failures, TrialNodes, first_line_of_error
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
    """The driver's state of a trial, besides what is in its folder."""

    attempts: int = 0  # number of attempts when it was last started
    began: float = 0.0  # when it was last started, by this process's monotonic clock
    epoch: int = 0  # the last one reported


class SweepCallback(tune.Callback):  # type: ignore[misc]  # ray is untyped
    """Called by Tune in the driver, one call at a time. An exception here would end the sweep.

    Args:
        meter: checks whether a budget is used up.
        alive: ids of the nodes that trials fit on.
        notifier: notifies of the first trial that fails.
        waiting: shows which resources trials wait for.
        sync_later: syncs a file to disk in the background; None: each write waits for the disk.
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
        self.pruned = PrunedWeights(folder, keep_pruned_top, mirror.mark)
        self.nodes = TrialNodes()
        self.failures = Failures(max_failures, alive, self._has_begun)
        self.running: set[str] = set()  # trials that have a process
        self.trials: defaultdict[str, TrialState] = defaultdict(TrialState)

    def restore(self, history: Iterable[PastTrial]) -> None:
        """Take in the trials of earlier drivers, and mark them for the mirror."""
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
        """Run the periodic checks, on every turn of Tune's event loop."""
        self.meter.enforce(self.switch)
        if self.scheduler.controller is not None:
            self.nodes.update(self.scheduler.controller)
        if self.waiting is not None:
            self.waiting.check(lambda: [str(trial.status) for trial in trials])

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Show a trial that starts or continues."""
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
        """Write the decision after an epoch; the scheduler has made it already."""
        name, epoch = trial.config["trial"], result[EPOCH]
        if result[PROBLEM]:
            stop = self._stop_for_space if result.get(NO_ROOM) else self.switch.request
            stop(result[PROBLEM])
        if result[DIVERGED] or result[PROBLEM] or epoch <= self.trials[name].epoch:
            return  # no epoch, or one that was repeated after a crash
        self.trials[name].epoch = epoch
        self.failures.begun(self.nodes.node(name))
        with self._guarded(name):
            self.folder.trial(name).refresh()
            self._on_epoch(name, epoch)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Write the outcome of a trial that ended by itself or was stopped by the scheduler."""
        self.running.discard(trial.config["trial"])
        if trial.last_result.get(PROBLEM):
            return  # it will be resumed with the sweep
        decision = self.scheduler.decision(trial.config["trial"])
        if decision is not None and decision.action == STOP:
            self._end(trial.config, Outcome.PRUNED, decision.reason)
        elif decision is not None and decision.action == PAUSE:
            self.progress.paused(trial.config["trial"], decision.reason)
        else:
            self._end(trial.config, None, "ended without an outcome")

    def end_paused(self, config: Mapping[str, Any]) -> None:
        """End a trial that was still paused at the sweep's end; it keeps its checkpoint."""
        decision = self.scheduler.decision(config["trial"])
        reason = "" if decision is None else f", {decision.reason}"
        self._end(config, Outcome.PRUNED, f"paused to the end{reason}", keeps_checkpoint=True)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Retry or fail a trial whose process was lost or that raised an error."""
        name = trial.config["trial"]
        reason, state = self._error_reason(trial), self.trials[name]
        has_tried = self._has_tried(name)
        if has_tried:
            with self._guarded(name):
                charge(self.folder.trial(name).path, time.monotonic() - state.began)
        self.running.discard(name)
        state.attempts = len(self.folder.trial(name).attempts())  # the next may never start
        node = self.nodes.node(name)
        verdict = self.failures.judge(name, reason, node, has_tried=has_tried)
        problem = self.failures.stop_reason(reason)
        if problem is not None:
            self.switch.request(problem)
        if self.switch.is_on:  # without an outcome: a resumed sweep continues it
            self.searcher.fail(name)
        elif verdict.is_over:
            self.searcher.fail(name)
            self._end(trial.config, Outcome.FAILED, verdict.reason)
        else:
            self.progress.lost(name, verdict.reason)
            after, exclusive = verdict.after_seconds, verdict.exclusive
            self.searcher.retry(name, after_seconds=after, exclusive=exclusive)

    def _has_tried(self, name: str) -> bool:
        """Whether the trial's newest process has started an attempt."""
        with suppress(StorageError):
            self.folder.trial(name).refresh()
        return len(self.folder.trial(name).attempts()) > self.trials[name].attempts

    def _has_begun(self) -> bool:
        return any(map(self._has_tried, self.running))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks, but nothing reads the pickle

    def _error_reason(self, trial: Trial) -> str:
        stacks = last_stacks(self.folder.trial(trial.config["trial"]).path)
        if stacks is not None:
            return f"took no step for too long; its stack traces: {stacks}"
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        return first_line_of_error(text)

    def _on_epoch(self, name: str, epoch: int) -> None:
        folder = self.folder.trial(name)
        decision = self.scheduler.decision(name)
        if decision is not None:  # a lost decision to continue is simply made again
            continues = decision.action == CONTINUE
            folder.write_decision(decision, self.sync_later if continues else None)
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
        """Write the outcome of a trial that has written none, and delete files no longer needed.

        `outcome` None: the trial should have written it; if it has not, it has failed.
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
            is_final = ended.outcome in (Outcome.FINISHED, Outcome.PRUNED, Outcome.DIVERGED)
            if is_final and not keeps_checkpoint:
                folder.drop_checkpoint()
            if ended.outcome is Outcome.PRUNED:
                self.pruned.there.add(name)
            self.pruned.drop()
            self.progress.ended(name, ended.outcome, ended.reason)
            if ended.outcome is Outcome.FAILED and self.notifier is not None:
                self.notifier.send("failure", f"trial {name} failed: {ended.reason}", trial=name)
            self.mirror.mark(name)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Stop the sweep cleanly if the trial's folder cannot be written to."""
        try:
            yield
        except OSError as error:
            _logger.warning("trial %s: %s", name, error)
            problem = f"the folder of trial {name} cannot be written to: {first_line(error)}"
            if is_full(error):
                self._stop_for_space(problem)
            else:
                self.switch.request(problem)

    def _stop_for_space(self, problem: str) -> None:
        self.switch.request(f"{problem}; {shortage(self.folder, self.searcher.num_left)}")


def _record_of(config: Mapping[str, Any], sweep: str) -> TrialRecord:
    """Return the record of a trial that failed before it could write its own."""
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
