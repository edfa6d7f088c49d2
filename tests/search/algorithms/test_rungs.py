"""Successive halving and the median rule: which trials are stopped, and for what reason."""

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_setup.schema import Decision
from search.algorithms.rungs import (
    Audit,
    MedianStopping,
    Rungs,
    SuccessiveHalving,
    new_rungs,
    restore_rungs,
)
from search.config.baselines import BASELINES
from search.config.sweep_config import Scheduler


def test_the_first_arrival_continues_and_a_worse_one_is_stopped() -> None:
    halving = SuccessiveHalving(1, 2)
    first = halving.decide("a", 1, 0.1, 8)
    assert (first.action, first.reason) == ("continue", "rung 1: 0.100 is the first")
    better = halving.decide("b", 1, 0.2, 8)
    assert (better.action, better.reason) == (
        "continue",
        "rung 1: 0.200 not below cut-off 0.200 of 2",
    )
    worse = halving.decide("c", 1, 0.15, 8)
    assert (worse.action, worse.reason) == ("stop", "rung 1: 0.150 below cut-off 0.200 of 3")


def test_equal_values_continue() -> None:
    halving = SuccessiveHalving(1, 2)
    assert {halving.decide(name, 1, 0.5, 4).action for name in "abcd"} == {"continue"}


@pytest.mark.parametrize(
    ("grace_period", "reduction_factor", "num_epochs", "rungs"),
    [
        (1, 2, 4, [1, 2]),
        (1, 2, 9, [1, 2, 4, 8]),
        (2, 3, 20, [2, 6, 18]),
        (4, 2, 4, []),
        (1, 2, 1, []),
    ],
)
def test_rungs_lie_below_the_last_epoch(
    grace_period: int, reduction_factor: int, num_epochs: int, rungs: list[int]
) -> None:
    halving = SuccessiveHalving(grace_period, reduction_factor)
    for epoch in range(1, num_epochs + 1):
        decision = halving.decide("a", epoch, 0.5, num_epochs)
        assert decision.epoch == epoch
        if epoch not in rungs:
            assert decision.reason == f"no rung at epoch {epoch}"
    assert [rung.epoch for rung in halving.rungs] == rungs


def test_trials_may_differ_in_their_epochs() -> None:
    halving = SuccessiveHalving(1, 2)
    for epoch in range(1, 5):
        halving.decide("long", epoch, 0.9, 5)
    assert halving.decide("short", 1, 0.95, 2).action == "continue"
    assert halving.decide("short", 2, 0.1, 2).reason == "no rung at epoch 2"
    assert [len(rung.arrivals) for rung in halving.rungs] == [2, 1, 1]


def test_a_replayed_epoch_counts_once() -> None:
    halving = SuccessiveHalving(1, 2)
    for _ in range(3):
        halving.decide("a", 1, 0.5, 4)
    assert len(halving.rungs[0].arrivals) == 1
    assert halving.decide("b", 1, 0.4, 4).reason == "rung 1: 0.400 below cut-off 0.500 of 2"


def test_a_trial_is_compared_at_a_rung_that_it_skipped() -> None:
    halving = SuccessiveHalving(1, 2)
    halving.decide("a", 1, 0.5, 8)
    halving.decide("a", 2, 0.6, 8)
    assert halving.decide("b", 3, 0.55, 8).reason == "rung 2: 0.550 below cut-off 0.600 of 2"
    assert [len(rung.arrivals) for rung in halving.rungs] == [2, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_the_trial_and_is_not_an_arrival(value: float) -> None:
    halving = SuccessiveHalving(1, 2)
    decision = halving.decide("a", 1, value, 4)
    assert (decision.action, decision.reason) == ("stop", f"its value after epoch 1 is {value}")
    assert halving.decide("b", 1, 0.1, 4).reason == "rung 1: 0.100 is the first"


def test_about_one_in_reduction_factor_continues() -> None:
    halving = SuccessiveHalving(1, 4)
    values = [number / 100 for number in random.Random(0).sample(range(100), 100)]
    actions = [halving.decide(str(i), 1, value, 4).action for i, value in enumerate(values)]
    rung = halving.rungs[0]
    assert len(rung.arrivals) == 100
    assert rung.stops == [str(i) for i, action in enumerate(actions) if action == "stop"]
    assert 20 <= actions.count("continue") <= 35


def test_the_median_rule_stops_below_the_median_once_there_is_one() -> None:
    median = MedianStopping(2)
    for name, value in zip("abc", (0.3, 0.5, 0.7), strict=True):
        assert median.decide(name, 1, value, 9).reason == "no rung at epoch 1"
        assert median.decide(name, 2, value, 9).action == "continue"
    below = median.decide("d", 2, 0.35, 9)
    assert (below.action, below.reason) == ("stop", "rung 1: 0.350 below cut-off 0.425 of 4")
    assert median.decide("a", 3, 0.3, 9).reason == "rung 2: 0.300 is the first"
    assert median.decide("b", 3, 0.5, 9).reason == "rung 2: 0.500, no cut-off of 2 yet"


def test_audited_trials_continue_below_the_cut_off() -> None:
    actions = []
    for audit in (Audit(0.5, 3), Audit(0.5, 3), Audit(0.0, 3), Audit(1.0, 3)):
        halving = SuccessiveHalving(1, 100, audit)
        halving.decide("best", 1, 0.9, 4)
        decisions = [halving.decide(str(number), 1, 0.1, 4) for number in range(40)]
        actions.append([decision.action for decision in decisions])
        for decision in decisions:
            assert decision.reason.startswith("rung 1: 0.100 below cut-off 0.900 of ")
            is_audited = decision.reason.endswith("; audited, so it goes on")
            assert is_audited == (decision.action == "continue")
    assert actions[0] == actions[1]  # sampled by name: a resumed sweep audits the same trials
    assert 8 <= actions[0].count("continue") <= 32
    assert actions[2].count("continue") == 0
    assert actions[3].count("continue") == 40


def test_the_end_of_the_probe_is_a_rung_and_epochs_count_from_it() -> None:
    halving = SuccessiveHalving(1, 2)
    for name, value in (("a", 0.7), ("b", 0.6)):  # probes end here: nothing to stop
        assert halving.decide(name, 3, value, 3, 3).reason == "no rung at epoch 3"
    assert halving.decide("c", 2, 0.1, 6, 3).reason == "no rung at epoch 2"
    weak = halving.decide("c", 3, 0.65, 6, 3)
    assert (weak.action, weak.reason) == ("stop", "rung 0: 0.650 below cut-off 0.700 of 3")
    assert halving.decide("d", 3, 0.8, 6, 3).action == "continue"
    assert halving.decide("d", 4, 0.8, 6, 3).reason == "rung 1: 0.800 is the first"
    assert [(rung.epoch, len(rung.arrivals)) for rung in halving.reached] == [(0, 4), (1, 1)]


def test_the_rung_of_probes_is_restored() -> None:
    before, after = SuccessiveHalving(1, 2), SuccessiveHalving(1, 2)
    before.decide("a", 2, 0.7, 2, 2)
    for epoch, value in ((1, 0.5), (2, 0.8), (3, 0.9)):
        decision = before.decide("b", epoch, value, 5, 2)
    after.restore("a", [0.6, 0.7], 2, [before.decisions["a"]], 2)
    after.restore("b", [0.5, 0.8, 0.9], 5, [decision], 2)
    assert after.reached == before.reached


def test_no_trial_is_compared_at_its_own_end() -> None:
    """Rungs count from the end of the probe, and the last epoch is none."""
    halving = SuccessiveHalving(2, 2)
    for epoch in range(1, 8):
        halving.decide("a", epoch, 0.5, 8, 1)
    assert [(rung.number, rung.epoch) for rung in halving.reached] == [(0, 0), (1, 2), (2, 4)]
    reason = halving.decide("b", 3, 0.6, 4, 1).reason
    assert reason == "rung 1: 0.600 not below cut-off 0.600 of 2"


def _contents(rungs: Rungs) -> list[tuple[int, int, dict[str, float], list[str]]]:
    return [(rung.number, rung.epoch, rung.arrivals, rung.stops) for rung in rungs.rungs]


def test_rungs_are_restored_from_recorded_decisions() -> None:
    """A driver that restores has the same rungs, and decides the same, as the one before it."""
    values = {"a": [0.5, 0.6, 0.6], "b": [0.4], "c": [0.55, 0.58, 0.58]}
    live = SuccessiveHalving(1, 2)
    decisions: dict[str, list[Decision]] = {name: [] for name in values}
    for epoch in (1, 2, 3):
        for name, best in values.items():
            if epoch <= len(best):
                decisions[name].append(live.decide(name, epoch, best[epoch - 1], 4))
    assert [decision.action for decision in decisions["b"]] == ["stop"]
    assert [decision.action for decision in decisions["c"]] == ["continue", "stop", "continue"]
    restored = SuccessiveHalving(1, 2)
    for name, best in values.items():
        restored.restore(name, best, 4, decisions[name])
    assert _contents(restored)[0] == _contents(live)[0]
    assert [rung[:3] for rung in _contents(restored)] == [rung[:3] for rung in _contents(live)]
    assert restored.decisions == live.decisions
    assert restored.decide("a", 3, 0.6, 4) is decisions["a"][-1]
    assert restored.decide("d", 1, 0.52, 4) == live.decide("d", 1, 0.52, 4)


def test_restored_trials_without_a_decision_or_a_rung() -> None:
    halving = SuccessiveHalving(1, 2)
    halving.restore("a", [], 4, [])
    assert (halving.decisions, halving.rungs) == ({}, [])
    halving.restore("b", [0.1, 0.2, 0.3, 0.4], 4, [])  # the last epoch is not a rung
    assert [rung.epoch for rung in halving.rungs] == [1, 2]
    assert halving.decisions == {}
    stop = Decision(4, "stop", "why")
    halving.restore("c", [0.1], 1, [stop])  # it has no rung
    assert halving.decisions == {"c": stop}
    assert [rung.stops for rung in halving.rungs] == [[], []]


@pytest.mark.parametrize(
    ("is_over", "num_decisions", "expected"),
    [
        (True, 1, {1: 0.2, 2: 0.4}),
        (False, 1, {1: 0.2}),
        (False, 0, {}),
        (False, 2, {1: 0.2, 2: 0.4}),
    ],
)
def test_epochs_without_a_decision_are_arrivals_only_of_ended_trials(
    is_over: bool, num_decisions: int, expected: dict[int, float]
) -> None:
    past: Any = SimpleNamespace(
        name="a",
        record=SimpleNamespace(recipe="b3"),
        decisions=[Decision(epoch, "continue", "") for epoch in range(1, num_decisions + 1)],
        epochs=(1, 2),
        is_over=is_over,
        best_values=(0.2, 0.4),
        num_epochs=8,
        num_probe_epochs=0,
    )
    halving = SuccessiveHalving(1, 2)
    restore_rungs(halving, [past])
    assert {rung.epoch: rung.arrivals["a"] for rung in halving.rungs} == expected
    past.record.recipe = BASELINES[0]  # baselines are never compared
    other = SuccessiveHalving(1, 2)
    restore_rungs(other, [past])
    assert (other.reached, other.decisions) == ((), {})


@pytest.mark.parametrize(
    ("name", "kind", "epochs"),
    [("halving", SuccessiveHalving, [2, 6, 18]), ("median", MedianStopping, [2, 3, 4])],
)
def test_new_rungs_follow_the_sweeps_settings(
    name: str, kind: type[Rungs], epochs: list[int]
) -> None:
    rungs = _new_rungs(name)
    assert type(rungs) is kind
    assert [rungs.epoch_of(index) for index in range(3)] == epochs
    assert rungs.audited == Audit(0.25, 7)


def test_a_sweep_can_be_without_rungs() -> None:
    assert _new_rungs("none") is None


def _new_rungs(name: str) -> Rungs | None:
    scheduler = Scheduler.model_validate(
        {"name": name, "grace_period": 2, "reduction_factor": 3, "audit_fraction": 0.25}
    )
    sweep: Any = SimpleNamespace(scheduler=scheduler, search=SimpleNamespace(seed=7))
    return new_rungs(sweep)


def test_an_audit_samples_trials_by_name_and_seed() -> None:
    names = [f"{number:04d}" for number in range(1000)]
    drawn = [[Audit(0.2, seed).has(name) for name in names] for seed in (0, 1)]
    assert all(0.15 < sum(each) / 1000 < 0.25 for each in drawn)
    assert drawn[0] != drawn[1]
