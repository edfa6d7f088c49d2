"""Replays of searches on recorded curves: the number of epochs, and the regret."""

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from search.config.load import read_sweep
from search.config.space import Parameter

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SPACE = {
    "probe.lr": Parameter(type="float", low=1e-4, high=1e-2, log=True),
    "model.fcn_size": Parameter(type="categorical", choices=(128, 256, 512)),
    "loss.mnr.enabled": Parameter(type="categorical", choices=(True, False)),
    "loss.mnr.weight": Parameter(
        type="float", low=0.1, high=10.0, log=True, when={"loss.mnr.enabled": True}
    ),
}
NUM_EPOCHS = 20


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """The module `benchmarks/search_replay.py`, which imports modules from its own folder."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("search_replay")
    sys.path[:] = before


@pytest.fixture(scope="module")
def landscape(benchmark: ModuleType) -> ModuleType:
    return importlib.import_module("landscape")


def curve_of(params: dict[str, Any]) -> tuple[float, ...]:
    """A curve without noise; best with a learning rate of 1e-3 and the largest MNR weight."""
    top = 0.7 - 0.05 * abs(math.log10(params["probe.lr"]) + 3)
    top += 0.02 * math.log10(params["loss.mnr.weight"]) if params["loss.mnr.enabled"] else 0
    return tuple(top - 0.2 / epoch for epoch in range(1, NUM_EPOCHS + 1))


@pytest.fixture(scope="module")
def recorded(landscape: ModuleType) -> list[Any]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(5, 65):
        params: dict[str, Any] = {
            "probe.lr": float(10 ** rng.uniform(-4, -2)),
            "model.fcn_size": int(rng.choice([128, 256, 512])),
            "loss.mnr.enabled": bool(rng.integers(2)),
        }
        if params["loss.mnr.enabled"]:
            params["loss.mnr.weight"] = float(10 ** rng.uniform(-1, 1))
        trial = f"{number:04d}"
        found.append(landscape.Recorded(trial, params, curve_of(params), 1 + rng.random(), "even"))
    return found


def sweep_of(benchmark: ModuleType, *overrides: str) -> Any:
    sweep = read_sweep(str(benchmark.SWEEP), overrides, {})
    return sweep.model_copy(update={"space": SPACE, "first_trials": ()})


@pytest.fixture(scope="module")
def world(benchmark: ModuleType, recorded: list[Any]) -> Any:
    return benchmark.World(sweep_of(benchmark), recorded)


@pytest.fixture
def endless(world: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A world whose regret never falls: replays run until no trial is left."""
    monkeypatch.setattr(world, "regret", lambda expected: 1.0)
    return world


def test_without_a_scheduler_each_trial_runs_all_epochs_once(
    benchmark: ModuleType, endless: Any
) -> None:
    sweep = sweep_of(benchmark, "search.num_samples=7", "scheduler.name=none")
    trace = benchmark.replay(sweep, endless, max_epochs=10_000)
    assert trace.epochs == (NUM_EPOCHS,) * 7
    assert len(trace.regret) == 7 * NUM_EPOCHS


def test_a_stopped_trial_costs_the_epochs_that_it_ran(benchmark: ModuleType, endless: Any) -> None:
    sweep = sweep_of(benchmark, "search.num_samples=30")
    trace = benchmark.replay(sweep, endless, max_epochs=10_000)
    assert set(trace.epochs) <= {2, 6, 18, NUM_EPOCHS}  # the rungs, and the end
    assert 2 in trace.epochs
    assert len(trace.regret) == sum(trace.epochs) < 30 * NUM_EPOCHS / 2


def test_a_promoted_trial_continues_where_it_paused(benchmark: ModuleType, endless: Any) -> None:
    sweep = sweep_of(benchmark, "search.num_samples=30", "scheduler.name=asha")
    trace = benchmark.replay(sweep, endless, max_epochs=10_000)
    assert len(trace.epochs) == 30
    assert set(trace.epochs) <= {2, 6, 18, NUM_EPOCHS}
    assert {2, NUM_EPOCHS} <= set(trace.epochs)
    assert len(trace.regret) == sum(trace.epochs) < 30 * NUM_EPOCHS / 2


def test_a_replay_ends_after_its_number_of_epochs(benchmark: ModuleType, endless: Any) -> None:
    trace = benchmark.replay(sweep_of(benchmark), endless, max_epochs=33)
    assert len(trace.regret) == sum(trace.epochs) == 33


def test_replays_are_reproducible_by_seed(benchmark: ModuleType, world: Any) -> None:
    first, again, other = (
        benchmark.replay(sweep_of(benchmark, f"search.seed={seed}"), world, max_epochs=200)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first.regret != other.regret


def test_regret_is_0_at_the_best_curve_and_1_at_the_median(world: Any, recorded: list[Any]) -> None:
    best = max(recorded, key=lambda trial: trial.overall[-1])
    expected = world.landscape.mean([best.params])[0].max()
    assert world.regret(expected) == pytest.approx(0, abs=1e-3)
    assert world.regret(world.median) == 1
    assert world.regret(world.best + 1) == 0


def test_a_replay_counts_the_epochs_up_to_a_target(benchmark: ModuleType) -> None:
    trace = benchmark.Trace((1.0, 0.05, 0.02, 0.3), (4,))
    assert trace.epochs_to(0.05) == 2
    assert trace.epochs_to(0.01) == math.inf


def test_a_left_out_trial_is_predicted_from_the_others(world: Any) -> None:
    found = world.landscape.check()
    assert found["process: rank correlation"] > 0.95 > found["nearest: rank correlation"]
    assert found["process: rmse"] < found["nearest: rmse"] < found["standard deviation"]


def test_noise_has_the_estimated_size(landscape: ModuleType) -> None:
    rng = np.random.default_rng(1)
    noisy = [
        landscape.Recorded(
            f"{number:04d}",
            params := {"probe.lr": float(10 ** rng.uniform(-4, -2)), "model.fcn_size": 128}
            | {"loss.mnr.enabled": False},
            tuple(np.array(curve_of(params)) + rng.normal(0, 0.01)),
            1.0,
            "even",
        )
        for number in range(5, 85)
    ]
    found = landscape.Landscape(SPACE, noisy)
    drawn = [found.noise(noisy[0].params, rng)[-1] for _ in range(200)]
    assert 0.006 < found.noise_scale[-1] < 0.014
    assert 0 < np.std(drawn) < 0.025
