"""One driver's work on a sweep: Tune runs the remaining trials, then MLflow is brought up to date.

The state is in the sweep's folder; Tune only starts, places, stops and restarts trials.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from rich.console import Console

from mlflow_setup.errors import ConfigError, StorageError
from mlflow_setup.filesystem.atomic import DeferredSync
from mlflow_setup.filesystem.lease import Lease
from mlflow_setup.runs.background_mirror import NUM_SERVER_THREADS, BackgroundMirror
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.runs.usage import lasted_beyond
from mlflow_setup.schema import Outcome, OutcomeRecord
from mlflow_setup.tracking.store import Tracking
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.rungs import new_rungs
from search.algorithms.tune_scheduler import TuneScheduler
from search.algorithms.warm_start import WarmTrial
from search.cluster.slots import find_slots, require_devices, unpriced
from search.cluster.waiting import Waiting
from search.config.baselines import baselines
from search.config.sweep_config import SweepConfig
from search.driver.budget import Meter
from search.driver.callback import SweepCallback
from search.driver.notify import Notifier, send_result
from search.driver.progress import Progress
from search.driver.result import SweepResult, read_result
from search.driver.shared_artifacts import prepare
from search.driver.stop_switch import StopSwitch
from search.driver.tracking import what_is_tracked
from search.planning.preflight import known_configs, unfinished_configs
from search.storage.history import PastTrial, past_trial
from search.storage.sweep_folder import SweepFolder
from trainable.data.inputs import Inputs, expecting
from trainable.runtime.progress import Work, read_work
from trainable.storage.layout import PROGRESS_FILE
from trainable.tune.cluster import alive_nodes, cluster, environment
from trainable.tune.placement import TrialPlacement, resources
from trainable.tune.trainable import Train, listening, make_trainable


class Drive:
    """One driver's work on a sweep, given the history of earlier drivers."""

    def __init__(
        self,
        folder: SweepFolder,
        sweep: SweepConfig,
        tracking: Tracking,
        history: Sequence[PastTrial],
        warm: Sequence[WarmTrial],
        lease: Lease,
        console: Console,
        inputs: Inputs,
    ) -> None:
        self.folder, self.sweep, self.tracking, self.inputs = folder, sweep, tracking, inputs
        self.history, self.lease, self.console = history, lease, console
        self.scheduler = TuneScheduler(new_rungs(sweep))
        self.switch = StopSwitch(folder.stop_file, lambda line: console.print(line, markup=False))
        lease.on_lost = self.switch.interrupt
        self.searcher = OptunaSearcher(
            sweep,
            history,
            warm,
            self._is_stopped,
            lambda name: past_trial(folder.trial(name)),
            lambda: self.switch.is_on,
        )
        self.scheduler.restore(history)
        self.searcher.is_paused, self.searcher.promote = self.scheduler.is_paused, self._promote
        self.mirror = BackgroundMirror(
            Mirror(tracking, folder.name),
            lambda name: folder.trial(name).snapshot(),
            NUM_SERVER_THREADS if tracking.is_server else 1,  # a database has one writer at a time
        )

    def run(
        self, train: Train | None, resume_hint: str, write_down: Callable[[], None] = lambda: None
    ) -> SweepResult:
        """Run the remaining trials. Return the result, also of a sweep that was stopped.

        Args:
            write_down: writes this driver's changes to the folder, once nothing refuses the sweep.
        """
        self.switch.resume_hint = resume_hint
        self.notifier = Notifier(self.sweep.notify, self.folder.name, self._show)
        self.write_down, self.has_begun, has_ended = write_down, False, False
        try:
            with self.switch, self._interruptible():
                if self.searcher.num_to_come:
                    self._run_trials(train)
                else:
                    for past in self.history:
                        self.mirror.mark(past.name)
                has_ended = not self.switch.is_on
            self._begin()  # also if stopped before the first trial: `resume` has to know
        finally:  # Ray is shut down: nothing writes into the trials' folders any more
            unsynced = self._close("FINISHED" if has_ended else "KILLED")
        rungs = self.scheduler.rungs.reached if self.scheduler.rungs else ()
        stop = (self.switch.reason, self.switch.exit_code) if self.switch.reason else None
        is_audited = bool(self.sweep.scheduler.audit_fraction)
        result = read_result(self.folder, rungs, unsynced, stop, is_audited)
        send_result(self.notifier, result)
        return result

    def _begin(self) -> None:
        """Write down and track what this driver does. Nothing refuses the sweep after this."""
        if not self.has_begun:
            self.write_down()
            self.mirror.start(*what_is_tracked(self.folder, self.sweep))
            self.has_begun = True

    def _show(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _run_trials(self, train: Train | None) -> None:
        sweep = self.sweep
        with environment(), cluster() as nodes:
            slots = find_slots(sweep.resources, nodes)
            if train is None:
                require_devices(known_configs(sweep), slots)
            place = TrialPlacement(
                self.folder.address_of_storage,
                self.folder.name,
                sweep.resources.cpus_per_trial,
                slots.gpus_per_trial,
                sweep.resources.max_silence_minutes * 60,
                sweep.budget.usd_per_hour,
                self.inputs,
            )
            if (note := unpriced(sweep.budget, sweep.resources, slots, nodes)) is not None:
                self.console.print(f"note: {note}", markup=False)
            cpus, gpus = sweep.resources.cpus_per_trial, slots.gpus_per_trial
            needs = {"CPU": cpus, "GPU": gpus}
            node_cpus = [int(node.cpus) for node in nodes if node.num_trials(cpus, gpus)]
            exclusive = {**needs, "CPU": max(node_cpus, default=cpus)}
            meter = Meter(self.folder, sweep.budget)
            self.switch.expect_trials()
            if train is None:
                configs = [*known_configs(sweep), *unfinished_configs(self.history)]
                is_stopping = partial(meter.enforce, self.switch)
                with expecting(self.inputs):
                    prepare(configs, place, self.tracking, needs, self.console, is_stopping)
                if self.switch.is_on:
                    return
            concurrency = min(slots.max_concurrent_trials, self.searcher.num_to_come)
            max_concurrent = None if slots.follows else concurrency
            num_trials = sweep.search.num_samples + len(baselines(sweep))
            counts = num_trials, concurrency, sweep.search.num_probes
            shown = Progress(self.console, *counts, self._under_way)
            with DeferredSync() as disk, shown as progress:
                callback = self._callback(progress, meter, needs, max_concurrent, disk)
                trainable = listening(make_trainable(place, train))
                by_trial = partial(resources, needs, exclusive)
                self._begin()
                self._tune(tune.with_resources(trainable, by_trial), callback, max_concurrent)
                if not self.switch.is_on:
                    for suggested in self.searcher.paused.values():
                        callback.end_paused(suggested)

    def _callback(
        self,
        progress: Progress,
        meter: Meter,
        needs: dict[str, float],
        max_concurrent: int | None,
        disk: DeferredSync,
    ) -> SweepCallback:
        """Create the callback, and connect the searcher to its failures."""
        cpus = self.sweep.resources.cpus_per_trial
        callback = SweepCallback(
            self.folder,
            self.mirror,
            self.scheduler,
            progress,
            self.switch,
            meter,
            self.searcher,
            self.sweep.keep_pruned_top,
            self.sweep.resources.max_failures,
            lambda: {n.id for n in alive_nodes() if n.num_trials(cpus, needs["GPU"])},
            self.notifier,
            Waiting(needs, max_concurrent, self._show, alive_nodes),
            disk.add,
        )
        self.searcher.is_holding = callback.failures.is_holding
        self.searcher.to_avoid = callback.failures.to_avoid
        callback.restore(self.history)
        return callback

    def _tune(self, trainable: Any, callback: SweepCallback, max_concurrent: int | None) -> None:
        """Run Tune.

        With `max_concurrent` None one more trial is pending than fits, which makes an autoscaler
        add a node at a time.

        Tune's own records, which nothing reads, go to a temporary folder, not to the sweep's disk.
        The driver's environment variables are not passed to the trials: Ray would write AWS keys
        into its logs, and could not reuse its idle processes.
        """
        logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it lists retried trials
        class_cache.ENV_VARS_TO_PROPAGATE.clear()
        class_cache.DEFAULT_ENV_VARS.clear()
        with TemporaryDirectory(prefix="ensweep-tune-", ignore_cleanup_errors=True) as records:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=self.searcher,
                    scheduler=self.scheduler,
                    num_samples=-1,  # the searcher decides when there are no more trials
                    max_concurrent_trials=max_concurrent,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: str(trial.config["trial"]),
                    trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.trial_id}",
                ),
                run_config=tune.RunConfig(
                    name=self.folder.name,
                    storage_path=records,
                    callbacks=[callback],
                    verbose=0,
                ),
            ).fit()

    def _promote(self, paused: Collection[str], is_end: bool) -> str | None:
        """Promote a paused trial, with the decision written before the trial continues."""
        promoted = self.scheduler.promote(paused, is_end=is_end)
        if promoted is None:
            return None
        name, decision = promoted
        trial = self.folder.trial(name)
        with suppress(OSError):  # on a full disk a resumed sweep decides again
            trial.write_decision(decision)
            trial.drop_outcome()  # it has one if the sweep had ended and was extended
        return name

    def _under_way(self, name: str) -> Work | None:
        return read_work(self.folder.trial(name).path / PROGRESS_FILE)

    def _is_stopped(self, name: str) -> bool:
        ended = self.folder.trial(name).outcome()
        return ended is not None and ended.outcome is Outcome.STOPPED

    @contextmanager
    def _interruptible(self) -> Any:
        """Suppress KeyboardInterrupt after a requested stop.

        Raises:
            ConfigError: the lease was lost to another process.
        """
        try:
            yield
        except KeyboardInterrupt:
            if self.lease.is_lost:
                raise ConfigError(
                    f"sweep {self.folder.name}: another process has taken over",
                    fix="this process was unresponsive for too long; let the other one continue",
                ) from None
            if not self.switch.is_on:
                raise

    def _close(self, status: str) -> set[str]:
        """Give every trial an outcome, finish the mirror, return the trials that MLflow lacks."""
        if self.lease.is_lost or not self.has_begun:
            return set()
        with suppress(StorageError):  # `resume` will read what is missing now
            self.folder.refresh()
        for trial in self.folder.trial_folders():
            known = trial.outcome()
            if known is not None and lasted_beyond(trial.attempts(), known.wall_time):
                self.mirror.mark(trial.path.name)
            if known is None:
                reason = self.switch.reason or "the sweep was interrupted"
                ended = OutcomeRecord(Outcome.STOPPED, reason, len(trial.epochs()), time.time())
                try:
                    trial.write_outcome(ended)
                except OSError as error:  # a full disk: without an outcome it is resumed too
                    self.console.print(f"trial {trial.path.name}: {error}", markup=False)
                self.mirror.mark(trial.path.name)
        return self.mirror.close(status)
