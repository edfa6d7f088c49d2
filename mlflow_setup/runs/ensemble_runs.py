"""Log an exported ensemble or a choice of members as a run, and a study's tables on its sweep's
run."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.runs.projection import milliseconds
from mlflow_setup.schema import RunKind, Tag
from mlflow_setup.tracking.store import Tracking, truncate
from mlflow_setup.tracking.stored_runs import read_runs

ENSEMBLE_FILE = "ensemble.json"
_FILES = (ENSEMBLE_FILE, "README.md", "manifest.json")  # members, model card, all files' hashes
_MAX_POINTS = 1000  # metric points in a batch: MLflow's limit


def log_ensemble(
    tracking: Tracking,
    name: str,
    folder: Path,
    metrics: Mapping[str, float],
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Log the bundle's description, without its weights, as a run of kind `ensemble`. Return its
    id.

    Raises:
        IntegrityError: no ensemble.json in `folder`, or a metric is not finite.
        ConfigError: MLflow cannot be written to.
    """
    if not (folder / ENSEMBLE_FILE).is_file():
        raise IntegrityError(f"{folder}: not an exported ensemble: it has no {ENSEMBLE_FILE}")
    with tracking.errors(), _new_run(tracking, name, tags) as run_id:
        tracking.log(run_id, metrics=metrics, params=params, timestamp=_now())
        for file in _FILES:
            if (folder / file).is_file():
                tracking.client.log_artifact(run_id, str(folder / file))
    return run_id


@dataclass(frozen=True)
class Chosen:
    """A choice of members, to be logged."""

    name: str
    digest: str  # identifies the choice: equal choices are logged once
    metrics: Mapping[str, float]  # finite
    steps: Mapping[str, Sequence[float]]  # metric -> its value after step 1, 2, ...
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    files: Callable[[], Mapping[str, bytes]]  # name -> content; called only for a new run


def log_choice(tracking: Tracking, chosen: Chosen) -> tuple[str, bool]:
    """Log a choice as a run of kind `ensemble`, unless a finished run has the same digest. Return
    the run's id and whether it is new.

    Raises:
        ConfigError: MLflow cannot be written to.
    """
    with tracking.errors():
        kind = {Tag.KIND.value: RunKind.ENSEMBLE.value, Tag.CHOICE.value: chosen.digest}
        known = read_runs(tracking, kind, "FINISHED")
        if known:
            return str(known[0].info.run_id), False
        from mlflow_setup.tracking.client import Metric  # slow to import; not needed above

        tags = {**chosen.tags, Tag.CHOICE.value: chosen.digest}
        with _new_run(tracking, chosen.name, tags) as run_id, TemporaryDirectory() as folder:
            now = _now()
            tracking.log(run_id, metrics=chosen.metrics, params=chosen.params, timestamp=now)
            points = [
                Metric(key, value, now, step)
                for key, values in chosen.steps.items()
                for step, value in enumerate(values, start=1)
            ]
            for first in range(0, len(points), _MAX_POINTS):
                tracking.client.log_batch(run_id, metrics=points[first : first + _MAX_POINTS])
            for name, content in chosen.files().items():
                (Path(folder) / name).write_bytes(content)
            tracking.client.log_artifacts(run_id, folder)
    return run_id, True


@contextmanager
def _new_run(tracking: Tracking, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """A new run of kind `ensemble`: FINISHED if the block ends without an error, else FAILED."""
    run = tracking.client.create_run(
        tracking.experiment_id,
        run_name=name,
        tags={key: truncate(value) for key, value in tags.items()}
        | {Tag.KIND.value: RunKind.ENSEMBLE.value},
    )
    run_id, status = str(run.info.run_id), "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    finally:
        tracking.client.set_terminated(run_id, status)


def _now() -> int:
    return milliseconds(time.time())


def log_to_sweep(tracking: Tracking, sweep: str, files: Iterable[Path], folder: str) -> None:
    """Log files as artifacts of the sweep's own run, below `folder`, replacing existing ones.

    Raises:
        ConfigError: MLflow has no such sweep, or cannot be written to.
    """
    with tracking.errors():
        runs = tracking.search({Tag.KIND.value: RunKind.SWEEP.value, Tag.SWEEP.value: sweep})
        if not runs:
            raise ConfigError(f"no sweep {sweep!r} is tracked")
        for file in files:
            tracking.client.log_artifact(runs[0].info.run_id, str(file), folder)
