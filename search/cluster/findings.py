"""Findings of the checks of cluster files: errors and warnings with their place; JSON Schemas.

The schemas are in JSON files in this folder: `kuberay.json` has the part of KubeRay's custom
resource definition that a sweep uses; `aws.json` the keys of EC2 and of Ray's AWS provider.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import did_you_mean

_PLACEHOLDER = "REPLACE"


@dataclass(frozen=True)
class Finding:
    """An error or a warning about a cluster file."""

    is_error: bool  # else a warning
    place: str  # dotted key
    problem: str


def error(place: str, problem: str) -> Finding:
    """Return an error, which must be corrected before any machine is started."""
    return Finding(True, place, problem)


def note(place: str, problem: str) -> Finding:
    """Return a warning."""
    return Finding(False, place, problem)


def errors_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return each finding once, errors before warnings."""
    return sorted(dict.fromkeys(findings), key=lambda finding: not finding.is_error)


def refuse(path: Path, findings: Iterable[Finding]) -> None:
    """Raise ConfigError if any finding is an error."""
    count = sum(finding.is_error for finding in findings)
    if count:
        raise ConfigError(f"{path}: {count} error(s) to fix before starting a machine")


def facts(name: str) -> dict[str, Any]:
    """Return the content of the data file `name`: schemas and facts about machines."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))
    return content


def validate(schema: Mapping[str, Any], value: Any, place: str, why: str) -> Iterator[Finding]:
    """Yield an error for each violation of the JSON Schema; for a misspelt key with the nearest
    known one.

    Args:
        why: end of the message about an unknown key: how it would be treated.
    """
    for fault in Draft202012Validator(schema).iter_errors(value):
        where = ".".join([place, *_names(value, fault.absolute_path)])
        if fault.validator != "additionalProperties":
            yield error(where, fault.message[:200])
            continue
        known, patterns = fault.schema["properties"], fault.schema.get("patternProperties", ())
        for key in map(str, fault.instance):
            if key not in known and not any(re.search(pattern, key) for pattern in patterns):
                yield error(f"{where}.{key}", f"no such key{did_you_mean(key, known)}{why}")


def _names(value: Any, path: Iterable[str | int]) -> Iterator[str]:
    """Yield the parts of a path, with the name of a worker group in place of its index."""
    for part in path:
        value = value[part]
        yield str(mapping(value).get("groupName", part) if isinstance(part, int) else part)


def placeholders(value: Any, place: str = "") -> Iterator[Finding]:
    """Yield a warning for each text that still contains REPLACE."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from placeholders(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from placeholders(item, place)
    elif isinstance(value, str) and _PLACEHOLDER in value:
        yield note(place, f"is still to be filled in: {value.strip()[:80]}")


def mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one: the file may have any structure."""
    return value if isinstance(value, dict) else {}


def strings(value: Any) -> list[str]:
    """Return the entries of a list as strings; [] for anything else."""
    return [str(entry) for entry in value] if isinstance(value, list) else []


def pinned_ray(path: Path) -> str:
    """Return Ray's version in `constraints.txt` beside the file or its folder, else the installed
    one."""
    beside = [folder / "constraints.txt" for folder in (path.parent, path.absolute().parent.parent)]
    for constraints in filter(Path.is_file, beside):
        pinned = re.search(r"^ray==(\S+)$", constraints.read_text(encoding="utf-8"), re.MULTILINE)
        if pinned is not None:
            return pinned[1]
    return version("ray")
