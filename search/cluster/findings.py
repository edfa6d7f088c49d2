"""What is found in a cluster file: errors and notes by their place, keys held against a schema.

The schemas are data beside this file. `kuberay.json` has the part of KubeRay's custom resource
definition that a sweep's file uses; `aws.json` what EC2 and Ray's AWS provider take.
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
    """Something about a cluster file."""

    is_error: bool  # else a warning
    place: str  # dotted
    problem: str


def error(place: str, problem: str) -> Finding:
    """What has to be mended before a machine is started."""
    return Finding(True, place, problem)


def note(place: str, problem: str) -> Finding:
    """A warning."""
    return Finding(False, place, problem)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, errors first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: not finding.is_error)


def refuse(path: Path, findings: Iterable[Finding]) -> None:
    """Raises ConfigError when any finding is an error."""
    count = sum(finding.is_error for finding in findings)
    if count:
        raise ConfigError(f"{path}: {count} thing(s) to mend before a machine is started")


def facts(name: str) -> dict[str, Any]:
    """The data file `name`: schemas, and what else can be known without asking anybody."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))
    return content


def against(schema: Mapping[str, Any], value: Any, place: str, why: str) -> Iterator[Finding]:
    """What of `value` the JSON Schema does not take; misspelt keys with the nearest known one.

    Args:
        why: what becomes of a key that is not known.
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
    """The parts of a path; groups of workers by their name, not their number."""
    for part in path:
        value = value[part]
        yield str(mapping(value).get("groupName", part) if isinstance(part, int) else part)


def to_be_filled_in(value: Any, place: str = "") -> Iterator[Finding]:
    """A note for each text that still says REPLACE."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from to_be_filled_in(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from to_be_filled_in(item, place)
    elif isinstance(value, str) and _PLACEHOLDER in value:
        yield note(place, f"is still to be filled in: {value.strip()[:80]}")


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one: the file may be of any form."""
    return value if isinstance(value, dict) else {}


def strings(value: Any) -> list[str]:
    """The entries of a list; [] in the place of anything else."""
    return [str(entry) for entry in value] if isinstance(value, list) else []


def pinned_ray(path: Path) -> str:
    """Ray's version in the `constraints.txt` beside the file or its folder, else as installed."""
    beside = [folder / "constraints.txt" for folder in (path.parent, path.absolute().parent.parent)]
    for constraints in filter(Path.is_file, beside):
        pinned = re.search(r"^ray==(\S+)$", constraints.read_text(encoding="utf-8"), re.MULTILINE)
        if pinned is not None:
            return pinned[1]
    return version("ray")
