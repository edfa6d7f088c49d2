"""Ensembles that are listed rather than chosen: for each task its runs, with equal weights.

The paper's is `sentiment=b1,b2,b3,b4`, `paraphrase=b1,b2`, `similarity=b1,b2`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ensemble.candidates.pool import Pool
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import RunRecord
from mlflow_setup.text import there_are

RULE = "simple"
"""Equal weights for the best epoch of each listed run."""


def parse_listed(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Task -> names of its runs, from `TASK=RUN,RUN` each.

    Raises:
        ConfigError: not of that form, a task or a run twice.
    """
    listed: dict[str, tuple[str, ...]] = {}
    for text in given:
        task, _, rest = text.partition("=")
        names = tuple(name.strip() for name in rest.split(","))
        if not task or not all(names):
            raise ConfigError(f"--runs {text}: not of the form TASK=RUN,RUN")
        if task in listed or len(set(names)) < len(names):
            what = f"the task {task}" if task in listed else "a run"
            raise ConfigError(f"--runs {text}: {what} is named twice")
        listed[task] = names
    return listed


def find_listed(
    runs: Sequence[RunRecord], listed: Mapping[str, Sequence[str]]
) -> dict[str, list[RunRecord]]:
    """The runs that the names are of: of a trial, `SWEEP/TRIAL`, or MLflow's id.

    Raises:
        NothingUsableError: a name of no run.
        ConfigError: a name of several, or two runs of the same name.
    """
    by_task = {task: [_only(runs, name, task) for name in names] for task, names in listed.items()}
    names: dict[tuple[str | None, str], str] = {}
    for run in (run for of_task in by_task.values() for run in of_task):
        if names.setdefault((run.sweep, run.trial), run.run_id) != run.run_id:
            raise ConfigError(f"--runs: two runs of the same name {run.trial!r} cannot be members")
    return by_task


def only_listed(pool: Pool, listed: Mapping[str, Sequence[RunRecord]]) -> Pool:
    """The pool of the listed runs, in which equal weights are for each task's own.

    Raises:
        NothingUsableError: a run that was rejected or does not have its task; the message has why.
    """
    reasons = {run.run_id: run.reason for run in pool.rejected}
    tasks = {}
    for task, runs in listed.items():
        having = {c.run_id for c in pool.tasks[task].candidates} if task in pool.tasks else set()
        for run in runs:
            if run.run_id not in having:
                reason = reasons.get(run.run_id, "the run has no such task")
                raise NothingUsableError(f"--runs {task}={run.trial}: {reason}")
        ids = {run.run_id for run in runs}
        of_task = pool.tasks[task]
        is_listed = np.array([candidate.run_id in ids for candidate in of_task.candidates])
        tasks[task] = dataclasses.replace(of_task, listed=is_listed)
    return dataclasses.replace(pool, tasks=tasks)


def _only(runs: Sequence[RunRecord], name: str, task: str) -> RunRecord:
    named = [run for run in runs if name in (run.run_id, run.trial, f"{run.sweep}/{run.trial}")]
    if not named:
        others = there_are(name, sorted({run.trial for run in runs}))
        raise NothingUsableError(f"--runs {task}: no run {name!r}{others}")
    if len(named) > 1:
        ways = ", ".join(f"{run.sweep}/{run.trial} ({run.run_id})" for run in named[:5])
        raise ConfigError(f"--runs {task}: {len(named)} runs are {name!r}: {ways}")
    return named[0]
