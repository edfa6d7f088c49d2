"""Pausing trials at rungs and promoting them later."""

from mlflow_setup.schema import Decision
from search.algorithms.rungs import Promotion


def test_a_trial_is_paused_until_it_is_among_the_best_of_its_rung() -> None:
    """Algorithm 2 of Li et al., computed by hand: reduction_factor 2, rungs at epochs 1 and 2."""
    asha = Promotion(1, 2)
    first = asha.decide("a", 1, 0.5, 8)
    assert (first.action, first.reason) == ("pause", "rung 1: 0.500 is number 1 of 1")
    assert asha.promote({"a"}) is None  # half of 1, rounded down, is 0
    assert asha.decide("b", 1, 0.4, 8).action == "pause"
    promoted = asha.promote({"a", "b"})
    assert promoted == (
        "a",
        Decision(1, "continue", "rung 1: promoted as number 1 of 2"),
    )
    assert asha.decide("a", 1, 0.5, 8) is promoted[1]  # reported again when it continues
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


def test_trials_are_promoted_from_the_highest_rung_first() -> None:
    asha = Promotion(1, 2)
    for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.3), ("d", 0.2)):
        asha.decide(name, 1, value, 8)
    for name in "ab":
        assert asha.promote({"a", "b", "c", "d"} - set(name)) is not None
    asha.decide("a", 2, 0.6, 8)
    asha.decide("b", 2, 0.7, 8)
    asha.decide("e", 1, 0.9, 8)
    # b passed rung 2 without a pause, and the best of rung 1 have left it already
    assert asha.promote({"a", "c", "d"}) is None
    asha.decide("c", 2, 0.1, 8)
    asha.decide("d", 2, 0.1, 8)
    assert asha.promote({"a", "c", "d"}) == (
        "a",
        Decision(2, "continue", "rung 2: promoted as number 2 of 4"),
    )


def test_at_the_end_the_best_is_promoted_even_if_too_few_have_arrived() -> None:
    asha = Promotion(1, 4)
    for name, value in (("a", 0.5), ("b", 0.6), ("c", 0.4)):
        assert asha.decide(name, 1, value, 8).action == "pause"
    assert asha.promote({"a", "b", "c"}) is None
    found = asha.promote_best({"a", "b", "c"})
    assert found is not None
    assert found[0] == "b"


def test_promotions_are_restored_from_recorded_decisions() -> None:
    asha, restored = Promotion(1, 2), Promotion(1, 2)
    decisions: dict[str, list[Decision]] = {}
    for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.3), ("d", 0.6)):
        decisions[name] = [asha.decide(name, 1, value, 8)]
    promoted = asha.promote({"a", "b", "c"})
    assert promoted is not None
    decisions["a"] = [promoted[1], asha.decide("a", 2, 0.55, 8)]
    values = {"a": [0.5, 0.55], "b": [0.4], "c": [0.3], "d": [0.6]}
    for name in decisions:
        restored.restore(name, values[name], 8, decisions[name])
    assert restored.reached == asha.reached
    assert restored.decisions == asha.decisions
    assert restored.promote({"b", "c"}) is None
