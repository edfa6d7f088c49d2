"""Log what was made of runs: an ensemble as a run of its own, a study's tables on its sweep's."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.schema import RunKind, Tag
from mlflow_setup.tracking import Tracking, cut

ENSEMBLE_FILE = "ensemble.json"
_FILES = (ENSEMBLE_FILE, "README.md", "manifest.json")  # members, model card, all files' hashes


def log_ensemble(
    tracking: Tracking,
    name: str,
    folder: Path,
    metrics: Mapping[str, float],
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """The id of a new run of kind `ensemble`: the bundle's description, without its weights.

    Raises:
        IntegrityError: no ensemble.json in `folder`, or a metric that is not finite.
        ConfigError: MLflow cannot be written to.
    """
    if not (folder / ENSEMBLE_FILE).is_file():
        raise IntegrityError(f"{folder}: no {ENSEMBLE_FILE}, hence not an exported ensemble")
    with tracking.errors():
        client = tracking.client
        run = client.create_run(
            tracking.experiment_id,
            run_name=name,
            tags={key: cut(value) for key, value in tags.items()}
            | {Tag.KIND.value: RunKind.ENSEMBLE.value},
        )
        run_id, status = str(run.info.run_id), "FAILED"
        try:
            tracking.log(
                run_id, metrics=metrics, params=params, timestamp=round(time.time() * 1000)
            )
            for file in _FILES:
                if (folder / file).is_file():
                    client.log_artifact(run_id, str(folder / file))
            status = "FINISHED"
        finally:
            client.set_terminated(run_id, status)
    return run_id


def log_to_sweep(tracking: Tracking, sweep: str, files: Iterable[Path], folder: str) -> None:
    """Log files as artifacts of the sweep's own run, below `folder`; those there are replaced.

    Raises:
        ConfigError: no such sweep is tracked, or MLflow cannot be written to.
    """
    with tracking.errors():
        found = tracking.search({Tag.KIND.value: RunKind.SWEEP.value, Tag.SWEEP.value: sweep})
        if not found:
            raise ConfigError(f"no sweep {sweep!r} is tracked")
        for file in files:
            tracking.client.log_artifact(found[0].info.run_id, str(file), folder)
