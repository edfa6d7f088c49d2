"""Stopping weak trials early, by rungs: epochs at which trials are compared. It says why.

A trial that arrives at a rung goes on if its best overall so far is not below the rung's cut-off
among all that have arrived there. It never waits. `SuccessiveHalving` has rungs at `grace_period`,
then `reduction_factor` times more each, and keeps the best 1/reduction_factor; `MedianStopping` has
one at each epoch from `grace_period` on, and keeps what is not below the median. Their epochs count
from the end of a trial's probe, which is rung 0 of the trials that have one. Those that pause and
promote trials instead are `Promotion`'s.
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
"""In the reason of a trial that was below a cut-off."""
_MEDIAN_OF = 4
"""Arrivals at a rung, the trial's own included, from which on a median means something."""


@dataclass
class Rung:
    """The trials that have arrived at an epoch, with their values, and those stopped there."""

    number: int  # from 1; 0: the end of the probe
    epoch: int  # after the probe
    arrivals: dict[str, float] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    promoted: set[str] = field(default_factory=set)  # of trials that pause here unless they are


class Rungs:
    """The rungs of a sweep. Free of Ray.

    Args:
        audited: trials that go on although they are below a cut-off, to learn what stopping costs.
    """

    def __init__(self, grace_period: int, audited: "Audit | None" = None) -> None:
        self.grace_period, self.audited = grace_period, audited
        self.probe = Rung(0, 0)
        self.rungs: list[Rung] = []
        self.decisions: dict[str, Decision] = {}  # trial -> its newest

    def epoch_of(self, index: int) -> int:
        """The epoch of rung `index` (from 0); rising."""
        raise NotImplementedError

    def cutoff(self, arrivals: Collection[float]) -> float | None:
        """The lowest value that goes on; None when all do."""
        raise NotImplementedError

    @property
    def reached(self) -> tuple[Rung, ...]:
        """The rungs that a trial has arrived at, the end of the probe first."""
        return ((self.probe,) if self.probe.arrivals else ()) + tuple(self.rungs)

    def decide(
        self, trial: str, epoch: int, value: float, num_epochs: int, num_probe_epochs: int = 0
    ) -> Decision:
        """What becomes of a trial after an epoch; the same for an epoch that is reported again.

        Args:
            value: its best overall so far.
            num_epochs: the epochs that it would run.
            num_probe_epochs: of these, the first ones that train its heads alone.
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
            best_values: its best overall so far, after each epoch that was decided on.
            decisions: by epoch.
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
            if num_probe_epochs == num_epochs:  # others are compared with it
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
        """Rungs that a trial passes up to an epoch, but for one at its end.

        Rungs are made when a trial first comes so far: trials may differ in their epochs.
        """
        passed = [self.probe] if 0 < num_probe_epochs <= epoch else []
        trained = min(epoch, num_epochs - 1) - num_probe_epochs
        while (next_epoch := self.epoch_of(len(self.rungs))) <= trained:
            self.rungs.append(Rung(len(self.rungs) + 1, next_epoch))
        return passed + [rung for rung in self.rungs if rung.epoch <= trained]


class SuccessiveHalving(Rungs):
    """Asynchronous successive halving on epochs by stopping, as Optuna's pruner of that name: a
    trial that is below the cut-off when it arrives is lost for good. Algorithm 2 of Li et al. ("A
    System for Massively Parallel Hyperparameter Tuning") promotes: see `Promotion`."""

    def __init__(
        self, grace_period: int, reduction_factor: int, audited: "Audit | None" = None
    ) -> None:
        super().__init__(grace_period, audited)
        self.reduction_factor = reduction_factor

    def epoch_of(self, index: int) -> int:
        return self.grace_period * int(self.reduction_factor**index)

    def cutoff(self, arrivals: Collection[float]) -> float | None:
        """The lowest among the best 1/reduction_factor, of at least one."""
        num_kept = max(1, len(arrivals) // self.reduction_factor)
        return sorted(arrivals, reverse=True)[num_kept - 1]


class Promotion(SuccessiveHalving):
    """Asynchronous successive halving on epochs by promoting (Li et al., algorithm 2).

    A trial that arrives at a rung goes on if it is among the best 1/reduction_factor there, and
    pauses otherwise: it keeps its checkpoint, and is promoted should it come to be among them.
    """

    @property
    def reached(self) -> tuple[Rung, ...]:
        rungs = super().reached
        for rung in rungs:
            rung.stops = [trial for trial in rung.arrivals if trial not in rung.promoted]
        return rungs

    def promote(self, paused: Collection[str]) -> tuple[str, Decision] | None:
        """The paused trial that goes on next, by the highest rung that has one; None: a new trial
        is to begin."""
        for rung in reversed(self.reached):
            for trial in _ranked(rung)[: len(rung.arrivals) // self.reduction_factor]:
                if trial not in rung.promoted and trial in paused:
                    return self._promote(rung, trial)
        return None

    def promote_best(self, paused: Collection[str]) -> tuple[str, Decision] | None:
        """The best of those that came furthest, where too few came for one to be promoted."""
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
        place, count = _ranked(rung).index(trial) + 1, len(rung.arrivals)
        goes_on = place <= count // self.reduction_factor
        reason = f"rung {rung.number}: {value:.3f} is number {place} of {count}"
        if not goes_on and self.audited is not None and self.audited.has(trial):
            goes_on, reason = True, f"{reason}; {AUDITED}"
        if goes_on:
            rung.promoted.add(trial)
        return Decision(epoch, CONTINUE if goes_on else PAUSE, reason)

    def _promote(self, rung: Rung, trial: str) -> tuple[str, Decision]:
        rung.promoted.add(trial)
        place, count = _ranked(rung).index(trial) + 1, len(rung.arrivals)
        reason = f"rung {rung.number}: promoted as number {place} of {count}"
        decision = Decision(self.decisions[trial].epoch, CONTINUE, reason)
        self.decisions[trial] = decision
        return trial, decision


def _ranked(rung: Rung) -> list[str]:
    """The trials at a rung, the best first; of equals the one that came first."""
    return sorted(rung.arrivals, key=lambda trial: -rung.arrivals[trial])


class MedianStopping(Rungs):
    """A trial stops where its best so far is below the median of all that came as far."""

    def epoch_of(self, index: int) -> int:
        return self.grace_period + index

    def cutoff(self, arrivals: Collection[float]) -> float | None:
        return statistics.median(arrivals) if len(arrivals) >= _MEDIAN_OF else None


@dataclass(frozen=True)
class Audit:
    """The trials that are finished on purpose: a share of all, drawn by name, so that a resumed
    sweep draws the same."""

    fraction: float
    seed: int

    def has(self, trial: str) -> bool:
        return random.Random(f"{self.seed} {trial}").random() < self.fraction


def new_rungs(sweep: SweepConfig) -> Rungs | None:
    """The rungs of a sweep's scheduler, empty; None where every trial runs to its end."""
    scheduler = sweep.scheduler
    audit = Audit(scheduler.audit_fraction, sweep.search.seed)
    by_halving = {"halving": SuccessiveHalving, "asha": Promotion}
    if scheduler.name in by_halving:
        made = by_halving[scheduler.name]
        return made(scheduler.grace_period, scheduler.reduction_factor, audit)
    return MedianStopping(scheduler.grace_period, audit) if scheduler.name == "median" else None


def restore_rungs(rungs: Rungs, history: Iterable[PastTrial]) -> None:
    """The rungs as earlier drivers left them. An epoch without a decision is decided on when the
    trial goes on and tells of it again."""
    for past in history:
        if past.record.recipe in BASELINES:
            continue
        made = past.decisions
        num_decided = len(past.epochs) if past.is_over else (made[-1].epoch if made else 0)
        values = past.best_values[:num_decided]
        rungs.restore(past.name, values, past.num_epochs, made, past.num_probe_epochs)
