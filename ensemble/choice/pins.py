"""Pins of chosen members, in the sweep's folder: `<sweep>/ensemble/<id>.json`.

`ensweep gc` keeps the weights of pinned trials. The id is a hash of the members, so that the same
choice is pinned once. To unpin members, delete the file.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from ensemble.candidates.pool import Candidate
from mlflow_setup.errors import IntegrityError, StorageError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.text import short_hash
from trainable.storage.address import trial_at

FOLDER = "ensemble"


def pin_members(members: Iterable[Candidate]) -> list[str]:
    """Pin the members in the folders of their sweeps, where these can be reached from here.

    Returns:
        The pins that could not be written, and why.
    """
    by_sweep: dict[Path, list[Candidate]] = {}
    problems = []
    for member in members:
        try:
            trial = trial_at(member.weights_uri).path
        except StorageError as error:
            problems.append(error.problem)
            continue
        folder = trial.parent.parent
        if trial.is_dir() and folder.name == member.sweep:
            by_sweep.setdefault(folder, []).append(member)
    for folder, own in by_sweep.items():
        named = sorted({(member.trial, member.epoch) for member in own})
        text = json.dumps({"members": [{"trial": t, "epoch": e} for t, e in named]}, indent=1)
        path = folder / FOLDER / f"{short_hash(text)}.json"
        try:
            if not path.exists():
                write_atomic(path, text)
        except OSError as error:
            problems.append(f"{path}: cannot be written: {error.strerror}")
    return problems


def pinned_trials(sweep: Path) -> set[str]:
    """Return the pinned trials of a sweep's folder.

    Raises:
        IntegrityError: a pin cannot be read, so which weights it keeps is not known.
    """
    trials: set[str] = set()
    for path in sorted((sweep / FOLDER).glob("*.json")):
        try:
            trials |= {str(m["trial"]) for m in json.loads(path.read_text("utf-8"))["members"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{path}: not a pin of an ensemble: {error}",
                fix="choose the ensemble again, then remove this file",
            ) from None
    return trials
