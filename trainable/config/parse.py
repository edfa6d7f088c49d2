"""Dotted settings -> a validated `Config`, or one error with every problem, its key and origin."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import NUM_SHOWN, did_you_mean, printable
from trainable.config.config import Config, default_technique_tasks
from trainable.config.constraints import contradictions
from trainable.config.tasks import Task


def from_flat(values: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> Config:
    """Validate dotted settings; missing ones take their default.

    Raises:
        ConfigError: all problems at once, each with its key, origin and the nearest valid key.
    """
    problems: list[str] = []
    nested = _nest(default_technique_tasks(values) | dict(values), problems)
    try:
        config = Config.model_validate_json(json.dumps(nested))
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [_describe(detail, origin or {}) for detail in details[:NUM_SHOWN]]
        raise _refusal(problems, len(details[NUM_SHOWN:])) from None
    problems += [
        f"{problem}{_sources(problem, origin or {})}" for problem in contradictions(config)
    ]
    if problems:
        raise _refusal(problems, 0)
    return config


def valid_keys() -> list[str]:
    """All dotted names of settings; those of a declared task begin with `tasks.<name>.`."""
    return list(_keys(Config))


def nearest_key(key: str) -> str:
    """` (did you mean optim.lr?)` for optim.Lr; "" where no key is similar."""
    keys = valid_keys()
    hint = did_you_mean(key, keys)
    if hint:
        return hint
    last = key.rsplit(".", 1)[-1]  # `lr` -> optim.lr
    same = [name for name in keys if name.rsplit(".", 1)[-1] == last]
    return f" (did you mean {same[0]}?)" if same else ""


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        elif name == "tasks" and not prefix:
            yield from _keys(Task, "tasks.<name>.")
        else:
            yield f"{prefix}{name}"


def _nest(values: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        branch, (*parents, leaf) = nested, key.split(".")
        for part in parents:
            child = branch.setdefault(part, {})
            if not isinstance(child, dict):
                problems.append(f"{key}: {part} is a value, not a section")
                child = {}
            branch = child
        if value == {}:  # an empty section is valid; pydantic refuses {} for any other key
            branch.setdefault(leaf, {})
        elif isinstance(branch.get(leaf), dict):
            problems.append(f"{key}: is a section; set one of its keys")
        else:
            branch[leaf] = value
    return nested


def _refusal(problems: Sequence[str], num_hidden: int) -> ConfigError:
    """One error with the first problems and the count of all, `num_hidden` of them not listed."""
    lines = [printable(problem) for problem in problems[:NUM_SHOWN]]
    num_problems = len(problems) + num_hidden
    if num_problems > len(lines):
        lines.append(f"... and {num_problems - len(lines)} more")
    count = "" if num_problems == 1 else f"{num_problems} problems:\n  "
    return ConfigError(
        f"configuration: {count}" + "\n  ".join(lines),
        fix="ensweep config show RECIPE lists every key and its value",
    )


def _describe(detail: Any, origin: Mapping[str, str]) -> str:
    """One pydantic error: the key, the problem, the value and its origin."""
    key = ".".join(str(part) for part in detail["loc"])
    source = _source(key, origin)
    if detail["type"] == "extra_forbidden":
        return f"{_short(key)}: no such key{nearest_key(key)}{source}"
    message = _short(detail["msg"].removeprefix("Value error, "))
    value = _short(repr(detail["input"]))
    return f"{_short(key)}: {message[0].lower()}{message[1:]}, got {value}{source}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _sources(problem: str, origin: Mapping[str, str]) -> str:
    """The origins of the keys that a contradiction names, each once."""
    words = problem.replace(",", " ").replace(":", " ").replace("=", " ").split()
    return "".join(dict.fromkeys(_source(word, origin) for word in words if word in origin))


def _source(key: str, origin: Mapping[str, str]) -> str:
    """` (command line)`: the origin of a key, else of its nearest parent, else of a key below."""
    parts = key.split(".")
    parents = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    below = (name for name in origin if name.startswith(f"{key}."))
    nearest = next((name for name in (*parents, *below) if name in origin), None)
    return "" if nearest is None else f" ({origin[nearest]})"
