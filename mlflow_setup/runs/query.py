"""Query runs as frozen `RunRecord`s, and download artifacts to a local cache."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.filesystem.paths import inside
from mlflow_setup.schema import TRAININGS, Outcome, RunKind, RunRecord, Tag
from mlflow_setup.text import there_are
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.tracking.stored_runs import StoredRun, artifact_uri_of, read_runs
from mlflow_setup.uris import local_path, redact

if TYPE_CHECKING:
    from mlflow_setup.tracking.client import Run

_logger = logging.getLogger(__name__)


def find_trials(tracking: Tracking, sweep: str | None = None) -> list[RunRecord]:
    """All trials in MLflow, of one sweep or of every sweep, the oldest first.

    Raises:
        ConfigError: MLflow cannot be read.
    """
    tags = {Tag.KIND.value: RunKind.TRIAL.value}
    if sweep is not None:
        tags[Tag.SWEEP.value] = sweep
    with tracking.errors():
        return [as_record(run) for run in read_runs(tracking, tags)]


def trials_of(tracking: Tracking, sweep: str) -> list[RunRecord]:
    """The trials of one sweep in MLflow, the oldest first.

    Raises:
        NothingUsableError: there are none; the message lists the sweeps that MLflow has.
        ConfigError: MLflow cannot be read.
    """
    trials = find_trials(tracking, sweep)
    if not trials:
        others = there_are(sweep, [name for name in tracked_sweeps(tracking) if name != sweep])
        raise NothingUsableError(
            f"no trial of a sweep {sweep!r} is tracked at {redact(tracking.uri)}{others}",
            fix="name another sweep, or none for the latest; check --storage and --tracking-uri",
        )
    return trials


def find_run(tracking: Tracking, run_id: str) -> RunRecord:
    """The run of one trial, by its id.

    Raises:
        ConfigError: MLflow has no such run or cannot be read, or the run is not a trial.
    """
    _require_id(run_id)
    with tracking.errors():
        run = tracking.client.get_run(run_id)
    if run.data.tags.get(Tag.KIND.value) != RunKind.TRIAL.value:
        raise ConfigError(f"run {run_id} is not a trial")
    return as_record(run)


@dataclass(frozen=True)
class ChoiceRecord:
    """A choice of members that `ensweep ensemble` logged."""

    run_id: str
    start_time: float  # seconds since the Unix epoch
    params: dict[str, str]  # the options of the command
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def member_run_ids(self) -> tuple[str, ...]:
        return tuple(filter(None, self.tags.get("member_run_ids", "").split(",")))


def latest_choice(tracking: Tracking, sweep: str) -> ChoiceRecord | None:
    """The last choice of members from this sweep alone; None if there is none yet.

    Raises:
        ConfigError: MLflow cannot be read.
    """
    tags = {Tag.KIND.value: RunKind.ENSEMBLE.value, "sweeps": sweep}
    with tracking.errors():
        ended = read_runs(tracking, tags, "FINISHED")
    runs = [run for run in ended if Tag.CHOICE.value in run.data.tags]
    if not runs:
        return None
    run = runs[-1]
    return ChoiceRecord(
        run_id=str(run.info.run_id),
        start_time=run.info.start_time / 1000,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )


def latest_with(tracking: Tracking, tags: Mapping[str, str]) -> str | None:
    """The id of the last FINISHED run with these tags; None if there is none.

    Raises:
        ConfigError: MLflow cannot be read.
    """
    with tracking.errors():
        runs = read_runs(tracking, tags, "FINISHED")
    return str(runs[-1].info.run_id) if runs else None


def tracked_sweeps(tracking: Tracking) -> list[str]:
    """All sweeps in MLflow, the latest first; `TRAININGS` comes last.

    Raises:
        ConfigError: MLflow cannot be read.
    """
    with tracking.errors():
        runs = read_runs(tracking, {Tag.KIND.value: RunKind.SWEEP.value})
    names = [run.data.tags[Tag.SWEEP.value] for run in reversed(runs)]
    return sorted(dict.fromkeys(names), key=TRAININGS.__eq__)


def latest_tracked_sweep(tracking: Tracking) -> str:
    """The sweep that started last.

    Raises:
        NothingUsableError: no sweep is tracked here.
        ConfigError: MLflow cannot be read.
    """
    names = tracked_sweeps(tracking)
    if not names:
        raise NothingUsableError(
            f"no sweep is tracked at {redact(tracking.uri)}",
            fix="start one with ensweep sweep demo, or check --storage and --tracking-uri",
        )
    return names[0]


def download(tracking: Tracking, run_id: str, artifact_path: str, cache: Path) -> Path:
    """The local path of one artifact: the file itself if artifacts are on this machine.

    Otherwise its whole folder is downloaded once to `<cache>/<run_id>/`: a single file would take
    three requests.

    Raises:
        IntegrityError: the path leads out of the run's artifacts, or there is no such artifact.
        ConfigError: MLflow cannot be read, or has no such folder.
    """
    _require_id(run_id)
    target = inside(cache / run_id, artifact_path)
    if target.is_file():
        return target
    with tracking.errors():
        root = _artifact_root(tracking, run_id)
    if root is not None:
        local = inside(root, artifact_path)
        if not local.is_file():
            raise IntegrityError(f"run {run_id} has no artifact {artifact_path}: {local}")
        return local
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = PurePosixPath(artifact_path).parent
    wanted = artifact_path if folder == PurePosixPath() else str(folder)
    with TemporaryDirectory(prefix=".tmp-", dir=cache) as temporary, tracking.errors():
        fetched = _fetch(tracking, run_id, wanted, temporary)
        for file in [fetched] if fetched.is_file() else fetched.iterdir():
            known = target.with_name(file.name)
            if file.is_file() and not known.exists():
                file.replace(known)  # atomic
    if not target.is_file():
        raise IntegrityError(f"run {run_id} has no artifact {artifact_path}")
    return target


def artifacts_of(tracking: Tracking, run_id: str) -> list[str]:
    """The names of a run's artifacts that are files at the top level.

    Raises:
        ConfigError: MLflow cannot be read.
    """
    _require_id(run_id)
    with tracking.errors():
        root = _artifact_root(tracking, run_id)
        if root is None:
            listed = tracking.client.list_artifacts(run_id)
            return [entry.path for entry in listed if not entry.is_dir]
        files = root.iterdir() if root.is_dir() else ()
        return sorted(path.name for path in files if path.is_file())


def _require_id(run_id: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,127}", run_id, re.ASCII):
        raise ConfigError(f"{run_id!r} is not the id of a run")


def _fetch(tracking: Tracking, run_id: str, artifact_path: str, folder: str) -> Path:
    """Download by URI: given a run id, MLflow would first request the run and its models."""
    from mlflow_setup.tracking.client import download_artifacts

    uri = f"{_artifact_uri(tracking, run_id).rstrip('/')}/{artifact_path}"
    return Path(download_artifacts(uri, dst_path=folder, tracking_uri=tracking.uri))


_artifact_uri = lru_cache(maxsize=10_000)(artifact_uri_of)


def _artifact_root(tracking: Tracking, run_id: str) -> Path | None:
    """The folder of a run's artifacts; None if they are not on this machine."""
    return local_path(_artifact_uri(tracking, run_id))


def as_record(run: "Run | StoredRun") -> RunRecord:
    """A trial's MLflow run as a `RunRecord`."""
    tags = dict(run.data.tags)
    outcome = tags.get(Tag.OUTCOME.value)
    if outcome is not None and outcome not in set(Outcome):
        _logger.warning("run %s: unknown outcome %r is ignored", run.info.run_id, outcome)
        outcome = None
    return RunRecord(
        run_id=run.info.run_id,
        trial=tags[Tag.TRIAL.value],
        sweep=tags.get(Tag.SWEEP.value),
        status=run.info.status,
        outcome=None if outcome is None else Outcome(outcome),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=tags,
    )
