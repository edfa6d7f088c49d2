"""What MLflow is told of a sweep as a whole: by its driver, and by `ensweep sync`."""

from pathlib import Path
from typing import Any

from mlflow_setup.schema import OVERALL, metric_name
from mlflow_setup.tracking.ui_view import View
from search.config.sweep_config import SweepConfig
from search.planning.preflight import known_configs
from search.storage.history import SWEEP_FILE, SweepFolder


def what_is_tracked(
    folder: SweepFolder, sweep: SweepConfig
) -> tuple[dict[str, str], dict[str, Any], dict[str, Path], View]:
    """Tags, params and artifacts of the sweep's own run, and how its trials are shown."""
    params = {
        f"{section}.{key}": value
        for section in ("search", "scheduler", "resources")
        for key, value in getattr(sweep, section).model_dump(mode="json").items()
    }
    return (
        {"recipe": sweep.recipe, "description": sweep.description},
        {"sweep": sweep.name, **params},
        {SWEEP_FILE: folder.path / SWEEP_FILE},
        _view(sweep),
    )


def _view(sweep: SweepConfig) -> View:
    """Best scores, overall and by task, and what is searched."""
    tasks = known_configs(sweep)[0].task_records()
    metrics = [metric_name("dev", name, str(t.metric)) for name, t in tasks.items() if t.metric]
    best = tuple(f"best/{name}" for name in (OVERALL, *metrics))
    return View(best, tuple(sweep.space))
