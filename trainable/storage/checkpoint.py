"""Resumable checkpoints: numbered generations, each with a SHA-256 manifest that is written last.

A crash at any time leaves the old or the new generation, never a mixture. A damaged generation is
moved aside, not deleted, and the previous one is loaded. Nothing is unpickled.
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
    """Write plain values and tensors as generation `step`, and keep the newest two generations.

    An existing generation of the same step has the same state and is not changed.
    """
    generation = folder / f"{step:08d}"
    if not generation.exists():
        with atomic_folder(generation) as temporary:
            with (temporary / STATE).open("wb") as stream:  # with a path, torch hides the OSError
                torch.save(state, stream)
            write_manifest(temporary, {"step": step})
    for old in _generations(folder)[NUM_KEPT:]:
        remove_folder(old)


def load_newest(
    folder: Path, is_usable: Callable[[dict[str, Any]], bool] = lambda state: True
) -> tuple[int, dict[str, Any]] | None:
    """The step and state of the newest undamaged generation; None: there is none.

    Damaged generations are moved to `quarantine/`, with a warning. Crash leftovers are removed.

    Args:
        is_usable: whether a state matches the other files on disk; newer generations that do not
            match are removed.

    Raises:
        StorageError: an object store cannot be read now.
        IntegrityError: a generation cannot be read now, or is undamaged but does not consist of
            plain values and tensors.
    """
    if not folder.is_dir():
        return None
    remove_leftovers(folder)
    for generation in _generations(folder):
        storage_of(generation).fetch(generation)
        damage = _damage(generation)
        if damage is not None:
            moved = _quarantine(generation)
            _logger.warning("checkpoint %s is damaged, moved to %s: %s", generation, moved, damage)
            continue
        state = _load(generation / STATE)
        if is_usable(state):
            return int(generation.name), state
        _logger.warning(
            "checkpoint %s does not match the trial's records or encoder: removed", generation
        )
        remove_folder(generation)
    return None


def _load(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises an error of pickle, which must not be imported
        reason = first_line(error)
        raise IntegrityError(
            f"{path}: not a checkpoint of plain values and tensors: {reason}",
            fix=f"remove {path.parent} to resume from the previous checkpoint",
        ) from error
    return state


def _damage(generation: Path) -> str | None:
    if generation.is_symlink() or not (generation / STATE).is_file():
        return f"{STATE} is missing"
    return find_damage(generation, {"step": int(generation.name)})


def _generations(folder: Path) -> list[Path]:
    """All generations, newest first."""
    generations = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(generations, key=lambda path: int(path.name), reverse=True)


def _quarantine(generation: Path) -> Path:
    quarantine = generation.parent / QUARANTINE
    quarantine.mkdir(exist_ok=True)
    candidates = (quarantine / f"{generation.name}-{number}" for number in itertools.count())
    target = next(path for path in candidates if not path.exists())
    generation.rename(target)
    for folder in (quarantine, generation.parent):
        sync_folder(folder)
    storage_of(target).publish(target)
    storage_of(generation).withdraw(generation)
    return target
