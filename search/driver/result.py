"""The result of a sweep."""

from dataclasses import dataclass
from pathlib import Path

from mlflow_setup.runs.usage import Usage
from mlflow_setup.schema import OVERALL, Outcome, TrialSnapshot
from search.algorithms.audit import AuditResult
from search.algorithms.rungs import Rung
from search.config.baselines import BASELINES


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep."""

    name: str
    folder: Path
    trials: tuple[TrialSnapshot, ...]  # by name
    rungs: tuple[Rung, ...]
    unsynced: tuple[str, ...]  # trials that are not completely in MLflow
    usage: Usage
    stop: tuple[str, int] | None = None  # why it was stopped before its end, and the exit code
    audit: AuditResult | None = None

    def ended(self, outcome: Outcome) -> list[str]:
        """Return the names of the trials with this outcome."""
        return [
            trial.record.trial
            for trial in self.trials
            if trial.outcome is not None and trial.outcome.outcome is outcome
        ]

    @property
    def best(self) -> tuple[str, int, float] | None:
        """Trial, epoch and value of the best overall among finished and pruned trials of the
        search."""
        return self._best(of_baselines=False)

    @property
    def best_baseline(self) -> tuple[str, int, float] | None:
        """The same among the baselines."""
        return self._best(of_baselines=True)

    def _best(self, *, of_baselines: bool) -> tuple[str, int, float] | None:
        scored = [
            (trial.record.trial, epoch.epoch, epoch.metrics[OVERALL])
            for trial in self.trials
            if trial.outcome
            and trial.outcome.outcome in (Outcome.FINISHED, Outcome.PRUNED)
            and (trial.record.recipe in BASELINES) == of_baselines
            for epoch in trial.epochs
        ]
        return max(scored, key=lambda item: item[2], default=None)  # the earliest wins a tie
