"""The chosen ensemble -> a bundle: each member's weights once, and nothing by reference."""

import hashlib
import shutil
from pathlib import Path

from ensemble.bundle import (
    CARD,
    CODE,
    ENCODERS,
    ENSEMBLE,
    FACTS,
    MEMBERS,
    SCHEMA_VERSION,
    WEIGHTS,
    Contents,
    MemberEntry,
    Share,
    TaskEntry,
)
from ensemble.candidates import Candidate, Pool
from ensemble.card import model_card
from ensemble.choice import EnsembleChoice, Method, TaskChoice
from ensemble.choose import Request, choose_ensemble
from ensemble.notes import note_members
from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.files import (
    atomic_folder,
    is_full,
    num_bytes,
    safe_name,
    sha256_file,
    write_manifest,
)
from mlflow_setup.tracking import Tracking
from mlflow_setup.wheel import pack_wheel
from trainable.record import TrialFolder
from trainable.tasks import Task


def export(tracking: Tracking, request: Request, cache: Path, output: Path) -> Contents:
    """Choose the selective ensemble, write it as a bundle to `output`, and note its members in the
    sweeps' folders.

    Raises:
        ConfigError: `output` is there already and not empty, or cannot be written.
        NothingUsableError: no run can be a member, or the weights of one are out of reach.
        IntegrityError: weights are not what training wrote.
    """
    _require_free(output)
    pool, choice = choose_ensemble(tracking, request, cache)
    contents = write_bundle(output, request.title, pool, choice)
    note_members(choice.candidates(Method.SELECTIVE))
    return contents


def write_bundle(output: Path, sweep: str, pool: Pool, choice: EnsembleChoice) -> Contents:
    """Copy the members' weights and write what they are for; whole or not at all.

    Raises:
        ConfigError, NothingUsableError, IntegrityError: as `export`.
    """
    _require_free(output)
    _require_weights(choice)
    try:
        if output.is_dir():
            output.rmdir()
        with atomic_folder(output) as folder:
            contents = Contents(
                schema_version=SCHEMA_VERSION,
                tasks={
                    name: _task_entry(pool.tasks[name].task, task)
                    for name, task in choice.tasks.items()
                },
                members={
                    candidate.key: _copy_member(candidate, folder)
                    for candidate in choice.candidates(Method.SELECTIVE)
                },
            )
            (folder / CODE).mkdir()
            pack_wheel(folder / CODE)
            (folder / ENSEMBLE).write_text(contents.to_json(), encoding="utf-8")
            (folder / CARD).write_text(model_card(sweep, contents, choice), encoding="utf-8")
            write_manifest(folder, FACTS)
    except OSError as error:
        reason = str(error.strerror or error)
        if is_full(error):
            reason = f"no space is left; it takes about {_size(choice) / 1e6:.1f} MB"
        raise ConfigError(
            f"{output}: cannot be written: {reason}",
            fix="make room, or name a folder that can be written to",
        ) from None
    return contents


def _require_free(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"{output} is there already", fix="name a new folder, or remove this one")


def _require_weights(choice: EnsembleChoice) -> None:
    added = [c.label for c in choice.candidates(Method.SELECTIVE) if c.is_added]
    if added:
        raise ConfigError(
            f"predictions alone cannot be exported: {', '.join(added)}",
            fix="ensweep export without them",
        )


def _size(choice: EnsembleChoice) -> int:
    """Bytes of the bundle's weights and encoders, each member's counted."""
    members = choice.candidates(Method.SELECTIVE)
    trials = [(member, TrialFolder(Path(member.weights_uri).parent)) for member in members]
    return sum(
        num_bytes(trial.weights_dir(member.epoch)) + num_bytes(trial.encoder_dir)
        for member, trial in trials
    )


def _task_entry(task: Task, choice: TaskChoice) -> TaskEntry:
    return TaskEntry(
        task=task,
        members=tuple(
            Share(member=member.candidate.key, weight=member.weight, transform=member.transform)
            for member in choice.selective.members
        ),
        scores={method.value: chosen.scores.to_json() for method, chosen in choice.methods.items()},
        intercept=choice.selective.intercept,
    )


def _copy_member(candidate: Candidate, bundle: Path) -> MemberEntry:
    trial = TrialFolder(Path(candidate.weights_uri).parent)
    if not trial.path.is_dir():
        raise NothingUsableError(
            f"{candidate.label}: its weights at {candidate.weights_uri} are not reached from here",
            fix="run export where the sweep's storage folder is mounted",
        )
    record = trial.trial()
    if (record.trial, record.sweep) != (candidate.trial, candidate.sweep):
        raise IntegrityError(
            f"{trial.path}: holds trial {record.trial!r} of sweep {record.sweep!r}, not "
            f"{candidate.trial!r} of {candidate.sweep!r}"
        )
    source = trial.require_weights(candidate.epoch)
    target = bundle / MEMBERS / safe_name(candidate.key, "member")
    target.mkdir(parents=True)
    shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
    return MemberEntry(
        run_id=candidate.run_id,
        sweep=candidate.sweep,
        trial=candidate.trial,
        epoch=candidate.epoch,
        encoder=_copy_encoder(trial.encoder_dir, bundle),
        config=record.config,
    )


def _copy_encoder(source: Path, bundle: Path) -> str:
    """Copy an encoder's folder unless an equal one is there; its name in the bundle."""
    if not (source / "config.json").is_file():
        raise IntegrityError(f"{source}: holds no encoder configuration")
    digest = hashlib.sha256()
    for path in sorted(source.iterdir()):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    name = digest.hexdigest()[:12]
    target = bundle / ENCODERS / name
    if not target.exists():
        shutil.copytree(source, target)
    return name
