"""What early stopping cost, estimated from the trials that went on although they were to stop."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from mlflow_setup.schema import Outcome
from search.algorithms.rungs import AUDITED
from search.storage.history import PastTrial


@dataclass(frozen=True)
class AuditResult:
    """A stop is wrongful where the trial would have ended not below the median of the trials that
    ran to their end without having been below a cut-off."""

    num_audited: int  # ran to their end although below a cut-off
    num_wrongful: int  # of these
    num_stopped: int  # trials that were stopped in earnest

    @property
    def expected_wrongful(self) -> float:
        """Wrongful ones among those that were stopped, were they like the audited."""
        return self.num_stopped * self.num_wrongful / self.num_audited

    def describe(self) -> str:
        """The result in one line."""
        return (
            f"audit: {self.num_wrongful} of {self.num_audited} trials that went on below a cut-off "
            f"ended in the upper half; of {self.num_stopped} stopped ones that would be "
            f"{self.expected_wrongful:.1f}"
        )


def audit_result(history: Iterable[PastTrial]) -> AuditResult | None:
    """What the audit of a sweep has shown; None before an audited and another have ended."""
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
    """Whether it went on below a cut-off at any rung."""
    return any(AUDITED in decision.reason for decision in past.decisions)
