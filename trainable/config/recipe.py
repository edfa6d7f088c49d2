"""Where a configuration's values come from: default < recipe < file < environment < command line.

A recipe is a YAML file of settings with `extends: <recipe or file>` and a `description`. Relative
paths in a file are relative to it; those on the command line and in the environment, to the
working directory.
"""

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.object_store import RemoteFolder
from mlflow_setup.text import is_text
from mlflow_setup.uris import has_credentials, is_uri, redact
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
    if "space" in content:
        raise ConfigError(
            f"{path}: is a sweep, not a recipe", fix=f"ensweep sweep {shlex.quote(str(path))}"
        )
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
    given = from_folder(flatten(content), path.parent)
    if len(given) < _count_leaves(content):
        raise ConfigError(f"{path}: a key is given twice, once nested and once dotted")
    for key, value in given.items():
        _assign(settings, origin, key, value, place)
    known_as = path.stem if is_packaged else str(path)
    return Recipe(known_as, str(description), settings, origin, packaged)


def from_folder(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of a file in `folder`, whose relative paths are relative to it: the data's, and
    those of an encoder (begun with `./` or `../`, else it is a name) and of a teacher's bundle."""
    changed = dict(settings)
    for key, start in (("data.dir", ""), ("model.encoder", ""), ("distill.teacher", "bundle:")):
        value = settings.get(key)
        if not isinstance(value, str) or not value.startswith(start) or is_uri(value):
            continue
        place = value.removeprefix(start)
        is_path = key != "model.encoder" or place.startswith(("./", "../"))
        if place and is_path:
            changed[key] = f"{start}{(folder / place).resolve()}"
    return changed


def settings_of_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tasks of the data folder as settings; {} where it declares none, or the settings have
    tasks of their own.

    Raises:
        ConfigError, PartialError: as `data_tasks`.
    """
    folder = settings.get("data.dir")
    if not isinstance(folder, str) or not folder or has_credentials(folder):
        return {}
    if any(key.startswith("tasks.") for key in settings):
        return {}
    tasks = data_tasks(folder)
    return flatten({"tasks": tasks, "data.tasks": list(tasks)}) if tasks else {}


def data_tasks(folder: str | Path) -> dict[str, Any]:
    """The declarations in `tasks.yaml` of a data folder, or of one at a URI; {} without one.

    Raises:
        ConfigError: it is not a mapping of tasks, or no storage URI.
        PartialError: nothing is at the URI, or it cannot be reached now.
    """
    if is_uri(str(folder)):
        remote, shown = RemoteFolder(str(folder)), f"{redact(str(folder))}/{TASKS_FILE}"
        with TemporaryDirectory() as name:
            path = Path(name) / TASKS_FILE
            if TASKS_FILE not in remote.list():
                return {}
            remote.download(TASKS_FILE, path)
            return _declared(path, shown)
    path = Path(folder) / TASKS_FILE
    return _declared(path, str(path)) if _exists(path) else {}


def _declared(path: Path, shown: str) -> dict[str, Any]:
    tasks = read_settings(path).get("tasks")
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise ConfigError(f"{shown}: expected tasks, each with its kind and files")
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
    settings = []
    for name in sorted(variables):
        if name in keys:
            settings.append((*parse_override(f"{keys[name]}={variables[name]}"), f"env {name}"))
        elif name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            raise ConfigError(f"environment variable {name}: no key {key}{nearest_key(key)}")
    return settings


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
