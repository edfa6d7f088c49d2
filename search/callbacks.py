"""Driver side of a sweep: decisions and outcomes into the trials' folders, folders onto MLflow.

The trial's process writes what the trial itself knows; the driver adds what only it knows: the
scheduler's decisions, and the outcome of a trial that was stopped or failed.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from mlflow_setup.mirror import Mirror
from mlflow_setup.schema import CONFIG_ARTIFACT, Outcome, OutcomeRecord, TrialRecord
from search.progress import Progress, dev_metrics
from search.scheduler import STOP, TuneScheduler
from trainable.config import Config
from trainable.record import TrialFolder
from trainable.trial import DIVERGED, EPOCH, Place

_logger = logging.getLogger(__name__)

MAX_REASON = 300
"""Characters of an error's first line that become the reason of a failed trial."""


class SweepCallback(tune.Callback):  # type: ignore[misc]  # ray is untyped
    """Called by Tune in the driver, one call at a time. An exception here would end the sweep."""

    def __init__(
        self,
        place: Place,
        mirror: Mirror,
        scheduler: TuneScheduler,
        progress: Progress,
        keep_pruned_top: int,
    ) -> None:
        self.place, self.mirror, self.scheduler = place, mirror, scheduler
        self.progress, self.keep_pruned_top = progress, keep_pruned_top
        self.best: dict[str, dict[str, float]] = {}  # trial -> dev metric -> best of any epoch
        self.epochs: dict[str, int] = {}  # trial -> last epoch seen
        self.pruned: set[str] = set()  # pruned trials that still have their weights

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial begins."""
        settings = trial.config["settings"]
        searched = (f"{key}={_brief(settings[key])}" for key in trial.config["searched"])
        num_epochs = settings.get("train.num_epochs", Config().train.num_epochs)
        self.progress.started(trial.config["trial"], num_epochs, " ".join(searched))

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
        if result[DIVERGED] or epoch <= self.epochs.get(name, 0):
            return  # an epoch that was run again after a crash
        self.epochs[name] = epoch
        folder = self._folder(name)
        decision = self.scheduler.decisions.get(name)
        if decision is not None:
            folder.write_decision(decision)
        record = next((item for item in folder.epochs() if item.epoch == epoch), None)
        if record is None:
            _logger.warning("trial %s: the record of epoch %d cannot be read", name, epoch)
            return
        best = self.best.setdefault(name, {})
        for key, value in dev_metrics(record.metrics).items():
            best[key] = max(value, best.get(key, value))
        self.progress.epoch(name, record)
        self._project(name)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial has ended by itself or by the scheduler's word."""
        name = trial.config["trial"]
        decision = self.scheduler.decisions.get(name)
        if decision is not None and decision.action == STOP:
            self._end(trial.config, Outcome.PRUNED, decision.reason)
        else:
            self._end(trial.config, Outcome.FAILED, "ended without an outcome")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial has failed, after its retries."""
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        self._end(trial.config, Outcome.FAILED, first_line_of_error(text))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given and nobody reads it

    def _end(self, config: Mapping[str, Any], outcome: Outcome, reason: str) -> None:
        """Write the outcome of a trial that has none of its own, tidy its folder, project it."""
        name = config["trial"]
        folder = self._folder(name)
        if not (folder.path / CONFIG_ARTIFACT).exists():
            folder.create(_record_of(config, self.place.sweep))
        ended = folder.outcome()
        if ended is None or not ended.outcome.is_terminal:
            ended = OutcomeRecord(outcome, reason, len(folder.epochs()), time.time())
            folder.write_outcome(ended)
        if ended.outcome in (Outcome.FINISHED, Outcome.PRUNED, Outcome.DIVERGED):
            folder.drop_checkpoint()
        if ended.outcome is Outcome.PRUNED:
            self.pruned.add(name)
        self._drop_weights_of_pruned()
        self.progress.ended(name, ended.outcome, ended.reason)
        self._project(name)

    def _drop_weights_of_pruned(self) -> None:
        """A pruned trial keeps its weights only while it is near the top for a task or overall."""
        for name in sorted(self.pruned - near_top(self.best, self.keep_pruned_top)):
            folder = self._folder(name)
            for epoch in folder.kept_epochs():
                folder.drop_weights(epoch)
            self.pruned.discard(name)
            self._project(name)

    def _project(self, name: str) -> None:
        try:
            snapshot = self._folder(name).snapshot()
        except (OSError, ValueError) as error:  # tracking never ends a sweep
            _logger.warning("trial %s cannot be tracked: %s", name, error)
            self.mirror.dirty.add(name)
            return
        self.mirror.try_project(snapshot)

    def _folder(self, name: str) -> TrialFolder:
        return TrialFolder(self.place.folder(name))


def near_top(best: Mapping[str, Mapping[str, float]], count: int) -> set[str]:
    """The trials among the `count` best by any of their metrics; ties at the border are in."""
    near: set[str] = set()
    for metric in {key for values in best.values() for key in values}:
        scores = {trial: values[metric] for trial, values in best.items() if metric in values}
        border = sorted(scores.values(), reverse=True)[:count]
        near |= {trial for trial, score in scores.items() if border and score >= border[-1]}
    return near


def first_line_of_error(text: str) -> str:
    """`ValueError: what went wrong` out of Tune's error text, which ends in a traceback."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    indented = [number for number, line in enumerate(lines) if line[0].isspace()]
    rest = lines[indented[-1] + 1 :] if indented else lines
    line = (rest or lines[-1:] or ["unknown error"])[0]
    return "".join(char for char in line if char.isprintable())[:MAX_REASON]


def _record_of(config: Mapping[str, Any], sweep: str) -> TrialRecord:
    """The record of a trial that failed before it could write its own."""
    return TrialRecord(
        trial=config["trial"],
        sweep=sweep,
        recipe=config["recipe"],
        config=dict(config["settings"]),
        origin=dict(config["origin"]),
        seed=config["settings"].get("seed", 0),
        data_fingerprint="unknown",
        git_revision=None,
        start_time=time.time(),
        searched=tuple(config["searched"]),
    )


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
