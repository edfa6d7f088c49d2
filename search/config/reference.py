"""The list of all settings of trials and sweeps, and lookup by name."""

from mlflow_setup.errors import ConfigError
from search.config.sweep_config import SECTIONS, SweepConfig
from trainable.config.config import Config
from trainable.config.reference import Setting, matching_settings, nearest_keys, settings_of


def every_setting() -> list[Setting]:
    """Return all settings: those of a trial, then those of a sweep."""
    of_sections = [s for name, model in SECTIONS.items() for s in settings_of(model, f"{name}.")]
    of_sweep = [s for s in settings_of(SweepConfig) if s.key == "keep_pruned_top"]
    return [*settings_of(Config), *of_sections, *of_sweep]


def find_settings(key: str) -> list[Setting]:
    """Return the settings that a key may mean.

    Raises:
        ConfigError: there is none; the message lists the nearest ones.
    """
    known = every_setting()
    matches = matching_settings(key, known)
    if not matches:
        nearest = ", ".join(nearest_keys(key, known)[:8])
        raise ConfigError(
            f"no setting {key!r}; the nearest: {nearest}", fix="ensweep settings lists all"
        )
    return matches
