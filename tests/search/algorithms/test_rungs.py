"""Successive halving: who is stopped where, and what it says."""

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_setup.schema import Decision
from search.algorithms.rungs import (
    Audit,
    MedianStopping,
    Promotion,
    Rungs,
    SuccessiveHalving,
    new_rungs,
    restore_rungs,
)
from search.config.baselines import BASELINES
from search.config.sweep_config import Scheduler


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


def test_no_trial_is_compared_at_its_own_end() -> None:
    """The rungs after a probe end before the trial does, and count from the probe's end."""
    halving = SuccessiveHalving(2, 2)
    for epoch in range(1, 8):
        halving.decide("a", epoch, 0.5, 8, 1)
    assert [(rung.number, rung.epoch) for rung in halving.reached] == [(0, 0), (1, 2), (2, 4)]
    said = halving.decide("b", 3, 0.6, 4, 1).reason
    assert said == "rung 1: 0.600 not below cut-off 0.600 of 2"


def _told(rungs: Rungs) -> list[tuple[int, int, dict[str, float], list[str]]]:
    return [(rung.number, rung.epoch, rung.arrivals, rung.stops) for rung in rungs.rungs]


def test_an_earlier_drivers_rungs_are_rebuilt_from_what_was_decided() -> None:
    """A driver that decides and one that restores have the same rungs, and go on alike."""
    values = {"a": [0.5, 0.6, 0.6], "b": [0.4], "c": [0.55, 0.58, 0.58]}
    live = SuccessiveHalving(1, 2)
    words: dict[str, list[Decision]] = {name: [] for name in values}
    for epoch in (1, 2, 3):
        for name, best in values.items():
            if epoch <= len(best):
                words[name].append(live.decide(name, epoch, best[epoch - 1], 4))
    assert [word.action for word in words["b"]] == ["stop"]
    assert [word.action for word in words["c"]] == ["continue", "stop", "continue"]
    restored = SuccessiveHalving(1, 2)
    for name, best in values.items():
        restored.restore(name, best, 4, words[name])
    assert _told(restored)[0] == _told(live)[0]
    assert [rung[:3] for rung in _told(restored)] == [rung[:3] for rung in _told(live)]
    assert restored.decisions == live.decisions
    assert restored.decide("a", 3, 0.6, 4) is words["a"][-1]
    assert restored.decide("d", 1, 0.52, 4) == live.decide("d", 1, 0.52, 4)


def test_a_trial_without_a_decision_leaves_none_behind() -> None:
    halving = SuccessiveHalving(1, 2)
    halving.restore("a", [], 4, [])
    assert (halving.decisions, halving.rungs) == ({}, [])
    halving.restore("b", [0.1, 0.2, 0.3, 0.4], 4, [])  # its last epoch is no rung
    assert [rung.epoch for rung in halving.rungs] == [1, 2]
    assert halving.decisions == {}
    stop = Decision(4, "stop", "why")
    halving.restore("c", [0.1], 1, [stop])  # it never came to a rung
    assert halving.decisions == {"c": stop}
    assert [rung.stops for rung in halving.rungs] == [[], []]


@pytest.mark.parametrize(
    ("is_over", "decided", "expected"),
    [
        (True, 1, {1: 0.2, 2: 0.4}),
        (False, 1, {1: 0.2}),
        (False, 0, {}),
        (False, 2, {1: 0.2, 2: 0.4}),
    ],
)
def test_what_was_not_decided_on_is_no_arrival_unless_the_trial_is_over(
    is_over: bool, decided: int, expected: dict[int, float]
) -> None:
    words = [Decision(epoch, "continue", "") for epoch in range(1, decided + 1)]
    past: Any = SimpleNamespace(
        name="a",
        record=SimpleNamespace(recipe="b3"),
        decisions=words,
        epochs=(1, 2),
        is_over=is_over,
        best_values=(0.2, 0.4),
        num_epochs=8,
        num_probe_epochs=0,
    )
    halving = SuccessiveHalving(1, 2)
    restore_rungs(halving, [past])
    assert {rung.epoch: rung.arrivals["a"] for rung in halving.rungs} == expected
    past.record.recipe = BASELINES[0]  # which are never compared with others
    other = SuccessiveHalving(1, 2)
    restore_rungs(other, [past])
    assert (other.reached, other.decisions) == ((), {})


@pytest.mark.parametrize("name", ["halving", "median", "none"])
def test_a_sweep_has_the_rungs_that_it_asks_for(name: str) -> None:
    scheduler = Scheduler.model_validate(
        {"name": name, "grace_period": 2, "reduction_factor": 3, "audit_fraction": 0.25}
    )
    sweep: Any = SimpleNamespace(scheduler=scheduler, search=SimpleNamespace(seed=7))
    found = new_rungs(sweep)
    if found is None:
        assert name == "none"
        return
    assert type(found) is {"halving": SuccessiveHalving, "median": MedianStopping}[name]
    expected = [2, 6, 18] if name == "halving" else [2, 3, 4]
    assert [found.epoch_of(index) for index in range(3)] == expected
    assert found.audited == Audit(0.25, 7)


def test_an_audit_draws_its_share_by_name_and_seed() -> None:
    names = [f"{number:04d}" for number in range(1000)]
    drawn = [[Audit(0.2, seed).has(name) for name in names] for seed in (0, 1)]
    assert all(0.15 < sum(each) / 1000 < 0.25 for each in drawn)
    assert drawn[0] != drawn[1]


def test_a_trial_pauses_unless_it_is_among_the_best_and_is_promoted_once_it_is() -> None:
    """Algorithm 2 of Li et al., by hand: reduction_factor 2, rungs at epochs 1 and 2."""
    asha = Promotion(1, 2)
    first = asha.decide("a", 1, 0.5, 8)
    assert (first.action, first.reason) == ("pause", "rung 1: 0.500 is number 1 of 1")
    assert asha.promote({"a"}) is None  # half of one is none
    assert asha.decide("b", 1, 0.4, 8).action == "pause"
    promoted = asha.promote({"a", "b"})
    assert promoted == (
        "a",
        Decision(1, "continue", "rung 1: promoted as number 1 of 2"),
    )
    assert asha.decide("a", 1, 0.5, 8) is promoted[1]  # told again as it goes on
    assert asha.promote({"b"}) is None
    assert asha.decide("c", 1, 0.3, 8).action == "pause"
    assert asha.decide("d", 1, 0.6, 8).action == "continue"  # among the best two of four
    assert asha.promote({"b", "c"}) is None  # a and d are the best two
    assert asha.decide("e", 1, 0.2, 8).action == "pause"
    assert asha.decide("f", 1, 0.1, 8).action == "pause"
    assert asha.promote({"b", "c", "e", "f"}) == (
        "b",
        Decision(1, "continue", "rung 1: promoted as number 3 of 6"),
    )
    assert [(rung.number, len(rung.arrivals), rung.stops) for rung in asha.reached] == [
        (1, 6, ["c", "e", "f"])
    ]


def test_the_highest_rung_is_looked_at_first() -> None:
    asha = Promotion(1, 2)
    for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.3), ("d", 0.2)):
        asha.decide(name, 1, value, 8)
    for name in "ab":
        assert asha.promote({"a", "b", "c", "d"} - set(name)) is not None
    asha.decide("a", 2, 0.6, 8)
    asha.decide("b", 2, 0.7, 8)
    asha.decide("e", 1, 0.9, 8)
    found = asha.promote({"a", "c", "d"})
    assert found is None  # b went on by itself, and of rung 1 the best are on their way
    asha.decide("c", 2, 0.1, 8)
    asha.decide("d", 2, 0.1, 8)
    assert asha.promote({"a", "c", "d"}) == (
        "a",
        Decision(2, "continue", "rung 2: promoted as number 2 of 4"),
    )


def test_where_too_few_came_for_a_promotion_the_best_goes_on_in_the_end() -> None:
    asha = Promotion(1, 4)
    for name, value in (("a", 0.5), ("b", 0.6), ("c", 0.4)):
        assert asha.decide(name, 1, value, 8).action == "pause"
    assert asha.promote({"a", "b", "c"}) is None
    found = asha.promote_best({"a", "b", "c"})
    assert found is not None
    assert found[0] == "b"


def test_what_was_promoted_is_known_to_the_next_driver() -> None:
    """By the decisions on record."""
    asha, other = Promotion(1, 2), Promotion(1, 2)
    told: dict[str, list[Decision]] = {}
    for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.3), ("d", 0.6)):
        told[name] = [asha.decide(name, 1, value, 8)]
    promoted = asha.promote({"a", "b", "c"})
    assert promoted is not None
    told["a"] = [promoted[1], asha.decide("a", 2, 0.55, 8)]
    values = {"a": [0.5, 0.55], "b": [0.4], "c": [0.3], "d": [0.6]}
    for name, decisions in told.items():
        other.restore(name, values[name], 8, decisions)
    assert other.reached == asha.reached
    assert other.decisions == asha.decisions
    assert other.promote({"b", "c"}) is None
