"""The time of a sweep, simulated: trials of measured cost and random scores climb its rungs.

Each simulated sweep draws the scores of its trials at random, and the seconds of its steps from
those measured; the spread of many is the interval. Not in it: trials that are lost and run
again, nodes that are still to start, and other work on the same machine.
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
    """5 %, 50 % and 95 % of the simulated sweeps."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """What a sweep will take."""

    num_trials: int
    max_epochs: int  # were no trial stopped early, at the median of their lengths
    epochs: Range
    hours: Range  # by the clock
    trial_hours: Range  # of all trials, one after the other
    gpu_hours: Range
    usd: Range | None  # None: no prices are known
    disk_bytes: float  # at most


@dataclass(frozen=True)
class Terms:
    """Where the trials of a sweep run, and for how much."""

    num_trials: int
    max_concurrent_trials: int
    gpus_per_trial: float
    usd_per_hour: float | None  # of a trial
    keep_pruned_top: int
    num_tasks: int
    num_probes: int = 0  # trials, the first ones, that end with their probe


def forecast(
    first: Sequence[Rehearsal],
    drawn: Sequence[Rehearsal],
    new_rungs: Callable[[], Rungs | None],
    terms: Terms,
    seed: int = 0,
) -> Forecast:
    """Simulate the sweep many times.

    Args:
        first: what the first trials take, in their order.
        drawn: what trials that the search draws may take, one as likely as another.
        new_rungs: the scheduler's rungs, empty; None: no trial is stopped early.
    """
    random = np.random.default_rng(seed)
    costs = [*first, *drawn]

    def trials() -> list[Rehearsal]:
        chosen = [
            first[i] if i < len(first) else _any(costs, drawn, random)
            for i in range(terms.num_trials)
        ]
        probes = [trial.probe_alone() for trial in chosen[: terms.num_probes]]
        return [*probes, *chosen[terms.num_probes :]]

    played = [
        _play(trials(), new_rungs(), terms.max_concurrent_trials, random)
        for _ in range(NUM_SIMULATIONS)
    ]
    num_longer = terms.num_trials - terms.num_probes
    per_probe = np.median([cost.num_probe_epochs for cost in costs])
    epochs, wall, busy = (
        _range([getattr(p, k) for p in played]) for k in ("epochs", "wall", "busy")
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
        _disk(costs, terms, max(played, key=lambda p: p.finished).finished, epochs.high),
    )


@dataclass
class _Played:
    """A simulated sweep: epochs run, seconds by the clock and of all trials, trials not stopped."""

    epochs: int = 0
    wall: float = 0.0
    busy: float = 0.0
    finished: int = 0


def _play(
    trials: Sequence[Rehearsal], rungs: Rungs | None, slots: int, random: np.random.Generator
) -> _Played:
    """One sweep: the event that comes first is handled first, as under Tune."""
    played, waiting = _Played(), list(range(len(trials)))[::-1]
    worth = random.random(len(trials))
    events: list[tuple[float, int, int]] = []  # end of an epoch, trial, epoch
    epoch_seconds: dict[int, list[float]] = {}

    def begin(now: float) -> None:
        number = waiting.pop()
        trial = trials[number]
        once = sum(stage.once_seconds for stage in trial.stages) if number < slots else 0.0
        epoch_seconds[number] = _epoch_seconds(trial, random)
        first = trial.start_seconds + once + epoch_seconds[number][0]
        played.busy += first
        heapq.heappush(events, (now + first, number, 1))

    for _ in range(min(slots, len(waiting))):
        begin(0.0)
    while events:
        now, number, epoch = heapq.heappop(events)
        played.epochs += 1
        played.wall = max(played.wall, now)
        seconds = epoch_seconds[number]
        is_stopped = False
        if rungs is not None:
            lengths = len(seconds), trials[number].num_probe_epochs
            decision = rungs.decide(str(number), epoch, float(worth[number]), *lengths)
            is_stopped = (
                decision.action != CONTINUE
            )  # what pauses may be promoted: that is left out
        if epoch < len(seconds) and not is_stopped:
            played.busy += seconds[epoch]
            heapq.heappush(events, (now + seconds[epoch], number, epoch + 1))
            continue
        played.finished += epoch == len(seconds)
        if waiting:
            begin(now)
    return played


def _epoch_seconds(trial: Rehearsal, random: np.random.Generator) -> list[float]:
    """Seconds of each epoch, its steps resampled from those measured."""
    seconds = []
    for stage in trial.stages:
        steps = sum(
            count * float(random.choice(times, len(times)).mean())
            for count, times in zip(stage.num_steps, stage.step_seconds, strict=True)
        )
        seconds += [steps + stage.eval_seconds] * stage.num_epochs
    return seconds


def _any(
    costs: Sequence[Rehearsal], drawn: Sequence[Rehearsal], random: np.random.Generator
) -> Rehearsal:
    among = drawn or costs
    return among[int(random.integers(len(among)))]


def _disk(costs: Sequence[Rehearsal], terms: Terms, num_finished: int, num_epochs: float) -> float:
    """A finished trial keeps its best epoch overall and of each task, of the encoders that they did
    not train one for all; pruned ones while they are among the best; running ones two checkpoints,
    one of them under way."""
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
