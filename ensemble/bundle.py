"""The exported folder: what is in it, and the proof that it is what was written.

    ensemble.json        tasks with their members and weights; members with their configuration
    members/<member>/    model.safetensors, once for each distinct (run, epoch)
    encoders/<k>/        encoder configuration and tokenizer, shared by members that have the same
    README.md            model card
    manifest.json        size and SHA-256 of every file, written last

Nothing of a bundle is read before all of it has been verified, and nothing is unpickled.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mlflow_setup.errors import IntegrityError
from mlflow_setup.files import find_damage, inside
from trainable.config import Config, from_flat
from trainable.tasks import Task

VERSION = 1
ENSEMBLE, CARD, MEMBERS, ENCODERS = "ensemble.json", "README.md", "members", "encoders"
FACTS = {"format": "ensweep-bundle", "version": VERSION}
"""What the manifest of a bundle says beside its files."""


class Share(BaseModel):
    """A member and its weight for one task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    member: str
    weight: float


class TaskEntry(BaseModel):
    """A task of the bundle: who answers, and what that was worth when it was chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    members: tuple[Share, ...]
    scores: dict[str, dict[str, float | None]]  # method -> {dev_train, dev_dev}


class MemberEntry(BaseModel):
    """One epoch of one run, and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    sweep: str | None
    trial: str
    epoch: int
    encoder: str  # folder below encoders/
    config: dict[str, Any]  # dotted name -> JSON value


class Contents(BaseModel):
    """`ensemble.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    tasks: dict[str, TaskEntry]
    members: dict[str, MemberEntry]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    folder: Path
    contents: Contents

    @classmethod
    def load(cls, folder: Path) -> "Bundle":
        """Verify and read a bundle.

        Raises:
            IntegrityError: it is not whole, was changed, or names what it does not hold.
        """
        verify(folder)
        path = folder / ENSEMBLE
        try:
            contents = Contents.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise IntegrityError(f"{path}: not a bundle's contents: {reason}") from None
        bundle = cls(folder, contents)
        bundle._check()
        return bundle

    def weights_dir(self, member: str) -> Path:
        return inside(self.folder, f"{MEMBERS}/{member}")

    def encoder_dir(self, member: str) -> Path:
        return inside(self.folder, f"{ENCODERS}/{self.contents.members[member].encoder}")

    def config(self, member: str) -> Config:
        return from_flat(self.contents.members[member].config)

    def _check(self) -> None:
        path, contents = self.folder / ENSEMBLE, self.contents
        if contents.version != VERSION:
            raise IntegrityError(f"{path}: version {contents.version}, this reads {VERSION}")
        for name, entry in contents.tasks.items():
            unknown = [
                share.member for share in entry.members if share.member not in contents.members
            ]
            if unknown or not entry.members:
                raise IntegrityError(f"{path}: task {name} has no member {', '.join(unknown)}")
            if abs(sum(share.weight for share in entry.members) - 1) > 1e-6:
                raise IntegrityError(f"{path}: the weights of task {name} do not sum to 1")
        for member in contents.members:
            for folder in (self.weights_dir(member), self.encoder_dir(member)):
                if not folder.is_dir():
                    raise IntegrityError(f"{path}: member {member}: {folder} is missing")


def verify(folder: Path) -> None:
    """Prove that a bundle holds exactly the files of its manifest, unchanged.

    Raises:
        IntegrityError: naming what is missing, extra or changed.
    """
    damage = find_damage(folder, FACTS) if folder.is_dir() else "there is no such folder"
    if damage is not None:
        raise IntegrityError(
            f"{folder}: not a whole bundle: {damage}",
            fix="export it again, or take an unchanged copy",
        )


def to_json(contents: Contents) -> str:
    """The text of `ensemble.json`."""
    return json.dumps(contents.model_dump(mode="json"), indent=1, sort_keys=True)
