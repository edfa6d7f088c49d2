"""Distils an ensemble into one model, the student, and measures what that costs in score.

The student has the configuration of the ensemble's best member, or of a recipe, and is trained on
the ensemble's soft labels of the training examples (`distill.teacher=bundle:DIR`). The result is a
bundle with one member.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.bundle.format import WEIGHTS, Bundle, Contents, Distilled, Share, TaskEntry
from ensemble.candidates.pool import Candidate
from ensemble.distillation.teachers import teach
from ensemble.export.card import Footprint, compressed_card
from ensemble.export.places import LOCAL
from ensemble.export.write import Parts, write_bundle
from ensemble.inference.ensemble import Ensemble
from ensemble.statistics.bootstrap import gain_of_halves
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.filesystem.output import check_folder
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.schema import EpochRecord, Identity, Outcome, OutcomeRecord, best_epoch
from mlflow_setup.tracking.store import Tracking
from trainable.config.constraints import CLOSED_FORM_STAGES
from trainable.config.parse import from_flat
from trainable.config.recipe import Resolved, parse_override, resolve
from trainable.data.dataset import Dataset, read_dataset
from trainable.evaluation.metrics import task_metric
from trainable.runtime.stopping import Stop, never_stop
from trainable.storage.layout import SHARED
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import ignore, train

STUDENT = "student"


@dataclass(frozen=True)
class Compressed:
    """The outcome of the student's training and, if it has finished, its scores."""

    outcome: OutcomeRecord
    trial: Path
    losses: Mapping[str, Distilled]  # task -> scores of ensemble and student
    footprints: tuple[Footprint, ...]  # of ensemble and student; none if it has not finished


def compress(
    folder: Path,
    output: Path,
    student: Resolved,
    storage: Path,
    tracking: Tracking,
    report: Callable[[EpochRecord], None] = ignore,
    stop: Stop = never_stop,
) -> Compressed:
    """Train the student and write it as a bundle to `output`. An interrupted training is resumed
    when this is called again.

    Args:
        folder: the ensemble's bundle.
        student: the configuration, as returned by `student_of`.
        storage: the trial's folder is `compress/<output's name>` below it.

    Raises:
        IntegrityError: `folder` is not an intact bundle.
        ConfigError: `output` already exists, or the storage holds another student of that name.
        NothingUsableError: the student diverged.
        DataError: the data has errors.
    """
    check_folder(output)
    teacher = Ensemble.load(folder)
    dataset = read_dataset(student.config)
    trial, shared = TrialFolder(storage / "compress" / output.resolve().name), storage / SHARED
    storage_of(storage).begin(trial.path)
    trial.refresh()
    outcome = train(
        student.config,
        trial.path,
        identity=Identity(STUDENT, None, student.recipe, student.origin),
        report=report,
        stop=stop,
        dataset=dataset,
        shared=shared,
        teach=partial(teach, student.config, shared, tracking, dataset),
    )
    if outcome.outcome is Outcome.STOPPED:
        return Compressed(outcome, trial.path, {}, ())
    if outcome.outcome is not Outcome.FINISHED:
        raise NothingUsableError(
            f"{trial.path}: the student {outcome.outcome}: {outcome.reason}",
            fix="change its settings, e.g. optim.lr=1e-5, and name another --output",
        )
    footprints: list[Footprint] = []

    def measure(bundle: Path, contents: Contents) -> Contents:
        losses, measured = _compare(teacher, Ensemble(Bundle(bundle, contents)), dataset)
        footprints.extend(measured)
        return contents.model_copy(update={"distilled": losses})

    parts = _parts(trial, teacher, dataset, lambda contents: compressed_card(contents, *footprints))
    contents = write_bundle(output, parts, measure)
    return Compressed(outcome, trial.path, contents.distilled, tuple(footprints))


def student_of(
    folder: Path, data_dir: str | Path, recipe: str | None = None, overrides: Iterable[str] = ()
) -> Resolved:
    """Return the student's configuration: that of a recipe, or of the bundle's best member.

    The best member is the one with the largest sum of absolute weights over the tasks, among those
    that were trained on every task of the bundle by gradient descent (baselines cannot learn soft
    labels). If its encoder was loaded from a folder, the student starts from the bundle's encoder.

    Raises:
        ConfigError: no member was trained on all tasks, or an override is not a setting, or is one
            that is set here.
        IntegrityError: `folder` is not an intact bundle.
    """
    bundle = Bundle.load(folder)
    overrides = list(overrides)
    own: dict[str, Any] = {
        "data.dir": str(data_dir),
        "distill.enabled": True,
        "distill.teacher": f"bundle:{folder.resolve()}",
    }
    for key in (parse_override(text)[0] for text in overrides):
        if key in own:
            raise ConfigError(f"{key} is set by compress itself", fix="leave it out")
    if recipe is not None:
        return resolve(recipe, [*(f"{key}={value}" for key, value in own.items()), *overrides])
    name = _best_member(bundle)
    settings = bundle.config(name).flat()
    origin = dict.fromkeys(settings, f"member {name}") | dict.fromkeys(own, "compress")
    if settings["model.encoder"].startswith(LOCAL):  # of a folder on the machine that trained it
        settings["model.encoder"] = str(bundle.encoder_dir(name).resolve())
    settings |= own
    for key, value in map(parse_override, overrides):
        settings[key], origin[key] = value, "command line"
    config = from_flat(settings, origin)
    return Resolved(f"member {name}", config, {key: origin[key] for key in sorted(config.flat())})


def _best_member(bundle: Bundle) -> str:
    tasks = bundle.contents.tasks
    configs = {name: bundle.config(name) for name in bundle.contents.members}
    weights = {
        name: 0.0
        for name, config in configs.items()
        if set(tasks) <= set(config.data.tasks) and config.train.stages != CLOSED_FORM_STAGES
    }
    for share in (share for entry in tasks.values() for share in entry.members):
        if share.member in weights:
            weights[share.member] += abs(share.weight)
    if not weights:
        raise ConfigError(
            f"{bundle.folder}: no member was trained on all of {', '.join(tasks)}",
            fix="name a recipe for the student: --recipe lp-ft",
        )
    return max(sorted(weights), key=weights.__getitem__)


def _parts(
    trial: TrialFolder, teacher: Ensemble, dataset: Dataset, card: Callable[[Contents], str]
) -> Parts:
    record, kept = trial.trial(), set(trial.kept_epochs())
    best = best_epoch(epoch for epoch in trial.epochs() if epoch.epoch in kept)
    member = Candidate(
        run_id="",
        trial=record.trial,
        sweep=None,
        epoch=best.epoch,
        weights_uri=str(trial.path.resolve() / "weights"),
        num_parameters=record.notes["num_parameters"],
    )
    shares = (Share(member=member.key, weight=1.0),)
    tasks = {
        name: TaskEntry(
            task=dataset.tasks[name],
            members=shares,
            scores={},
            dev_fingerprint=dataset.dev[name].fingerprint,
        )
        for name in teacher.tasks
    }
    return Parts(tasks, (member,), card, pictures={})


def _compare(
    teacher: Ensemble, student: Ensemble, dataset: Dataset
) -> tuple[dict[str, Distilled], tuple[Footprint, Footprint]]:
    """Return both models' scores on the same dev rows, and the size and speed of each."""
    sides = {name: dataset.dev[name].sentences for name in teacher.tasks}
    ours, student_seconds = student.timed_outputs(sides)
    theirs, teacher_seconds = teacher.timed_outputs(sides)
    losses = {}
    for name, task in teacher.tasks.items():
        labels = dataset.dev[name].labels
        assert labels is not None
        all_rows = np.ones(len(labels), np.bool_)
        (change,) = gain_of_halves(task, [ours[name]], [[theirs[name]]], labels, [all_rows])
        losses[name] = Distilled(
            ensemble=task_metric(task, theirs[name], labels)[0],
            student=task_metric(task, ours[name], labels)[0],
            low=change.low,
            high=change.high,
            num_rows=len(labels),
        )
    return losses, (_footprint(teacher, teacher_seconds), _footprint(student, student_seconds))


def _footprint(ensemble: Ensemble, seconds_per_1000: float) -> Footprint:
    size = sum(path.stat().st_size for path in ensemble.bundle.folder.rglob(WEIGHTS))
    return Footprint(len(ensemble.bundle.contents.members), size / 1e6, seconds_per_1000)
