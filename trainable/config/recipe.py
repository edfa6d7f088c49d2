"""Recipes, and the precedence of settings: default < recipe < file < environment < command line.

A recipe is a YAML file of settings with `extends: <recipe or file>` and a `description`. Paths in a
file are relative to the file; paths on the command line and in the environment are relative to the
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
"""The file in a data folder, written by `ensweep data import`, that declares its tasks."""


@dataclass(frozen=True)
class Resolved:
    """A configuration and the origin of each of its values."""

    recipe: str
    config: Config
    origin: dict[str, str]  # dotted name -> "default" | "recipe b3" | "env ..." | "command line"


@dataclass(frozen=True)
class Recipe:
    """One recipe or settings file, merged over the recipes that it extends."""

    name: str
    description: str
    settings: dict[str, Any]  # dotted name -> value
    origin: dict[str, str]
    packaged: str | None  # the packaged recipe that this is, or the nearest one that it extends


def resolve(
    recipe: str,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """The configuration of `recipe` (a name or a path to a YAML file) with `key=value` overrides.

    Args:
        environment: read for `ENSWEEP_...` variables; default: the process's environment.

    Raises:
        ConfigError: all problems at once, each with its origin and the nearest valid key.
    """
    base = read_recipe(recipe)
    settings, origin = dict(base.settings), dict(base.origin)
    for key, value, source in given_settings(overrides, environment):
        _assign(settings, origin, key, value, source)
    if not origin.get("data.tasks", "recipe ").startswith(("command line", "env ")):
        for key, value in settings_of_data(settings).items():
            _assign(settings, origin, key, value, f"file {settings['data.dir']}/{TASKS_FILE}")
    config = from_flat(settings, origin)
    return Resolved(
        base.name, config, {key: origin.get(key, "default") for key in sorted(config.flat())}
    )


def read_recipe(name: str, _seen: tuple[str, ...] = ()) -> Recipe:
    """A recipe by name, or a settings file by path, merged over the recipes that it extends.

    Raises:
        ConfigError: no such recipe, a cycle of `extends`, or not a settings file.
    """
    path = RECIPES.path(name)
    if str(path) in _seen:
        raise ConfigError(f"{path}: extends itself: {' -> '.join([*_seen, str(path)])}")
    if len(_seen) > MAX_EXTENDS:  # a cycle through `..` has a new path each time
        raise ConfigError(f"{_seen[0]}: extends itself, or more than {MAX_EXTENDS} files in a row")
    content = RECIPES.read(name)
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
        in_same_folder = path.parent / parent
        if is_settings_file(in_same_folder) and _exists(in_same_folder):
            parent = str(in_same_folder)
        base = read_recipe(parent, (*_seen, str(path)))
        settings, origin, packaged = dict(base.settings), dict(base.origin), base.packaged
    if path.parent == RECIPES.folder:
        shown_name = packaged = path.stem
        source = f"recipe {path.stem}"
    else:
        shown_name, source = str(path), f"file {path}"
    given = resolve_paths(flatten(content), path.parent)
    if len(given) < _count_leaves(content):
        raise ConfigError(f"{path}: a key is given twice, once nested and once dotted")
    for key, value in given.items():
        _assign(settings, origin, key, value, source)
    return Recipe(shown_name, str(description), settings, origin, packaged)


def resolve_paths(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a file in `folder`, with the paths of the data, of a teacher's bundle and of
    the encoder made absolute. An encoder is a path only if it begins with `./` or `../`."""
    changed = dict(settings)
    for key, prefix in (("data.dir", ""), ("model.encoder", ""), ("distill.teacher", "bundle:")):
        value = settings.get(key)
        if not isinstance(value, str) or not value.startswith(prefix) or is_uri(value):
            continue
        path = value.removeprefix(prefix)
        is_path = key != "model.encoder" or path.startswith(("./", "../"))
        if path and is_path:
            changed[key] = f"{prefix}{(folder / path).resolve()}"
    return changed


def settings_of_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tasks that the data folder declares, as settings; {} where it declares none, or where
    `settings` declare tasks themselves.

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
    """The declarations in `tasks.yaml` of a data folder or its storage URI; {} without that file.

    Raises:
        ConfigError: the file is not a mapping of tasks, or the URI is not a storage URI.
        PartialError: the URI has no files, or cannot be reached now.
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
        ConfigError: there is no `=`, or the value is not YAML.
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
    except OSError:  # for example, the name is too long
        return False


def given_settings(
    overrides: Iterable[str], environment: Mapping[str, str] | None
) -> list[tuple[str, Any, str]]:
    """(key, value, origin) from the environment and the command line, lowest precedence first."""
    variables = os.environ if environment is None else environment
    given = [(*parse_override(text), "command line") for text in overrides]
    return [*_settings_of(variables), *given]


def _settings_of(variables: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    """(key, value, origin) of environment variables: ENSWEEP_OPTIM__LR=1e-4 sets optim.lr.

    Raises:
        ConfigError: a variable is named like a setting that does not exist.
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
    settings: dict[str, Any], origin: dict[str, str], key: str, value: Any, source: str
) -> None:
    """Set a key and its origin; a mapping, given for a section or task, sets the keys below it."""
    for name, leaf in flatten({key: value}).items():
        settings[name] = leaf
        origin[name] = source


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
