"""Comparison of sweeps: settings that differ, best scores with confidence intervals, and times.

Legend: R replicates.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ensemble.statistics.arrays import Floats
from ensemble.statistics.bootstrap import Draws, Gain, gain_of, overall_of
from ensemble.statistics.effort import SHIPPED
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.runs.usage import usage_of
from mlflow_setup.schema import OVERALL, state_of
from search.ablation.row_results import SCORED, Result, read_result
from search.config.baselines import BASELINES
from search.config.sweep_config import SECTIONS, SweepConfig
from search.storage.history import PastTrial, read_history
from search.storage.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Side:
    """The results of one sweep."""

    name: str
    outcomes: dict[str, int]  # outcome, or "running" -> trials
    best_trial: str
    best_epoch: int
    scores: dict[str, float]  # task -> its metric at that epoch; "overall"
    hours: float  # from the start of its first trial to the end of its last epoch
    trial_hours: float  # over all trials and attempts, including baselines
    gpu_hours: float
    usd: float
    best_by_hours: tuple[tuple[float, float], ...]  # (hours since the start, best overall by then)

    def best_after(self, hours: float) -> float | None:
        """Return the best overall found within these hours of the start; None: nothing yet."""
        return max((best for at, best in self.best_by_hours if at <= hours), default=None)

    @property
    def hours_to_best(self) -> float:
        best = self.best_by_hours[-1][1]
        return next(at for at, value in self.best_by_hours if value == best)


@dataclass(frozen=True)
class Comparison:
    """Several sweeps, the first of which the others are compared with."""

    sides: tuple[Side, ...]
    settings: dict[str, tuple[Any, ...]]  # name -> its value in each sweep; None: not set
    gains: tuple[dict[str, Gain], ...]  # of each sweep but the first: task or "overall" -> gain
    common_hours: float  # of the shortest sweep

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


CAVEAT = (
    "difference of each best trial to the first sweep's: 95 % interval of a paired bootstrap over "
    "the dev rows on which both trials were chosen"
)


def compare(
    folders: Sequence[SweepFolder], num_replicates: int = SHIPPED.num_replicates
) -> Comparison:
    """Compare sweeps by their best trials.

    Raises:
        NothingUsableError: there is no such sweep, or none of its trials has a score.
        ConfigError: their trials are scored on different data, or have no task in common.
        IntegrityError: predictions are damaged.
    """
    sweeps = [folder.read() for folder in folders]
    histories = [read_history(folder.trial_folders()) for folder in folders]
    best = [_best(folder, past) for folder, past in zip(folders, histories, strict=True)]
    first, *others = [
        read_result(folder.trial(past.name).path, SCORED)
        for folder, past in zip(folders, best, strict=True)
    ]
    for name, result in zip([folder.name for folder in folders[1:]], others, strict=True):
        _require_same_data(folders[0].name, first, name, result)
    draws = Draws(num_replicates)
    drawn = [_drawn(draws, number, one) for number, one in enumerate((first, *others))]
    sides = tuple(
        _side(folder, past, result)
        for folder, past, result in zip(folders, histories, (first, *others), strict=True)
    )
    return Comparison(
        sides=sides,
        settings=_differing(sweeps),
        gains=tuple(
            {name: gain_of(ours[name], drawn[0][name]) for name in ours if name in drawn[0]}
            for ours in drawn[1:]
        ),
        common_hours=min(side.hours for side in sides),
    )


def _best(folder: SweepFolder, history: Sequence[PastTrial]) -> PastTrial:
    """Return the best trial of the search; a baseline if no other trial has a score."""
    scored = [past for past in history if past.is_scored and past.epochs]
    searched = [past for past in scored if past.record.recipe not in BASELINES] or scored
    if not searched:
        raise NothingUsableError(
            f"sweep {folder.name}: no trial has a score", fix=folder.command("resume")
        )
    return max(searched, key=lambda past: past.best_values[-1])


def _require_same_data(first: str, base: Result, name: str, other: Result) -> None:
    common = [task for task in base.tasks if task in other.tasks]
    if not common:
        raise ConfigError(
            f"sweeps {first} and {name} have no task in common",
            fix="compare sweeps of the same tasks",
        )
    for task in common:
        if base.scored_on(task) != other.scored_on(task):
            prints = base.fingerprints[task], other.fingerprints[task]
            how = f"fingerprints {prints[0]} and {prints[1]}"
            if prints[0] == prints[1]:
                how = f"by {base.tasks[task].metric} and {other.tasks[task].metric}"
            raise ConfigError(
                f"sweeps {first} and {name} are scored on different {task} dev rows: {how}",
                fix="compare sweeps of the same data",
            )


def _drawn(draws: Draws, number: int, result: Result) -> dict[str, Floats]:
    """Return task or "overall" -> scores [1 + R], on dev as it is, then on each replicate."""
    scores = {
        name: draws.scores((str(number), name), task, result.outputs[name], result.labels[name])
        for name, task in result.tasks.items()
    }
    return {**scores, "overall": overall_of(scores, result.tasks)}


def _side(folder: SweepFolder, history: Sequence[PastTrial], best: Result) -> Side:
    used = usage_of(each for past in history for each in folder.trial(past.name).attempts())
    begun = min(past.record.start_time for past in history)
    ends = sorted(
        (epoch.wall_time, epoch.metrics.get(OVERALL, 0.0))
        for past in history
        if past.record.recipe not in BASELINES
        for epoch in past.epochs
    )
    assert best.epoch is not None  # it is no ensemble
    best_by_hours, so_far = list[tuple[float, float]](), 0.0
    for at, value in ends:
        so_far = max(so_far, value)
        best_by_hours.append(((at - begun) / 3600, so_far))
    scores = {name: best.score(name) for name in best.tasks}
    scores["overall"] = best.records[best.epoch - 1].metrics[OVERALL]
    outcomes = Counter(state_of(past.ended) for past in history)
    return Side(
        name=folder.name,
        outcomes=dict(outcomes),
        best_trial=best.name,
        best_epoch=best.epoch,
        scores=scores,
        hours=max(((at - begun) / 3600 for at, _ in ends), default=0.0),
        trial_hours=used.trial_hours,
        gpu_hours=used.gpu_hours,
        usd=used.usd,
        best_by_hours=tuple(best_by_hours),
    )


def _differing(sweeps: Sequence[SweepConfig]) -> dict[str, tuple[Any, ...]]:
    """Return name -> value in each sweep, of settings, space and sections that differ."""
    flat = [_flat(sweep) for sweep in sweeps]
    names = dict.fromkeys(name for each in flat for name in each)
    by_name = {name: tuple(each.get(name) for each in flat) for name in names}
    return {name: values for name, values in by_name.items() if len(set(map(repr, values))) > 1}


def _flat(sweep: SweepConfig) -> dict[str, Any]:
    fixed = sweep.base().with_defaults
    sections = {
        f"{section}.{key}": value
        for section in SECTIONS
        for key, value in getattr(sweep, section).model_dump(mode="json").items()
    }
    searched = {key: f"searched, {one.describe()}" for key, one in sweep.space.items()}
    first = [{"recipe": trial.recipe, **trial.overrides} for trial in sweep.first_trials]
    return {"recipe": sweep.recipe, **fixed, **searched, **sections, "first_trials": first}
