"""The package's own YAML files, found by name (recipes, sweeps, studies); others by path."""

from dataclasses import dataclass
from pathlib import Path

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import there_are
from trainable.config.strict_yaml import is_settings_file


@dataclass(frozen=True)
class Packaged:
    """The YAML files of one folder; the `ensweep` command of the folder's name lists them."""

    folder: Path
    noun: str  # what one file is called in messages

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

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

    def text(self, name: str) -> str:
        """The content of the file with that name.

        Raises:
            ConfigError: as `path`.
        """
        return self.path(name).read_text(encoding="utf-8")
