"""Paths in settings: made absolute, and updated after the storage folder was renamed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_setup.uris import is_uri
from trainable.data.remote import PACKAGED

_BUNDLE = "bundle:"


def with_absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with absolute paths of local folders: trials, and drivers that resume the
    sweep, may have other working directories."""
    changed = dict(settings)
    data, encoder = settings.get("data.dir"), settings.get("model.encoder")
    if isinstance(data, str) and data and not is_uri(data):
        changed["data.dir"] = str(Path(data).resolve())
    if isinstance(encoder, str) and encoder not in PACKAGED and Path(encoder).is_dir():
        changed["model.encoder"] = str(Path(encoder).resolve())
    teacher = settings.get("distill.teacher")
    if isinstance(teacher, str) and teacher.startswith(_BUNDLE):
        changed["distill.teacher"] = _BUNDLE + str(Path(teacher.removeprefix(_BUNDLE)).resolve())
    return changed


def relocated(settings: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """Return the settings with paths below the folder `old` changed to paths below `new`."""
    return {key: _relocate(value, old, new) for key, value in settings.items()}


def _relocate(value: Any, old: Path, new: Path) -> Any:
    if not isinstance(value, str):
        return value
    scheme = _BUNDLE if value.startswith(_BUNDLE) else ""
    path = Path(value.removeprefix(scheme))
    return f"{scheme}{new / path.relative_to(old)}" if path.is_relative_to(old) else value
