"""The chosen ensemble -> a bundle: each member's weights once, and nothing by reference."""

import hashlib
import shutil
from pathlib import Path

from ensemble.bundle import (
    CARD,
    ENCODERS,
    ENSEMBLE,
    FACTS,
    MEMBERS,
    VERSION,
    Contents,
    MemberEntry,
    Share,
    TaskEntry,
    to_json,
)
from ensemble.candidates import Candidate, Pool
from ensemble.card import model_card
from ensemble.choose import choose_ensemble
from ensemble.validation import EnsembleChoice, Method
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.files import MANIFEST, atomic_folder, safe_name, sha256_file, write_manifest
from mlflow_setup.tracking import Tracking
from trainable.record import TrialFolder


def export(tracking: Tracking, sweep: str, cache: Path, output: Path) -> Contents:
    """Choose the selective ensemble of a sweep and write it as a bundle to `output`.

    Raises:
        ConfigError: `output` exists.
        NothingUsableError: no run can be a member, or the weights of one are out of reach.
        IntegrityError: weights are not what training wrote.
    """
    if output.exists():
        raise ConfigError(f"{output} exists", fix="name a new folder, or remove this one")
    pool, choice = choose_ensemble(tracking, sweep, cache)
    return write_bundle(output, sweep, pool, choice)


def write_bundle(output: Path, sweep: str, pool: Pool, choice: EnsembleChoice) -> Contents:
    """Copy the members' weights and write what they are for; whole or not at all."""
    members = choice.candidates(Method.SELECTIVE)
    with atomic_folder(output) as folder:
        entries = {candidate.key: _copy_member(candidate, folder) for candidate in members}
        contents = Contents(
            version=VERSION,
            tasks={
                name: TaskEntry(
                    task=pool.tasks[name].task,
                    members=tuple(
                        Share(member=member.candidate.key, weight=member.weight)
                        for member in task.selective.members
                    ),
                    scores={
                        method.value: chosen.scores.to_json()
                        for method, chosen in task.methods.items()
                    },
                )
                for name, task in choice.tasks.items()
            },
            members=entries,
        )
        (folder / ENSEMBLE).write_text(to_json(contents), encoding="utf-8")
        (folder / CARD).write_text(model_card(sweep, contents, choice), encoding="utf-8")
        write_manifest(folder, FACTS)
    return contents


def _copy_member(candidate: Candidate, bundle: Path) -> MemberEntry:
    trial_path = Path(candidate.weights_uri).parent
    if not trial_path.is_dir():
        raise NothingUsableError(
            f"{candidate.label}: its weights at {candidate.weights_uri} are not reached from here",
            fix="run export where the sweep's storage folder is mounted",
        )
    trial = TrialFolder(trial_path)
    source = trial.require_weights(candidate.epoch)
    without_manifest = shutil.ignore_patterns(MANIFEST)
    target = bundle / MEMBERS / safe_name(candidate.key, "member")
    shutil.copytree(source, target, ignore=without_manifest)
    name = _content_name(trial.encoder_dir)
    if not (bundle / ENCODERS / name).exists():
        shutil.copytree(trial.encoder_dir, bundle / ENCODERS / name, ignore=without_manifest)
    return MemberEntry(
        run_id=candidate.run_id,
        sweep=candidate.sweep,
        trial=candidate.trial,
        epoch=candidate.epoch,
        encoder=name,
        config=trial.trial().config,
    )


def _content_name(folder: Path) -> str:
    """A name that equal folders share: 12 hex characters over names and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()[:12]
