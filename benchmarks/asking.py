"""The time to suggest a trial, compared with Optuna's own sampler."""

import random
import statistics
import time

import optuna
import psutil
from optuna.trial import TrialState

from search.algorithms.optuna_searcher import OptunaSearcher
from search.config.load import read_sweep
from search.config.space import suggest

_NUM_ASKED = 20


def ask_time(sizes: tuple[int, ...] = (100, 1000, 5000)) -> dict[str, float]:
    """Milliseconds to suggest a trial of the sweep `selective` after `sizes` finished trials: by
    our sampler, by Optuna's own, which draws the same, and by Optuna's multivariate TPE."""
    found: dict[str, float] = {}
    own = {"n_startup_trials": 10, "constant_liar": True, "seed": 0}
    for size in sizes:
        searchers = {
            "ours": _searcher_after(size),
            "Optuna's": _searcher_after(size),
            "its joint draw": _searcher_after(size),
        }
        for name, is_joint in (("Optuna's", False), ("its joint draw", True)):
            sampler = optuna.samplers.TPESampler(multivariate=is_joint, **own)
            searchers[name].study.sampler = sampler
        times: dict[str, list[float]] = {name: [] for name in searchers}
        for number in range(_NUM_ASKED):
            for name, searcher in searchers.items():
                started = time.perf_counter()
                searcher.suggest(str(number))
                times[name].append(time.perf_counter() - started)
                searcher.on_trial_complete(str(number), _came_to(number / _NUM_ASKED))
        for name, seconds in times.items():
            found[f"{name} at {size} trials in ms"] = statistics.median(seconds[1:]) * 1000
    return {**found, "memory of this process in MB": psutil.Process().memory_info().rss / 1e6}


def _searcher_after(num_trials: int) -> OptunaSearcher:
    """A searcher whose study has `num_trials` random trials, two thirds of them pruned."""
    more = [f"search.num_samples={num_trials + _NUM_ASKED}", "search.num_probes=0"]
    sweep = read_sweep("selective", [*more, "search.baselines=false"], {})
    sweep = sweep.model_copy(update={"first_trials": ()})
    searcher = OptunaSearcher(sweep)
    random_ = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    draw = random.Random(0)
    defaults = sweep.base().with_defaults
    for number in range(num_trials):
        trial = random_.ask()
        suggest(sweep.space, trial, defaults)
        searcher.study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if number % 3 else TrialState.COMPLETE,
                value=draw.random(),
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values={1: draw.random()},
            )
        )
    return searcher


def _came_to(value: float) -> dict[str, float]:
    return {"epoch": 4, "num_epochs": 4, "best_overall": value, "diverged": 0}
