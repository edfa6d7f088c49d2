"""Sweep files: base recipe, fixed settings, search space, first trials, budget, resources.

    description: B3 with MiniLM
    recipe: b3
    config: {model.encoder: minilm, train.num_epochs: 4}
    space:
      optim.lr: {type: float, low: 5e-5, high: 5e-4, log: true}
      loss.mnr.weight: {type: float, low: 0.1, high: 10, log: true, when: {loss.mnr.enabled: true}}
    first_trials: [baseline, {recipe: b2, optim.lr: 2e-4}]
    search: {num_samples: 16}

Precedence: command line > environment > first trial > sweep file > recipe > default. A key set on
the command line or in the environment is fixed: it is removed from the space and the first trials.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import did_you_mean
from mlflow_setup.uris import is_uri
from search.config.constraints import problems_of
from search.config.sweep_config import SECTIONS, SWEEP_KEYS, SweepConfig
from trainable.config.config import flatten
from trainable.config.packaged import Packaged
from trainable.config.recipe import (
    TASKS_FILE,
    given_settings,
    read_recipe,
    resolve_paths,
    settings_of_data,
)
from trainable.config.strict_yaml import is_settings_file

SWEEPS = Packaged(Path(__file__).parent / "sweeps", "sweep")


def read_sweep(
    name_or_file: str,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    is_run_here: bool = True,
) -> SweepConfig:
    """Read a packaged sweep or a sweep file, with `key=value` overrides.

    An override's key is a config key, a key of a sweep section such as `search.num_samples`, or
    `keep_pruned_top`.

    Args:
        is_run_here: False: the data are read, and their tasks declared, on other machines.

    Raises:
        ConfigError: there is no such sweep, or it is invalid: every problem found.
        PartialError: the data are at a URI that cannot be reached.
    """
    path = SWEEPS.path(name_or_file)
    content = SWEEPS.read(name_or_file)
    if "extends" in content or "tasks" in content:
        raise ConfigError(
            f"{path}: is a recipe, not a sweep",
            fix=f"ensweep train {shlex.quote(str(path))} trains it once; a sweep over it is a file "
            f"with `recipe: {path.name}`",
        )
    return resolve_sweep(content, path, overrides, environment, is_run_here)


def resolve_sweep(
    content: dict[str, Any],
    path: Path,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    is_run_here: bool = True,
    among: Packaged = SWEEPS,
) -> SweepConfig:
    """Resolve the sweep that `content` of the file `path` describes, with `key=value` overrides.

    Args:
        among: the packaged files like it, for messages.

    Other Args, Raises: as `read_sweep`.
    """
    problems: list[str] = []
    _shape(content, path, problems)
    _read_recipes(content, problems)
    fixed = content["config"]
    origin = dict.fromkeys(fixed, f"sweep {path.stem}") | (content.get("origin") or {})
    both = sorted(set(fixed) & set(content["space"]))
    problems += [f"{key}: is both fixed under config and searched under space" for key in both]
    for key, value, place in given_settings(overrides, environment):
        if not _set_sweep_key(content, key, value):
            _fix(content, origin, key, value, place)
    _make_data_absolute(fixed)
    if is_run_here:
        _take_tasks_of_data(content, origin)
    sweep = _validate({**content, "name": path.stem, "origin": origin}, path, problems)
    if sweep is not None:
        problems += problems_of(sweep)
    if problems or sweep is None:
        count = "" if len(problems) == 1 else f"{len(problems)} problems:\n  "
        raise ConfigError(
            f"{among.noun} {path}: {count}" + "\n  ".join(problems),
            fix=f"ensweep {among.folder.name} lists complete {among.folder.name} to start from",
        )
    return sweep


def _shape(content: dict[str, Any], path: Path, problems: list[str]) -> None:
    """Normalise the content: dotted config keys, first trials as mappings, absolute paths."""
    if content.pop("name", None) is not None:
        problems.append("name: no such key; a sweep is named by its file")
    for key in ("config", "space", "recipes", "origin", *SECTIONS):
        if content.setdefault(key, {}) is None:
            content[key] = {}
        if not isinstance(content[key], dict):
            problems.append(f"{key}: expected a mapping, got {content[key]!r}")
            content[key] = {}
    content["config"] = resolve_paths(flatten(content["config"]), path.parent)
    for name, stored in list(content["recipes"].items()):
        if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
            problems.append(f"recipes.{name}: expected settings and origin, got {stored!r}")
            del content["recipes"][name]
    content["recipe"] = _find_recipe(content.get("recipe", "baseline"), path)
    if not isinstance(content["recipe"], str):
        problems.append(f"recipe: expected a name or a file, got {content['recipe']!r}")
        content["recipe"] = "baseline"
    trials = content.get("first_trials") or []
    if not isinstance(trials, list):
        problems.append(f"first_trials: expected a list, got {trials!r}")
        trials = []
    content["first_trials"] = shaped = []
    for number, trial in enumerate(trials, start=1):
        entry = {"recipe": trial} if isinstance(trial, str) else trial
        if not isinstance(entry, dict) or not isinstance(entry.get("recipe"), str):
            problems.append(f"first_trials: number {number} names no recipe: {trial!r}")
            continue
        rest = {key: value for key, value in entry.items() if key != "recipe"}
        shaped.append(
            {
                "recipe": _find_recipe(entry["recipe"], path),
                "overrides": resolve_paths(flatten(rest), path.parent),
            }
        )


def _find_recipe(recipe: Any, path: Path) -> Any:
    """Return a recipe file's absolute path: it is given relative to the sweep's file."""
    if isinstance(recipe, str) and is_settings_file(Path(recipe)):
        return str((path.parent / recipe).resolve())
    return recipe


def _read_recipes(content: dict[str, Any], problems: list[str]) -> None:
    """Read every recipe that the sweep names, except those stored with it."""
    known, first = content["recipes"], content["first_trials"]
    places = {content["recipe"]: "recipe"}
    for number, trial in enumerate(first, start=1):
        places.setdefault(trial["recipe"], f"first_trials {number} ({trial['recipe']})")
    for name, place in places.items():
        if name in known:
            continue
        try:
            read = read_recipe(str(name))
        except ConfigError as error:
            if name == content["recipe"]:
                raise
            problems.append(f"{place}: {error.problem}")
            first[:] = [trial for trial in first if trial["recipe"] != name]
            continue
        known[name] = {"settings": read.settings, "origin": read.origin}


def _set_sweep_key(content: dict[str, Any], key: str, value: Any) -> bool:
    section, _, leaf = key.partition(".")
    if section in SECTIONS:
        content[section] = {**content[section], leaf: value}
    elif key in SWEEP_KEYS:
        content[key] = value
    else:
        return False
    return True


def _fix(content: dict[str, Any], origin: dict[str, str], key: str, value: Any, place: str) -> None:
    """Fix a key: it leaves the space, and has this value in every trial."""
    for name, leaf in flatten({key: value}).items():
        content["config"][name], origin[name] = leaf, place
        content["space"].pop(name, None)
        for trial in content["first_trials"]:
            trial["overrides"].pop(name, None)


def _make_data_absolute(fixed: dict[str, Any]) -> None:
    """Make a local data folder's path absolute: trials have other working directories."""
    folder = fixed.get("data.dir")
    if isinstance(folder, str) and folder and not is_uri(folder):
        fixed["data.dir"] = str(Path(folder).resolve())


def _take_tasks_of_data(content: dict[str, Any], origin: dict[str, str]) -> None:
    """Add the tasks that the data folder declares, unless the sweep or a recipe declares tasks."""
    fixed, recipes = content["config"], content["recipes"].values()
    settings = [recipe["settings"] for recipe in recipes]
    if "data.tasks" in fixed or any(key.startswith("tasks.") for s in settings for key in s):
        return
    folder = next((s["data.dir"] for s in (fixed, *settings) if s.get("data.dir")), None)
    of_data = settings_of_data({**fixed, "data.dir": folder})
    fixed |= of_data
    origin |= dict.fromkeys(of_data, f"file {folder}/{TASKS_FILE}")


def _validate(content: dict[str, Any], path: Path, problems: list[str]) -> SweepConfig | None:
    try:
        return SweepConfig.model_validate_json(json.dumps(content))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = ".".join(str(part) for part in detail["loc"])
            if detail["type"] == "extra_forbidden":
                known = [*SWEEP_KEYS, *SweepConfig.model_fields]
                problems.append(f"{key}: no such key{did_you_mean(key, known)}")
            else:
                message = detail["msg"].removeprefix("Value error, ")
                is_secret = detail["loc"][-1:] == ("url",)
                is_in_message = detail["type"] == "value_error"
                given = "" if is_secret or is_in_message else f", got {detail['input']!r}"
                problems.append(f"{key}: {message[0].lower()}{message[1:]}{given}")
        return None
