"""Writes a chosen ensemble as a self-contained bundle, with each distinct encoder stored once."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble.bundle.format import (
    CARD,
    CODE,
    ENSEMBLE,
    FACTS,
    MAIN,
    PICTURES,
    SCHEMA_VERSION,
    Contents,
    MemberEntry,
    Share,
    TaskEntry,
)
from ensemble.bundle.stored_weights import lift_encoder, name_labels, store_member
from ensemble.candidates.pool import Candidate
from ensemble.choice.pins import pin_members
from ensemble.choice.request import Request, choose_ensemble
from ensemble.choice.result import Method, TaskChoice
from ensemble.choice.tracking import Record, find_logged
from ensemble.export.card import model_card
from ensemble.export.modules import write_modules
from ensemble.export.places import without_places
from ensemble.inference.speed import milliseconds_of
from ensemble.presentation import figures
from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.filesystem.atomic import atomic_folder, is_full
from mlflow_setup.filesystem.manifest import write_manifest
from mlflow_setup.filesystem.modes import users_mask
from mlflow_setup.filesystem.output import check_folder
from mlflow_setup.filesystem.storage import num_bytes
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.wheel import pack_wheel
from trainable.config.tasks import Task
from trainable.runtime.progress import Tally
from trainable.storage.address import trial_at


@dataclass(frozen=True)
class Parts:
    """The parts of a bundle."""

    tasks: Mapping[str, TaskEntry]
    members: tuple[Candidate, ...]
    card: Callable[[Contents], str]
    pictures: Mapping[str, bytes]  # the card's pictures: file name -> PNG


Refine = Callable[[Path, Contents], Contents]
"""Given a folder with the weights and its contents: may change the weights and add measurements;
returns the new contents."""


def unchanged(folder: Path, contents: Contents) -> Contents:
    """Return the contents without changing the weights."""
    return contents


def export(
    tracking: Tracking, request: Request, cache: Path, output: Path, refine: Refine = unchanged
) -> Contents:
    """Write the selective ensemble that was logged last as a bundle to `output`, and pin its
    members in the sweeps' folders. If none was logged, or the runs have changed since, it is chosen
    now.

    Args:
        refine: for example `Halving`, to store weights in half precision.

    Raises:
        ConfigError: `output` exists and is not empty, or cannot be written.
        NothingUsableError: no run can be a member, or a member's weights cannot be reached.
        IntegrityError: weights are damaged.
        DataError: the data on which `refine` measures has errors, or has none of the tasks.
    """
    check_folder(output)
    logged = find_logged(tracking, request, cache)
    if logged is None:
        pool, choice = choose_ensemble(tracking, request, cache)
        logged = Record.of(pool, choice), figures.pictures(pool, choice)
    record, pictures = logged
    members = record.choice.candidates(Method.SELECTIVE)
    parts = chosen_parts(request, record, pictures, milliseconds_of(members))
    contents = write_bundle(output, parts, refine)
    pin_members(members)
    return contents


def chosen_parts(
    request: Request,
    record: Record,
    pictures: Mapping[str, bytes],
    milliseconds: float | None = None,
) -> Parts:
    """Return the parts of the bundle of a selective ensemble.

    Args:
        milliseconds: per sentence on this machine, for the card; None: not measured.

    Raises:
        ConfigError: a member was added as predictions from a file, without weights.
    """
    choice = record.choice
    members = choice.candidates(Method.SELECTIVE)
    added = [member.label for member in members if member.is_added]
    if added:
        raise ConfigError(
            f"predictions without a model cannot be exported: {', '.join(added)}",
            fix="ensweep export without them",
        )
    return Parts(
        tasks={
            name: _task_entry(record.tasks[name], record.data_fingerprints[name], task)
            for name, task in choice.tasks.items()
        },
        members=members,
        card=lambda contents: model_card(request, contents, choice, list(pictures), milliseconds),
        pictures=pictures,
    )


def write_bundle(output: Path, parts: Parts, refine: Refine = unchanged) -> Contents:
    """Write a bundle with its parts, atomically, and return its contents.

    Raises:
        ConfigError, NothingUsableError, IntegrityError, DataError: as `export`.
    """
    check_folder(output)
    target = output.resolve()
    try:
        if target.is_dir():
            target.rmdir()
        with atomic_folder(target, users_mask()) as folder:
            contents = refine(folder, _store(parts, folder))
            (folder / CODE).mkdir()
            pack_wheel(folder / CODE)
            for name, content in parts.pictures.items():
                (folder / PICTURES).mkdir(exist_ok=True)
                (folder / PICTURES / name).write_bytes(content)
            (folder / ENSEMBLE).write_text(contents.to_json(), encoding="utf-8")
            (folder / CARD).write_text(parts.card(contents), encoding="utf-8")
            write_manifest(folder, FACTS)
    except Exception as error:
        # safetensors raises an error class of its own if the disk is full.
        if not isinstance(error, OSError) and not is_full(error):
            raise
        reason = str(getattr(error, "strerror", None) or error)
        if is_full(error):
            reason = f"no space is left; it needs about {_size(parts.members) / 1e6:.1f} MB"
        raise ConfigError(
            f"{output}: cannot be written: {reason}",
            fix="free some space, or name another folder",
        ) from None
    return contents


def _size(members: tuple[Candidate, ...]) -> int:
    """Return the size in bytes of all members' weights and encoders; shared encoders count for each
    member."""
    trials = [(member, trial_at(member.weights_uri)) for member in members]
    return sum(
        num_bytes(trial.fetch_weights(member.epoch)) + num_bytes(trial.encoder_dir)
        for member, trial in trials
    )


def _task_entry(task: Task, dev_fingerprint: str, choice: TaskChoice) -> TaskEntry:
    return TaskEntry(
        task=task,
        members=tuple(
            Share(member=member.candidate.key, weight=member.weight, transform=member.transform)
            for member in choice.selective.members
        ),
        scores={method.value: chosen.scores.to_json() for method, chosen in choice.methods.items()},
        dev_fingerprint=dev_fingerprint,
        intercept=choice.selective.intercept,
    )


def _store(parts: Parts, folder: Path) -> Contents:
    """Store the members in the folder and return its contents; the encoder with the largest total
    weight becomes the bundle's main encoder."""
    members, tally = {}, Tally("storing members", len(parts.members))
    for candidate in parts.members:
        members[candidate.key] = _store_member(candidate, folder)
        tally.add()
    totals: dict[str, float] = defaultdict(float)
    for entry in parts.tasks.values():
        for share in entry.members:
            totals[members[share.member].encoder] += abs(share.weight)
    main = max(totals, key=lambda name: (totals[name], name))
    lift_encoder(folder, main)
    name_labels(folder, (entry.task for entry in parts.tasks.values()))
    contents = Contents(
        schema_version=SCHEMA_VERSION,
        tasks=dict(parts.tasks),
        members={
            key: entry.model_copy(update={"encoder": MAIN}) if entry.encoder == main else entry
            for key, entry in members.items()
        },
    )
    write_modules(folder, contents)
    return contents


def _store_member(candidate: Candidate, bundle: Path) -> MemberEntry:
    trial = trial_at(candidate.weights_uri)
    if not trial.path.is_dir():
        raise NothingUsableError(
            f"{candidate.label}: its weights cannot be reached from here: {candidate.weights_uri}",
            fix="run export on a machine where the sweep's storage folder is mounted",
        )
    record = trial.trial()
    if (record.trial, record.sweep) != (candidate.trial, candidate.sweep):
        raise IntegrityError(
            f"{trial.path}: holds trial {record.trial!r} of sweep {record.sweep!r}, not "
            f"{candidate.trial!r} of {candidate.sweep!r}"
        )
    weights = trial.require_weights(candidate.epoch)
    return MemberEntry(
        run_id=candidate.run_id,
        sweep=candidate.sweep,
        trial=candidate.trial,
        epoch=candidate.epoch,
        encoder=store_member(candidate.key, weights, trial.encoder_dir, bundle),
        config=without_places(record.config),
        encoder_revision=record.encoder_revision,
    )
