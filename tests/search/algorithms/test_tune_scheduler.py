"""Tune's view of the rungs: what it is told after each epoch."""

from types import SimpleNamespace
from typing import Any

from search.algorithms.rungs import Promotion, SuccessiveHalving
from search.algorithms.tune_scheduler import TuneScheduler
from search.config.baselines import BASELINES
from trainable.tune.keys import BEST_VALUE, DIVERGED, EPOCH, NUM_EPOCHS, NUM_PROBE_EPOCHS, PROBLEM


def _result(epoch: int, value: float, **more: Any) -> dict[str, Any]:
    lengths = {NUM_EPOCHS: 4, NUM_PROBE_EPOCHS: 0}
    return {EPOCH: epoch, BEST_VALUE: value, **lengths, **more}


def test_tune_is_told_what_the_rungs_decide() -> None:
    scheduler = TuneScheduler(SuccessiveHalving(1, 2))
    one, two = (SimpleNamespace(config={"trial": name, "recipe": "b3"}) for name in ("one", "two"))
    assert scheduler.decision("one") is None
    assert scheduler.on_trial_result(None, one, _result(1, 0.5)) == "CONTINUE"  # type: ignore[arg-type]
    baseline = SimpleNamespace(config={"trial": "two", "recipe": BASELINES[0]})
    assert scheduler.on_trial_result(None, baseline, _result(1, 0.1)) == "CONTINUE"  # type: ignore[arg-type]
    for nothing in ({DIVERGED: True}, {PROBLEM: "lost"}):
        said = scheduler.on_trial_result(None, two, _result(1, 0.1, **nothing))  # type: ignore[arg-type]
        assert said == "CONTINUE"
    assert scheduler.on_trial_result(None, two, _result(0, 0.1)) == "CONTINUE"  # type: ignore[arg-type]
    assert scheduler.decision("two") is None
    assert scheduler.on_trial_result(None, two, _result(1, 0.1)) == "STOP"  # type: ignore[arg-type]
    decision = scheduler.decision("two")
    assert decision is not None
    assert (decision.epoch, decision.action) == (1, "stop")
    assert scheduler.debug_string() == "SuccessiveHalving"


def test_a_paused_trial_ends_for_tune_and_may_be_promoted() -> None:
    scheduler = TuneScheduler(Promotion(1, 2))
    one, two = (SimpleNamespace(config={"trial": name, "recipe": "b3"}) for name in ("one", "two"))
    for trial, value in ((one, 0.5), (two, 0.4)):
        assert scheduler.on_trial_result(None, trial, _result(1, value)) == "STOP"  # type: ignore[arg-type]
    assert scheduler.is_paused("one")
    found = scheduler.promote({"one", "two"})
    assert found is not None
    assert found[0] == "one"
    assert not scheduler.is_paused("one")
    assert scheduler.on_trial_result(None, one, _result(1, 0.5)) == "CONTINUE"  # type: ignore[arg-type]
    assert scheduler.promote({"two"}) is None
    for epoch, word in ((2, "STOP"), (4, "CONTINUE")):
        best = scheduler.promote({"two"}, is_end=True)
        assert best is not None  # nothing has run to its end
        assert best[0] == "two"
        assert scheduler.on_trial_result(None, two, _result(epoch, 0.4)) == word  # type: ignore[arg-type]
    assert scheduler.has_finished
    assert TuneScheduler(SuccessiveHalving(1, 2)).promote({"one"}, is_end=True) is None


def test_without_rungs_every_trial_runs_on() -> None:
    scheduler = TuneScheduler(None)
    trial = SimpleNamespace(config={"trial": "one", "recipe": "b3"})
    assert scheduler.on_trial_result(None, trial, _result(1, 0.5)) == "CONTINUE"  # type: ignore[arg-type]
    assert scheduler.decision("one") is None
    assert scheduler.debug_string() == "no scheduler"
