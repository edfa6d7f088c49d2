"""Warm start: trials of older sweeps mapped onto the space of a new sweep.

Parameters are matched by name. A value outside the new range is clipped to it; a value that the new
space cannot hold (an unknown choice, a key whose condition is false) is left out. The mapped trials
are written into the new sweep's folder, so that resuming it does not need the older sweep.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.schema import OVERALL, Outcome, is_dev_score
from mlflow_setup.text import counted
from search.algorithms.probes import effective_space
from search.config.baselines import BASELINES
from search.config.space import Parameter, Space, is_active
from search.config.sweep_config import SweepConfig
from search.storage.history import PastTrial, read_history
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config

WARM_START_FILE = "warm_start.json"


@dataclass(frozen=True)
class WarmTrial:
    """A trial of an older sweep, mapped onto the new space."""

    sweep: str
    trial: str
    params: dict[str, Any]  # of the new space; values it cannot hold are left out
    values: tuple[float, ...]  # best overall so far, after each epoch
    best: dict[str, float]  # objective of the new sweep -> best over the epochs; all or none
    is_finished: bool  # else it was stopped early


@dataclass
class _Changes:
    """Changed parameters: key -> number of trials."""

    clipped: Counter[str]
    left_out: Counter[str]

    def describe(self) -> list[str]:
        """Return one line for each kind of change."""
        return [
            f"warm start: {what}: "
            + ", ".join(f"{key} ({number})" for key, number in sorted(counts.items()))
            for what, counts in (("clipped", self.clipped), ("left out", self.left_out))
            if counts
        ]


def warm_start(
    sweep: SweepConfig, others: Iterable[str], storage: Path, metrics: Sequence[str] = (OVERALL,)
) -> tuple[list[WarmTrial], list[str]]:
    """Return the scored trials of other sweeps, and messages for the user about them.

    Args:
        others: names of sweeps in `storage`, or paths to sweeps' folders.
        metrics: the objectives of the new sweep.

    Raises:
        NothingUsableError: there is no such sweep, or none of its trials has a score.
        ConfigError: its trials were scored on other tasks.
    """
    trials: list[WarmTrial] = []
    changes = _Changes(Counter(), Counter())
    for other in others:
        folder = _folder(other, storage)
        past = [
            trial
            for trial in read_history(folder.trial_folders())
            if trial.is_scored and trial.epochs and trial.record.recipe not in BASELINES
        ]
        if not past:
            raise NothingUsableError(f"sweep {folder.name}: no trial to start warm from")
        _refuse_other_tasks(sweep, folder.name, past)
        trials += [_map(trial, folder.name, sweep, metrics, changes) for trial in past]
    messages = (
        [f"warm start: {counted(len(trials), 'trial')}", *changes.describe()] if trials else []
    )
    return trials, messages


def write_warm_start(folder: Path, trials: list[WarmTrial]) -> None:
    """Write the trials into the new sweep's folder."""
    write_atomic(folder / WARM_START_FILE, json.dumps([asdict(trial) for trial in trials]) + "\n")


def read_warm_start(folder: Path) -> list[WarmTrial]:
    """Read the trials that the sweep was started from; empty for a sweep without a warm start.

    Raises:
        IntegrityError: the file is damaged.
    """
    path = folder / WARM_START_FILE
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [WarmTrial(**{**item, "values": tuple(item["values"])}) for item in content]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{path}: cannot be read: {error}") from None


def fit(value: Any, parameter: Parameter) -> Any:
    """Return `value` clipped to the parameter's range, or None if the parameter cannot hold it."""
    if parameter.choices is not None:
        return value if parameter.contains(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = parameter.low, parameter.high
    assert low is not None and high is not None  # noqa: PT018 - Parameter's validator ensures it
    clipped = min(max(value, low), high)
    return round(clipped) if parameter.type == "int" else float(clipped)


def _map(
    past: PastTrial, sweep_name: str, sweep: SweepConfig, metrics: Sequence[str], changes: _Changes
) -> WarmTrial:
    settings = Config().flat() | past.record.config
    space = effective_space(sweep.space, settings["train.stages"])
    params = _fit_all(space, settings, changes)
    finished = past.ended is Outcome.FINISHED
    scores = {metric: past.best(metric) for metric in metrics}
    best = {metric: value for metric, value in scores.items() if value is not None}
    complete = best if len(best) == len(metrics) else {}
    return WarmTrial(sweep_name, past.name, params, past.best_values, complete, finished)


def _fit_all(space: Space, settings: dict[str, Any], changes: _Changes) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for key, parameter in space.items():
        if not is_active(parameter, {**settings, **params}):
            continue
        value = fit(settings.get(key), parameter)
        if value is None:
            changes.left_out[key] += 1
            continue
        if value != settings[key]:
            changes.clipped[key] += 1
        params[key] = value
    return params


def _refuse_other_tasks(sweep: SweepConfig, name: str, past: list[PastTrial]) -> None:
    """Raise ConfigError if past trials were scored on tasks that this sweep does not train.

    Overall is a mean over tasks: over other tasks it is another objective.
    """
    wanted = {"data.tasks": Config().flat()["data.tasks"]} | sweep.base().settings
    tasks = set(wanted["data.tasks"])
    for trial in past:
        scored = {
            key.split("/")[1]
            for key in trial.epochs[-1].metrics
            if is_dev_score(key) and key != OVERALL
        }
        if not scored <= tasks:
            raise ConfigError(
                f"sweep {name}: trial {trial.name} was scored on {', '.join(sorted(scored))}; "
                f"this sweep trains {', '.join(sorted(tasks))}",
                fix="start warm from a sweep of the same tasks",
            )


def _folder(other: str, storage: Path) -> SweepFolder:
    """Return the sweep of that name; else the one in the folder `other`."""
    path = Path(other)
    is_known = path.name == other and (storage / other).is_dir()
    is_path = path.is_dir() and not is_known
    folder = SweepFolder(path.parent, path.name) if is_path else SweepFolder(storage, other)
    folder.read()
    return folder
