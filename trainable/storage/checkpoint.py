"""Resumable checkpoints: whole generations with a SHA-256 manifest written last.

A crash at any write leaves the old or the new generation, never a mixture. A damaged generation is
put aside, not deleted, and the one before it is loaded. Nothing is unpickled.
"""

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.atomic import (
    atomic_folder,
    remove_folder,
    sync_folder,
)
from mlflow_setup.filesystem.manifest import find_damage, write_manifest
from mlflow_setup.filesystem.storage import remove_leftovers, storage_of
from mlflow_setup.text import first_line
from trainable.storage.layout import QUARANTINE

STATE = "state.pt"
NUM_KEPT = 2

_logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write generation `step` of plain values and tensors; keeps the newest two.

    A generation of the same step is the same state and is left as it is.
    """
    generation = folder / f"{step:08d}"
    if not generation.exists():
        with atomic_folder(generation) as temporary:
            with (temporary / STATE).open("wb") as stream:  # by name, torch hides what went wrong
                torch.save(state, stream)
            write_manifest(temporary, {"step": step})
    for old in _generations(folder)[NUM_KEPT:]:
        remove_folder(old)


def load_newest(
    folder: Path, fits: Callable[[dict[str, Any]], bool] = lambda state: True
) -> tuple[int, dict[str, Any]] | None:
    """The newest generation that is whole, and its step; None when there is none.

    Damaged ones are moved to `quarantine/`, with a warning; leftovers of a crash are removed.

    Args:
        fits: whether a state goes with what else is on disk; newer ones that do not are removed.

    Raises:
        StorageError: an object store cannot be read now.
        IntegrityError: a generation cannot be read now, which is no damage, or is as it was written
            and yet not plain values and tensors.
    """
    if not folder.is_dir():
        return None
    remove_leftovers(folder)
    for generation in _generations(folder):
        storage_of(generation).fetch(generation)
        damage = _damage(generation)
        if damage is not None:
            aside = _put_aside(generation)
            _logger.warning("checkpoint %s is damaged, now %s: %s", generation, aside, damage)
            continue
        state = _load(generation / STATE)
        if fits(state):
            return int(generation.name), state
        _logger.warning("checkpoint %s is of other records or another encoder: removed", generation)
        remove_folder(generation)
    return None


def _load(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch's own error class is that of a module banned here
        reason = first_line(error)
        raise IntegrityError(
            f"{path}: not a checkpoint of plain values and tensors: {reason}",
            fix=f"remove {path.parent} to go on from the checkpoint before it",
        ) from error
    return state


def _damage(generation: Path) -> str | None:
    if generation.is_symlink() or not (generation / STATE).is_file():
        return f"{STATE} is missing"
    return find_damage(generation, {"step": int(generation.name)})


def _generations(folder: Path) -> list[Path]:
    """Newest first."""
    generations = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(generations, key=lambda path: int(path.name), reverse=True)


def _put_aside(generation: Path) -> Path:
    quarantine = generation.parent / QUARANTINE
    quarantine.mkdir(exist_ok=True)
    places = (quarantine / f"{generation.name}-{number}" for number in itertools.count())
    place = next(place for place in places if not place.exists())
    generation.rename(place)
    for folder in (quarantine, generation.parent):
        sync_folder(folder)
    storage_of(place).publish(place)
    storage_of(generation).withdraw(generation)
    return place
