"""A sweep that needs no file of this machine: recipes in files become settings in the sweep.

What differs between such a recipe and the packaged one that it extends goes under `config`, or to
the first trial that names it; no trial's settings change. Data and encoders stay where they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.config.sweep_config import FirstTrial, SweepConfig
from trainable.config.config import Config
from trainable.config.recipe import Recipe, read_recipe

_FALLBACK = "baseline"
"""What a recipe extends that says nothing about it."""


def without_recipe_files(sweep: SweepConfig) -> SweepConfig:
    """The same trials from packaged recipes alone; their settings are those that would be read."""
    names = [sweep.recipe, *(trial.recipe for trial in sweep.first_trials)]
    if not any(_is_file(name) for name in names):
        return sweep
    recipe = read_recipe(sweep.recipe)
    base = _packaged(recipe)
    moved = _difference(recipe.settings, base.settings)
    fixed = {key: value for key, value in moved.items() if key not in sweep.space}
    fixed |= sweep.config
    trials = [_first_trial(trial, sweep.config, fixed) for trial in sweep.first_trials]
    return sweep.model_copy(
        update={"recipe": base.name, "config": fixed, "first_trials": tuple(trials)}
    )


def _first_trial(
    trial: FirstTrial, config: Mapping[str, Any], fixed: Mapping[str, Any]
) -> FirstTrial:
    """The trial over `fixed` as it was over `config`."""
    recipe = read_recipe(trial.recipe)
    base = _packaged(recipe)
    before = {**recipe.settings, **config, **trial.overrides}
    after = {**base.settings, **fixed, **trial.overrides}
    overrides = {**_difference(before, after), **trial.overrides}
    return FirstTrial(recipe=base.name, overrides=overrides)


def _difference(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What to set over `given` to come to `wanted`, both over the defaults."""
    defaults = Config().flat()
    target, start = {**defaults, **wanted}, {**defaults, **given}
    return {key: value for key, value in target.items() if key not in start or start[key] != value}


def _packaged(recipe: Recipe) -> Recipe:
    return read_recipe(recipe.packaged or _FALLBACK)


def _is_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")
