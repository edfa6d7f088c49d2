"""Where a configuration's values come from: default < recipe < file < environment < command line.

A recipe is a YAML file of settings with `extends: <recipe or file>` and a `description`.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import is_text
from mlflow_setup.uris import is_uri
from trainable.config.config import Config, flatten
from trainable.config.packaged import Packaged
from trainable.config.parse import from_flat, nearest_key, valid_keys
from trainable.config.strict_yaml import is_settings_file, parse, read_settings

RECIPES = Packaged(Path(__file__).parent / "recipes", "recipe")
ENVIRONMENT_PREFIX = "ENSWEEP_"
MAX_EXTENDS = 20
TASKS_FILE = "tasks.yaml"
"""Of a data folder: the tasks that its files are of, where `ensweep data import` wrote it."""


@dataclass(frozen=True)
class Resolved:
    """A configuration and where each of its values came from."""

    recipe: str
    config: Config
    origin: dict[str, str]  # dotted name -> "default" | "recipe b3" | "env ..." | "command line"


@dataclass(frozen=True)
class Recipe:
    """One recipe or settings file, its parents already merged in."""

    name: str
    description: str
    settings: dict[str, Any]  # dotted name -> value
    origin: dict[str, str]
    packaged: str | None  # the recipe itself, or the nearest that it extends, that comes with us


def resolve(
    recipe: str,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """The configuration of `recipe` (a name or a path to a YAML file) with `key=value` overrides.

    Raises:
        ConfigError: every problem found, with its origin and the nearest valid key.
    """
    read = read_recipe(recipe)
    settings, origin = dict(read.settings), dict(read.origin)
    for key, value, place in given_settings(overrides, environment):
        _assign(settings, origin, key, value, place)
    if not origin.get("data.tasks", "recipe ").startswith(("command line", "env ")):
        for key, value in settings_of_data(settings).items():
            _assign(settings, origin, key, value, f"file {settings['data.dir']}/{TASKS_FILE}")
    config = from_flat(settings, origin)
    return Resolved(
        read.name, config, {key: origin.get(key, "default") for key in sorted(config.flat())}
    )


def read_recipe(name: str, _seen: tuple[str, ...] = ()) -> Recipe:
    """A recipe by name, or a settings file by path, merged over what it extends.

    Raises:
        ConfigError: no such recipe, a circle of `extends`, or a file that is not settings.
    """
    path = RECIPES.path(name)
    if str(path) in _seen:
        raise ConfigError(f"{path}: extends itself: {' -> '.join([*_seen, str(path)])}")
    if len(_seen) > MAX_EXTENDS:  # a circle through `..` has a new name each time
        raise ConfigError(f"{_seen[0]}: extends itself, or more than {MAX_EXTENDS} files in a row")
    content = read_settings(path)
    parent, description = content.pop("extends", None), content.pop("description", "")
    settings: dict[str, Any] = {}
    origin: dict[str, str] = {}
    packaged = None
    if parent is not None:
        if not isinstance(parent, str):
            raise ConfigError(f"{path}: extends must name one recipe or file, got {parent!r}")
        beside = path.parent / parent
        known = beside if is_settings_file(beside) and _exists(beside) else parent
        base = read_recipe(str(known), (*_seen, str(path)))
        settings, origin, packaged = dict(base.settings), dict(base.origin), base.packaged
    is_packaged = path.parent == RECIPES.folder
    packaged = path.stem if is_packaged else packaged
    place = f"recipe {path.stem}" if is_packaged else f"file {path}"
    given = flatten(content)
    if len(given) < _count_leaves(content):
        raise ConfigError(f"{path}: a key is given twice, once nested and once dotted")
    for key, value in given.items():
        _assign(settings, origin, key, value, place)
    known_as = path.stem if is_packaged else str(path)
    return Recipe(known_as, str(description), settings, origin, packaged)


def settings_of_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tasks of the data folder as settings; {} where it declares none, lies at a URI, or the
    settings have tasks of their own."""
    folder = settings.get("data.dir")
    if not isinstance(folder, str) or not folder or is_uri(folder):
        return {}
    if any(key.startswith("tasks.") for key in settings):
        return {}
    tasks = data_tasks(Path(folder))
    return flatten({"tasks": tasks, "data.tasks": list(tasks)}) if tasks else {}


def data_tasks(folder: Path) -> dict[str, Any]:
    """The declarations in a data folder's `tasks.yaml`; {} without one.

    Raises:
        ConfigError: it is not a mapping of tasks.
    """
    path = folder / TASKS_FILE
    if not _exists(path):
        return {}
    tasks = read_settings(path).get("tasks")
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise ConfigError(f"{path}: expected tasks, each with its kind and files")
    return tasks


def parse_override(text: str) -> tuple[str, Any]:
    """`optim.lr=1e-4` -> ("optim.lr", 1e-4).

    Raises:
        ConfigError: no `=`, or a value that is not YAML.
    """
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(f"{text!r} is not key=value", fix="for example optim.lr=1e-4")
    if not is_text(text):
        raise ConfigError(f"{key!a}: the value {value!a} is not UTF-8 text")
    if key in _TEXT_KEYS:
        return key, value if value != "null" else None
    parsed = parse(value, where=key)
    if key in _LIST_KEYS and isinstance(parsed, str):
        parsed = [part.strip() for part in parsed.split(",")]
    return key, parsed


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name is too long, for instance
        return False


def given_settings(
    overrides: Iterable[str], environment: Mapping[str, str] | None
) -> list[tuple[str, Any, str]]:
    """(key, value, origin) from the environment and the command line, in rising precedence."""
    variables = os.environ if environment is None else environment
    given = [(*parse_override(text), "command line") for text in overrides]
    return [*_settings_of(variables), *given]


def _settings_of(variables: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    """(key, value, origin) of environment variables: ENSWEEP_OPTIM__LR=1e-4 sets optim.lr; two
    underscores stand for the dot.

    Raises:
        ConfigError: a variable that begins like a setting and is none.
    """
    keys = {f"{ENVIRONMENT_PREFIX}{key.upper().replace('.', '__')}": key for key in valid_keys()}
    found = []
    for name in sorted(variables):
        if name in keys:
            found.append((*parse_override(f"{keys[name]}={variables[name]}"), f"env {name}"))
        elif name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            raise ConfigError(f"environment variable {name}: no key {key}{nearest_key(key)}")
    return found


def _assign(
    settings: dict[str, Any], origin: dict[str, str], key: str, value: Any, place: str
) -> None:
    """Set a key; a mapping given for a section or task sets the keys below it."""
    for name, leaf in flatten({key: value}).items():
        settings[name] = leaf
        origin[name] = place


def _count_leaves(content: Mapping[str, Any]) -> int:
    return sum(
        _count_leaves(value) if isinstance(value, Mapping) and value else 1
        for value in content.values()
    )


def _keys_of_type(kind: type) -> frozenset[str]:
    defaults = Config().flat()
    return frozenset(key for key, value in defaults.items() if isinstance(value, kind))


_TEXT_KEYS = _keys_of_type(str) | {"model.revision"}
_LIST_KEYS = _keys_of_type(list) | {"loss.smart.tasks"}
