"""The cost of early stopping, estimated from audited trials: those that were below a rung's cut-off
and were continued nevertheless."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from mlflow_setup.schema import Outcome
from search.algorithms.rungs import AUDITED
from search.storage.history import PastTrial


@dataclass(frozen=True)
class AuditResult:
    """Counts of stops. A stop is wrongful if the trial ends at or above the median final score of
    the finished trials that never were below a cut-off."""

    num_audited: int  # finished although below a cut-off
    num_wrongful: int  # of the audited
    num_stopped: int  # trials that were stopped early

    @property
    def expected_wrongful(self) -> float:
        """Expected number of wrongful stops, if the stopped trials are like the audited ones."""
        return self.num_stopped * self.num_wrongful / self.num_audited

    def describe(self) -> str:
        """The result in one line."""
        return (
            f"audit: {self.num_wrongful} of {self.num_audited} trials that were continued below a "
            f"cut-off ended in the upper half; of {self.num_stopped} stopped trials about "
            f"{self.expected_wrongful:.1f} would have"
        )


def audit_result(history: Iterable[PastTrial]) -> AuditResult | None:
    """Return the result; None before both an audited and another trial have finished."""
    past = list(history)
    finished = [p for p in past if p.outcome and p.outcome.outcome is Outcome.FINISHED]
    audited = [p for p in finished if is_audited(p)]
    others = [p.best_values[-1] for p in finished if not is_audited(p)]
    if not audited or not others:
        return None
    median = statistics.median(others)
    stopped = [p for p in past if p.outcome and p.outcome.outcome is Outcome.PRUNED]
    wrongful = [p for p in audited if p.best_values[-1] >= median]
    return AuditResult(len(audited), len(wrongful), len(stopped))


def is_audited(past: PastTrial) -> bool:
    """Whether the trial was continued below the cut-off of any rung."""
    return any(AUDITED in decision.reason for decision in past.decisions)
