"""Save, log, register and download an exported ensemble as an MLflow model."""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.atomic import remove_folder
from mlflow_setup.filesystem.manifest import MANIFEST, find_damage
from mlflow_setup.filesystem.paths import inside, safe_name
from mlflow_setup.filesystem.storage import TEMPORARY
from mlflow_setup.tracking.client import Metric, MlflowException
from mlflow_setup.tracking.store import Tracking, truncate
from mlflow_setup.uris import local_path, redact

ALIAS = "champion"
BUNDLE = "bundle"
"""Name of the model's artifact that holds the ensemble, and of its folder below `artifacts`."""

TASK_PARAM = "task"
_MAX_DESCRIPTION = 5000  # characters: the limit of MLflow's database
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True)
class Interface:
    """A model's inputs and outputs, for its MLflow signature."""

    columns: tuple[str, ...]  # text columns; the request's task determines which are required
    outputs: Mapping[str, str]  # column -> MLflow data type; all but `label` are optional
    task: str  # the task of the example
    example: tuple[Mapping[str, str], ...]  # rows: column -> sentence


@dataclass(frozen=True)
class ModelMetadata:
    """A model's description, tags and metrics, as MLflow's pages show them."""

    description: str = ""  # Markdown
    tags: Mapping[str, str] = field(default_factory=dict)  # on the model and its version
    metrics: Mapping[str, float] = field(default_factory=dict)  # on the logged model; finite


@dataclass(frozen=True)
class Registered:
    """A registered version that an alias now points to."""

    version: str
    before: str | None  # the version that the alias pointed to before; None: it is new


@dataclass(frozen=True)
class ModelSource:
    """The parts of an MLflow model. Nothing is pickled."""

    bundle: Path  # the folder of the exported ensemble
    code: Path  # the Python file that MLflow runs to load the model
    requirements: Sequence[str]  # for pip; paths are relative to the model
    interface: Interface
    metadata: ModelMetadata = ModelMetadata()


def save_model(source: ModelSource, path: Path, run_id: str | None = None) -> None:
    """Write the MLflow model to the new folder `path`, as models-from-code: without a pickle."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model as save

    first = source.interface
    with tempfile.TemporaryDirectory() as folder:
        # MLflow names the artifact's folder after its source, and rejects symbolic links.
        named = shutil.copytree(
            source.bundle,
            Path(folder) / BUNDLE,
            copy_function=_link_or_copy,
            ignore=shutil.ignore_patterns(".git", ".cache", ".gitattributes", ".DS_Store"),
        )
        save(
            path=str(path),
            python_model=str(source.code),
            artifacts={BUNDLE: str(named)},
            signature=signature(first),
            input_example=(list(map(dict, first.example)), {TASK_PARAM: first.task}),
            pip_requirements=list(source.requirements),
            mlflow_model=Model(run_id=run_id),
        )


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def signature(interface: Interface) -> Any:
    """The MLflow ModelSignature: optional text columns, and the task as a parameter."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    columns = [ColSpec("string", name, required=False) for name in interface.columns]
    outputs = [
        ColSpec(kind, name, required=name == "label") for name, kind in interface.outputs.items()
    ]
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec(TASK_PARAM, "string", None)]),
    )


def log_model(
    tracking: Tracking, source: ModelSource, run_id: str, name: str, alias: str = ALIAS
) -> Registered:
    """Log the model to a run, register it as a new version, and point `alias` to that version.

    If that fails, the run's status becomes FAILED.

    Raises:
        ConfigError: MLflow cannot be written to, or rejects the name or the alias.
    """
    safe_name(name, "model")
    with tracking.errors():
        done = None
        try:
            done = _log_and_register(tracking, source, run_id, name, alias)
        finally:
            if done is None:
                tracking.client.set_terminated(run_id, "FAILED")
    return done


def move_alias(tracking: Tracking, uri: str, alias: str = ALIAS) -> Registered:
    """Point an alias to a version that is registered already, named `models:/NAME/VERSION`.

    Raises:
        ConfigError: the URI has another form, there is no such version, or MLflow cannot be
            written to.
    """
    match = _URI.fullmatch(uri)
    if match is None or match["version"] is None:
        raise ConfigError(f"{uri!r} does not name a version", fix="use models:/NAME/VERSION")
    name = safe_name(match["name"], "model")
    with tracking.errors():
        tracking.client.get_model_version(name, match["version"])  # raises if there is none
        return _set_alias(tracking, name, alias, match["version"])


def _set_alias(tracking: Tracking, name: str, alias: str, version: str) -> Registered:
    before = tracking.client.get_registered_model(name).aliases.get(alias)
    tracking.client.set_registered_model_alias(name, alias, version)
    return Registered(str(version), None if before is None else str(before))


def _log_and_register(
    tracking: Tracking, source: ModelSource, run_id: str, name: str, alias: str
) -> Registered:
    client, metadata = tracking.client, source.metadata
    tags = {key: truncate(value) for key, value in metadata.tags.items()}
    description = metadata.description[:_MAX_DESCRIPTION]
    logged = client.create_logged_model(
        tracking.experiment_id, name=name, source_run_id=run_id, tags=tags, model_type="ensemble"
    )
    status = "FAILED"
    try:
        with tempfile.TemporaryDirectory() as folder:
            save_model(source, Path(folder) / "model", run_id)
            client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        status = "READY"
    finally:
        client.finalize_logged_model(logged.model_id, status)
    now = round(time.time() * 1000)
    points = [Metric(key, v, now, 0, logged.model_id) for key, v in metadata.metrics.items()]
    client.log_batch(run_id, metrics=points)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for key, value in tags.items():
        client.set_registered_model_tag(name, key, value)
    client.update_registered_model(name, description=description)
    version = client.create_model_version(
        name,
        logged.artifact_location,
        run_id=run_id,
        tags=tags,
        description=description,
        model_id=logged.model_id,
    )
    return _set_alias(tracking, name, alias, str(version.version))


def is_model(uri: str) -> bool:
    """Whether `uri` names a registered model rather than a folder."""
    return uri.startswith("models:")


def fetch_bundle(tracking: Tracking, uri: str, cache: Path) -> Path:
    """The bundle of a registered model: in place if it is on this machine, else downloaded once to
    `cache`.

    No code of the model is run or installed.

    Raises:
        ConfigError: not models:/NAME@ALIAS or models:/NAME/VERSION, no such model, or MLflow
            cannot be read.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise ConfigError(
            f"{uri!r} does not name a registered model",
            fix=f"use models:/NAME@{ALIAS} or models:/NAME/VERSION",
        )
    name = safe_name(match["name"], "model")
    with tracking.errors():
        client = tracking.client
        version = (
            match["version"] or client.get_model_version_by_alias(name, match["alias"]).version
        )
        place = str(client.get_model_version_download_uri(name, str(version)))
        folder = local_path(place)
        if folder is not None:
            return inside(folder, f"artifacts/{BUNDLE}")
        target = cache / "models" / _cache_name(place)
        return _download_once(tracking, f"{place}/artifacts/{BUNDLE}", target)


def _cache_name(place: str) -> str:
    """The folder name in the cache for a download from `place`, whose content never changes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", redact(place)).strip("-.")[-100:]


def _download_once(tracking: Tracking, uri: str, target: Path) -> Path:
    """Download to `target` unless it is there undamaged, and return it. Other processes wait."""
    from mlflow.artifacts import download_artifacts

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not _is_undamaged(target):
            remove_folder(target)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=target.parent) as folder:
                fetched = download_artifacts(
                    artifact_uri=uri, dst_path=folder, tracking_uri=tracking.uri
                )
                Path(fetched).rename(target)
    return target


def _is_undamaged(bundle: Path) -> bool:
    """Whether the bundle matches its manifest. Loading it checks what the manifest describes."""
    try:
        facts = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        del facts["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return find_damage(bundle, facts) is None
