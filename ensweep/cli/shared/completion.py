"""What a shell offers where a name of ours goes: recipes, sweeps, runs, settings.

What goes wrong here is not for a user who has only pressed a key: nothing is offered then.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import typer

Offers = list[tuple[str, str]]
"""A name, and what it is."""


def _offers(names: Callable[[], Iterator[tuple[str, str]]], incomplete: str) -> Offers:
    with suppress(Exception):
        return [(name, about) for name, about in names() if name.startswith(incomplete)]
    return []


def recipes(incomplete: str) -> Offers:
    """The packaged recipes; a shell offers files itself."""

    def names() -> Iterator[tuple[str, str]]:
        from trainable.config.recipe import RECIPES, read_recipe

        return ((name, read_recipe(name).description) for name in RECIPES.names())

    return _offers(names, incomplete)


def packaged_sweeps(incomplete: str) -> Offers:
    """The packaged sweeps."""

    def names() -> Iterator[tuple[str, str]]:
        from search.config.load import SWEEPS
        from trainable.config.strict_yaml import read_settings

        files = ((name, read_settings(SWEEPS.path(name))) for name in SWEEPS.names())
        return ((name, str(content.get("description", ""))) for name, content in files)

    return _offers(names, incomplete)


def settings(incomplete: str) -> Offers:
    """`optim.lr=`, with its meaning."""

    def names() -> Iterator[tuple[str, str]]:
        from search.config.reference import every_setting

        return ((f"{each.key}=", each.meaning) for each in every_setting())

    return _offers(names, incomplete)


def setting_keys(incomplete: str) -> Offers:
    """`optim.lr`, with its meaning."""
    return [(name.rstrip("="), about) for name, about in settings(incomplete)]


def sweeps_here(context: typer.Context, incomplete: str) -> Offers:
    """The sweeps in the storage folder, the one that began last first."""

    def names() -> Iterator[tuple[str, str]]:
        from search.storage.sweep_folder import sweep_names

        return ((name, "") for name in sweep_names(_storage(context)))

    return _offers(names, incomplete)


def runs_here(context: typer.Context, incomplete: str) -> Offers:
    """`TASK=RUN`: the trials in the storage folder, behind what is typed already."""
    typed, mark, last = incomplete.rpartition("," if "," in incomplete else "=")

    def names() -> Iterator[tuple[str, str]]:
        from search.storage.sweep_folder import SweepFolder, sweep_names

        storage = _storage(context)
        for sweep in sweep_names(storage):
            for trial in SweepFolder(storage, sweep).trial_folders():
                yield f"{typed}{mark}{trial.path.name}", sweep

    return _offers(names, f"{typed}{mark}{last}") if mark else []


def _storage(context: typer.Context) -> Path:
    """The storage folder; raises ConfigError for an object store, which is not asked at a key."""
    from mlflow_setup.filesystem.paths import refuse_uri

    given = context.params.get("storage") or os.environ.get("ENSWEEP_STORAGE") or "runs"
    refuse_uri(Path(given), "--storage")
    return Path(given)
