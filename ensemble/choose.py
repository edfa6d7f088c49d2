"""A tracked sweep -> its candidates and the ensemble chosen among them."""

from pathlib import Path

from ensemble.candidates import Pool, load_pool
from ensemble.choice import EnsembleChoice
from ensemble.combine import Averaged
from ensemble.validation import choose
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.runs import download, find_trials
from mlflow_setup.tracking import Tracking


def choose_ensemble(
    tracking: Tracking,
    sweep: str,
    cache: Path,
    rule: str | None = None,
    max_members: int | None = None,
    max_cost: float | None = None,
    averaged: Averaged = Averaged.PAPER,
) -> tuple[Pool, EnsembleChoice]:
    """Choose among the runs of one sweep; artifacts from afar go to `cache`.

    Args:
        rule, max_members, max_cost, averaged: as `ensemble.validation.choose`.

    Raises:
        NothingUsableError: no such sweep is tracked, or none of its runs can be a member.
        ConfigError: MLflow cannot be read.
    """
    runs = find_trials(tracking, sweep)
    if not runs:
        raise NothingUsableError(
            f"no trial of a sweep {sweep!r} is tracked",
            fix="ensweep ensemble without a name takes the latest sweep",
        )
    pool = load_pool(runs, lambda run_id, path: download(tracking, run_id, path, cache))
    return pool, choose(pool, rule, max_members, max_cost, averaged)
