"""Successive halving: who is stopped where, and what it says."""

import math
import random

import pytest

from search.algorithms.rungs import Audit, MedianStopping, SuccessiveHalving


def test_the_first_to_arrive_goes_on_and_a_worse_one_is_stopped() -> None:
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


def test_equal_values_go_on() -> None:
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


def test_a_rung_that_was_missed_is_made_up_for() -> None:
    halving = SuccessiveHalving(1, 2)
    halving.decide("a", 1, 0.5, 8)
    halving.decide("a", 2, 0.6, 8)
    assert halving.decide("b", 3, 0.55, 8).reason == "rung 2: 0.550 below cut-off 0.600 of 2"
    assert [len(rung.arrivals) for rung in halving.rungs] == [2, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_at_once_and_is_no_arrival(value: float) -> None:
    halving = SuccessiveHalving(1, 2)
    decision = halving.decide("a", 1, value, 4)
    assert (decision.action, decision.reason) == ("stop", f"its value after epoch 1 is {value}")
    assert halving.decide("b", 1, 0.1, 4).reason == "rung 1: 0.100 is the first"


def test_about_one_in_reduction_factor_goes_on() -> None:
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


def test_a_share_of_the_stopped_goes_on_to_tell_what_stopping_costs() -> None:
    decisions = []
    for audit in (Audit(0.5, 3), Audit(0.5, 3), Audit(0.0, 3), Audit(1.0, 3)):
        halving = SuccessiveHalving(1, 100, audit)
        halving.decide("best", 1, 0.9, 4)
        words = [halving.decide(str(number), 1, 0.1, 4) for number in range(40)]
        decisions.append([word.action for word in words])
        for word in words:
            assert word.reason.startswith("rung 1: 0.100 below cut-off 0.900 of ")
            assert word.reason.endswith("; audited, so it goes on") == (word.action == "continue")
    assert decisions[0] == decisions[1]  # drawn by name: a resumed sweep draws the same
    assert 8 <= decisions[0].count("continue") <= 32
    assert decisions[2].count("continue") == 0
    assert decisions[3].count("continue") == 40


def test_the_end_of_the_probe_is_a_rung_and_epochs_count_from_it() -> None:
    halving = SuccessiveHalving(1, 2)
    for name, value in (("a", 0.7), ("b", 0.6)):  # probes alone: nothing to stop
        assert halving.decide(name, 3, value, 3, 3).reason == "no rung at epoch 3"
    assert halving.decide("c", 2, 0.1, 6, 3).reason == "no rung at epoch 2"
    weak = halving.decide("c", 3, 0.65, 6, 3)
    assert (weak.action, weak.reason) == ("stop", "rung 0: 0.650 below cut-off 0.700 of 3")
    assert halving.decide("d", 3, 0.8, 6, 3).action == "continue"
    assert halving.decide("d", 4, 0.8, 6, 3).reason == "rung 1: 0.800 is the first"
    assert [(rung.epoch, len(rung.arrivals)) for rung in halving.reached] == [(0, 4), (1, 1)]


def test_a_driver_that_goes_on_knows_the_probes() -> None:
    before, after = SuccessiveHalving(1, 2), SuccessiveHalving(1, 2)
    before.decide("a", 2, 0.7, 2, 2)
    for epoch, value in ((1, 0.5), (2, 0.8), (3, 0.9)):
        decision = before.decide("b", epoch, value, 5, 2)
    after.restore("a", [0.6, 0.7], 2, [before.decisions["a"]], 2)
    after.restore("b", [0.5, 0.8, 0.9], 5, [decision], 2)
    assert after.reached == before.reached
