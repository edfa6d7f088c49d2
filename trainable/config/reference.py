"""Every setting with its meaning, range and default, read from the configuration classes."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from mlflow_setup.text import nearest_first

_FIRST = ("optim.", "train.", "model.", "batching.")
"""Sections whose settings come first among several with the same last name."""
NAME = "<name>"
"""Placeholder for a user-defined name in a key: `tasks.<name>.kind`."""


@dataclass(frozen=True)
class Setting:
    """One setting."""

    key: str
    meaning: str  # the docstring of its field
    range: str  # `number above 0 and below 1`
    default: Any  # a JSON value; None: null, or the field is required
    section: str  # the summary line of its section's docstring


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """The settings of a section and its subsections, in the order of their declaration."""
    section = inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    meanings = _docstrings(model)
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if (subsection := _section(field.annotation)) is not None:
            yield from settings_of(subsection, f"{key}.")
            continue
        yield Setting(key, meanings.get(name, ""), _range(field), _default(field), section)
        for kind in get_args(field.annotation):
            if (subsection := _section(kind)) is not None:
                yield from settings_of(subsection, f"{key}.{NAME}.")


def matching_settings(name: str, settings: Iterable[Setting]) -> list[Setting]:
    """The settings that `name` may mean: the one with that key, else those of that section, else
    those whose key ends in it, else those with it as a word of the key's last part. Case and
    leading dashes are ignored: `lr`, `Lr` and `--lr` are the same."""
    known = list(settings)
    query = name.lstrip("-").replace("-", "_").lower()
    for matches_query in (  # strictest first
        lambda key: key == query,
        lambda key: key.startswith(f"{query}."),
        lambda key: key.endswith(f".{query}"),
        lambda key: query in key.rpartition(".")[2].split("_"),
    ):
        if matches := [setting for setting in known if matches_query(setting.key.lower())]:
            return sorted(matches, key=lambda setting: not setting.key.startswith(_FIRST))
    return []


def nearest_keys(name: str, settings: Iterable[Setting]) -> list[str]:
    """All keys, sorted by how similar they are to `name`; by their last part if it has no dot."""
    keys = [setting.key for setting in settings]
    if "." in name:
        return nearest_first(name, keys)
    leaves = {key: key.rpartition(".")[2] for key in keys}
    by_leaf = nearest_first(name, dict.fromkeys(leaves.values()))
    return sorted(keys, key=lambda key: by_leaf.index(leaves[key]))


def _section(kind: Any) -> type[BaseModel] | None:
    is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
    return kind if is_section else None


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the docstring below it, for the fields of a class and its base classes."""
    docstrings: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        if not (issubclass(parent, BaseModel) and parent is not BaseModel):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(parent))).body
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        docstrings[node.target.id] = re.sub(
                            r"\bNone\b", "null", " ".join(text.split())
                        )
    return docstrings


def _default(field: FieldInfo) -> Any:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    return json.loads(TypeAdapter(Any).dump_json(value))


def _range(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if field.metadata:
        kind = Annotated[(kind, *field.metadata)]
    schema = TypeAdapter(kind).json_schema()
    return _describe(schema, schema.get("$defs", {}))


def _describe(schema: dict[str, Any], defined: dict[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "$ref" in schema:
        return _describe(defined[schema["$ref"].rpartition("/")[2]], defined)
    if "anyOf" in schema:
        return " or ".join(_describe(each, defined) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    if kind == "array":
        return _list(schema, defined)
    if kind == "object":
        values = schema.get("additionalProperties")
        if not isinstance(values, dict):
            return "mapping"
        return f"name -> {_describe(values, defined)}"
    names = {"integer": "whole number", "boolean": "true | false", "string": "text"}
    return f"{names.get(str(kind), str(kind))}{_bounds(schema)}"


def _list(schema: dict[str, Any], defined: dict[str, Any]) -> str:
    items = schema.get("items", {})
    least, most = schema.get("minItems"), schema.get("maxItems")
    count = "" if least is None and most is None else f", {least or 0} or more"
    if most is not None:
        count = f", {least or 0} to {most}"
    return f"list of {_describe(items, defined) if items else 'values'}{count}"


def _bounds(schema: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    bounds = [f"{word} {schema[key]:,.10g}" for key, word in words.items() if key in schema]
    return f" {' and '.join(bounds)}" if bounds else ""
