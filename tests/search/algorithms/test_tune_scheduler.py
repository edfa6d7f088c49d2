"""Decisions of the rungs as actions of Tune."""

from types import SimpleNamespace
from typing import Any

import pytest

from search.algorithms.rungs import Promotion, SuccessiveHalving
from search.algorithms.tune_scheduler import TuneScheduler
from search.config.baselines import BASELINES
from trainable.tune.keys import BEST_VALUE, DIVERGED, EPOCH, NUM_EPOCHS, NUM_PROBE_EPOCHS, PROBLEM


def action(
    scheduler: TuneScheduler, name: str, epoch: int, value: float, recipe: str = "b3", **more: Any
) -> str:
    """What Tune is to do with a trial of four epochs after this result."""
    trial: Any = SimpleNamespace(config={"trial": name, "recipe": recipe})
    result = {EPOCH: epoch, BEST_VALUE: value, NUM_EPOCHS: 4, NUM_PROBE_EPOCHS: 0, **more}
    return scheduler.on_trial_result(None, trial, result)


def test_a_trial_below_the_cut_off_is_stopped() -> None:
    scheduler = TuneScheduler(SuccessiveHalving(1, 2))
    assert action(scheduler, "one", 1, 0.5) == "CONTINUE"
    assert action(scheduler, "two", 1, 0.1) == "STOP"
    decision = scheduler.decision("two")
    assert decision is not None
    assert (decision.epoch, decision.action) == (1, "stop")
    assert scheduler.debug_string() == "SuccessiveHalving"


@pytest.mark.parametrize(
    ("epoch", "more"),
    [(0, {}), (1, {DIVERGED: True}), (1, {PROBLEM: "lost"}), (1, {"recipe": BASELINES[0]})],
)
def test_results_that_are_not_compared(epoch: int, more: dict[str, Any]) -> None:
    """Before the first epoch, of diverged trials, of lost ones, of baselines."""
    scheduler = TuneScheduler(SuccessiveHalving(1, 2))
    action(scheduler, "one", 1, 0.5)
    assert action(scheduler, "two", epoch, 0.1, **more) == "CONTINUE"
    assert scheduler.decision("two") is None


def test_a_paused_trial_ends_for_tune_and_may_be_promoted() -> None:
    scheduler = TuneScheduler(Promotion(1, 2))
    for name, value in (("one", 0.5), ("two", 0.4)):
        assert action(scheduler, name, 1, value) == "STOP"
    assert scheduler.is_paused("one")
    promoted = scheduler.promote({"one", "two"})
    assert promoted is not None
    assert promoted[0] == "one"
    assert not scheduler.is_paused("one")
    assert action(scheduler, "one", 1, 0.5) == "CONTINUE"
    assert scheduler.promote({"two"}) is None
    for epoch, expected in ((2, "STOP"), (4, "CONTINUE")):
        best = scheduler.promote({"two"}, is_end=True)
        assert best is not None  # no trial has run to its end
        assert best[0] == "two"
        assert action(scheduler, "two", epoch, 0.4) == expected
    assert scheduler.has_finished
    assert TuneScheduler(SuccessiveHalving(1, 2)).promote({"one"}, is_end=True) is None


def test_without_rungs_every_trial_continues() -> None:
    scheduler = TuneScheduler(None)
    assert action(scheduler, "one", 1, 0.5) == "CONTINUE"
    assert scheduler.decision("one") is None
    assert scheduler.debug_string() == "no scheduler"
