"""A sweep: base recipe, fixed settings, search space, known first trials, budget, resources.

    description: B3 with MiniLM
    recipe: b3
    config: {model.encoder: minilm, train.num_epochs: 4}
    space:
      optim.lr: {type: float, low: 5e-5, high: 5e-4, log: true}
      loss.mnr.weight: {type: float, low: 0.1, high: 10, log: true, when: {loss.mnr.enabled: true}}
    first_trials: [baseline, {recipe: b2, optim.lr: 2e-4}]
    search: {num_samples: 16}

Precedence: command line > environment > first trial > sweep file > recipe > default. A key set on
the command line or in the environment is fixed: it leaves the space and the first trials.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlflow_setup.errors import ConfigError
from search.space import Parameter, corner_points, pick
from trainable.config import Config, flatten, from_flat, nearest_key, valid_keys
from trainable.resolve import parse_override, read_recipe, resolve
from trainable.strict_yaml import read_settings

SWEEPS = Path(__file__).parent / "sweeps"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Search(_Section):
    num_samples: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Trials, the first ones included."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the search; a trial's own seed is the config key `seed`."""
    num_startup_trials: Annotated[int, Field(ge=1)] = 8
    """Trials, the first ones included, before the search learns from results."""


class Scheduler(_Section):
    name: Literal["halving", "none"] = "halving"
    """Asynchronous successive halving on epochs, or every trial to its end."""
    grace_period: Annotated[int, Field(ge=1)] = 1
    """Epochs that every trial runs: the first rung."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """The best 1/reduction_factor at a rung go on; the next rung is that many times higher."""


class Resources(_Section):
    cpus_per_trial: Annotated[int, Field(ge=1)] = 1
    """CPUs and threads of a trial."""
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    """GPUs of a trial, or a fraction of one; null: 1 where the cluster has a GPU, else 0."""
    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; null: as many as the cluster has room for at the start."""


class FirstTrial(_Section):
    """A known configuration: all of a recipe's settings, and overrides of them."""

    recipe: str
    overrides: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrialSettings:
    """What a trial starts from: everything but what the search chooses."""

    recipe: str
    settings: dict[str, Any]  # dotted name -> value; missing ones are the config's defaults
    origin: dict[str, str]  # dotted name -> where the value came from

    @property
    def with_defaults(self) -> dict[str, Any]:
        """Every config key's value, as the conditions of a space see it."""
        return Config().flat() | self.settings


class SweepConfig(_Section):
    """A resolved sweep: recipes, environment and command line are merged in and proved valid."""

    name: str
    description: str = ""
    recipe: str = "baseline"
    """Base of the trials that the search draws."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fixed settings, dotted."""
    origin: dict[str, str] = Field(default_factory=dict)
    """Where each fixed setting came from."""
    space: dict[str, Parameter] = Field(default_factory=dict)
    first_trials: tuple[FirstTrial, ...] = ()
    """Recipes to try before anything is drawn."""
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    resources: Resources = Resources()
    keep_pruned_top: Annotated[int, Field(ge=0)] = 3
    """A pruned trial keeps its weights while among this many best for a task or overall."""

    def base(self) -> TrialSettings:
        """What the trials that the search draws start from."""
        return self._without_searched(self._over(self.recipe, {}, ""))

    def first(self, number: int) -> tuple[TrialSettings, dict[str, Any]]:
        """Settings of first trial `number` (from 0), and its point in the space."""
        trial = self.first_trials[number]
        given = self._over(trial.recipe, trial.overrides, f"first trial {number + 1}")
        rest = self._without_searched(given)
        return rest, pick(self.space, Config().flat() | given.settings, rest.with_defaults)

    def to_file(self) -> dict[str, Any]:
        """The content of a sweep file that resolves to this sweep."""
        content = self.model_dump(mode="json", exclude={"name", "origin", "space", "first_trials"})
        content["space"] = {
            key: parameter.model_dump(mode="json", exclude_defaults=True)
            for key, parameter in self.space.items()
        }
        content["first_trials"] = [
            {"recipe": trial.recipe, **trial.overrides} for trial in self.first_trials
        ]
        return content

    def _over(self, recipe: str, overrides: Mapping[str, Any], place: str) -> TrialSettings:
        read = read_recipe(recipe)
        return TrialSettings(
            read.name,
            {**read.settings, **self.config, **overrides},
            {**read.origin, **self.origin, **dict.fromkeys(overrides, place)},
        )

    def _without_searched(self, given: TrialSettings) -> TrialSettings:
        rest = {key: value for key, value in given.settings.items() if key not in self.space}
        return TrialSettings(given.recipe, rest, given.origin)


def sweep_names() -> list[str]:
    """The packaged sweeps."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def read_sweep(
    name_or_file: str,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> SweepConfig:
    """The sweep of that name or in that file, with `key=value` overrides.

    An override's key is a config key, or `search.*`, `scheduler.*`, `resources.*`,
    `keep_pruned_top`.

    Raises:
        ConfigError: every problem found; no such sweep.
    """
    path = _path_of(name_or_file)
    content = read_settings(path)
    problems: list[str] = []
    _shape(content, path, problems)
    fixed, origin = content["config"], dict.fromkeys(content["config"], f"sweep {path.stem}")
    both = sorted(set(fixed) & set(content["space"]))
    problems += [f"{key}: is both fixed under config and searched under space" for key in both]
    for key, value, place in _given(content["recipe"], overrides, environment):
        if not _set_sweep_key(content, key, value):
            _fix(content, origin, key, value, place)
    _make_absolute(fixed)
    sweep = _validate({**content, "name": path.stem, "origin": origin}, path, problems)
    if sweep is not None:
        problems += _problems_of(sweep)
    if problems or sweep is None:
        count = "" if len(problems) == 1 else f"{len(problems)} problems:\n  "
        raise ConfigError(
            f"sweep {path}: {count}" + "\n  ".join(problems),
            fix="ensweep sweeps lists complete ones to start from",
        )
    return sweep


def _path_of(name: str) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    if name in sweep_names():
        return SWEEPS / f"{name}.yaml"
    near = difflib.get_close_matches(name, sweep_names(), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ConfigError(f"no sweep {name!r}{hint}", fix="ensweep sweeps lists them")


def _shape(content: dict[str, Any], path: Path, problems: list[str]) -> None:
    """Bring the file into the one form: dotted config, first trials as mappings, paths found."""
    for key in ("name", "origin"):
        if content.pop(key, None) is not None:
            problems.append(f"{key}: no such key; a sweep is named by its file")
    for key in ("config", "space", *_SECTIONS):
        if content.setdefault(key, {}) is None:
            content[key] = {}
        if not isinstance(content[key], dict):
            problems.append(f"{key}: expected a mapping, got {content[key]!r}")
            content[key] = {}
    content["config"] = flatten(content["config"])
    content["recipe"] = _find_recipe(content.get("recipe", "baseline"), path)
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
        shaped.append({"recipe": _find_recipe(entry["recipe"], path), "overrides": flatten(rest)})


def _find_recipe(recipe: Any, path: Path) -> Any:
    """A recipe's file may be named relative to the sweep's."""
    if isinstance(recipe, str) and Path(recipe).suffix in (".yaml", ".yml"):
        return str((path.parent / recipe).resolve())
    return recipe


def _given(
    recipe: Any, overrides: Iterable[str], environment: Mapping[str, str] | None
) -> list[tuple[str, Any, str]]:
    """(key, value, origin) from the environment and the command line, in rising precedence."""
    resolved = resolve(str(recipe), (), environment)
    values = resolved.config.flat()
    named = [
        (key, values[key], place)
        for key, place in resolved.origin.items()
        if place.startswith("env ")
    ]
    return named + [(*parse_override(text), "command line") for text in overrides]


_SECTIONS: dict[str, type[BaseModel]] = {
    "search": Search,
    "scheduler": Scheduler,
    "resources": Resources,
}
_SWEEP_KEYS = (
    *(f"{name}.{key}" for name, model in _SECTIONS.items() for key in model.model_fields),
    "keep_pruned_top",
)


def _set_sweep_key(content: dict[str, Any], key: str, value: Any) -> bool:
    section, _, leaf = key.partition(".")
    if section in _SECTIONS:
        content[section] = {**content[section], leaf: value}
    elif key in _SWEEP_KEYS:
        content[key] = value
    else:
        return False
    return True


def _fix(content: dict[str, Any], origin: dict[str, str], key: str, value: Any, place: str) -> None:
    """A fixed key is searched no more, and the same in every trial."""
    for name, leaf in flatten({key: value}).items():
        content["config"][name], origin[name] = leaf, place
        content["space"].pop(name, None)
        for trial in content["first_trials"]:
            trial["overrides"].pop(name, None)


def _make_absolute(fixed: dict[str, Any]) -> None:
    """Trials run in folders and on machines of their own."""
    folder = fixed.get("data.dir")
    if isinstance(folder, str) and folder:
        fixed["data.dir"] = str(Path(folder).resolve())


def _validate(content: dict[str, Any], path: Path, problems: list[str]) -> SweepConfig | None:
    try:
        return SweepConfig.model_validate_json(json.dumps(content))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = ".".join(str(part) for part in detail["loc"])
            if detail["type"] == "extra_forbidden":
                known = [*_SWEEP_KEYS, *SweepConfig.model_fields]
                near = difflib.get_close_matches(key, known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                problems.append(f"{key}: no such key{hint}")
            else:
                message = detail["msg"].removeprefix("Value error, ")
                given = "" if detail["type"] == "value_error" else f", got {detail['input']!r}"
                problems.append(f"{key}: {message[0].lower()}{message[1:]}{given}")
        return None


def _problems_of(sweep: SweepConfig) -> list[str]:
    """What is wrong with a sweep of the right form: keys, conditions, values, first trials."""
    problems = _unknown_keys(sweep) + _bad_conditions(sweep)
    if problems:
        return problems
    base = sweep.base()
    problems = _reject(base.settings, "config")
    if problems:
        return problems
    for point in corner_points(sweep.space, base.with_defaults):
        given = ", ".join(f"{key}={value}" for key, value in point.items())
        problems += _reject({**base.settings, **point}, f"space: at {given}")
    return list(dict.fromkeys(problems)) + _bad_first_trials(sweep)


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
    """A sweep key is the nearest where its section is: `serach.num_samples` is no config key."""
    near = difflib.get_close_matches(key, _SWEEP_KEYS, n=1, cutoff=0.8)
    return f" (did you mean {near[0]}?)" if near else nearest_key(key)


def _bad_conditions(sweep: SweepConfig) -> list[str]:
    problems = []
    above: set[str] = set()
    for key, parameter in sweep.space.items():
        for name, wanted in parameter.when.items():
            if name in sweep.space and name not in above:
                problems.append(f"space.{key}.when: {name} must stand above {key}")
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
