"""The rungs as a scheduler of Tune."""

from collections.abc import Collection, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from mlflow_setup.schema import CONTINUE, PAUSE, Decision, Outcome
from search.algorithms.rungs import Promotion, Rungs, restore_rungs
from search.config.baselines import BASELINES
from search.storage.history import PastTrial
from trainable.tune.keys import BEST_VALUE, DIVERGED, EPOCH, NUM_EPOCHS, NUM_PROBE_EPOCHS, PROBLEM


class TuneScheduler(FIFOScheduler):  # type: ignore[misc]  # ray is untyped
    """Stops, pauses and promotes trials by rungs; without rungs every trial runs to its end."""

    def __init__(self, rungs: Rungs | None) -> None:
        super().__init__()
        self.rungs = rungs
        self.controller: Any = None
        """Tune's controller, known once it has a trial."""
        self.has_finished = False  # whether any trial has run to its end

    def restore(self, history: Sequence[PastTrial]) -> None:
        """The rungs as earlier drivers left them."""
        if self.rungs is not None:
            restore_rungs(self.rungs, history)
            self.has_finished = any(map(_has_run_whole, history))

    def on_trial_add(self, tune_controller: object, trial: Trial) -> None:
        """Keep Tune's controller."""
        self.controller = tune_controller

    def decision(self, trial: str) -> Decision | None:
        """Return the newest decision on a trial."""
        return None if self.rungs is None else self.rungs.decisions.get(trial)

    def is_paused(self, trial: str) -> bool:
        """Whether the trial is paused at a rung, from which it may be promoted."""
        decision = self.decision(trial)
        return decision is not None and decision.action == PAUSE

    def promote(
        self, paused: Collection[str], *, is_end: bool = False
    ) -> tuple[str, Decision] | None:
        """Promote a paused trial and return it with the decision; None: no trial is due.

        Args:
            is_end: nothing else is left to run. If no trial has finished yet, one is promoted
                even if none is due.
        """
        if not isinstance(self.rungs, Promotion):
            return None
        if is_end and not self.has_finished:
            return self.rungs.promote(paused) or self.rungs.promote_best(paused)
        return self.rungs.promote(paused)

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict[str, Any]) -> str:
        """Decide after an epoch. Tune calls this before the callbacks."""
        name, recipe = trial.config["trial"], trial.config["recipe"]
        if self.rungs is None or recipe in BASELINES:
            return str(TrialScheduler.CONTINUE)
        if result.get(DIVERGED) or result.get(PROBLEM) or result[EPOCH] < 1:
            return str(TrialScheduler.CONTINUE)
        lengths = result[NUM_EPOCHS], result[NUM_PROBE_EPOCHS]
        decision = self.rungs.decide(name, result[EPOCH], result[BEST_VALUE], *lengths)
        continues = decision.action == CONTINUE
        self.has_finished |= continues and lengths[1] < lengths[0] <= result[EPOCH]
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)

    def debug_string(self) -> str:
        """One line for Tune's own output."""
        return "no scheduler" if self.rungs is None else type(self.rungs).__name__


def _has_run_whole(past: PastTrial) -> bool:
    """Whether it is a trial of the search that ran to its end, and more than a probe."""
    is_whole = past.ended is Outcome.FINISHED and past.record.recipe not in BASELINES
    return is_whole and past.num_probe_epochs < past.num_epochs
