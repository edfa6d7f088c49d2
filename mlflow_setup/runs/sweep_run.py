"""Project trial folders onto MLflow runs: as often as you like, the run is the same.

One parent run a sweep, one child run a trial. A run is found again by its tags, never by memory;
what was projected is only remembered to spare the server. A point's time stamp is the wall time
that the epoch's record holds, so a replay writes the same point.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow_setup.errors import ConfigError, IntegrityError, PartialError
from mlflow_setup.filesystem.paths import safe_name
from mlflow_setup.runs.projection import (
    EPOCH_SECONDS,
    fixed_tags,
    milliseconds,
    most_important,
    with_best,
)
from mlflow_setup.runs.usage import usage_of
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    PREDICTIONS_ARTIFACT,
    RUN_STATUS,
    EpochRecord,
    OutcomeRecord,
    RunKind,
    Tag,
    TrialRecord,
    TrialSnapshot,
)
from mlflow_setup.tracking.client import Run
from mlflow_setup.tracking.store import Tracking, cut
from mlflow_setup.tracking.ui_view import View, save_view
from mlflow_setup.uris import redact

PARENT_TAG = "mlflow.parentRunId"
USAGE = "used/"
"""Before the metrics of what a trial used: hours, GPU-hours, USD."""

_logger = logging.getLogger(__name__)


class Mirror:
    """The MLflow side of one sweep. `dirty` holds the trials that the server has missed.

    Not thread-safe. All methods but `try_start` and `try_project` raise PartialError when MLflow
    cannot be written to; what they had not yet sent, a later call sends.
    """

    def __init__(self, tracking: Tracking, sweep: str) -> None:
        self.tracking = tracking
        self.sweep = safe_name(sweep, "sweep")
        self.dirty: set[str] = set()
        self._parent: str | None = None
        self._given: _Given | None = None  # what `start` was asked to put on the parent
        self._trials: dict[str, _Projected] = {}
        self._is_out = False

    def start(
        self,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        artifacts: Mapping[str, Path] | None = None,
        view: View | None = None,
    ) -> str:
        """The id of the sweep's run: made, or found and opened again.

        Should MLflow be away, the next projection does it.

        Args:
            artifacts: artifact path -> file.
            view: how MLflow's UI is to list the trials.
        """
        self._given = _Given(tags, params, artifacts or {}, view)
        self._parent = None
        with self.tracking.errors(PartialError):
            return self._parent_id()

    def project(self, snapshot: TrialSnapshot) -> str:
        """Bring the trial's run up to its folder; the run's id. A replay changes nothing.

        An epoch that was run again after a crash keeps the points of its first run; its
        predictions are replaced, for they belong to the weights that are kept.

        Raises:
            ConfigError: the trial is of another sweep, or its name cannot be one.
            IntegrityError: a metric that is not finite, or a predictions file out of its place.
        """
        record = snapshot.record
        name = safe_name(record.trial, "trial")
        if record.sweep != self.sweep:
            raise ConfigError(f"trial {name} is of the sweep {record.sweep!r}, not {self.sweep!r}")
        self.dirty.add(name)
        # only put back at the end: after an error nobody knows what arrived, so ask again then
        run = self._trials.pop(name, None)
        with self.tracking.errors(PartialError):
            run = run or self._find_or_create(record)
            self._reopen(run, snapshot)
            rerun = self._log_epochs(run, snapshot.epochs)
            self._upload(run, snapshot.predictions, rerun)
            self._log_state(run, snapshot)
        self._trials[name] = run
        self.dirty.discard(name)
        return run.run_id

    def try_start(self, *given: Any) -> bool:
        """`start`, for callers that must go on whatever happens: False when it failed."""
        return self._try(lambda: self.start(*given), f"sweep {self.sweep}")

    def try_project(self, snapshot: TrialSnapshot) -> bool:
        """`project`, likewise. The trial is then in `dirty`. Warns once an outage."""
        return self._try(lambda: self.project(snapshot), f"trial {snapshot.record.trial}")

    def _try(self, send: Callable[[], str], what: str) -> bool:
        try:
            send()
        except Exception as error:  # a sweep outlives anything that happens to its mirror
            level = logging.DEBUG if self._is_out else logging.WARNING
            self._is_out = True
            missed = f"{what}: {redact(str(error))}"
            _logger.log(level, "training goes on, but MLflow has missed %s", missed)
            return False
        if self._is_out:
            _logger.info("MLflow can be reached again")
        self._is_out = False
        return True

    def parent_status(self) -> str | None:
        """MLflow's status of the sweep's run, or None when it has none yet."""
        with self.tracking.errors(PartialError):
            found = self.tracking.search(self._tags(RunKind.SWEEP))
        return found[0].info.status if found else None

    def finish(self, status: str) -> None:
        """End the sweep's run as FINISHED, FAILED or KILLED; trials still RUNNING become KILLED."""
        with self.tracking.errors(PartialError):
            client, parent_id = self.tracking.client, self._parent_id()
            for child in self.tracking.search(self._tags(RunKind.TRIAL), status="RUNNING"):
                self._terminate(child, "KILLED")
            parent = client.get_run(parent_id)
            if parent.info.status != status:
                self._terminate(parent, status)
        self._trials.clear()
        self._parent, self._given = None, None

    def _terminate(self, run: Run, status: str) -> None:
        """Now, or when it began, should this machine's clock be behind that of the first driver."""
        end_time = max(milliseconds(time.time()), run.info.start_time)
        self.tracking.client.set_terminated(run.info.run_id, status, end_time)

    def _tags(self, kind: RunKind) -> dict[str, str]:
        return {Tag.KIND.value: kind.value, Tag.SWEEP.value: self.sweep}

    def _parent_id(self, start_time: float | None = None) -> str:
        """`start_time`: of a sweep's run that is made only now, in seconds; None: now."""
        if self._parent is not None:
            return self._parent
        tags, given = self._tags(RunKind.SWEEP), self._given
        found = self.tracking.search(tags)
        run = found[0] if found else self._create(self.sweep, tags, start_time)
        run_id = str(run.info.run_id)
        if given is not None:
            client = self.tracking.client
            given_tags = {key: value for key, value in given.tags.items() if key not in tags}
            self.tracking.log(run_id, tags=given_tags)
            self._log_params(run, given.params)
            for path, local in given.artifacts.items():
                self._log_file(run_id, path, local)
            if given.view is not None:
                save_view(self.tracking, self.sweep, given.view, run.info.start_time / 1000)
            if run.info.status != "RUNNING":
                client.update_run(run_id, status="RUNNING")
        self._parent = run_id
        return run_id

    def _find_or_create(self, record: TrialRecord) -> "_Projected":
        parent_id = self._parent_id(record.start_time)
        client, tags = self.tracking.client, self._tags(RunKind.TRIAL)
        tags[Tag.TRIAL.value] = record.trial
        found = self.tracking.search(tags)
        if found:
            run = found[0]
        else:
            tags |= {PARENT_TAG: parent_id, **fixed_tags(record)}
            run = self._create(record.trial, tags, record.start_time)
        run_id = str(run.info.run_id)
        self._log_params(run, record.config)
        projected = _Projected(run_id, run.info.status, dict(run.data.tags), {}, {})
        if found:
            projected.used |= {
                key: value for key, value in run.data.metrics.items() if key.startswith(USAGE)
            }
            points = client.get_metric_history(run_id, EPOCH_SECONDS)
            projected.epochs |= {point.step: point.timestamp for point in points}
            projected.files |= dict(self._list_files(run_id, ""))
        config = record.to_json()
        if projected.files.get(CONFIG_ARTIFACT) != len(config.encode()):  # or there in part
            client.log_text(run_id, config, CONFIG_ARTIFACT)
        return projected

    def _create(self, name: str, tags: Mapping[str, str], start_time: float | None) -> Run:
        return self.tracking.client.create_run(
            self.tracking.experiment_id,
            start_time=None if start_time is None else milliseconds(start_time),
            tags={key: cut(value) for key, value in tags.items()},
            run_name=name,
        )

    def _log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        """Those the run lacks: MLflow's params cannot change."""
        missing = {key: value for key, value in params.items() if key not in run.data.params}
        if missing:
            self.tracking.log(run.info.run_id, params=missing)

    def _reopen(self, run: "_Projected", snapshot: TrialSnapshot) -> None:
        """A trial that was stopped and runs again is RUNNING, without an outcome."""
        if snapshot.outcome is not None:
            return
        client = self.tracking.client
        if run.status != "RUNNING":
            client.update_run(run.run_id, status="RUNNING")
            run.status = "RUNNING"
        for tag in {Tag.OUTCOME.value, Tag.REASON.value} & set(run.tags):
            client.delete_tag(run.run_id, tag)
            del run.tags[tag]

    def _log_epochs(self, run: "_Projected", epochs: Iterable[EpochRecord]) -> set[int]:
        """One batch for each epoch the run lacks. Returns those that were run again since."""
        rerun = set()
        for record, metrics in with_best(epochs):
            timestamp = milliseconds(record.wall_time)
            if record.epoch not in run.epochs:
                kept = most_important(metrics)
                if len(kept) < len(metrics) and record.epoch == 1:
                    _logger.warning("%d of %d metrics are tracked", len(kept), len(metrics))
                self.tracking.log(run.run_id, metrics=kept, timestamp=timestamp, step=record.epoch)
            elif run.epochs[record.epoch] != timestamp:
                rerun.add(record.epoch)
            run.epochs[record.epoch] = timestamp
        return rerun

    def _upload(self, run: "_Projected", files: Mapping[str, Path], rerun: set[int]) -> None:
        """The predictions that the run lacks, has in part, or has of an epoch's earlier run."""
        for path, local in sorted(files.items()):
            artifact, size = f"{PREDICTIONS_ARTIFACT}/{path}", local.stat().st_size
            is_stale = int(local.stem) in rerun
            if is_stale or run.files.get(artifact) != size:
                self._log_file(run.run_id, artifact, local)
                run.files[artifact] = size

    def _log_state(self, run: "_Projected", snapshot: TrialSnapshot) -> None:
        tags = {
            Tag.WEIGHTS_URI.value: snapshot.weights_uri,
            Tag.KEPT_EPOCHS.value: ",".join(str(epoch) for epoch in snapshot.kept_epochs),
        }
        outcome = snapshot.outcome
        if outcome is not None:
            tags |= {
                Tag.OUTCOME.value: outcome.outcome.value,
                Tag.REASON.value: outcome.reason,
                Tag.NUM_EPOCHS.value: str(outcome.epoch),
            }
            self._log_usage(run, snapshot, outcome)
        tags = {key: cut(value) for key, value in tags.items()}
        changed = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        if changed:
            self.tracking.log(run.run_id, tags=changed)
            run.tags |= changed
        if outcome is not None and (changed or run.status != RUN_STATUS[outcome.outcome]):
            run.status = RUN_STATUS[outcome.outcome]
            # of two processes' clocks one may be behind
            end_time = milliseconds(max(outcome.wall_time, snapshot.record.start_time))
            self.tracking.client.set_terminated(run.run_id, run.status, end_time)

    def _log_usage(
        self, run: "_Projected", snapshot: TrialSnapshot, outcome: OutcomeRecord
    ) -> None:
        """What the trial's attempts used, as metrics to sort by; once for each end."""
        used = {
            f"{USAGE}{key}": value for key, value in asdict(usage_of(snapshot.attempts)).items()
        }
        if snapshot.attempts and run.used != used:
            timestamp = milliseconds(outcome.wall_time)
            self.tracking.log(run.run_id, metrics=used, timestamp=timestamp, step=outcome.epoch)
            run.used = used

    def _log_file(self, run_id: str, artifact: str, local: Path) -> None:
        folder, name = str(PurePosixPath(artifact).parent), PurePosixPath(artifact).name
        if name != local.name:
            raise IntegrityError(f"{local}: not the file of the artifact {artifact}")
        self.tracking.client.log_artifact(run_id, str(local), None if folder == "." else folder)

    def _list_files(self, run_id: str, folder: str) -> Iterator[tuple[str, int]]:
        for entry in self.tracking.client.list_artifacts(run_id, folder or None):
            if entry.is_dir:
                yield from self._list_files(run_id, entry.path)
            else:
                yield entry.path, entry.file_size


@dataclass(frozen=True)
class _Given:
    """What `start` puts on the sweep's run."""

    tags: Mapping[str, str]
    params: Mapping[str, Any]
    artifacts: Mapping[str, Path]
    view: View | None


@dataclass
class _Projected:
    """What a trial's run already has."""

    run_id: str
    status: str
    tags: dict[str, str]
    epochs: dict[int, int]  # epoch -> time stamp of its points in milliseconds
    files: dict[str, int]  # artifact path -> bytes
    used: dict[str, float] = field(default_factory=dict)  # what the run says it used
