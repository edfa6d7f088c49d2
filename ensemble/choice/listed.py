"""Ensembles whose members are listed by the user: for each task its runs, with equal weights.

The paper's ensemble is `sentiment=b1,b2,b3,b4`, `paraphrase=b1,b2`, `similarity=b1,b2`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ensemble.candidates.pool import Pool
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import RunRecord
from mlflow_setup.text import there_are

RULE = "simple"
"""The rule: equal weights for the best epoch of each listed run."""


def parse_listed(specs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return task -> names of its runs, from strings `TASK=RUN,RUN`.

    Raises:
        ConfigError: a string is not of that form, or names a task or a run twice.
    """
    listed: dict[str, tuple[str, ...]] = {}
    for text in specs:
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
    """Return the runs with the given names: a trial's name, `SWEEP/TRIAL`, or MLflow's run id.

    Raises:
        NothingUsableError: no run has a name.
        ConfigError: several runs have a name, or two listed runs have the same trial name.
    """
    by_task = {task: [_only(runs, name, task) for name in names] for task, names in listed.items()}
    names: dict[tuple[str | None, str], str] = {}
    for run in (run for of_task in by_task.values() for run in of_task):
        if names.setdefault((run.sweep, run.trial), run.run_id) != run.run_id:
            raise ConfigError(f"--runs: two runs with the same name {run.trial!r} are listed")
    return by_task


def only_listed(pool: Pool, listed: Mapping[str, Sequence[RunRecord]]) -> Pool:
    """Return the pool with each task's `listed` candidates set to those of its listed runs.

    Raises:
        NothingUsableError: a run was rejected or was not trained on its task; the message says why.
    """
    reasons = {run.run_id: run.reason for run in pool.rejected}
    tasks = {}
    for task, runs in listed.items():
        usable = {c.run_id for c in pool.tasks[task].candidates} if task in pool.tasks else set()
        for run in runs:
            if run.run_id not in usable:
                reason = reasons.get(run.run_id, "the run was not trained on this task")
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
        shown = ", ".join(f"{run.sweep}/{run.trial} ({run.run_id})" for run in named[:5])
        raise ConfigError(f"--runs {task}: {len(named)} runs are named {name!r}: {shown}")
    return named[0]
