"""A soup of a sweep's runs as a trial like any other: a folder, and an MLflow run of the sweep.

Ingredients are chosen on dev-train alone, and the soup's reported score is of the other half
of dev, *dev-dev*. In `ensweep ensemble` it then is a candidate among the others.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble.candidates.lineage import SOUP, initialisation_of
from ensemble.soup.averaging import greedy_soup
from ensemble.soup.scoring import HeldOut, Ingredient, SoupScorer
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.runs.query import find_trials
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import OVERALL, Outcome, RunRecord, Tag, best_epoch
from mlflow_setup.tracking.store import Tracking
from trainable.storage.address import trial_at


@dataclass(frozen=True)
class Soup:
    """The soup and its scores."""

    trial: str
    run_id: str
    folder: Path
    ingredients: tuple[str, ...]  # trial@epoch, the best first
    num_sharing: int  # runs that share the start, of which these are
    tasks: Mapping[str, HeldOut]
    overall: float  # on dev-dev
    single: float


def make_soup(
    tracking: Tracking, sweep: str, data_dir: str | Path, greedy: bool, num_runs: int | None = None
) -> Soup:
    """Average runs that share a start, score the result on dev, record and track it.

    Of several starts, that of the most runs is taken. Made before, it is tracked again.

    Args:
        greedy: keep only runs that the soup is no worse for; else all of them.
        num_runs: only so many, the best on dev-train.

    Raises:
        NothingUsableError: no two runs share a start and have their weights here.
        DataError: the data is not what the runs were scored on.
        IntegrityError: weights or predictions are not what training wrote.
        PartialError: MLflow has missed the soup; made again, it is tracked.
    """
    sharing = sharing_a_start(find_trials(tracking, sweep), sweep)[:num_runs]
    best = sharing[0]
    scorer = SoupScorer(best, data_dir)
    kept = greedy_soup(sharing, scorer.score_on_dev_train) if greedy else sharing
    if len(kept) < 2:
        raise NothingUsableError(
            f"no run makes the soup of {best.label} better on dev-train: it is no soup",
            fix="without --greedy all runs that share a start are averaged",
        )
    trial = scorer.record(sweep, "greedy" if greedy else "uniform", kept, len(sharing))
    run_id = Mirror(tracking, sweep).project(trial.snapshot())
    tasks, of_soup, of_single = scorer.judge(trial, best)
    return Soup(
        trial=trial.path.name,
        run_id=run_id,
        folder=trial.path,
        ingredients=tuple(each.label for each in kept),
        num_sharing=len(sharing),
        tasks=tasks,
        overall=of_soup,
        single=of_single,
    )


def sharing_a_start(runs: Iterable[RunRecord], sweep: str) -> list[Ingredient]:
    """The runs of the start that most have, the best on dev-train first.

    Raises:
        NothingUsableError: no two share one.
    """
    groups: dict[str, list[Ingredient]] = defaultdict(list)
    for run in runs:
        ingredient = _ingredient(run)
        if ingredient is not None:
            key = json.dumps(initialisation_of(ingredient.record), sort_keys=True)
            groups[key].append(ingredient)
    for group in groups.values():
        group.sort(key=lambda each: (-each.dev_train, each.label))
    most = max(groups.values(), key=lambda group: (len(group), group[0].dev_train), default=[])
    if len(most) < 2:
        raise NothingUsableError(
            f"sweep {sweep}: no two runs that have their weights here share a start (encoder, "
            "pre-training, shape of the model, tasks, seed)",
            fix="search training settings alone, e.g. optim.lr, with one seed",
        )
    return most


def _ingredient(run: RunRecord) -> Ingredient | None:
    trial = trial_at(run.tags.get(Tag.WEIGHTS_URI, ""))
    ended_well = run.outcome in (Outcome.FINISHED, Outcome.PRUNED)
    if not ended_well or Tag.WEIGHTS_URI not in run.tags or not trial.path.is_dir():
        return None
    record, epochs = trial.trial(), trial.epochs()
    best = best_epoch(epochs, on_dev_train=True) if epochs else None
    if record.recipe == SOUP or best is None or best.epoch not in trial.kept_epochs():
        return None
    return Ingredient(trial, record, best.epoch, best.dev_train[OVERALL])
