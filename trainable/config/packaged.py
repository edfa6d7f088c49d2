"""The package's own YAML files, found by name (recipes, sweeps, studies); others by path."""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import there_are
from trainable.config.strict_yaml import is_settings_file, read_settings


@dataclass(frozen=True)
class Packaged:
    """The YAML files of one folder; the `ensweep` command of the folder's name lists them."""

    folder: Path
    noun: str  # what one file is called in messages

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def descriptions(self) -> dict[str, str]:
        """Name -> description of each file."""
        return {name: str(self.read(name).get("description", "")) for name in self.names()}

    def path(self, name_or_file: str) -> Path:
        """The path of the file with that name; a path of a settings file is returned as given.

        Raises:
            ConfigError: neither the path of a settings file nor a known name.
        """
        if is_settings_file(Path(name_or_file)):
            return Path(name_or_file)
        names = self.names()
        if name_or_file not in names:
            raise ConfigError(
                f"no {self.noun} {name_or_file!r}{there_are(name_or_file, names)}",
                fix=f"ensweep {self.folder.name} lists them",
            )
        return self.folder / f"{name_or_file}.yaml"

    def read(self, name_or_file: str) -> dict[str, Any]:
        """The settings in the file; packaged files are parsed once.

        Raises:
            ConfigError: as `path` and `read_settings`.
        """
        path = self.path(name_or_file)
        return deepcopy(_parsed(path)) if path.parent == self.folder else read_settings(path)

    def text(self, name: str) -> str:
        """The content of the file with that name.

        Raises:
            ConfigError: as `path`.
        """
        return self.path(name).read_text(encoding="utf-8")


@cache
def _parsed(path: Path) -> dict[str, Any]:
    return read_settings(path)
