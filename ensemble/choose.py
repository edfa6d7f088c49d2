"""Tracked sweeps -> their candidates and the ensemble chosen, or listed, among them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble.added import with_added
from ensemble.candidates import Pool, load_pool
from ensemble.choice import EnsembleChoice
from ensemble.listed import RULE, find_listed, only_listed
from ensemble.screens import screened
from ensemble.validation import choose
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.runs import download, find_trials
from mlflow_setup.schema import RunRecord
from mlflow_setup.tracking import Tracking


def choose_ensemble(
    tracking: Tracking,
    sweeps: Sequence[str],
    cache: Path,
    rule: str | None = None,
    max_members: int | None = None,
    max_cost: float | None = None,
    *,
    added: Sequence[str] = (),
) -> tuple[Pool, EnsembleChoice]:
    """Choose among the runs of one sweep or several; artifacts from afar go to `cache`.

    Args:
        rule, max_members, max_cost: as `ensemble.validation.choose`.
        added: files of predictions, as `ensemble.added`.

    Raises:
        NothingUsableError: no such sweep is tracked, or none of its runs can be a member.
        DataError, IntegrityError: a file of predictions that does not fit.
        ConfigError: MLflow cannot be read.
    """
    runs = _runs_of(tracking, sweeps)
    pool = load_pool(runs, lambda run_id, path: download(tracking, run_id, path, cache))
    pool = screened(with_added(pool, added))
    return pool, choose(pool, rule, max_members, max_cost)


def listed_ensemble(
    tracking: Tracking, sweeps: Sequence[str], cache: Path, listed: Mapping[str, Sequence[str]]
) -> tuple[Pool, EnsembleChoice]:
    """The ensemble of the listed runs: equal weights, each with its best epoch, judged as any.

    Nothing is screened: who lists runs has chosen. Best single and simple are of all listed runs.

    Args:
        sweeps: where the runs are looked for; none: among all that are tracked.
        listed: task -> names of its runs.

    Raises:
        NothingUsableError: no such run, or one that cannot be a member.
        ConfigError: a name of several runs, or MLflow cannot be read.
    """
    found = find_listed(_runs_of(tracking, sweeps), listed)
    runs = [run for of_task in found.values() for run in of_task]
    pool = load_pool(runs, lambda run_id, path: download(tracking, run_id, path, cache))
    pool = only_listed(pool, found)
    return pool, choose(pool, RULE)


def _runs_of(tracking: Tracking, sweeps: Sequence[str]) -> list[RunRecord]:
    if not sweeps:
        return find_trials(tracking)
    runs = []
    for sweep in sweeps:
        of_sweep = find_trials(tracking, sweep)
        if not of_sweep:
            raise NothingUsableError(
                f"no trial of a sweep {sweep!r} is tracked",
                fix="ensweep ensemble without a name takes the latest sweep",
            )
        runs += of_sweep
    return runs
