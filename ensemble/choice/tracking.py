"""Stores a choice: its pictures in a folder, and an MLflow run with its pictures and JSON."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ensemble.candidates.pool import Pool
from ensemble.choice.request import Request, digests_of
from ensemble.choice.result import EnsembleChoice, Method
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.runs.ensemble_runs import Chosen, log_choice
from mlflow_setup.runs.projection import MS_PER_SENTENCE
from mlflow_setup.runs.query import artifacts_of, download, latest_with
from mlflow_setup.schema import RunKind, Tag, metric_name
from mlflow_setup.text import first_line, short_hash
from mlflow_setup.tracking.store import Tracking
from trainable.config.tasks import Task

CONTENT, RECORD = "choice.json", "record.json"


class Record(BaseModel):
    """A choice as stored in its MLflow run, for `ensweep export` to read."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    tasks: dict[str, Task]
    data_fingerprints: dict[str, str]  # task -> of the dev examples
    choice: EnsembleChoice

    @classmethod
    def of(cls, pool: Pool, choice: EnsembleChoice) -> "Record":
        return cls(
            tasks={name: of_task.task for name, of_task in pool.tasks.items()},
            data_fingerprints={n: of_task.data_fingerprint for n, of_task in pool.tasks.items()},
            choice=choice,
        )


def write_pictures(folder: Path, images: dict[str, bytes]) -> None:
    """Write a choice's pictures to `folder`, replacing those of an earlier choice.

    Raises:
        OSError: the folder cannot be written to.
    """
    for old in folder.glob("*.png"):
        if old.name not in images:
            old.unlink()
    for name, image in images.items():
        write_atomic(folder / name, image)


def log(
    tracking: Tracking,
    request: Request,
    content: dict[str, Any],
    pool: Pool,
    choice: EnsembleChoice,
    draw: Callable[[], dict[str, bytes]],
    milliseconds: float | None = None,
) -> tuple[str, bool]:
    """Log a choice as an MLflow run of kind `ensemble`, unless the same choice is already logged.

    Args:
        content: from `ensemble.presentation.choice_json.describe`.
        draw: returns its pictures (file name -> PNG); called only if the run is new.
        milliseconds: per sentence; None: not measured.

    Returns:
        The run's id, and whether it is new.

    Raises:
        ConfigError: MLflow cannot be written to.
    """
    members = choice.candidates(Method.SELECTIVE)
    text = json.dumps(content, indent=1, allow_nan=False)
    params, digests = request.to_params(), digests_of(tracking, request)
    rules = {f"rule/{name}": task.rule.rule for name, task in choice.tasks.items()}
    counts = {f"num_members/{n}": len(t.selective.members) for n, t in choice.tasks.items()}
    chosen = Chosen(
        name=f"ensemble of {request.title}",
        digest=_digest({"content": content, "asked": params, **digests}),
        metrics=_metrics(choice)
        | ({} if milliseconds is None else {MS_PER_SENTENCE: milliseconds}),
        steps={
            metric_name("trajectory", name, task.metric): task.selective.trajectory
            for name, task in choice.tasks.items()
        },
        params={**params, **rules, **counts},
        tags={
            **digests,
            "sweeps": ",".join(request.sweeps),
            "members": ",".join(member.key for member in members),
            "member_run_ids": ",".join(dict.fromkeys(member.run_id for member in members)),
        },
        files=lambda: {
            CONTENT: text.encode(),
            RECORD: Record.of(pool, choice).model_dump_json().encode(),
            **draw(),
        },
    )
    return log_choice(tracking, chosen)


def find_logged(
    tracking: Tracking, request: Request, cache: Path
) -> tuple[Record, dict[str, bytes]] | None:
    """Return the last choice logged for the same request and unchanged runs, with its pictures;
    None: there is none.

    Raises:
        NothingUsableError: no such sweep is tracked.
        IntegrityError: its record cannot be read.
        ConfigError: MLflow cannot be read.
    """
    tags = {Tag.KIND.value: RunKind.ENSEMBLE.value, **digests_of(tracking, request)}
    run_id = latest_with(tracking, tags)
    names = [] if run_id is None else artifacts_of(tracking, run_id)
    if run_id is None or RECORD not in names:
        return None
    return read_record(tracking, run_id, cache), logged_pictures(tracking, run_id, cache)


def logged_pictures(tracking: Tracking, run_id: str, cache: Path) -> dict[str, bytes]:
    """Return the pictures of a logged choice: file name -> PNG.

    Raises:
        ConfigError: MLflow cannot be read.
    """
    names = [name for name in artifacts_of(tracking, run_id) if name.endswith(".png")]
    return {name: download(tracking, run_id, name, cache).read_bytes() for name in names}


def read_record(tracking: Tracking, run_id: str, cache: Path) -> Record:
    """Return the choice stored in a run of kind `ensemble`.

    Raises:
        IntegrityError: there is none, or it cannot be read.
        ConfigError: MLflow cannot be read.
    """
    path = download(tracking, run_id, RECORD, cache)
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{path}: not a stored choice: {first_line(error)}") from None


def _metrics(choice: EnsembleChoice) -> dict[str, float]:
    """Return the metrics of the choice's run: scores, gains with their intervals, and costs."""
    members = choice.candidates(Method.SELECTIVE)
    metrics = {"num_encoders": float(len(members)), "cost": float(choice.cost(members))}
    for method, scores in choice.overall.items():
        metrics[f"held_out/{method.value}/overall"] = scores.held_out
        metrics[f"in_sample/{method.value}/overall"] = scores.in_sample
    for name, task in choice.tasks.items():
        for method, chosen in task.methods.items():
            metrics[metric_name(f"held_out/{method.value}", name, task.metric)] = (
                chosen.scores.held_out
            )
            key = metric_name(f"in_sample/{method.value}", name, task.metric)
            metrics[key] = chosen.scores.in_sample
    of_all = {"overall": choice.gains, **{n: task.gains for n, task in choice.tasks.items()}}
    for name, gains in of_all.items():
        for method, gain in gains.items():
            for part in ("value", "low", "high"):
                metrics[f"gain_over_{method.value}/{name}/{part}"] = getattr(gain, part)
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def _digest(value: Any) -> str:
    return short_hash(json.dumps(value, sort_keys=True))
