"""Delete a sweep from MLflow: its runs, their artifacts, its view.

Runs go to MLflow's trash; artifacts are deleted at once.
"""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mlflow_setup.schema import RunKind, Tag
from mlflow_setup.tracking.client import MlflowException, Run
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.tracking.ui_view import delete_view
from mlflow_setup.uris import local_path

SWEEPS_TAG = "sweeps"
"""Tag of an ensemble's run: the sweeps of its members, comma-separated."""


def runs_of_sweep(tracking: Tracking, sweep: str) -> list[Run]:
    """The sweep's own run, its trials' runs, and those of ensembles with members from it alone.

    Raises:
        ConfigError: MLflow cannot be read.
    """
    with tracking.errors():
        kinds = (RunKind.ENSEMBLE, RunKind.TRIAL, RunKind.SWEEP)
        runs = {
            kind: tracking.search(
                {
                    Tag.KIND.value: kind.value,
                    SWEEPS_TAG if kind is RunKind.ENSEMBLE else Tag.SWEEP.value: sweep,
                }
            )
            for kind in kinds
        }
    return [run for kind in kinds for run in runs[kind]]


def models_of_sweep(tracking: Tracking, sweep: str) -> list[str]:
    """The registered models with a member from the sweep, each as `reviews version 3`.

    Raises:
        ConfigError: MLflow cannot be read.
    """
    with tracking.errors():
        client = tracking.client
        versions = [
            version
            for model in client.search_registered_models()
            for version in client.search_model_versions(f"name='{model.name}'")
        ]
        return [
            f"{version.name} version {version.version}"
            for version in versions
            if version.run_id and sweep in _sweeps_of(tracking, version.run_id)
        ]


def _sweeps_of(tracking: Tracking, run_id: str) -> list[str]:
    with suppress(MlflowException):  # the run is gone, the model is not
        return str(tracking.client.get_run(run_id).data.tags.get(SWEEPS_TAG, "")).split(",")
    return []


def local_artifacts(run: Run) -> Path | None:
    """The folder of a run's artifacts; None if they are not on a local file system."""
    return local_path(run.info.artifact_uri)


def delete_runs(tracking: Tracking, sweep: str, runs: Iterable[Run]) -> list[str]:
    """Delete runs, their artifacts and the sweep's view.

    Returns:
        For each run whose artifacts could not be deleted, their place and the reason.

    Raises:
        ConfigError: MLflow cannot be written to.
    """
    left = []
    for run in runs:
        problem = _delete_artifacts(tracking, run)
        left += [problem] if problem else []
        with tracking.errors():
            tracking.client.delete_run(run.info.run_id)
    with suppress(MlflowException), tracking.errors():
        delete_view(tracking, sweep)
    return left


def _delete_artifacts(tracking: Tracking, run: Run) -> str | None:
    """Delete a run's artifacts. Return None, or what is left and why."""
    folder = local_artifacts(run)
    if folder is not None:
        shutil.rmtree(folder.parent if folder.name == "artifacts" else folder, ignore_errors=True)
        return f"{folder}: could not be deleted" if folder.exists() else None
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        get_artifact_repository(run.info.artifact_uri, tracking.uri).delete_artifacts()
    except Exception as error:  # each kind of storage raises its own
        return f"{run.info.artifact_uri}: {error}"
    return None
