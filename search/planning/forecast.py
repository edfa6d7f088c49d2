"""A forecast of a sweep's time, cost and disk space, by simulation.

Each simulated sweep draws the scores of its trials at random and the seconds of its steps from the
measured ones, and applies the scheduler's rungs. The interval is the spread over many simulations.
It leaves out lost trials that are run again, nodes that have yet to start, and other work on the
same machine.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_setup.schema import CONTINUE
from search.algorithms.rungs import Rungs
from trainable.training.profile import Rehearsal

NUM_SIMULATIONS = 200
_INTERVAL = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Range:
    """The 5 %, 50 % and 95 % quantiles over the simulated sweeps."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """The expected time, cost and disk space of a sweep."""

    num_trials: int
    max_epochs: int  # without early stopping, with trials of median length
    epochs: Range
    hours: Range  # wall-clock time
    trial_hours: Range  # sum over the trials
    gpu_hours: Range
    usd: Range | None  # None: no prices are known
    disk_bytes: float  # upper bound


@dataclass(frozen=True)
class Terms:
    """The settings of a sweep on which the forecast depends."""

    num_trials: int
    max_concurrent_trials: int
    gpus_per_trial: float
    usd_per_hour: float | None  # of a trial
    keep_pruned_top: int
    num_tasks: int
    num_probes: int = 0  # number of first trials that end with their probe


def forecast(
    first: Sequence[Rehearsal],
    drawn: Sequence[Rehearsal],
    new_rungs: Callable[[], Rungs | None],
    terms: Terms,
    seed: int = 0,
) -> Forecast:
    """Simulate the sweep `NUM_SIMULATIONS` times.

    Args:
        first: measured costs of the first trials, in their order.
        drawn: measured costs of trials that the search draws, all equally likely.
        new_rungs: creates the scheduler's empty rungs; None: no trial is stopped early.
    """
    random = np.random.default_rng(seed)
    costs = [*first, *drawn]

    def trials() -> list[Rehearsal]:
        chosen = [
            first[i] if i < len(first) else _random_cost(drawn or costs, random)
            for i in range(terms.num_trials)
        ]
        probes = [trial.probe_alone() for trial in chosen[: terms.num_probes]]
        return [*probes, *chosen[terms.num_probes :]]

    simulated = [
        _simulate(trials(), new_rungs(), terms.max_concurrent_trials, random)
        for _ in range(NUM_SIMULATIONS)
    ]
    num_longer = terms.num_trials - terms.num_probes
    per_probe = np.median([cost.num_probe_epochs for cost in costs])
    epochs, wall, busy = (
        _range([getattr(sweep, key) for sweep in simulated]) for key in ("epochs", "wall", "busy")
    )
    hours, trial_hours = _scale(wall, 1 / 3600), _scale(busy, 1 / 3600)
    return Forecast(
        terms.num_trials,
        int(
            np.median([cost.num_epochs for cost in costs]) * num_longer
            + per_probe * terms.num_probes
        ),
        epochs,
        hours,
        trial_hours,
        _scale(trial_hours, terms.gpus_per_trial),
        None if terms.usd_per_hour is None else _scale(trial_hours, terms.usd_per_hour),
        _disk(costs, terms, max(sweep.finished for sweep in simulated), epochs.high),
    )


@dataclass
class _Simulated:
    """The totals of a simulated sweep."""

    epochs: int = 0
    wall: float = 0.0  # seconds from start to end
    busy: float = 0.0  # seconds, sum over the trials
    finished: int = 0  # trials that were not stopped


def _simulate(
    trials: Sequence[Rehearsal], rungs: Rungs | None, slots: int, random: np.random.Generator
) -> _Simulated:
    """Simulate a sweep: ends of epochs are processed in the order of time, as under Tune."""
    total, waiting = _Simulated(), list(range(len(trials)))[::-1]
    scores = random.random(len(trials))
    events: list[tuple[float, int, int]] = []  # end of an epoch, trial, epoch
    epoch_seconds: dict[int, list[float]] = {}

    def begin(now: float) -> None:
        number = waiting.pop()
        trial = trials[number]
        once = sum(stage.once_seconds for stage in trial.stages) if number < slots else 0.0
        epoch_seconds[number] = _epoch_seconds(trial, random)
        first = trial.start_seconds + once + epoch_seconds[number][0]
        total.busy += first
        heapq.heappush(events, (now + first, number, 1))

    for _ in range(min(slots, len(waiting))):
        begin(0.0)
    while events:
        now, number, epoch = heapq.heappop(events)
        total.epochs += 1
        total.wall = max(total.wall, now)
        seconds = epoch_seconds[number]
        is_stopped = False
        if rungs is not None:
            lengths = len(seconds), trials[number].num_probe_epochs
            decision = rungs.decide(str(number), epoch, float(scores[number]), *lengths)
            is_stopped = decision.action != CONTINUE  # promotions are not simulated
        if epoch < len(seconds) and not is_stopped:
            total.busy += seconds[epoch]
            heapq.heappush(events, (now + seconds[epoch], number, epoch + 1))
            continue
        total.finished += epoch == len(seconds)
        if waiting:
            begin(now)
    return total


def _epoch_seconds(trial: Rehearsal, random: np.random.Generator) -> list[float]:
    """Return the seconds of each epoch, with steps resampled from the measured ones."""
    seconds = []
    for stage in trial.stages:
        steps = sum(
            count * float(random.choice(times, len(times)).mean())
            for count, times in zip(stage.num_steps, stage.step_seconds, strict=True)
        )
        seconds += [steps + stage.eval_seconds] * stage.num_epochs
    return seconds


def _random_cost(costs: Sequence[Rehearsal], random: np.random.Generator) -> Rehearsal:
    return costs[int(random.integers(len(costs)))]


def _disk(costs: Sequence[Rehearsal], terms: Terms, num_finished: int, num_epochs: float) -> float:
    """Return an upper bound of the bytes on disk.

    A finished trial keeps the weights of its best epoch overall and for each task, a pruned one
    while it is among the best. An encoder that is not trained is kept once for all trials. A
    running trial has two checkpoints, one of which is being written.
    """
    bests, encoders = terms.num_tasks + 1, sum({cost.encoder_bytes for cost in costs})
    probes = min(num_finished, terms.num_probes)
    of_trial, of_probe = (
        max((trial.kept_bytes(bests) for trial in trials), default=0)
        for trials in (costs, [cost.probe_alone() for cost in costs])
    )
    kept = probes * of_probe + (num_finished - probes + terms.keep_pruned_top) * of_trial
    checkpoints = 2 * terms.max_concurrent_trials * max(cost.checkpoint_bytes for cost in costs)
    predictions = num_epochs * max(cost.predictions_bytes for cost in costs)
    return kept + encoders + checkpoints + predictions


def _range(values: Sequence[float]) -> Range:
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64), _INTERVAL)
    return Range(float(low), float(median), float(high))


def _scale(estimate: Range, factor: float) -> Range:
    return Range(estimate.low * factor, estimate.median * factor, estimate.high * factor)
