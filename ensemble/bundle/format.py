"""The format of a bundle (the folder of an exported ensemble) and its verification.

    README.md            model card, with the hub's metadata in front
    config.json          configuration of the main encoder: the one with the largest total weight
    model.safetensors    its weights, for `transformers.AutoModel`
    tokenizer.json, ...  its tokenizer
    encoders/<k>/        the same files of each other encoder; members with equal encoders share one
    members/<member>/    model.safetensors: a member's heads, once for each distinct (run, epoch)
    ensemble.json        tasks with their members and weights; members with their configuration
    modules.json, sentence_bert_config.json, 1_Pooling/, 2_Dense/
                         the main encoder's pooling, for sentence-transformers
    pictures/*.png       the card's pictures
    wheel/*.whl          the code that wrote it, for environments without it; at most one
    manifest.json        size and SHA-256 of every file, written last

No file of a bundle is used before all of it has been verified. Nothing is unpickled, and no code in
a bundle is run unless the user installs its wheel.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ensemble.selection.combine import PAPER, Transform
from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST, find_damage, is_ignored_file, is_own_file
from mlflow_setup.filesystem.paths import inside, near_file
from mlflow_setup.schema import version_problem
from mlflow_setup.text import printable
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.tasks import Task

SCHEMA_VERSION: Literal[2] = 2
ENSEMBLE, CARD, MEMBERS, ENCODERS = "ensemble.json", "README.md", "members", "encoders"
CODE, PICTURES = "wheel", "pictures"
FACTS = {"format": "ensweep-bundle", "schema_version": SCHEMA_VERSION}
"""The fields of a bundle's manifest besides its files."""
MAIN = "."
"""The value of `MemberEntry.encoder` for the encoder in the bundle's own folder."""

WEIGHTS = "model.safetensors"
_ENCODER_SUFFIXES = (".json", ".txt", ".model")
"""Suffixes of encoder configurations and tokenizer vocabularies: data, not code."""
POOLING, DENSE = "1_Pooling", "2_Dense"
_MODULES = {f"{POOLING}/config.json", f"{DENSE}/config.json", f"{DENSE}/{WEIGHTS}"}
_PICTURE = re.compile(PICTURES + r"/[a-z0-9][a-z0-9_-]*\.png", re.ASCII)
_WHEEL = re.compile(
    CODE + r"/ensweep-[0-9][A-Za-z0-9.+_]*-[0-9]+[a-z0-9]*-py3-none-any\.whl", re.ASCII
)


Precision = Literal["fp32", "fp16", "bf16"]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Share(_Entry):
    """A member and its weight for one task."""

    member: str
    weight: Annotated[float, Field(allow_inf_nan=False)]  # not 0
    transform: Transform = PAPER  # of its outputs


class TaskEntry(_Entry):
    """A task of the bundle: its members, and their scores when they were chosen."""

    task: Task
    members: Annotated[tuple[Share, ...], Field(min_length=1)]
    scores: dict[str, dict[str, float | None]]  # method -> {held_out, in_sample}
    dev_fingerprint: str | None = None  # of the examples that members were chosen on
    intercept: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    """The intercepts (one per class, or one) of a linear model of the members' log-odds or scores,
    whose weights may have any sign and sum. None: an average, with weights above 0 and sum 1."""


class MemberEntry(_Entry):
    """One epoch of one run, and its origin."""

    run_id: str
    sweep: str | None
    trial: str
    epoch: int
    encoder: str  # folder below encoders/, or MAIN
    config: dict[str, Any]  # dotted name -> JSON value
    encoder_revision: str | None = None  # the commit on the hub that the encoder was loaded from


class Halved(_Entry):
    """The change in a task's score from storing weights in half precision."""

    fp32: float  # the metric on dev with the weights as trained
    stored: float  # the metric on dev with the stored weights
    num_rows: int


class Distilled(_Entry):
    """The scores on dev of an ensemble and of the student distilled from it."""

    ensemble: float
    student: float
    low: float  # of student minus ensemble: 95 % interval of a paired bootstrap over the rows
    high: float
    num_rows: int


class Contents(_Entry):
    """The content of `ensemble.json`."""

    schema_version: Literal[2]
    tasks: Annotated[dict[str, TaskEntry], Field(min_length=1)]
    members: dict[str, MemberEntry]
    precision: Precision = "fp32"  # of the stored weights; they are loaded as float32
    halved: dict[str, Halved] = {}  # task -> change in score; empty for fp32
    distilled: dict[str, Distilled] = {}  # task -> scores; empty unless compressed

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    folder: Path
    contents: Contents

    @classmethod
    def load(cls, folder: Path) -> "Bundle":
        """Verify and read a bundle; weights are read later, when they are needed.

        Raises:
            IntegrityError: the bundle is incomplete, was changed, or is inconsistent.
        """
        verify(folder)
        path = folder / ENSEMBLE
        try:
            contents = Contents.model_validate_json(path.read_bytes())
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise IntegrityError(f"{path}: not a bundle's contents: {_first(error)}") from None
        bundle = cls(folder, contents)
        bundle._check_tasks()
        bundle._check_files()
        return bundle

    def weights_dir(self, member: str) -> Path:
        return inside(self.folder, f"{MEMBERS}/{member}")

    def encoder_dir(self, member: str) -> Path:
        name = self.contents.members[member].encoder
        return self.folder if name == MAIN else inside(self.folder, f"{ENCODERS}/{name}")

    @property
    def wheel(self) -> Path | None:
        """The wheel of the code that wrote the bundle; None: it has none."""
        return next((self.folder / CODE).glob("*.whl"), None)

    def config(self, member: str) -> Config:
        return from_flat(self.contents.members[member].config)

    def _check_tasks(self) -> None:
        """Check that each task's members were trained on it and that their weights are valid."""
        path, contents = self.folder / ENSEMBLE, self.contents
        trained = {name: self._tasks_of(name) for name in contents.members}
        for name, entry in contents.tasks.items():
            shares = {share.member: share.weight for share in entry.members}
            if len(shares) < len(entry.members):
                raise IntegrityError(f"{path}: task {name!r} has a member twice")
            problem = _problem_with_weights(entry)
            if problem is not None:
                raise IntegrityError(f"{path}: task {name!r}: {problem}")
            for member in shares:
                if member not in trained:
                    raise IntegrityError(f"{path}: task {name!r} has no member {member!r}")
                if trained[member].get(name) != entry.task:
                    raise IntegrityError(
                        f"{path}: member {member!r} was not trained on the task {name!r} as it is "
                        "declared here"
                    )

    def _tasks_of(self, member: str) -> dict[str, Task]:
        try:
            return self.config(member).task_records()
        except ConfigError as error:
            raise IntegrityError(
                f"{self.folder / ENSEMBLE}: member {member!r}: {printable(error.problem)[:300]}"
            ) from None

    def _check_files(self) -> None:
        """Check that the folder holds the files that the contents refer to, and no others that
        could be loaded."""
        members = self.contents.members
        for member in members:  # raises if a name leads out of the folder
            self.weights_dir(member)
            self.encoder_dir(member)
        encoders = {
            MAIN if entry.encoder == MAIN else f"{ENCODERS}/{entry.encoder}"
            for entry in members.values()
        }
        required = {ENSEMBLE, CARD, MANIFEST}
        required |= {f"{MEMBERS}/{member}/{WEIGHTS}" for member in members}
        for name in ("config.json", WEIGHTS):
            required |= {str(PurePosixPath(encoder, name)) for encoder in encoders}
        files = (path for path in self.folder.rglob("*") if not path.is_dir())
        names = (path.relative_to(self.folder).as_posix() for path in files)
        present = {name for name in names if not is_ignored_file(name)}
        wheels = [name for name in sorted(present) if _WHEEL.fullmatch(name)]
        allowed = {*wheels[:1], *_MODULES, *filter(_PICTURE.fullmatch, present)}
        foreign = {
            name
            for name in present - required - allowed
            if str(PurePosixPath(name).parent) not in encoders
            or PurePosixPath(name).suffix not in _ENCODER_SUFFIXES
        }
        for what, wrong in (("is missing", required - present), ("is not part of it", foreign)):
            if wrong:
                raise IntegrityError(f"{self.folder}: not a bundle: {min(wrong)!r} {what}")


def verify(folder: Path) -> None:
    """Check that a folder holds exactly the files of its manifest, unchanged.

    Raises:
        IntegrityError: a file is missing, extra or changed; the message names it.
    """
    if not folder.exists():
        raise IntegrityError(
            f"{folder}: there is no such folder{near_file(folder)}",
            fix="name a bundle: a folder that ensweep export has written",
        )
    damage = _damage(folder)
    if damage is not None:
        raise IntegrityError(
            f"{folder}: not an intact bundle: {printable(damage)}",
            fix="export it again, or use an unchanged copy",
        )


def _problem_with_weights(entry: TaskEntry) -> str | None:
    """Return what is wrong with the weights of a task's members; None: nothing."""
    weights = [share.weight for share in entry.members]
    if len({share.transform.averaged for share in entry.members}) > 1:
        return "its members are averaged in different ways"
    if entry.intercept is None:
        if min(weights) <= 0:
            return "a weight is not above 0"
        return None if abs(sum(weights) - 1) <= 1e-9 else "its weights do not sum to 1"
    size = entry.task.num_outputs
    if len(entry.intercept) != size:
        return f"its intercept has {len(entry.intercept)} number(s), not {size}"
    return None if all(weights) else "a weight is 0"


def _damage(folder: Path) -> str | None:
    if not folder.is_dir():
        return "is not a folder"
    manifest = folder / MANIFEST
    if not is_own_file(folder, manifest):
        return f"{MANIFEST} is missing or not a plain file"
    return _release_problem(manifest) or find_damage(folder, FACTS)


def _release_problem(manifest: Path) -> str | None:
    """Return why this release cannot read the bundle; None: it can, or the manifest is damaged."""
    try:
        facts = json.loads(manifest.read_bytes())
        is_bundles = facts["format"] == FACTS["format"]
        problem = version_problem(facts["schema_version"], SCHEMA_VERSION)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # not a manifest: `find_damage` reports it
    return f"{MANIFEST}: {problem}" if is_bundles and problem else None


def _first(error: ValidationError) -> str:
    """Return the first problem and its place, without the value, which may be anything."""
    detail = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in detail["loc"])
    return printable(f"{place}: {detail['msg']}" if place else detail["msg"])
