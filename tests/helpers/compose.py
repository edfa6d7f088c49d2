"""`deploy/compose.yaml`, read as docker compose does."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^}]*))?\}")
"""`${NAME}`, `${NAME:-default}`, `${NAME:?what is missing}`."""
HOST = "tracking.example"
GIVEN = {
    "TRACKING_HOST": HOST,
    "ADMIN_PASSWORD": "canary-of-the-admin",
    "DATABASE_PASSWORD": "canary-of-the-database",
    "STORE_USER": "canary-of-the-store",
    "STORE_PASSWORD": "canary-of-the-store's-key",
    "SESSION_KEY": "canary-of-the-session",
}


@cache
def written() -> dict[str, Any]:
    """The file as it stands."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def interpolated(given: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables.

    Raises:
        KeyError: one that is needed is not given.
    """

    def value(match: re.Match[str]) -> str:
        name, how, rest = match.group("name", "how", "rest")
        return given.get(name) or (rest if how == "-" else given[name])

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(each) for key, each in node.items()}
        if isinstance(node, list):
            return [fill(each) for each in node]
        return VARIABLE.sub(value, node) if isinstance(node, str) else node

    filled: dict[str, Any] = fill(written())
    return filled
