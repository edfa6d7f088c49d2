"""A configuration without the places of the machine that it was trained on."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow_setup.uris import is_uri
from trainable.data.remote import PACKAGED

LOCAL = "./"
"""Before the last part of a folder's name, which tells it from a name of the hub."""
_BUNDLE = "bundle:"


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted name; folders and URIs are `./` and their last part, the data's none.

    What is needed of the encoder is in the bundle; who has the bundle does not need the rest.
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
    """Whether an encoder is the hub's `name` or `owner/name`: no packaged one, folder or URI."""
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
