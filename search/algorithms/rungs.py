"""Early stopping by rungs: epochs at which trials are compared. Every decision has a reason.

A trial that arrives at a rung continues if its best overall so far is not below the rung's cut-off,
computed from all trials that have arrived there. It never waits for others. `SuccessiveHalving` has
rungs at `grace_period` times powers of `reduction_factor` and keeps the best 1/reduction_factor;
`MedianStopping` has a rung at each epoch from `grace_period` on and keeps the trials that are not
below the median; `Promotion` pauses trials, and promotes them later, instead of stopping them.
Epochs count from the end of a trial's probe, which is rung 0 of the trials that have one.
"""

import math
import random
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from mlflow_setup.schema import (
    CONTINUE,
    PAUSE,
    STOP,
    Decision,
)
from search.config.baselines import BASELINES
from search.config.sweep_config import SweepConfig
from search.storage.history import PastTrial

AUDITED = "audited, so it goes on"
"""Part of the reason of an audited trial that continues below a cut-off. It is stored: keep it."""
_MIN_FOR_MEDIAN = 4
"""Fewest arrivals at a rung, the trial itself included, with which the median is a cut-off."""


@dataclass
class Rung:
    """An epoch at which trials are compared, the trials that have arrived and those stopped."""

    number: int  # from 1; 0: the end of the probe
    epoch: int  # counted from the end of the probe
    arrivals: dict[str, float] = field(default_factory=dict)  # trial -> best overall so far
    stops: list[str] = field(default_factory=list)
    promoted: set[str] = field(default_factory=set)  # used by `Promotion` only


class Rungs:
    """The rungs of a sweep, independent of Ray.

    Args:
        audited: trials that continue below a cut-off, to measure the cost of early stopping.
    """

    def __init__(self, grace_period: int, audited: "Audit | None" = None) -> None:
        self.grace_period, self.audited = grace_period, audited
        self.probe = Rung(0, 0)
        self.rungs: list[Rung] = []
        self.decisions: dict[str, Decision] = {}  # trial -> newest decision

    def epoch_of(self, index: int) -> int:
        """Return the epoch of rung `index` (from 0); increasing."""
        raise NotImplementedError

    def cutoff(self, arrivals: Collection[float]) -> float | None:
        """Return the lowest value that continues; None: all continue."""
        raise NotImplementedError

    @property
    def reached(self) -> tuple[Rung, ...]:
        """The rungs that any trial has arrived at, the end of the probe first."""
        return ((self.probe,) if self.probe.arrivals else ()) + tuple(self.rungs)

    def decide(
        self, trial: str, epoch: int, value: float, num_epochs: int, num_probe_epochs: int = 0
    ) -> Decision:
        """Decide on a trial after an epoch. An epoch reported again gets the same decision.

        Args:
            value: its best overall so far.
            num_epochs: its length if it is not stopped.
            num_probe_epochs: how many of these, at the start, train only its heads.
        """
        known = self.decisions.get(trial)
        if known is None or known.epoch < epoch:
            lengths = num_epochs, num_probe_epochs
            known = self.decisions[trial] = self._decide(trial, epoch, value, *lengths)
        return known

    def restore(
        self,
        trial: str,
        best_values: Sequence[float],
        num_epochs: int,
        decisions: Sequence[Decision],
        num_probe_epochs: int = 0,
    ) -> None:
        """Take in a trial of an earlier driver.

        Args:
            best_values: its best overall so far, after each epoch that has a decision.
            decisions: in the order of their epochs.
        """
        for rung in self._rungs_up_to(len(best_values), num_epochs, num_probe_epochs):
            rung.arrivals[trial] = best_values[num_probe_epochs + rung.epoch - 1]
        if not decisions:
            return
        self.decisions[trial] = decisions[-1]
        arrived = [rung for rung in self.reached if trial in rung.arrivals]
        if decisions[-1].action == STOP and arrived:
            arrived[-1].stops.append(trial)

    def _decide(
        self, trial: str, epoch: int, value: float, num_epochs: int, num_probe_epochs: int
    ) -> Decision:
        if not math.isfinite(value):
            return Decision(epoch, STOP, f"its value after epoch {epoch} is {value}")
        decision = Decision(epoch, CONTINUE, f"no rung at epoch {epoch}")
        for rung in self._rungs_up_to(epoch, num_epochs, num_probe_epochs):
            if trial in rung.arrivals:  # an epoch run again after a crash counts once
                continue
            if num_probe_epochs == num_epochs:  # ends here: only others are compared with it
                rung.arrivals[trial] = value
                continue
            decision = self._arrive(rung, trial, epoch, value)
            if decision.action != CONTINUE:
                break
        return decision

    def _arrive(self, rung: Rung, trial: str, epoch: int, value: float) -> Decision:
        rung.arrivals[trial] = value
        count = len(rung.arrivals)
        if count == 1:
            return Decision(epoch, CONTINUE, f"rung {rung.number}: {value:.3f} is the first")
        cutoff = self.cutoff(rung.arrivals.values())
        if cutoff is None:
            reason = f"rung {rung.number}: {value:.3f}, no cut-off of {count} yet"
            return Decision(epoch, CONTINUE, reason)
        is_below = value < cutoff
        side = "below" if is_below else "not below"
        reason = f"rung {rung.number}: {value:.3f} {side} cut-off {cutoff:.3f} of {count}"
        if is_below and self.audited is not None and self.audited.has(trial):
            return Decision(epoch, CONTINUE, f"{reason}; {AUDITED}")
        if is_below:
            rung.stops.append(trial)
        return Decision(epoch, STOP if is_below else CONTINUE, reason)

    def _rungs_up_to(self, epoch: int, num_epochs: int, num_probe_epochs: int) -> list[Rung]:
        """Return the rungs that a trial passes up to an epoch, without one at its last epoch.

        Rungs are created when the first trial reaches them: trials may differ in length.
        """
        passed = [self.probe] if 0 < num_probe_epochs <= epoch else []
        trained = min(epoch, num_epochs - 1) - num_probe_epochs
        while (next_epoch := self.epoch_of(len(self.rungs))) <= trained:
            self.rungs.append(Rung(len(self.rungs) + 1, next_epoch))
        return passed + [rung for rung in self.rungs if rung.epoch <= trained]


class SuccessiveHalving(Rungs):
    """Asynchronous successive halving over epochs that stops trials, like Optuna's
    `SuccessiveHalvingPruner`: a trial below the cut-off on arrival is stopped for good.

    Algorithm 2 of Li et al. ("A System for Massively Parallel Hyperparameter Tuning") promotes
    trials instead: see `Promotion`.
    """

    def __init__(
        self, grace_period: int, reduction_factor: int, audited: "Audit | None" = None
    ) -> None:
        super().__init__(grace_period, audited)
        self.reduction_factor = reduction_factor

    def epoch_of(self, index: int) -> int:
        return self.grace_period * int(self.reduction_factor**index)

    def cutoff(self, arrivals: Collection[float]) -> float | None:
        """Return the lowest of the best 1/reduction_factor arrivals, at least one of them."""
        num_kept = max(1, len(arrivals) // self.reduction_factor)
        return sorted(arrivals, reverse=True)[num_kept - 1]


class Promotion(SuccessiveHalving):
    """Asynchronous successive halving over epochs that promotes trials (Li et al., algorithm 2).

    A trial that arrives at a rung continues if it is among the best 1/reduction_factor there.
    Otherwise it pauses, keeps its checkpoint, and is promoted if later arrivals move it among them.
    """

    @property
    def reached(self) -> tuple[Rung, ...]:
        rungs = super().reached
        for rung in rungs:
            rung.stops = [trial for trial in rung.arrivals if trial not in rung.promoted]
        return rungs

    def promote(self, paused: Collection[str]) -> tuple[str, Decision] | None:
        """Promote a paused trial, from the highest rung that has one to promote.

        Returns:
            The trial and the decision; None: a new trial is to begin.
        """
        for rung in reversed(self.reached):
            for trial in _ranked(rung)[: len(rung.arrivals) // self.reduction_factor]:
                if trial not in rung.promoted and trial in paused:
                    return self._promote(rung, trial)
        return None

    def promote_best(self, paused: Collection[str]) -> tuple[str, Decision] | None:
        """Promote the best paused trial of the highest rung, even if too few trials arrived there
        for a promotion."""
        for rung in reversed(self.reached):
            for trial in _ranked(rung):
                if trial not in rung.promoted and trial in paused:
                    return self._promote(rung, trial)
        return None

    def restore(
        self,
        trial: str,
        best_values: Sequence[float],
        num_epochs: int,
        decisions: Sequence[Decision],
        num_probe_epochs: int = 0,
    ) -> None:
        super().restore(trial, best_values, num_epochs, decisions, num_probe_epochs)
        arrived = [rung for rung in self.reached if trial in rung.arrivals]
        is_paused = bool(decisions) and decisions[-1].action == PAUSE
        for rung in arrived[:-1] if is_paused else arrived:
            rung.promoted.add(trial)

    def _arrive(self, rung: Rung, trial: str, epoch: int, value: float) -> Decision:
        rung.arrivals[trial] = value
        rank, count = _ranked(rung).index(trial) + 1, len(rung.arrivals)
        continues = rank <= count // self.reduction_factor
        reason = f"rung {rung.number}: {value:.3f} is number {rank} of {count}"
        if not continues and self.audited is not None and self.audited.has(trial):
            continues, reason = True, f"{reason}; {AUDITED}"
        if continues:
            rung.promoted.add(trial)
        return Decision(epoch, CONTINUE if continues else PAUSE, reason)

    def _promote(self, rung: Rung, trial: str) -> tuple[str, Decision]:
        rung.promoted.add(trial)
        rank, count = _ranked(rung).index(trial) + 1, len(rung.arrivals)
        reason = f"rung {rung.number}: promoted as number {rank} of {count}"
        decision = Decision(self.decisions[trial].epoch, CONTINUE, reason)
        self.decisions[trial] = decision
        return trial, decision


def _ranked(rung: Rung) -> list[str]:
    """Return the trials at a rung, the best first; ties in the order of arrival."""
    return sorted(rung.arrivals, key=lambda trial: -rung.arrivals[trial])


class MedianStopping(Rungs):
    """Stops a trial if its best overall so far is below the median of all trials at that epoch."""

    def epoch_of(self, index: int) -> int:
        return self.grace_period + index

    def cutoff(self, arrivals: Collection[float]) -> float | None:
        return statistics.median(arrivals) if len(arrivals) >= _MIN_FOR_MEDIAN else None


@dataclass(frozen=True)
class Audit:
    """The trials that are never stopped: a fraction of all, drawn by name, so that a resumed sweep
    draws the same."""

    fraction: float
    seed: int

    def has(self, trial: str) -> bool:
        return random.Random(f"{self.seed} {trial}").random() < self.fraction


def new_rungs(sweep: SweepConfig) -> Rungs | None:
    """Create the empty rungs of a sweep's scheduler; None if every trial runs to its end."""
    scheduler = sweep.scheduler
    audit = Audit(scheduler.audit_fraction, sweep.search.seed)
    halving = {"halving": SuccessiveHalving, "asha": Promotion}.get(scheduler.name)
    if halving is not None:
        return halving(scheduler.grace_period, scheduler.reduction_factor, audit)
    return MedianStopping(scheduler.grace_period, audit) if scheduler.name == "median" else None


def restore_rungs(rungs: Rungs, history: Iterable[PastTrial]) -> None:
    """Take in the trials of earlier drivers.

    An epoch without a decision gets one when its trial is resumed and reports it again.
    """
    for past in history:
        if past.record.recipe in BASELINES:
            continue
        decisions = past.decisions
        last_decided = decisions[-1].epoch if decisions else 0
        values = past.best_values[: len(past.epochs) if past.is_over else last_decided]
        rungs.restore(past.name, values, past.num_epochs, decisions, past.num_probe_epochs)
