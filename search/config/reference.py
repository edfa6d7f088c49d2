"""Every setting of a trial and of a sweep, and those that a name may mean."""

from mlflow_setup.errors import ConfigError
from search.config.sweep_config import SECTIONS, SweepConfig
from trainable.config.config import Config
from trainable.config.reference import Setting, named, nearest_keys, settings_of


def every_setting() -> list[Setting]:
    """All settings: those of a trial, then those of a sweep."""
    of_sweep = [s for name, model in SECTIONS.items() for s in settings_of(model, f"{name}.")]
    alone = [s for s in settings_of(SweepConfig) if s.key == "keep_pruned_top"]
    return [*settings_of(Config), *of_sweep, *alone]


def find_settings(key: str) -> list[Setting]:
    """The settings that the key may mean.

    Raises:
        ConfigError: there is none; the message has the nearest ones.
    """
    known = every_setting()
    matches = named(key, known)
    if not matches:
        nearest = ", ".join(nearest_keys(key, known)[:8])
        raise ConfigError(
            f"no setting {key!r}; the nearest: {nearest}", fix="ensweep settings lists all"
        )
    return matches
