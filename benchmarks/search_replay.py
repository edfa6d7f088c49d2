"""The number of epochs that a search needs to find a good configuration, on recorded curves.

    python benchmarks/search_replay.py                 # some minutes on one core

The sweep's own searcher and scheduler run on a simulated clock with `--workers` concurrent trials.
The learning curves are those that `benchmarks/record_curves.py` recorded, and the predictions of a
Gaussian process for other configurations (`benchmarks/landscape.py`), with its residual noise.

The regret of a search is that of its best trial so far, which it would report: the expected score
of the best recorded configuration minus that trial's expected score, relative to the best recorded
configuration's lead over the median of uniform draws. A trial that was only lucky has a high
observed score but not a low regret.
"""

import argparse
import heapq
import json
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from landscape import Landscape, Recorded, read_curves
from record_curves import CURVES, SWEEP
from regret import TARGETS, Trace, draw, row

from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.rungs import new_rungs
from search.algorithms.tune_scheduler import TuneScheduler
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from trainable.config.parse import from_flat
from trainable.training.stages import total_epochs
from trainable.tune.keys import (
    BEST_VALUE,
    DIVERGED,
    EPOCH,
    NUM_EPOCHS,
    NUM_PROBE_EPOCHS,
    PROBLEM,
    VALUE,
)

MANY = 100_000
"""More trials than any replay runs."""

ARMS = {
    "random": (f"search.num_startup_trials={MANY}", "scheduler.name=none"),
    "random + halving": (f"search.num_startup_trials={MANY}",),
    "random + ASHA": (f"search.num_startup_trials={MANY}", "scheduler.name=asha"),
    "TPE": ("scheduler.name=none",),
    "TPE + halving": (),
    "TPE + ASHA": ("scheduler.name=asha",),
    "TPE + halving, recipes first": (),
}
"""Search name -> settings of the sweep that it overrides. Only the last has first trials."""


def main() -> None:
    """Replay every search with every seed, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="key=value of the sweep, for all searches")
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument(
        "--half", choices=["even", "odd"], help="use only every other recorded trial"
    )
    parser.add_argument("--noise", type=float, default=1.0, help="factor of the noise of scores")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--max-epochs", type=int, default=4000, help="most epochs of a replay")
    parser.add_argument("--workers", type=int, default=4, help="concurrent trials")
    parser.add_argument("--figure", type=Path, help="PNG file for a plot of regret against epochs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sweep = read_sweep(str(SWEEP), given.overrides, {})
    recorded = read_curves(given.curves)
    if given.half:
        recorded = halve(recorded, given.half)
    world = World(sweep, recorded, given.noise)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    results: dict[str, list[Trace]] = {}
    for arm in ARMS:
        started = time.perf_counter()
        searches = [search_of(arm, given.overrides, seed) for seed in seeds]
        results[arm] = [replay(s, world, given.max_epochs, given.workers) for s in searches]
        print(f"{arm}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    rows = [row(arm, results, given.max_epochs) for arm in ARMS]
    if given.figure:
        draw(results, given.max_epochs, given.figure)
    if given.json:
        told = {"check": world.landscape.check(), "best": world.best, "median": world.median}
        print(json.dumps({"schema_version": 1, **told, "rows": rows}))
        return
    print_table(world, rows)


def halve(recorded: Sequence[Recorded], half: str) -> list[Recorded]:
    """The first trials and every other one of the rest, so that methods can be tuned on one half
    and evaluated on the other."""
    first = [trial for trial in recorded if trial.origin == "first"]
    return first + recorded[len(first) :][0 if half == "even" else 1 :: 2]


def search_of(arm: str, overrides: Sequence[str], seed: int) -> SweepConfig:
    """The sweep with an arm's overrides."""
    more = [*overrides, *ARMS[arm], f"search.seed={seed}", f"search.num_samples={MANY}"]
    sweep = read_sweep(str(SWEEP), more, {})
    return sweep if "recipes" in arm else sweep.model_copy(update={"first_trials": ()})


class World:
    """Simulates training: the curves of suggested trials, and their regret.

    Args:
        noise: factor of the noise; 0 gives each trial its expected curve.
    """

    def __init__(
        self, sweep: SweepConfig, recorded: Sequence[Recorded], noise: float = 1.0
    ) -> None:
        self.first = {trial.trial: trial for trial in recorded if trial.origin == "first"}
        others = [trial for trial in recorded if trial.origin != "first"]
        self.landscape = Landscape(sweep.space, others)
        self.num_epochs = total_epochs(from_flat(sweep.base().settings))
        self.noise = noise
        expected = self.landscape.mean([trial.params for trial in others]).max(axis=1)
        even = [trial.origin == "even" for trial in others]
        self.best, self.median = float(expected.max()), float(np.median(expected[even]))

    def curve(self, suggested: dict[str, Any], rng: np.random.Generator) -> "Curve":
        """The curve of a suggested trial; for a first trial, the recorded one."""
        known = self.first.get(suggested["trial"])
        if known is not None:
            return Curve(known.overall, known.overall, known.epoch_seconds)
        params = {key: suggested["settings"][key] for key in suggested["searched"]}
        expected = self.landscape.mean([params])[0]
        seen = expected + self.noise * self.landscape.noise(params, rng)
        seconds = self.landscape.epoch_seconds(params)
        return Curve(tuple(map(float, seen)), tuple(map(float, expected)), seconds)

    def regret(self, expected: float) -> float:
        """0 at the best recorded configuration, 1 at the median of even draws."""
        return max(0.0, (self.best - expected) / (self.best - self.median))


@dataclass(frozen=True)
class Curve:
    """A trial's overall score by epoch: as observed by the search, and as expected."""

    seen: tuple[float, ...]
    expected: tuple[float, ...]
    epoch_seconds: float


@dataclass
class _Running:
    """A running trial of the simulated sweep."""

    trial_id: str
    name: str
    curve: Curve
    epoch: int = 0


def replay(sweep: SweepConfig, world: World, max_epochs: int, num_workers: int = 4) -> Trace:
    """Run a sweep on the simulated clock until `max_epochs` are used, or the regret is below the
    lowest target."""
    searcher, scheduler = OptunaSearcher(sweep), TuneScheduler(new_rungs(sweep))
    rng = np.random.default_rng(sweep.search.seed)
    clock: list[tuple[float, int, _Running]] = []  # when a running trial's next epoch ends
    regret: list[float] = []
    best_seen, best_expected = -np.inf, -np.inf
    trials: dict[str, _Running] = {}
    started = count()

    def promote(paused: Collection[str], is_end: bool) -> str | None:
        found = scheduler.promote(paused, is_end=is_end)
        return None if found is None else found[0]

    def start(now: float) -> None:
        order = next(started)
        suggested = searcher.suggest(str(order))
        if isinstance(suggested, dict):
            name = suggested["trial"]
            if name not in trials:
                trials[name] = _Running("", name, world.curve(suggested, rng))
            trial = trials[name]  # a promoted trial continues where it paused
            trial.trial_id = str(order)
            heapq.heappush(clock, (now + trial.curve.epoch_seconds, order, trial))

    searcher.is_paused, searcher.promote = scheduler.is_paused, promote

    for _ in range(num_workers):
        start(0.0)
    while clock and len(regret) < max_epochs and not (regret and regret[-1] <= min(TARGETS)):
        now, order, trial = heapq.heappop(clock)
        trial.epoch += 1
        seen, expected = (max(c[: trial.epoch]) for c in (trial.curve.seen, trial.curve.expected))
        if seen > best_seen:
            best_seen, best_expected = seen, expected
        regret.append(world.regret(best_expected))
        if _report(searcher, scheduler, trial, world.num_epochs):
            heapq.heappush(clock, (now + trial.curve.epoch_seconds, order, trial))
        else:
            start(now)
    return Trace(tuple(regret), tuple(trial.epoch for trial in trials.values()))


def _report(
    searcher: OptunaSearcher, scheduler: TuneScheduler, trial: _Running, num_epochs: int
) -> bool:
    """Report an epoch as Tune does, to the scheduler and then the searcher. Return whether the
    trial continues."""
    result = {
        EPOCH: trial.epoch,
        NUM_EPOCHS: num_epochs,
        NUM_PROBE_EPOCHS: 0,
        VALUE: trial.curve.seen[trial.epoch - 1],
        BEST_VALUE: max(trial.curve.seen[: trial.epoch]),
        DIVERGED: 0,
        PROBLEM: "",
    }
    tuned = SimpleNamespace(config={"trial": trial.name, "recipe": "b3"})
    word = scheduler.on_trial_result(None, tuned, result)  # type: ignore[arg-type]
    if word == scheduler.CONTINUE:
        searcher.on_trial_result(trial.trial_id, result)
    if word == scheduler.CONTINUE and trial.epoch < num_epochs:
        return True
    searcher.on_trial_complete(trial.trial_id, result)
    return False


def print_table(world: World, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the data behind the curves, then a Markdown table with one line per search."""
    for name, value in world.landscape.check().items():
        print(f"{name}: {value:.4g}")
    print(f"best {world.best:.4f}, median {world.median:.4f}\n")
    names = [f"{target:.0%}" for target in TARGETS]
    heads = [f"epochs to {name} | of random's | reached" for name in names]
    print(f"| search | {' | '.join(heads)} | epochs per trial |")
    print("|---" * (2 + 3 * len(names)) + "|")
    for found in rows:
        cells = [found["search"]]
        for cell in (found[name] for name in names):
            low, high = cell["interval"]
            cells.append(f"{cell['epochs']:.0f} ({low:.0f}-{high:.0f})")
            low, high = cell["ratio_interval"]
            cells.append(f"{cell['ratio']:.2f} ({low:.2f}-{high:.2f})")
            cells.append(f"{cell['reached']} of {cell['seeds']}")
        print(f"| {' | '.join(cells)} | {found['epochs_per_trial']:.1f} |")


if __name__ == "__main__":
    main()
