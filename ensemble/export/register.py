"""Registers a bundle in MLflow's model registry, with all that is needed to load it."""

import math
from importlib.metadata import version
from pathlib import Path

from ensemble.bundle.format import CARD, Bundle
from ensemble.serving.interface import interface
from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.manifest import MANIFEST, sha256_file
from mlflow_setup.models.registry import (
    ALIAS,
    BUNDLE,
    ModelMetadata,
    ModelSource,
    Registered,
    log_model,
)
from mlflow_setup.runs.description import NOTE
from mlflow_setup.runs.ensemble_runs import log_ensemble
from mlflow_setup.schema import metric_name
from mlflow_setup.tracking.store import Tracking

CODE = Path(__file__).parent / "model_code.py"
REQUIRED = (
    *("mlflow", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy"),
    *("pandas", "scipy", "scikit-learn", "pyarrow", "pydantic", "PyYAML", "filelock", "psutil"),
)
"""The packages that loading and predicting need besides the wheel; pinned to the installed
versions."""


def register(
    tracking: Tracking, folder: Path, name: str, alias: str = ALIAS
) -> tuple[str, Registered]:
    """Log a bundle as an MLflow model in a new run, and register it.

    Returns:
        The run's id, and the new version, to which `alias` is set.

    Raises:
        IntegrityError: the bundle is not intact.
        ConfigError: it has no wheel, or MLflow cannot be written to.
    """
    source = model_source(folder)
    contents, metadata = Bundle.load(folder).contents, source.metadata
    run_id = log_ensemble(
        tracking,
        name,
        folder,
        metadata.metrics,
        {"num_members": len(contents.members), "tasks": list(contents.tasks)},
        {**metadata.tags, "members": ",".join(contents.members), NOTE: metadata.description},
    )
    return run_id, log_model(tracking, source, run_id, name, alias)


def model_source(folder: Path) -> ModelSource:
    """Return the files, requirements and metadata of a bundle's MLflow model.

    Raises:
        IntegrityError, ConfigError: as `register`.
    """
    bundle = Bundle.load(folder)
    if bundle.wheel is None:
        raise ConfigError(f"{folder}: holds no wheel of Ensweep's code", fix="export it again")
    wheel = bundle.wheel.relative_to(bundle.folder).as_posix()
    return ModelSource(
        bundle=folder,
        code=CODE,
        requirements=[
            *(f"{required}=={version(required)}" for required in REQUIRED),
            f"artifacts/{BUNDLE}/{wheel}",
        ],
        metadata=_metadata(bundle),
        interface=interface({name: entry.task for name, entry in bundle.contents.tasks.items()}),
    )


def _metadata(bundle: Bundle) -> ModelMetadata:
    """Return held-out scores, tags, and the card without the hub's metadata and pictures."""
    contents = bundle.contents
    scores = {
        metric_name("held_out", task, str(entry.task.metric)): score
        for task, entry in contents.tasks.items()
        if (score := entry.scores.get("selective", {}).get("held_out")) is not None
        and math.isfinite(score)
    }
    sweeps = sorted({member.sweep for member in contents.members.values() if member.sweep})
    card = (bundle.folder / CARD).read_text(encoding="utf-8")
    body = card.split("\n---\n", 1)[-1].strip()
    shown = "\n".join(line for line in body.splitlines() if not line.startswith("!["))
    tags = {
        "tasks": ",".join(contents.tasks),
        "sweeps": ",".join(sweeps),
        "num_members": str(len(contents.members)),
        "manifest_sha256": sha256_file(bundle.folder / MANIFEST),
    }
    return ModelMetadata(shown, tags, scores)
