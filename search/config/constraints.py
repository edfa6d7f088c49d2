"""Checks across the settings of a sweep: keys, conditions, values, first trials."""

from collections.abc import Mapping
from typing import Any

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import did_you_mean
from search.config.space import corner_points
from search.config.sweep_config import SWEEP_KEYS, SweepConfig
from trainable.config.parse import from_flat, nearest_key, valid_keys
from trainable.training.stages import num_probe_epochs, total_epochs


def problems_of(sweep: SweepConfig) -> list[str]:
    """Return all problems of a sweep; only the first kind if the others would follow from it."""
    problems = _unknown_keys(sweep) + _bad_conditions(sweep)
    if sweep.budget.max_usd is not None and not sweep.budget.usd_per_hour:
        problems.append("budget.max_usd: budget.usd_per_hour has no price of any node type")
    if problems:
        return problems
    base = sweep.base()
    problems = _reject(base.settings, "config") or _bad_probes(sweep)
    if problems:
        return problems
    for point in corner_points(sweep.space, base.with_defaults):
        given = ", ".join(f"{key}={value}" for key, value in point.items())
        problems += _reject({**base.settings, **point}, f"space: at {given}")
    return list(dict.fromkeys(problems)) + _bad_first_trials(sweep)


def _bad_probes(sweep: SweepConfig) -> list[str]:
    if not sweep.search.num_probes:
        return []
    config = from_flat(sweep.base().settings)
    if 0 < num_probe_epochs(config) < total_epochs(config):
        return []
    stages = ", ".join(config.train.stages)
    return [
        f"search.num_probes: needs trials with a probe and another stage; train.stages is "
        f"[{stages}], set it to [probe, finetune]"
    ]


def _unknown_keys(sweep: SweepConfig) -> list[str]:
    known = set(valid_keys())
    places = [("config", key) for key in sweep.config] + [("space", key) for key in sweep.space]
    for key, parameter in sweep.space.items():
        places += [(f"space.{key}.when", name) for name in parameter.when]
    for number, trial in enumerate(sweep.first_trials, start=1):
        places += [(f"first_trials {number}", key) for key in trial.overrides]
    return [
        f"{place}: no key {key}{_nearest(key)}"
        for place, key in places
        if key not in known and not key.startswith("tasks.")
    ]


def _nearest(key: str) -> str:
    """Return a hint at the nearest key; a sweep key that is very close (`serach.num_samples`) comes
    before config keys."""
    return did_you_mean(key, SWEEP_KEYS, cutoff=0.8) or nearest_key(key)


def _bad_conditions(sweep: SweepConfig) -> list[str]:
    problems = []
    above: set[str] = set()
    for key, parameter in sweep.space.items():
        for name, wanted in parameter.when.items():
            if name in sweep.space and name not in above:
                problems.append(f"space.{key}.when: {name} must come before {key} in the space")
            elif name in sweep.space and not sweep.space[name].contains(wanted):
                offered = sweep.space[name].describe()
                problems.append(f"space.{key}.when: {name} is never {wanted!r}: {offered}")
        above.add(key)
    return problems


def _bad_first_trials(sweep: SweepConfig) -> list[str]:
    problems = []
    for number, trial in enumerate(sweep.first_trials):
        place = f"first_trials {number + 1} ({trial.recipe})"
        try:
            given, point = sweep.first(number)
        except ConfigError as error:
            problems.append(f"{place}: {error.problem}")
            continue
        for key, value in point.items():
            if not sweep.space[key].contains(value):
                problems.append(
                    f"{place}: {key}={value} is outside the space, {sweep.space[key].describe()}; "
                    f"give {key} a value for this trial, or widen the space"
                )
        problems += _reject({**given.settings, **point}, place)
    return problems


def _reject(settings: Mapping[str, Any], place: str) -> list[str]:
    try:
        from_flat(settings)
    except ConfigError as error:
        text = error.problem.removeprefix("configuration: ")
        return [f"{place}: {text}"]
    return []
