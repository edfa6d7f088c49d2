"""A sweep without training: seeded random outputs for the dev rows of a data folder, and their
scores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from little_effort import LITTLE
from past_sweep import sweep_of

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import (
    OVERALL,
    AttemptRecord,
    Decision,
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
    metric_name,
)
from mlflow_setup.tracking.store import resolve_tracking
from search.driver.tracking import what_is_tracked
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config
from trainable.config.tasks import PAPER_TASKS, Kind
from trainable.data.examples import Examples
from trainable.data.readers import read_split
from trainable.evaluation.metrics import Floats, overall, task_metric
from trainable.storage.predictions import Predictions

TASKS = ("sentiment", "paraphrase", "similarity")
NUM_EPOCHS = 3
BEGUN = 1_790_000_000.0


def scored_sweep(
    storage: Path,
    data: Path,
    name: str = "demo",
    num_trials: int = 6,
    tasks: Sequence[str] = TASKS,
    seed: int = 0,
    is_tracked: bool = True,
) -> SweepFolder:
    """Write `num_trials` trials of three epochs and a baseline. The second trial was pruned, the
    third failed before its first epoch. `is_tracked`: also log them in MLflow."""
    folder, draw = SweepFolder(storage, name), np.random.default_rng(seed)
    storage.mkdir(exist_ok=True)
    fixed = {"data.dir": str(data), "data.tasks": list(tasks), "train.num_epochs": NUM_EPOCHS}
    (storage / f"{name}-file").mkdir()
    sweep = sweep_of(
        storage / f"{name}-file", config=fixed, first_trials=[], search={"num_samples": num_trials}
    )
    folder.create(sweep)
    dev = {task: read_split(task, PAPER_TASKS[task], "dev", data)[0] for task in tasks}
    for number in range(num_trials + 1):
        trial = "majority" if number == num_trials else f"{number + 1:04d}"
        _write_trial(folder, trial, number, dev, draw)
    if is_tracked:
        mirror = Mirror(resolve_tracking(storage), name)
        mirror.start(*what_is_tracked(folder, sweep))
        for one in folder.trial_folders():
            mirror.project(one.snapshot())
        mirror.finish("FINISHED")
    return folder


def log_choice(storage: Path, name: str = "demo", rule: str | None = "simple") -> None:
    """Log a choice of members in MLflow, as `ensweep ensemble` does."""
    from ensemble.choice.request import Request, choose_ensemble
    from ensemble.choice.tracking import log
    from ensemble.presentation.choice_json import describe

    tracking, request = resolve_tracking(storage), Request((name,), rule=rule)
    pool, choice = choose_ensemble(tracking, request, storage / ".cache", LITTLE)
    log(tracking, request, describe(request, pool, choice), pool, choice, dict)


def _write_trial(
    folder: SweepFolder,
    name: str,
    number: int,
    dev: dict[str, Examples],
    draw: np.random.Generator,
) -> None:
    trial, start = folder.trial(name), BEGUN + 100 * number
    searched = {"optim.lr": 10 ** draw.uniform(-5, -2), "loss.mnr.enabled": bool(number % 2)}
    settings = Config().flat() | folder.read().config | searched
    is_baseline = name == "majority"
    recipe = name if is_baseline else "b3"
    record = TrialRecord(
        *(name, folder.name, recipe, settings, {}, 0, "data", None, start),
        searched=() if is_baseline else tuple(searched),
        notes={"num_parameters": 1_000_000 + number, "num_encoder_parameters": 900_000},
    )
    trial.create(record)
    outcome, reason, num_epochs = Outcome.FINISHED, f"ran {NUM_EPOCHS} epochs", NUM_EPOCHS
    if number == 1:
        outcome, reason, num_epochs = Outcome.PRUNED, "rung 1: 0.500 below cut-off 0.600 of 2", 1
    elif number == 2:
        outcome, reason, num_epochs = Outcome.FAILED, "OSError: <b>no</b> space", 0
    for epoch in range(1, num_epochs + 1):
        _write_epoch(trial, epoch, start, dev, draw)
        action = "stop" if outcome is Outcome.PRUNED else "continue"
        trial.write_decision(Decision(epoch, action, reason))
        trial.keep_weights(epoch, lambda path: write_atomic(path / "weights", b"w"))
    attempt = AttemptRecord("host", "local", 1.0, 0.0, 0.0, start, 30.0, True)
    write_atomic(trial.path / "attempts" / "0001.json", attempt.to_json())
    trial.write_outcome(OutcomeRecord(outcome, reason, num_epochs, start + 40))


def _write_epoch(trial, epoch, start, dev, draw) -> None:  # type: ignore[no-untyped-def]
    scores, metrics, found = {}, {}, []
    for name, examples in dev.items():
        task, labels = examples.task, examples.labels
        outputs = _outputs(task.kind, labels, draw, 2.0 - 0.3 * epoch)
        scores[name] = task_metric(task, outputs, labels)[0]
        metrics[metric_name("dev", name, str(task.metric))] = scores[name]
        metrics[metric_name("dev", name, "loss")] = 1 / epoch + 0.1 * draw.random()
        metrics[metric_name("train", name, "loss")] = 1 / epoch
        facts = (examples.ids, outputs, labels, examples.fingerprint, "tok")
        found.append(Predictions(name, task.kind, "dev", *facts))
    trial.write_predictions(epoch, found)
    metrics[OVERALL] = overall(scores, {name: each.task for name, each in dev.items()})
    trial.write_epoch(EpochRecord(epoch, metrics, metrics, 10.0, start + 10 * epoch))


def _outputs(kind: Kind, labels: Floats, draw: np.random.Generator, noise: float) -> Floats:
    signal = labels
    if kind is Kind.CLASSIFICATION:
        signal = 2 * np.eye(5)[labels.astype(int)]
    elif kind is Kind.PARAPHRASE:
        signal = 2 * labels - 1
    return np.asarray(signal + noise * draw.standard_normal(signal.shape), np.float32)
