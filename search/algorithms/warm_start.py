"""Start a sweep warm: what older sweeps found, mapped onto the new space.

Parameters are matched by name. A value outside the new range is clipped to it; one that the new
space cannot hold (an unknown choice, a key whose condition does not hold) is left out. What was
mapped is written into the new sweep's folder, so that resuming it needs the older one no more.
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
    """A past trial as the new study sees it."""

    sweep: str
    trial: str
    params: dict[str, Any]  # of the new space; those it cannot hold are left out
    values: tuple[float, ...]  # best overall so far, after each epoch
    best: dict[str, float]  # objective of the new sweep -> best of any epoch; all of them or none
    is_finished: bool  # or stopped early


@dataclass
class Mapping:
    """What became of the parameters, to be said: key -> number of trials."""

    clipped: Counter[str]
    left_out: Counter[str]

    def describe(self) -> list[str]:
        """One line for each kind of change."""
        return [
            f"warm start: {what}: "
            + ", ".join(f"{key} ({number})" for key, number in sorted(counts.items()))
            for what, counts in (("clipped", self.clipped), ("left out", self.left_out))
            if counts
        ]


def warm_start(
    sweep: SweepConfig, others: Iterable[str], storage: Path, metrics: Sequence[str] = (OVERALL,)
) -> tuple[list[WarmTrial], list[str]]:
    """The scored trials of other sweeps, and what is to be said about them.

    Args:
        metrics: what the new sweep maximises.
        others: names of sweeps in `storage`, or paths to sweeps' folders.

    Raises:
        NothingUsableError: no such sweep, or none of its trials was scored.
        ConfigError: its trials were scored on other tasks.
    """
    trials: list[WarmTrial] = []
    mapping = Mapping(Counter(), Counter())
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
        trials += [_map(trial, folder.name, sweep, metrics, mapping) for trial in past]
    said = [f"warm start: {len(trials)} trials", *mapping.describe()] if trials else []
    return trials, said


def write_warm_start(folder: Path, trials: list[WarmTrial]) -> None:
    """Keep what the study was started from."""
    write_atomic(folder / WARM_START_FILE, json.dumps([asdict(trial) for trial in trials]) + "\n")


def read_warm_start(folder: Path) -> list[WarmTrial]:
    """What the study was started from; nothing where it started cold.

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
    """`value` as the parameter can hold it, or None when it cannot."""
    if parameter.choices is not None:
        return value if parameter.contains(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = parameter.low, parameter.high
    assert low is not None and high is not None  # noqa: PT018 - the validator's
    clipped = min(max(value, low), high)
    return round(clipped) if parameter.type == "int" else float(clipped)


def _map(
    past: PastTrial, sweep_name: str, sweep: SweepConfig, metrics: Sequence[str], mapping: Mapping
) -> WarmTrial:
    settings = Config().flat() | past.record.config
    space = effective_space(sweep.space, settings["train.stages"])
    params = _fit_all(space, settings, mapping)
    finished = past.ended is Outcome.FINISHED
    scores = {metric: past.best(metric) for metric in metrics}
    best = {metric: value for metric, value in scores.items() if value is not None}
    complete = best if len(best) == len(metrics) else {}
    return WarmTrial(sweep_name, past.name, params, past.best_values, complete, finished)


def _fit_all(space: Space, settings: dict[str, Any], mapping: Mapping) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for key, parameter in space.items():
        if not is_active(parameter, {**settings, **params}):
            continue
        value = fit(settings.get(key), parameter)
        if value is None:
            mapping.left_out[key] += 1
            continue
        if value != settings[key]:
            mapping.clipped[key] += 1
        params[key] = value
    return params


def _refuse_other_tasks(sweep: SweepConfig, name: str, past: list[PastTrial]) -> None:
    """An overall is a mean over tasks: of other tasks it is another objective."""
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
    path = Path(other)
    folder = SweepFolder(path.parent, path.name) if path.is_dir() else SweepFolder(storage, other)
    folder.read()
    return folder
