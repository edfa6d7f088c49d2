"""Asynchronous successive halving on epochs, which says why it stops a trial.

A rung is an epoch at which trials are compared: `grace_period`, then `reduction_factor` times
more each, below the trial's last epoch. A trial that arrives at a rung goes on if its best overall
so far is among the best 1/reduction_factor of all that have arrived there. It never waits.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from mlflow_setup.schema import Decision
from trainable.trial import BEST_VALUE, DIVERGED, EPOCH, NUM_EPOCHS

CONTINUE, STOP = "continue", "stop"


@dataclass
class Rung:
    """The trials that have arrived at an epoch, with their values, and those stopped there."""

    number: int  # from 1
    epoch: int
    arrivals: dict[str, float] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)

    def cutoff(self, reduction_factor: int) -> float:
        """The lowest value among the best 1/reduction_factor, of at least one."""
        num_kept = max(1, len(self.arrivals) // reduction_factor)
        return sorted(self.arrivals.values(), reverse=True)[num_kept - 1]


class SuccessiveHalving:
    """The rungs of a sweep. Free of Ray."""

    def __init__(self, grace_period: int, reduction_factor: int) -> None:
        self.grace_period, self.reduction_factor = grace_period, reduction_factor
        self.rungs: list[Rung] = []

    def decide(self, trial: str, epoch: int, value: float, num_epochs: int) -> Decision:
        """What becomes of a trial after an epoch.

        Args:
            value: its best overall so far.
            num_epochs: the epochs that it would run.
        """
        if not math.isfinite(value):
            return Decision(epoch, STOP, f"its value after epoch {epoch} is {value}")
        decision = Decision(epoch, CONTINUE, f"no rung at epoch {epoch}")
        for rung in self._rungs_up_to(min(epoch, num_epochs - 1)):
            if trial in rung.arrivals:  # an epoch run again after a crash counts once
                continue
            decision = self._arrive(rung, trial, epoch, value)
            if decision.action == STOP:
                break
        return decision

    def _arrive(self, rung: Rung, trial: str, epoch: int, value: float) -> Decision:
        rung.arrivals[trial] = value
        count = len(rung.arrivals)
        if count == 1:
            return Decision(epoch, CONTINUE, f"rung {rung.number}: {value:.3f} is the first")
        cutoff = rung.cutoff(self.reduction_factor)
        is_below = value < cutoff
        words = "below" if is_below else "not below"
        reason = f"rung {rung.number}: {value:.3f} {words} cut-off {cutoff:.3f} of {count}"
        if is_below:
            rung.stops.append(trial)
        return Decision(epoch, STOP if is_below else CONTINUE, reason)

    def _rungs_up_to(self, epoch: int) -> list[Rung]:
        """Rungs are made when a trial first comes so far: trials may differ in their epochs."""
        while (next_epoch := self._epoch_of(len(self.rungs))) <= epoch:
            self.rungs.append(Rung(len(self.rungs) + 1, next_epoch))
        return [rung for rung in self.rungs if rung.epoch <= epoch]

    def _epoch_of(self, index: int) -> int:
        return self.grace_period * int(self.reduction_factor**index)


class TuneScheduler(FIFOScheduler):  # type: ignore[misc]  # ray is untyped
    """Tune's view of the halving; without one every trial runs to its end."""

    def __init__(self, halving: SuccessiveHalving | None) -> None:
        super().__init__()
        self.halving = halving
        self.decisions: dict[str, Decision] = {}  # trial's name -> its newest decision

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, Any]) -> str:
        """Called for each epoch that a trial reports, before the callbacks are."""
        if self.halving is None or result.get(DIVERGED):
            return str(TrialScheduler.CONTINUE)
        name = trial.config["trial"]
        decision = self.halving.decide(name, result[EPOCH], result[BEST_VALUE], result[NUM_EPOCHS])
        self.decisions[name] = decision
        return str(TrialScheduler.STOP if decision.action == STOP else TrialScheduler.CONTINUE)

    def debug_string(self) -> str:
        """One line for Tune's own output."""
        return "successive halving" if self.halving else "no scheduler"
