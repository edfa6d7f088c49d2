"""Tracked sweeps -> their candidates and the ensemble chosen, or listed, among them."""

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
    """Whose runs an ensemble is to be of, and what a choice among them keeps to.

    Raises:
        ConfigError: runs are listed beside something that chooses, or not as they have to be.
    """

    sweeps: tuple[str, ...]  # none: where runs are listed, all that are tracked
    rule: str | None = None  # this and the next three: as `ensemble.choice.cross_fitting.choose`
    max_members: int | None = None
    max_cost: float | None = None
    averaged: Averaged = Averaged.PAPER
    added: tuple[str, ...] = ()  # files of predictions, as `ensemble.candidates.external`
    prefer: Prefer | None = None  # as `ensemble.choice.cross_fitting.choose`
    listed: tuple[str, ...] = ()  # the members, as `ensemble.choice.listed`, in place of a choice

    def __post_init__(self) -> None:
        given = [name.replace("_", "-") for name in self.to_params()]
        beside = [f"--{name}" for name in given if name not in ("average", "runs")]
        if self.listed and beside:
            raise ConfigError(
                f"--runs lists the members: {', '.join(beside)} has nothing to choose"
            )
        parse_listed(self.listed)

    @property
    def title(self) -> str:
        """What it is of, in words: `sweep a`, `listed runs of sweeps a, b`."""
        sweeps = f"sweep{'s' * (len(self.sweeps) > 1)} {', '.join(self.sweeps)}"
        if not self.listed:
            return sweeps
        return f"listed runs of {sweeps}" if self.sweeps else "listed runs"

    def to_params(self) -> dict[str, Any]:
        """What was asked for, by its option."""
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
    """Choose as requested; artifacts from afar go to `cache`.

    Listed runs have equal weights, each with its best epoch, and are judged as any ensemble. They
    are not screened: who lists runs has chosen. Best single and simple are then of all of them.

    Raises:
        NothingUsableError: no such sweep or run is tracked, or none, or not each that is listed,
            can be a member.
        DataError, IntegrityError: a file of predictions that does not fit.
        ConfigError: as `ensemble.choice.cross_fitting.choose`, a name of several runs, or MLflow
            cannot be read.
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
    """What was asked for, and of which runs as they are now: equal where a choice is the same."""
    runs = _runs_of(tracking, request.sweeps)
    facts = sorted(
        (
            r.run_id,
            str(r.outcome),
            *(r.tags.get(tag, "") for tag in (Tag.KEPT_EPOCHS, Tag.WEIGHTS_URI)),
        )
        for r in runs
    )
    asked = {"sweeps": request.sweeps, **request.to_params()}
    return {
        "request": short_hash(json.dumps(asked, sort_keys=True)),
        "runs": short_hash(json.dumps(facts)),
    }


def _runs_of(tracking: Tracking, sweeps: tuple[str, ...]) -> list[RunRecord]:
    if not sweeps:
        return find_trials(tracking)
    return [run for sweep in sweeps for run in trials_of(tracking, sweep)]
