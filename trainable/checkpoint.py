"""Resumable checkpoints: whole generations with a SHA-256 manifest written last.

A crash at any write leaves the old or the new generation, never a mixture. A damaged generation is
put aside, not deleted, and the one before it is loaded. Nothing is unpickled.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from mlflow_setup.files import (
    atomic_folder,
    remove_leftovers,
    sha256_file,
    sync_folder,
    write_atomic,
)

STATE, MANIFEST, QUARANTINE = "state.pt", "manifest.json", "quarantine"
NUM_KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write generation `step` of plain values and tensors; keeps the newest two.

    A generation of the same step is the same state and is left as it is.
    """
    generation = folder / f"{step:010d}"
    if not generation.exists():
        with atomic_folder(generation) as temporary:
            torch.save(state, temporary / STATE)
            write_manifest(temporary, {"step": step})
    for old in _generations(folder)[NUM_KEPT:]:
        shutil.rmtree(old)


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest generation that is whole, and its step; None when there is none."""
    if not folder.is_dir():
        return None
    remove_leftovers(folder)
    for generation in _generations(folder):
        step = int(generation.name)
        if is_whole(generation, {"step": step}):
            state = torch.load(generation / STATE, weights_only=True, map_location="cpu")
            return step, state
        _put_aside(generation)
    return None


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """`manifest.json`: size and SHA-256 of each file that lies in `folder`, and `facts`."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
    }
    write_atomic(folder / MANIFEST, json.dumps({**facts, "files": files}, indent=1))


def is_whole(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether the manifest has these facts and exactly the files that are there, unchanged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest.pop("files")
        present = {path.name for path in folder.iterdir()} - {MANIFEST}
        return bool(
            manifest == facts
            and present == set(files)
            and all(_is_as_listed(folder / name, listed) for name, listed in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_as_listed(path: Path, listed: dict[str, Any]) -> bool:
    is_plain = path.is_file() and not path.is_symlink()
    return (
        is_plain and path.stat().st_size == listed["size"] and sha256_file(path) == listed["sha256"]
    )


def _generations(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _put_aside(generation: Path) -> None:
    quarantine = generation.parent / QUARANTINE
    quarantine.mkdir(exist_ok=True)
    number = sum(1 for _ in quarantine.iterdir())
    generation.rename(quarantine / f"{generation.name}-{number}")
    sync_folder(generation.parent)
