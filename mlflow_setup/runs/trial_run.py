"""The MLflow run of a trial, written from its folder. Writing it again changes nothing."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow_setup.errors import IntegrityError
from mlflow_setup.runs.datasets import dataset_input
from mlflow_setup.runs.description import run_name
from mlflow_setup.runs.projection import (
    EPOCH_SECONDS,
    fixed_tags,
    milliseconds,
    most_important,
    with_best,
)
from mlflow_setup.runs.usage import SYSTEM, USAGE, usage_of
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    PREDICTIONS_ARTIFACT,
    RUN_STATUS,
    EpochRecord,
    OutcomeRecord,
    Tag,
    TrialRecord,
    TrialSnapshot,
)
from mlflow_setup.tracking.client import Metric, Run
from mlflow_setup.tracking.store import Tracking, truncate

PARENT_TAG = "mlflow.parentRunId"

_logger = logging.getLogger(__name__)


@dataclass
class TrialRun:
    """A trial's run, and what has been logged to it already.

    The timestamp of a metric is the wall time in the epoch's record, so logging it again writes the
    same point.
    """

    tracking: Tracking
    run_id: str
    status: str
    tags: dict[str, str]
    epochs: dict[int, int]  # epoch -> timestamp of its metrics in milliseconds
    files: dict[str, int]  # artifact path -> bytes
    used: dict[str, float] = field(default_factory=dict)  # usage metric -> value
    missing_params: dict[str, Any] = field(default_factory=dict)  # sent with the first batch
    on_progress: Callable[[], None] = lambda: None  # called after each batch or file sent
    num_samples: int = 0  # system samples that have been logged

    def project(self, snapshot: TrialSnapshot) -> None:
        """Bring the run up to date with the trial's folder, in few requests. Idempotent."""
        self._reopen(snapshot)
        points, rerun = self._new_points(snapshot.epochs)
        self._log(
            {
                Tag.WEIGHTS_URI.value: snapshot.weights_uri,
                Tag.KEPT_EPOCHS.value: ",".join(str(epoch) for epoch in snapshot.kept_epochs),
            },
            [*points, *self._new_samples(snapshot.system)],
        )
        self._upload(snapshot.predictions, rerun)
        if snapshot.outcome is not None:
            self._end(snapshot, snapshot.outcome)

    def _reopen(self, snapshot: TrialSnapshot) -> None:
        """Set a resumed trial's run to RUNNING, and delete the outcome of its earlier attempt."""
        if snapshot.outcome is not None:
            return
        client = self.tracking.client
        if self.status != "RUNNING":
            client.update_run(self.run_id, status="RUNNING")
            self.status = "RUNNING"
        for tag in {Tag.OUTCOME.value, Tag.REASON.value} & set(self.tags):
            client.delete_tag(self.run_id, tag)
            del self.tags[tag]

    def _new_points(self, epochs: Iterable[EpochRecord]) -> tuple[list[Metric], set[int]]:
        """The metrics of epochs that the run lacks, and the epochs that were repeated since."""
        points, rerun = [], set()
        for record, metrics in with_best(epochs):
            timestamp = milliseconds(record.wall_time)
            if record.epoch not in self.epochs:
                kept = most_important(metrics)
                if len(kept) < len(metrics) and record.epoch == 1:
                    _logger.warning("%d of %d metrics are tracked", len(kept), len(metrics))
                points += [Metric(key, v, timestamp, record.epoch) for key, v in kept.items()]
            elif self.epochs[record.epoch] != timestamp:
                rerun.add(record.epoch)
            self.epochs[record.epoch] = timestamp
        return points, rerun

    def _new_samples(self, samples: Sequence[tuple[float, dict[str, float]]]) -> list[Metric]:
        """The system samples that the run lacks, in order."""
        points = [
            Metric(key, value, milliseconds(wall_time), step)
            for step, (wall_time, values) in enumerate(samples, start=1)
            if step > self.num_samples
            for key, value in values.items()
        ]
        self.num_samples = max(self.num_samples, len(samples))
        return points

    def _upload(self, files: Mapping[str, Path], rerun: set[int]) -> None:
        """Upload the predictions that the run lacks, has in part, or has from before an epoch was
        repeated."""
        for path, local in sorted(files.items()):
            artifact, size = f"{PREDICTIONS_ARTIFACT}/{path}", local.stat().st_size
            is_stale = int(local.stem) in rerun
            if is_stale or self.files.get(artifact) != size:
                log_file(self.tracking, self.run_id, artifact, local)
                self.files[artifact] = size
                self.on_progress()

    def _log(self, tags: Mapping[str, str], points: Sequence[Metric] = ()) -> bool:
        """Send changed tags, the points, and missing params in one batch. Return whether a tag
        changed."""
        shortened = {key: truncate(value) for key, value in tags.items()}
        changed = {key: value for key, value in shortened.items() if self.tags.get(key) != value}
        if changed or points or self.missing_params:
            params = self.missing_params
            self.tracking.log(self.run_id, points=points, params=params, tags=changed)
            self.missing_params = {}
            self.tags |= changed
            self.on_progress()
        return bool(changed)

    def _end(self, snapshot: TrialSnapshot, outcome: OutcomeRecord) -> None:
        """Log how the trial ended and the resources of its attempts, and end the run."""
        tags = {
            Tag.OUTCOME.value: outcome.outcome.value,
            Tag.REASON.value: outcome.reason,
            Tag.NUM_EPOCHS.value: str(outcome.epoch),
        }
        used = {
            f"{USAGE}{key}": value for key, value in asdict(usage_of(snapshot.attempts)).items()
        }
        points = []
        if snapshot.attempts and self.used != used:
            timestamp = milliseconds(outcome.wall_time)
            points = [Metric(key, v, timestamp, outcome.epoch) for key, v in used.items()]
        has_changed = self._log(tags, points)
        self.used = used if points else self.used
        if has_changed or self.status != RUN_STATUS[outcome.outcome]:
            self.status = RUN_STATUS[outcome.outcome]
            # the two times may come from different clocks
            end_time = milliseconds(max(outcome.wall_time, snapshot.record.start_time))
            self.tracking.client.set_terminated(self.run_id, self.status, end_time)


def find_or_create(
    tracking: Tracking, tags: Mapping[str, str], record: TrialRecord, parent_id: str
) -> TrialRun:
    """The run with these tags and what has been logged to it; created below the sweep's run if
    there is none.

    Uploads `config.json` if it is missing; missing params are sent with the next batch.
    """
    runs = tracking.search(tags)
    if runs:
        run = runs[0]
    else:
        tags = {**tags, PARENT_TAG: parent_id, **fixed_tags(record)}
        searched = {key: record.config[key] for key in record.searched if key in record.config}
        name = run_name(record.trial, record.recipe, searched)
        run = create_run(tracking, name, tags, record.start_time)
        log_dataset(tracking, str(run.info.run_id), record.data_fingerprint, record.config)
    run_id = str(run.info.run_id)
    projected = TrialRun(tracking, run_id, run.info.status, dict(run.data.tags), {}, {})
    projected.missing_params = missing_params(run, record.config)
    if runs:
        sampled = min((key for key in run.data.metrics if key.startswith(SYSTEM)), default=None)
        if sampled is not None:
            history = tracking.client.get_metric_history(run_id, sampled)
            projected.num_samples = max(point.step for point in history)
        projected.used |= {
            key: value for key, value in run.data.metrics.items() if key.startswith(USAGE)
        }
        points = tracking.client.get_metric_history(run_id, EPOCH_SECONDS)
        projected.epochs |= {point.step: point.timestamp for point in points}
        projected.files |= dict(_list_files(tracking, run_id, ""))
    config = record.to_json()
    if projected.files.get(CONFIG_ARTIFACT) != len(config.encode()):  # missing or incomplete
        tracking.client.log_text(run_id, config, CONFIG_ARTIFACT)
    return projected


def create_run(
    tracking: Tracking, name: str, tags: Mapping[str, str], start_time: float | None
) -> Run:
    """Create a run. `start_time` is in seconds since the Unix epoch; None: now."""
    return tracking.client.create_run(
        tracking.experiment_id,
        start_time=None if start_time is None else milliseconds(start_time),
        tags={key: truncate(value) for key, value in tags.items()},
        run_name=name,
    )


def missing_params(run: Run, params: Mapping[str, Any]) -> dict[str, Any]:
    """The params that the run lacks; MLflow does not allow changing the others."""
    return {key: value for key, value in params.items() if key not in run.data.params}


def log_dataset(
    tracking: Tracking, run_id: str, fingerprint: str, config: Mapping[str, Any]
) -> None:
    """Log a run's dataset, if its data are known. Idempotent."""
    data = dataset_input(fingerprint, config)
    if data is not None:
        tracking.client.log_inputs(run_id, datasets=[data])


def log_file(tracking: Tracking, run_id: str, artifact: str, local: Path) -> None:
    """Upload a file to an artifact path, whose last part must be the file's name.

    Raises:
        IntegrityError: the names differ.
    """
    folder, name = str(PurePosixPath(artifact).parent), PurePosixPath(artifact).name
    if name != local.name:
        raise IntegrityError(f"{local}: its name is not that of the artifact {artifact}")
    tracking.client.log_artifact(run_id, str(local), None if folder == "." else folder)


def _list_files(tracking: Tracking, run_id: str, folder: str) -> Iterator[tuple[str, int]]:
    for entry in tracking.client.list_artifacts(run_id, folder or None):
        if entry.is_dir:
            yield from _list_files(tracking, run_id, entry.path)
        else:
            yield entry.path, entry.file_size
