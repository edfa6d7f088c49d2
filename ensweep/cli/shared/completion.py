"""Shell completion of recipes, sweeps, runs and settings.

Errors are suppressed: completion then offers nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import typer

Completions = list[tuple[str, str]]
"""Names, each with its description."""


def _matching(names: Callable[[], Iterator[tuple[str, str]]], incomplete: str) -> Completions:
    with suppress(Exception):
        return [(name, about) for name, about in names() if name.startswith(incomplete)]
    return []


def recipes(incomplete: str) -> Completions:
    """The packaged recipes; the shell itself completes file names."""

    def names() -> Iterator[tuple[str, str]]:
        from trainable.config.recipe import RECIPES

        return iter(RECIPES.descriptions().items())

    return _matching(names, incomplete)


def packaged_sweeps(incomplete: str) -> Completions:
    """The packaged sweeps."""

    def names() -> Iterator[tuple[str, str]]:
        from search.config.load import SWEEPS

        return iter(SWEEPS.descriptions().items())

    return _matching(names, incomplete)


def settings(incomplete: str) -> Completions:
    """All settings as `optim.lr=`, with their meanings."""

    def names() -> Iterator[tuple[str, str]]:
        from search.config.reference import every_setting

        return ((f"{each.key}=", each.meaning) for each in every_setting())

    return _matching(names, incomplete)


def setting_keys(incomplete: str) -> Completions:
    """All settings as `optim.lr`, with their meanings."""
    return [(name.rstrip("="), about) for name, about in settings(incomplete)]


def sweeps_here(context: typer.Context, incomplete: str) -> Completions:
    """The sweeps in the storage folder, the latest first."""

    def names() -> Iterator[tuple[str, str]]:
        from search.storage.sweep_folder import sweep_names

        return ((name, "") for name in sweep_names(_storage(context)))

    return _matching(names, incomplete)


def runs_here(context: typer.Context, incomplete: str) -> Completions:
    """`TASK=RUN`: the trials in the storage folder, appended to what is typed already."""
    typed, mark, last = incomplete.rpartition("," if "," in incomplete else "=")

    def names() -> Iterator[tuple[str, str]]:
        from search.storage.sweep_folder import SweepFolder, sweep_names

        storage = _storage(context)
        for sweep in sweep_names(storage):
            for trial in SweepFolder(storage, sweep).trial_folders():
                yield f"{typed}{mark}{trial.path.name}", sweep

    return _matching(names, f"{typed}{mark}{last}") if mark else []


def _storage(context: typer.Context) -> Path:
    """The storage folder; raises ConfigError for an object store, which is too slow to query."""
    from mlflow_setup.filesystem.paths import refuse_uri

    given = context.params.get("storage") or os.environ.get("ENSWEEP_STORAGE") or "runs"
    refuse_uri(Path(given), "--storage")
    return Path(given)
