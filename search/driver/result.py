"""The result of a sweep."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlflow_setup.runs.usage import Usage
from mlflow_setup.schema import OVERALL, Outcome, TrialSnapshot
from search.algorithms.audit import AuditResult, audit_result
from search.algorithms.rungs import Rung
from search.config.baselines import BASELINES
from search.driver.budget import sweep_usage
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder


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


def read_result(
    folder: SweepFolder,
    rungs: tuple[Rung, ...],
    unsynced: Iterable[str],
    stop: tuple[str, int] | None,
    is_audited: bool,
) -> SweepResult:
    """Read the result of a sweep from its folder, after its driver has ended."""
    return SweepResult(
        folder.name,
        folder.path,
        folder.snapshots(),
        rungs,
        tuple(sorted(unsynced)),
        sweep_usage(folder),
        stop,
        audit_result(read_history(folder.trial_folders())) if is_audited else None,
    )
