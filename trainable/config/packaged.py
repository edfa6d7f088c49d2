"""YAML files that come with us, found by name: recipes, sweeps, studies; others by their path."""

from dataclasses import dataclass
from pathlib import Path

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import there_are
from trainable.config.strict_yaml import is_settings_file


@dataclass(frozen=True)
class Packaged:
    """The files of one folder, whose name is the command that lists them."""

    folder: Path
    noun: str  # of one of them

    def names(self) -> list[str]:
        """All of them, in the order of the alphabet."""
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def path(self, name_or_file: str) -> Path:
        """The file of that name, or the one that is given by its path.

        Raises:
            ConfigError: neither a settings file's path nor a known name.
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
        """The file of that name, as it is.

        Raises:
            ConfigError: as `path`.
        """
        return self.path(name).read_text(encoding="utf-8")
