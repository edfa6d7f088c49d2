"""The MLflow run of a sweep, and the mirror that writes the sweep's trials below it.

Each sweep is a parent run, each of its trials a child run (`trial_run`). Runs are looked up by
their tags. What was written is remembered only to save requests.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from mlflow_setup.errors import ConfigError, PartialError
from mlflow_setup.filesystem.paths import safe_name
from mlflow_setup.runs.description import NOTE, SweepPage
from mlflow_setup.runs.projection import milliseconds
from mlflow_setup.runs.query import as_record
from mlflow_setup.runs.trial_run import (
    TrialRun,
    create_run,
    find_or_create,
    log_dataset,
    log_file,
    missing_params,
)
from mlflow_setup.schema import RunKind, Tag, TrialSnapshot
from mlflow_setup.tracking.client import Run
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.tracking.ui_view import View, save_view, view_path
from mlflow_setup.uris import redact

_logger = logging.getLogger(__name__)


class Mirror:
    """Writes one sweep to MLflow. `dirty` holds the trials that are not up to date there.

    Several threads may project trials at a time, but not the same trial. All methods except
    `try_start` and `try_project` raise PartialError if MLflow cannot be written to; a later call
    sends what was not sent.
    """

    def __init__(self, tracking: Tracking, sweep: str) -> None:
        self.tracking = tracking
        self.sweep = safe_name(sweep, "sweep")
        self.dirty: set[str] = set()
        self._parent: str | None = None
        self._given: _Given | None = None  # the arguments of `start`
        self._trials: dict[str, TrialRun] = {}
        self._is_unreachable = False
        self._making_parent = Lock()
        self.on_progress: Callable[[], None] = lambda: None
        """Called after each batch or file that was sent."""

    def start(
        self,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        artifacts: Mapping[str, Path] | None = None,
        view: View | None = None,
    ) -> str:
        """Create the sweep's run, or reopen it, and return its id.

        If MLflow cannot be reached, the next projection does this.

        Args:
            artifacts: artifact path -> file.
            view: how MLflow's UI lists the trials.
        """
        self._given = _Given(tags, params, artifacts or {}, view)
        self._parent = None
        with self.tracking.errors(PartialError):
            return self._parent_id()

    def project(self, snapshot: TrialSnapshot) -> str:
        """Bring the trial's run up to date with its folder, and return the run's id. Idempotent.

        An epoch that was run again after a crash keeps the metrics of its first run; its
        predictions are replaced, because they must match the weights that are kept.

        Raises:
            ConfigError: the trial is of another sweep, or its name is not valid.
            IntegrityError: a metric is not finite, or a predictions file has the wrong name.
        """
        record = snapshot.record
        name = safe_name(record.trial, "trial")
        if record.sweep != self.sweep:
            raise ConfigError(f"trial {name} is of the sweep {record.sweep!r}, not {self.sweep!r}")
        self.dirty.add(name)
        # put back only on success: after an error it is unknown what the server received
        run = self._trials.pop(name, None)
        with self.tracking.errors(PartialError):
            if run is None:
                tags = {**self._tags(RunKind.TRIAL), Tag.TRIAL.value: name}
                parent = self._parent_id(record.start_time)
                run = find_or_create(self.tracking, tags, record, parent)
            run.on_progress = self.on_progress
            run.project(snapshot)
        self._trials[name] = run
        self.dirty.discard(name)
        return run.run_id

    def try_start(self, *given: Any) -> bool:
        """`start`, but log errors instead of raising them; whether it succeeded."""
        return self._try(lambda: self.start(*given), f"sweep {self.sweep}")

    def try_project(self, snapshot: TrialSnapshot) -> bool:
        """`project`, but log errors instead of raising them, once an outage; whether it succeeded.
        If not, the trial stays in `dirty`."""
        return self._try(lambda: self.project(snapshot), f"trial {snapshot.record.trial}")

    def _try(self, send: Callable[[], str], what: str) -> bool:
        try:
            send()
        except Exception as error:  # no error of the mirror may end a sweep
            level = logging.DEBUG if self._is_unreachable else logging.WARNING
            self._is_unreachable = True
            missed = f"{what}: {redact(str(error))}"
            _logger.log(level, "training continues, but MLflow has missed %s", missed)
            return False
        if self._is_unreachable:
            _logger.info("MLflow can be reached again")
        self._is_unreachable = False
        return True

    def parent_status(self) -> str | None:
        """MLflow's status of the sweep's run; None if there is no run yet."""
        with self.tracking.errors(PartialError):
            runs = self.tracking.search(self._tags(RunKind.SWEEP))
        return runs[0].info.status if runs else None

    def finish(self, status: str) -> None:
        """End the sweep's run as FINISHED, FAILED or KILLED, and log its description and summary
        metrics. Trials that are still RUNNING become KILLED."""
        with self.tracking.errors(PartialError):
            client, parent_id = self.tracking.client, self._parent_id()
            children = self.tracking.search(self._tags(RunKind.TRIAL))
            for child in children:
                if child.info.status == "RUNNING":
                    self._terminate(child, "KILLED")
            parent = client.get_run(parent_id)
            self._describe(parent, children)
            if parent.info.status != status:
                self._terminate(parent, status)
        self._trials.clear()
        self._parent, self._given = None, None

    def _describe(self, parent: Run, children: Sequence[Run]) -> None:
        """Log the description of the sweep's run, its summary metrics and its dataset."""
        tags, run_id = parent.data.tags, str(parent.info.run_id)
        listed = {
            tag: tuple(filter(None, tags.get(tag, "").split(",")))
            for tag in (Tag.SEARCHED, Tag.BASELINES)
        }
        page = SweepPage(
            self.sweep,
            [as_record(child) for child in children],
            listed[Tag.SEARCHED],
            listed[Tag.BASELINES],
            f"#/experiments/{self.tracking.experiment_id}/runs/",
            view_path(self.tracking, self.sweep).removeprefix("/"),
            tags.get("description", ""),
        )
        now = max(milliseconds(time.time()), parent.info.start_time)
        self.tracking.log(
            run_id,
            metrics=page.metrics(),
            timestamp=now,
            step=len(children),
            tags={NOTE: page.note()},
        )
        for child in children[-1:]:
            fingerprint = child.data.tags.get(Tag.DATA, "")
            log_dataset(self.tracking, run_id, fingerprint, child.data.params)

    def _terminate(self, run: Run, status: str) -> None:
        """End a run now; at its start time if this machine's clock is behind the one of the machine
        that started it."""
        end_time = max(milliseconds(time.time()), run.info.start_time)
        self.tracking.client.set_terminated(run.info.run_id, status, end_time)

    def _tags(self, kind: RunKind) -> dict[str, str]:
        return {Tag.KIND.value: kind.value, Tag.SWEEP.value: self.sweep}

    def _parent_id(self, start_time: float | None = None) -> str:
        """The id of the sweep's run, created if missing, with `start_time` in seconds since the
        Unix epoch; None: now."""
        with self._making_parent:
            if self._parent is None:
                self._parent = self._find_or_make_parent(start_time)
            return self._parent

    def _find_or_make_parent(self, start_time: float | None) -> str:
        tags, given = self._tags(RunKind.SWEEP), self._given
        runs = self.tracking.search(tags)
        run = runs[0] if runs else create_run(self.tracking, self.sweep, tags, start_time)
        run_id = str(run.info.run_id)
        if given is not None:
            client = self.tracking.client
            given_tags = {key: value for key, value in given.tags.items() if key not in tags}
            self.tracking.log(run_id, tags=given_tags, params=missing_params(run, given.params))
            for path, local in given.artifacts.items():
                log_file(self.tracking, run_id, path, local)
            if given.view is not None:
                save_view(self.tracking, self.sweep, given.view, run.info.start_time / 1000)
            if run.info.status != "RUNNING":
                client.update_run(run_id, status="RUNNING")
        return run_id


@dataclass(frozen=True)
class _Given:
    """The tags, params, artifacts and view that `start` puts on the sweep's run."""

    tags: Mapping[str, str]
    params: Mapping[str, Any]
    artifacts: Mapping[str, Path]
    view: View | None
