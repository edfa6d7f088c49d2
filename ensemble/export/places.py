"""Removes local paths and URIs from the configuration of an exported member."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow_setup.uris import is_uri
from trainable.data.remote import PACKAGED

LOCAL = "./"
"""The prefix of a local folder's name in an exported configuration: it cannot be a hub name."""
_BUNDLE = "bundle:"


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by dotted name, with folders and URIs replaced by `./` and their last
    part, and the data folder by "". The encoder itself is in the bundle.
    """
    changed = dict(config)
    changed["data.dir"] = ""
    encoder, teacher = changed.get("model.encoder"), changed.get("distill.teacher")
    if isinstance(encoder, str) and not is_hub_name(encoder):
        changed["model.encoder"] = encoder if encoder in PACKAGED else _last(encoder)
    if isinstance(teacher, str) and teacher.startswith(_BUNDLE):
        changed["distill.teacher"] = _BUNDLE + _last(teacher.removeprefix(_BUNDLE))
    return changed


def is_hub_name(encoder: str) -> bool:
    """Whether an encoder is a hub name, `name` or `owner/name`, not a packaged encoder, a folder or
    a URI."""
    parts = encoder.split("/")
    return (
        encoder not in PACKAGED
        and len(parts) <= 2
        and all(part.strip(".") and set(part) <= _LETTERS for part in parts)
        and not Path(encoder).is_dir()
    )


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def _last(place: str) -> str:
    name = PurePosixPath(place.split("?")[0]).name if is_uri(place) else Path(place).name
    return f"{LOCAL}{name or 'encoder'}"
