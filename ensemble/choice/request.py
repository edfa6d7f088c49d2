"""The request for an ensemble: from tracked sweeps to candidates to the choice."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.candidates.external import with_added
from ensemble.candidates.pool import NUM_READERS, Pool, load_pool
from ensemble.candidates.screening import screened
from ensemble.choice.cross_fitting import choose
from ensemble.choice.listed import RULE, find_listed, only_listed, parse_listed
from ensemble.choice.result import EnsembleChoice, Prefer
from ensemble.selection.combine import Averaged
from ensemble.statistics.effort import SHIPPED, Effort
from mlflow_setup.errors import ConfigError
from mlflow_setup.runs.query import download, find_trials, trials_of
from mlflow_setup.schema import RunRecord, Tag
from mlflow_setup.text import short_hash
from mlflow_setup.tracking.store import Tracking


@dataclass(frozen=True)
class Request:
    """The sweeps that an ensemble is chosen from, and the settings of the choice.

    Raises:
        ConfigError: runs are listed together with settings of a choice, or in a wrong form.
    """

    sweeps: tuple[str, ...]  # may be empty if runs are listed: all tracked sweeps
    rule: str | None = None  # this and the next three: as in `ensemble.choice.cross_fitting.choose`
    max_members: int | None = None
    max_cost: float | None = None
    averaged: Averaged = Averaged.PAPER
    added: tuple[str, ...] = ()  # files of predictions, as in `ensemble.candidates.external`
    prefer: Prefer | None = None  # as in `ensemble.choice.cross_fitting.choose`
    listed: tuple[str, ...] = ()  # the members instead of a choice, as in `ensemble.choice.listed`

    def __post_init__(self) -> None:
        given = [name.replace("_", "-") for name in self.to_params()]
        beside = [f"--{name}" for name in given if name not in ("average", "runs")]
        if self.listed and beside:
            raise ConfigError(
                f"--runs lists the members: it cannot be combined with {', '.join(beside)}"
            )
        parse_listed(self.listed)

    @property
    def title(self) -> str:
        """The sweeps and whether runs are listed: `sweep a`, `listed runs of sweeps a, b`."""
        sweeps = f"sweep{'s' * (len(self.sweeps) > 1)} {', '.join(self.sweeps)}"
        if not self.listed:
            return sweeps
        return f"listed runs of {sweeps}" if self.sweeps else "listed runs"

    def to_params(self) -> dict[str, Any]:
        """Return the options that differ from the defaults: name -> value."""
        given = {
            "method": self.rule,
            "max_members": self.max_members,
            "max_cost": self.max_cost and self.max_cost / 1e6,
            "average": None if self.averaged is Averaged.PAPER else self.averaged.value,
            "prefer": None if self.prefer is None else self.prefer.value,
            "add": list(self.added) or None,
            "runs": list(self.listed) or None,
        }
        return {name: value for name, value in given.items() if value is not None}


def choose_ensemble(
    tracking: Tracking, request: Request, cache: Path, effort: Effort = SHIPPED
) -> tuple[Pool, EnsembleChoice]:
    """Choose the requested ensemble; downloaded artifacts are stored in `cache`.

    Listed runs have equal weights, each with its best epoch, and are scored like any ensemble. They
    are not screened. Best single and simple are then chosen among all listed runs.

    Raises:
        NothingUsableError: no such sweep or run is tracked, no run can be a member, or a listed one
            cannot.
        DataError, IntegrityError: a file of predictions cannot be used (`with_added`).
        ConfigError: as `ensemble.choice.cross_fitting.choose`; several runs have a listed name; or
            MLflow cannot be read.
    """
    runs = _runs_of(tracking, request.sweeps)
    listed = find_listed(runs, parse_listed(request.listed))
    if listed:
        runs = [run for of_task in listed.values() for run in of_task]
    num_readers = NUM_READERS if tracking.database is None else 1
    pool = load_pool(
        runs, lambda run_id, path: download(tracking, run_id, path, cache), num_readers
    )
    if listed:
        pool = only_listed(pool, listed)
        return pool, choose(pool, RULE, averaged=request.averaged, effort=effort)
    pool = screened(with_added(pool, request.added))
    limits = request.max_members, request.max_cost
    return pool, choose(
        pool, request.rule, *limits, request.averaged, effort, prefer=request.prefer
    )


def digests_of(tracking: Tracking, request: Request) -> dict[str, str]:
    """Return hashes of the request and of the current state of its runs; while both are equal, so
    is the choice."""
    runs = _runs_of(tracking, request.sweeps)
    facts = sorted(
        (
            r.run_id,
            str(r.outcome),
            *(r.tags.get(tag, "") for tag in (Tag.KEPT_EPOCHS, Tag.WEIGHTS_URI)),
        )
        for r in runs
    )
    content = {"sweeps": request.sweeps, **request.to_params()}
    return {
        "request": short_hash(json.dumps(content, sort_keys=True)),
        "runs": short_hash(json.dumps(facts)),
    }


def _runs_of(tracking: Tracking, sweeps: tuple[str, ...]) -> list[RunRecord]:
    if not sweeps:
        return find_trials(tracking)
    return [run for sweep in sweeps for run in trials_of(tracking, sweep)]
