"""Forecasts by simulated sweeps: sums computed by hand, and bounds that always hold."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from search.algorithms.rungs import MedianStopping, Rungs, SuccessiveHalving
from search.planning.forecast import Terms, forecast
from trainable.training.profile import Rehearsal, StageCost

TERMS = Terms(
    num_trials=8,
    max_concurrent_trials=2,
    gpus_per_trial=0.5,
    usd_per_hour=3.0,
    keep_pruned_top=1,
    num_tasks=3,
)


def cost(seconds: float = 1.0, epochs: int = 4, **changes: float) -> Rehearsal:
    """`epochs` epochs of 8 steps of one task and 2 s of evaluation; 100 s to start."""
    stage = StageCost(epochs, (8,), ((seconds, seconds),), 2.0, changes.get("once", 0.0))
    return Rehearsal(1000, 100.0, (stage,), 10**9, 4000, 3600, 10)


def test_without_rungs_a_forecast_is_a_sum() -> None:
    found = forecast([], [cost()], lambda: None, TERMS)
    trial = 100 + 4 * (8 * 1.0 + 2)
    assert found.epochs.low == found.epochs.high == found.max_epochs == 32
    assert found.hours.median == pytest.approx(4 * trial / 3600)
    assert found.trial_hours.median == pytest.approx(8 * trial / 3600)
    assert found.gpu_hours.median == pytest.approx(0.5 * found.trial_hours.median)
    assert found.usd is not None
    assert found.usd.median == pytest.approx(3 * found.trial_hours.median)
    kept, checkpoints = 8 * 4 + 4, 2 * 2 * 3
    assert found.disk_bytes == (kept + checkpoints) * 4000 + 3600 + 32 * 10


def test_stages_add_up_and_one_time_costs_count_once_a_slot() -> None:
    probe = StageCost(3, (5,), ((0.1,),), 1.0, once_seconds=50.0)
    tuned = StageCost(1, (5, 2), ((2.0,), (1.0,)), 4.0)
    trial = Rehearsal(1000, 0.0, (probe, tuned), 1, 1, 1, 1)
    found = forecast([], [trial], lambda: None, TERMS)
    seconds = 3 * (0.5 + 1) + (10 + 2 + 4)
    assert found.trial_hours.median == pytest.approx((8 * seconds + 2 * 50) / 3600)


def test_epochs_of_heads_alone_share_their_encoder_on_disk() -> None:
    """Six probes keep 4 epochs of 400 bytes. Two whole trials and a pruned one also keep 4 epochs,
    3 of them with an encoder of 3,600 bytes."""
    probe = StageCost(9, (5,), ((0.1,),), 1.0, is_probe=True, is_frozen=True)
    trial = Rehearsal(1000, 0.0, (probe, StageCost(3, (5,), ((1.0,),), 1.0)), 1, 4000, 3600, 0)
    found = forecast([], [trial], lambda: None, replace(TERMS, num_probes=6))
    kept = 6 * 4 * 400 + (2 + 1) * (4 * 400 + 3 * 3600)
    assert found.disk_bytes == kept + 3600 + 2 * 2 * 3 * 4000


def test_first_trials_have_costs_of_their_own() -> None:
    found = forecast([cost(10.0)], [cost(1.0)], lambda: None, TERMS)
    assert found.trial_hours.median == pytest.approx((8 * 140 + 4 * 8 * 9) / 3600)
    only = forecast([cost(10.0)], [], lambda: None, TERMS)
    assert only.trial_hours.low == pytest.approx(8 * (100 + 4 * 82) / 3600)


@pytest.mark.parametrize("new_rungs", [lambda: SuccessiveHalving(1, 2), lambda: MedianStopping(1)])
def test_rungs_save_epochs(new_rungs: Callable[[], Rungs]) -> None:
    found = forecast([], [cost()], new_rungs, TERMS)
    assert 8 <= found.epochs.low < found.epochs.median < found.max_epochs
    assert found.epochs.low < found.epochs.high <= 32
    assert found.hours.low <= found.hours.median <= found.hours.high


def test_steps_that_vary_widen_the_interval() -> None:
    steady = forecast([], [cost()], lambda: None, TERMS)
    stage = StageCost(4, (8,), ((0.5, 1.5),), 2.0)
    varying = forecast([], [Rehearsal(1000, 100.0, (stage,), 1, 1, 1, 1)], lambda: None, TERMS)
    assert steady.hours.low == pytest.approx(steady.hours.high)
    assert varying.hours.low < steady.hours.median < varying.hours.high


def test_a_forecast_is_reproducible_and_without_a_price_has_no_cost_in_money() -> None:
    terms = Terms(8, 2, 0.0, None, 1, 3)
    first, second = (
        forecast([], [cost(), cost(2.0)], lambda: SuccessiveHalving(1, 2), terms, seed=3)
        for _ in range(2)
    )
    assert first == second
    assert first.usd is None
    assert first.gpu_hours.high == 0
