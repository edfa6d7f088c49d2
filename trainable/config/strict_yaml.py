"""A strict, safe YAML reader for settings: the YAML 1.2 core schema.

`1e-5` is a number, `on`, `off`, `yes` and `no` are text, and a duplicate key is an error. Tags,
anchors and files over 1 MB are refused, so that a settings file can neither execute code nor
exhaust memory.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import near_file
from mlflow_setup.text import first_line, is_text, printable

MAX_BYTES = 1_000_000
MAX_DEPTH = 20


def is_settings_file(path: Path) -> bool:
    """Whether the path ends in .yaml or .yml; else it is the name of a packaged file."""
    return path.suffix.lower() in (".yaml", ".yml")


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; {} for an empty file.

    Raises:
        ConfigError: unreadable, too large, not UTF-8, not valid strict YAML, or not a mapping.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file{near_file(path)}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{printable(str(path))}: cannot be read: {first_line(error)}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: settings files have at most {MAX_BYTES:,} bytes")
    content = parse(text, where=str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(content).__name__}")
    return content


def parse(text: str, where: str) -> Any:
    """Parse one YAML document. `where` names its source in errors.

    Raises:
        ConfigError: not valid strict YAML; with line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise ConfigError(f"{place}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors and aliases are not allowed in settings; write the value out"
            raise _refused(problem, event)
        if getattr(event, "tag", None):
            raise _refused(f"tag {event.tag[:80]!r} is not allowed in settings", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refused(f"settings are nested at most {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if "\0" in node.value or not is_text(node.value):
            raise _refused("NUL and halves of surrogate pairs are not text", node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be plain text", key)
            if key.value in seen:
                raise _refused(f"key {key.value[:80]!r} is given twice", key)
            seen.add(key.value)
        return {
            str(key.value): self.construct_object(value, deep=True) for key, value in node.value
        }


def _refused(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])
for _tag, _construct in (
    ("map", lambda loader, node: loader.construct_mapping(node, deep=True)),
    ("int", lambda loader, node: int(node.value)),
    ("float", lambda loader, node: float(node.value)),
):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
