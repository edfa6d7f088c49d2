"""One driver's work on a sweep: Tune runs what is left of it, then the books are balanced.

State is the sweep's folder; Tune only starts, places, stops and restarts trials.
"""

import time
from collections.abc import Collection, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from rich.console import Console

from mlflow_setup.errors import ConfigError, StorageError
from mlflow_setup.filesystem.background import DeferredSync
from mlflow_setup.filesystem.lease import Lease
from mlflow_setup.runs.background_mirror import NUM_SERVER_THREADS, BackgroundMirror
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.runs.usage import goes_on_after
from mlflow_setup.schema import Outcome, OutcomeRecord
from mlflow_setup.tracking.store import Tracking
from search.algorithms.audit import AuditResult, audit_result
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.rungs import new_rungs, restore_rungs
from search.algorithms.tune_scheduler import TuneScheduler
from search.algorithms.warm_start import WarmTrial
from search.cluster.slots import find_slots, require_devices, unpriced
from search.cluster.waiting import Waiting
from search.config.baselines import BASELINES, baselines
from search.config.sweep_config import SweepConfig
from search.driver.budget import Meter, sweep_usage
from search.driver.callback import SweepCallback
from search.driver.notify import Notifier, tell_result
from search.driver.progress import Progress
from search.driver.result import SweepResult
from search.driver.shared_artifacts import prepare
from search.driver.stop_switch import StopSwitch
from search.driver.tracking import what_is_tracked
from search.planning.preflight import known_configs, unfinished_configs
from search.storage.history import PastTrial, past_trial, read_history
from search.storage.sweep_folder import SweepFolder
from trainable.data.inputs import Inputs, expecting
from trainable.runtime.progress import Work, read_work
from trainable.storage.layout import UNDER_WAY
from trainable.tune.cluster import alive_nodes, cluster, environment
from trainable.tune.placement import TrialPlacement, resources
from trainable.tune.trainable import Train, listening, make_trainable


class Drive:
    """One driver's work on a sweep, from its history on."""

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
        if self.scheduler.rungs is not None:
            restore_rungs(self.scheduler.rungs, history)
            self.scheduler.has_finished = any(map(_has_run_whole, history))
        self.searcher.is_paused, self.searcher.promote = self.scheduler.is_paused, self._promote
        self.mirror = BackgroundMirror(
            Mirror(tracking, folder.name),
            lambda name: folder.trial(name).snapshot(),
            NUM_SERVER_THREADS if tracking.is_server else 1,  # a database has one writer at a time
        )

    def run(self, train: Train | None, resume_hint: str) -> SweepResult:
        """All that is left to do; the result also when it was stopped."""
        self.switch.resume_hint = resume_hint
        self.notifier = Notifier(self.sweep.notify, self.folder.name, self._say)
        self.mirror.start(*what_is_tracked(self.folder, self.sweep))
        has_ended = False
        try:
            with self.switch, self._interruptible():
                if self.searcher.num_to_come:
                    self._run_trials(train)
                else:
                    for past in self.history:
                        self.mirror.mark(past.name)
                has_ended = not self.switch.is_on
        finally:  # Ray is down: nothing writes into the trials' folders any more
            unsynced = self._settle("FINISHED" if has_ended else "KILLED")
        rungs = self.scheduler.rungs.reached if self.scheduler.rungs else ()
        result = SweepResult(
            self.folder.name,
            self.folder.path,
            self.folder.snapshots(),
            rungs,
            tuple(sorted(unsynced)),
            sweep_usage(self.folder),
            (self.switch.reason, self.switch.exit_code) if self.switch.reason else None,
            self._audit(),
        )
        tell_result(self.notifier, result)
        return result

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _audit(self) -> AuditResult | None:
        if not self.sweep.scheduler.audit_fraction:
            return None
        return audit_result(read_history(self.folder.trial_folders()))

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
            without_price = unpriced(sweep.budget, sweep.resources, slots, nodes)
            if without_price is not None:
                self.console.print(f"note: {without_price}", markup=False)
            cpus, gpus = sweep.resources.cpus_per_trial, slots.gpus_per_trial
            needs = {"CPU": cpus, "GPU": gpus}
            roomy = [int(node.cpus) for node in nodes if node.num_trials(cpus, gpus)]
            exclusive = {**needs, "CPU": max(roomy, default=cpus)}
            meter = Meter(self.folder, sweep.budget)
            self.switch.expect_trials()
            if train is None:
                configs = [*known_configs(sweep), *unfinished_configs(self.history)]
                look = partial(meter.enforce, self.switch)
                with expecting(self.inputs):
                    prepare(configs, place, self.tracking, needs, self.console, look)
                if self.switch.is_on:
                    return
            concurrency = min(slots.max_concurrent_trials, self.searcher.num_to_come)
            asked = None if slots.follows else concurrency
            num_trials = sweep.search.num_samples + len(baselines(sweep))
            counts = num_trials, concurrency, sweep.search.num_probes
            shown = Progress(self.console, *counts, self._under_way)
            with DeferredSync() as disk, shown as progress:
                callback = self._callback(progress, meter, needs, asked, disk)
                trainable = listening(make_trainable(place, train))
                by_trial = partial(resources, needs, exclusive)
                self._tune(tune.with_resources(trainable, by_trial), callback, asked)
                if not self.switch.is_on:
                    for suggested in self.searcher.paused.values():
                        callback.end_paused(suggested)

    def _callback(
        self,
        progress: Progress,
        meter: Meter,
        needs: dict[str, float],
        at_a_time: int | None,
        disk: DeferredSync,
    ) -> SweepCallback:
        """The callback, and the searcher's view of what it holds back and which nodes it avoids."""
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
            Waiting(needs, at_a_time, self._say, alive_nodes),
            disk.add,
        )
        self.searcher.is_holding = callback.failures.is_holding
        self.searcher.to_avoid = callback.failures.to_avoid
        callback.restore(self.history)
        return callback

    def _tune(self, trainable: Any, callback: SweepCallback, at_a_time: int | None) -> None:
        """Run Tune. With `at_a_time` None one more trial than there is room for waits: what an
        autoscaler sees, one node after the other.

        Tune's own records, which nothing reads, are kept off a disk that may be full.

        Nor does it hand variables of the driver's environment on to the trials: Ray would write AWS
        keys into its logs, and start each process anew where it has one at hand that is as good.
        """
        class_cache.ENV_VARS_TO_PROPAGATE.clear()
        class_cache.DEFAULT_ENV_VARS.clear()
        with TemporaryDirectory(prefix="ensweep-tune-", ignore_cleanup_errors=True) as records:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=self.searcher,
                    scheduler=self.scheduler,
                    num_samples=-1,  # the searcher knows when there is nothing more to try
                    max_concurrent_trials=at_a_time,
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
        """A paused trial goes on: that is on record before it does."""
        promoted = self.scheduler.promote(paused, is_end=is_end)
        if promoted is None:
            return None
        name, decision = promoted
        trial = self.folder.trial(name)
        with suppress(OSError):  # on a full disk it is decided anew
            trial.write_decision(decision)
            trial.drop_outcome()  # of a sweep that was over, and is extended
        return name

    def _under_way(self, name: str) -> Work | None:
        return read_work(self.folder.trial(name).path / UNDER_WAY)

    def _is_stopped(self, name: str) -> bool:
        ended = self.folder.trial(name).outcome()
        return ended is not None and ended.outcome is Outcome.STOPPED

    @contextmanager
    def _interruptible(self) -> Any:
        """A stop that was asked for is an end like another; a lease that was lost is not."""
        try:
            yield
        except KeyboardInterrupt:
            if self.lease.is_lost:
                raise ConfigError(
                    f"sweep {self.folder.name}: another process has taken over",
                    fix="this one stood still for too long; leave the sweep to the other",
                ) from None
            if not self.switch.is_on:
                raise

    def _settle(self, status: str) -> set[str]:
        """The last word on every trial: none is left RUNNING. Returns what MLflow has missed."""
        if self.lease.is_lost:
            return set()
        with suppress(StorageError):  # what it does not tell now, `resume` will hear
            self.folder.refresh()
        for trial in self.folder.trial_folders():
            known = trial.outcome()
            if known is not None and goes_on_after(trial.attempts(), known.wall_time):
                self.mirror.mark(trial.path.name)
            if known is None:
                reason = self.switch.reason or "the sweep was interrupted"
                ended = OutcomeRecord(Outcome.STOPPED, reason, len(trial.epochs()), time.time())
                try:
                    trial.write_outcome(ended)
                except OSError as error:  # a full disk: without an outcome it runs on all the same
                    self.console.print(f"trial {trial.path.name}: {error}", markup=False)
                self.mirror.mark(trial.path.name)
        return self.mirror.close(status)


def _has_run_whole(past: PastTrial) -> bool:
    """Whether it is a trial of the search that ran to its end, and more than a probe."""
    is_whole = past.ended is Outcome.FINISHED and past.record.recipe not in BASELINES
    return is_whole and past.num_probe_epochs < past.num_epochs
